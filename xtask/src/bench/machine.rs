// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs of one machine for a measurement: no terminal, a time limit, and an error unless the guest ended as it should.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::build;
use crate::failure::{Failure, Result, status};
use crate::process::{self, Console, Ended, Next, Streams};
use crate::qemu::{Machine, Qemu, Start};
use crate::record::Kind;
use crate::say;
use crate::scratch::Scratch;

/// No single run takes longer, on however busy a machine.
const LIMIT: Duration = Duration::from_secs(300);

/// What all measurements share.
pub(super) struct Bench {
    qemu: Qemu,
    host: PathBuf,
    pub(super) scratch: Scratch,
}

impl Bench {
    pub(super) fn new(qemu: Option<&Path>) -> Result<Self> {
        let qemu = Qemu::find(qemu)?;
        Ok(Self { qemu, host: build::reference_host()?, scratch: Scratch::new()? })
    }

    /// A machine that the reference host starts an image on.
    pub(super) fn hosted(&self, image: &Path) -> Machine {
        let start = Start::Host { host: self.host.clone(), image: image.to_owned() };
        Machine::new(self.qemu.path.clone(), start)
    }

    /// A machine that starts a kernel without Parados.
    pub(super) fn bare(&self, kernel: &Path, initrd: Option<&Path>, append: &str) -> Machine {
        let initrd = initrd.map(Path::to_owned);
        let start = Start::Bare { kernel: kernel.to_owned(), initrd, append: append.to_owned() };
        Machine::new(self.qemu.path.clone(), start)
    }

    /// Runs a machine whose guest must print `marker` and then end the VM itself.
    pub(super) fn run(&self, machine: Machine, marker: &str) -> Result<Ended> {
        let parados = !matches!(machine.start, Start::Bare { .. });
        let streams = Streams {
            console: Console::Kept,
            command: false,
            power_button: false,
            deadline: Some(Instant::now() + LIMIT),
        };
        let mut log = Vec::new();
        let ended = process::run(machine, &streams, &mut |event| {
            if let process::Event::Line(line) = event {
                log.push(line.to_owned());
            }
            Next::Continue
        })?;
        let console = String::from_utf8_lossy(&ended.console);
        let in_order = match (&ended.cause, &ended.end) {
            (process::Cause::Signal(signal), _) => {
                let status = status::SIGNAL.saturating_add(*signal);
                return Err(Failure::new(status, format!("ended by signal {signal}")));
            }
            (_, Some(end)) => matches!(end.kind, Kind::PowerOff | Kind::TestExit),
            (process::Cause::Exited(_), None) => !parados,
            _ => false,
        };
        if in_order && console.contains(marker) {
            return Ok(ended);
        }
        log.iter().for_each(|line| say::line(line));
        console.lines().for_each(|line| say::line(&say::printable(line.as_bytes())));
        let how = match &ended.end {
            Some(end) => format!("{:?}: {}", end.kind, end.reason),
            None => format!("{:?} {}", ended.cause, ended.qemu_said.trim()),
        };
        Err(Failure::new(status::FAILED, format!("bench: the guest did not end as it should ({how})")))
    }

    /// What the figures depend on, beside the sources.
    pub(super) fn environment(&self) -> Value {
        let (major, minor) = self.qemu.version;
        let text = |command: &mut Command| {
            let output = command.current_dir(build::workspace()).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty())
        };
        let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        json!({
            "qemu": format!("{major}.{minor}"),
            "cpu_model": "max",
            "commit": text(Command::new("git").args(["describe", "--always", "--dirty"])),
            "rustc": text(Command::new("rustc").arg("--version")),
            "host_processor": processor.map(|(_, name)| name),
            "host_processors": std::thread::available_parallelism().map_or(0, usize::from),
        })
    }
}
