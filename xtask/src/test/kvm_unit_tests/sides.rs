// SPDX-License-Identifier: MIT OR Apache-2.0
//! One test on one side: on a bare QEMU as the suite itself runs it, or under Parados.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use igvm_tools::{Platform, write_atomically};
use image_abi::flag;

use super::config::Test;
use crate::build;
use crate::failure::{Failure, Result};
use crate::image::Request;
use crate::options::SNP_HOST_OPTIONS;
use crate::process::{self, Cause, Console, Ended, Next, Streams};
use crate::qemu::{Machine, Qemu, Start};
use crate::record::Kind;
use crate::scratch::Scratch;

/// What QEMU gives a machine that asks for nothing.
const CPU: &str = "qemu64";
const MEMORY: u64 = 128 << 20;

/// What Parados keeps for itself comes on top. It lies at 128 MiB: a guest of the default size has one piece of memory
/// then, as on bare QEMU, which is all that the suite's page allocator can deal with.
const OWN: u64 = 8 << 20;

/// Parados's processor must be able to run guests; the guest does not see either.
const HOST_FEATURES: &str = "+svm,+npt";

/// The model of SNP needs an address bit for the C-bit, and random numbers; and it hides XSAVE.
const MODEL_FEATURES: &str = ",phys-bits=52,+rdrand,-xsave";

/// How often the loop looks whether QEMU has ended.
const TICK: Duration = Duration::from_millis(10);

/// QEMU's exit status after a pass. The suite halves its own status for a skip, because the device doubles it.
const PASSED: i32 = 1;
const SKIPPED: i32 = 77;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Pass,
    Skip,
    /// Why, in a few words.
    Fail(String),
}

impl Outcome {
    /// Whether it failed, and in so many checks.
    pub(super) fn is_of_checks(&self, count: usize) -> bool {
        *self == Self::Fail(format!("{count} checks"))
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Fail(_) => "fail",
        }
    }
}

/// One side of a test.
pub(super) struct Ran {
    pub(super) outcome: Outcome,
    pub(super) console: Vec<u8>,
}

/// As the suite's runner does it.
pub(super) fn bare(test: &Test, kernel: &Path, qemu: &Qemu) -> Result<Ran> {
    let mut command = process::tied(&qemu.path);
    command.args(["-accel", "tcg", "-nodefaults", "-no-reboot", "-vnc", "none", "-serial", "stdio"]);
    command.args(["-device", "pc-testdev", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]);
    command.arg("-kernel").arg(kernel).args(["-smp", &test.processors.to_string()]);
    if !test.arguments.is_empty() {
        command.args(["-append", &test.arguments]);
    }
    command.args(&test.qemu).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let failed = |error| Failure::system(qemu.path.display(), error);
    let mut child = command.spawn().map_err(failed)?;
    let reader = child.stdout.take().map(|mut stdout| {
        thread::spawn(move || {
            let mut console = Vec::new();
            let _ = stdout.read_to_end(&mut console);
            console
        })
    });
    let deadline = Instant::now() + test.timeout;
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status.code(),
            None if Instant::now() < deadline => thread::sleep(TICK),
            None => {
                let _ = child.kill();
                child.wait().map_err(failed)?;
                break None;
            }
        }
    };
    let console = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let outcome = status.map_or_else(|| Outcome::Fail("timeout".into()), |status| judge(status, &console));
    Ok(Ran { outcome, console })
}

/// The same program, on a machine with the same processor and memory, for at most `timeout`. `on_the_model`: the processor is the
/// one that the model of SNP needs, whatever the platform.
pub(super) fn parados(
    (platform, on_the_model): (Platform, bool),
    test: &Test,
    kernel: &Path,
    qemu: &Qemu,
    timeout: Duration,
) -> Result<Ran> {
    let scratch = Scratch::new()?;
    let image = scratch.file("image.igvm");
    let memory = (test.memory().unwrap_or(MEMORY) + OWN).next_multiple_of(2 << 20);
    // QEMU puts the program's name before its arguments.
    let append = format!("{} {}", test.file, test.arguments);
    let request = Request {
        platform,
        kernel: Some(kernel),
        append: Some(append.trim_end()),
        memory,
        flags: flag::TEST_DEVICES,
        ..Request::default()
    };
    write_atomically(&image, &request.build()?.bytes)?;
    let start = Start::Host { host: build::reference_host()?, image };
    let cpu =
        format!("{},{HOST_FEATURES}{}", test.cpu().unwrap_or(CPU), if on_the_model { MODEL_FEATURES } else { "" });
    let host_options = if platform == Platform::Snp { SNP_HOST_OPTIONS.into() } else { String::new() };
    let machine =
        Machine { processors: test.processors, memory, cpu, host_options, ..Machine::new(qemu.path.clone(), start) };
    let deadline = Some(Instant::now() + timeout);
    let streams = Streams { console: Console::Kept, command: false, power_button: false, deadline };
    let ended = process::run(machine, &streams, &mut |_| Next::Continue)?;
    match ended.cause {
        Cause::Signal(signal) => Err(Failure::new(128 + signal, "stopped by a signal")),
        _ => Ok(Ran { outcome: outcome(&ended), console: ended.console }),
    }
}

fn outcome(ended: &Ended) -> Outcome {
    match (&ended.end, &ended.cause) {
        (Some(end), _) if end.kind == Kind::TestExit => {
            let [status, ..] = (end.value << 1 | 1).to_le_bytes();
            judge(status.into(), &ended.console)
        }
        (Some(end), _) if end.kind == Kind::Terminated => Outcome::Fail(format!("Parados ended it: {}", end.reason)),
        (Some(end), _) => Outcome::Fail(format!("{:?} {}", end.kind, end.reason).trim_end().to_lowercase()),
        (None, Cause::Timeout) => Outcome::Fail("timeout".into()),
        // QEMU refused the options, as it does on the bare side.
        (None, _) if ended.console.is_empty() && ended.facts.is_empty() => Outcome::Skip,
        (None, _) => Outcome::Fail(format!("QEMU ended: {}", ended.qemu_said.trim())),
    }
}

/// From the status and what stands on the console.
fn judge(status: i32, console: &[u8]) -> Outcome {
    let console = String::from_utf8_lossy(console);
    let lines: Vec<&str> = console.lines().map(str::trim).collect();
    let failures = lines.iter().filter(|line| line.starts_with("FAIL")).count();
    let last = lines.iter().rev().find(|line| !line.is_empty()).copied().unwrap_or("no output");
    match status {
        // QEMU's own status when it cannot start is the same.
        PASSED if console.is_empty() => Outcome::Skip,
        PASSED => Outcome::Pass,
        SKIPPED => Outcome::Skip,
        _ if failures > 0 => Outcome::Fail(format!("{failures} checks")),
        _ => Outcome::Fail(lines.iter().find(|line| line.contains("nhandled")).copied().unwrap_or(last).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_status_decides() {
        assert_eq!(judge(1, b"FAIL: x\n"), Outcome::Pass);
        assert_eq!(judge(1, b""), Outcome::Skip);
        assert_eq!(judge(77, b"SKIP: x\nSUMMARY: 1 tests, 1 skipped\n"), Outcome::Skip);
        assert_eq!(judge(3, b"PASS: x\nFAIL: y\r\nFAIL: z\n"), Outcome::Fail("2 checks".into()));
        assert_eq!(judge(3, b"hello\n\n"), Outcome::Fail("hello".into()));
        assert_eq!(judge(1 << 1, b""), Outcome::Fail("no output".into()));
    }
}
