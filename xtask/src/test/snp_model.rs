// SPDX-License-Identifier: MIT OR Apache-2.0
//! The judge of the SEV-SNP model: the distribution's stock kernel as an enlightened guest of the reference host, at VMPL0
//! and with its own #VC handler. Parados is not involved.
//!
//! It shows that the model agrees with foreign software where that software goes; the rules off its path have unit tests.

use std::time::{Duration, Instant};

use super::Totals;
use crate::failure::{Failure, Result, status};
use crate::guest::USER_MODE;
use crate::image::{Payload, Request};
use crate::process::{self, Cause, Console, Ended, Next, Streams};
use crate::qemu::{Machine, Qemu, Start};
use crate::record::Kind;
use crate::scratch::Scratch;
use crate::{build, say, snp_guest};
use std::path::Path;

/// A boot takes 4 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// What the kernel says about itself once its handlers are in place.
const ACTIVE: &str = "Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP";
const TABLE: &str = "SEV: Using SNP CPUID table";

/// The processor model that the model of SNP needs: SVM, and address bits for a C-bit.
pub(crate) const CPU: &str = "EPYC,phys-bits=52";

pub(super) fn run(qemu: Option<&Path>) -> Result<Totals> {
    say::progress("model of SEV-SNP");
    let start = Instant::now();
    let outcome = boots(qemu)?;
    let seconds = start.elapsed().as_secs_f64();
    let (word, totals) = match &outcome {
        Ok(()) => (format!("ok ({seconds:.1} s)"), Totals { passed: 1, ..Totals::default() }),
        Err(why) => (format!("FAILED: {why}"), Totals { failed: 1, ..Totals::default() }),
    };
    say::out(&format!("test snp-model::stock_kernel_reaches_user_mode_as_an_enlightened_guest ... {word}\n"));
    Ok(totals)
}

fn boots(qemu: Option<&Path>) -> Result<std::result::Result<(), String>> {
    let scratch = Scratch::new()?;
    let payload = Request { figure: true, ..Request::default() }.payload(&scratch)?;
    // Without `quiet`: the kernel's own words are what is looked for.
    let payload = Payload { command_line: payload.command_line.replace("quiet ", ""), ..payload };
    let mut log = Vec::new();
    let ended = start(qemu, &payload, &scratch, &mut log)?;
    let console = String::from_utf8_lossy(&ended.console).into_owned();
    let missing: Vec<_> = [ACTIVE, TABLE, USER_MODE].into_iter().filter(|text| !console.contains(text)).collect();
    let in_order = ended.end.as_ref().is_some_and(|end| end.kind == Kind::PowerOff);
    if missing.is_empty() && in_order {
        return Ok(Ok(()));
    }
    log.iter().for_each(|line| say::line(line));
    let tail: Vec<_> = console.lines().rev().take(20).collect();
    tail.iter().rev().for_each(|line| say::line(&say::printable(line.as_bytes())));
    let how = ended.end.map_or_else(|| format!("{:?}", ended.cause), |end| end.reason);
    Ok(Err(format!("the console lacks {missing:?}; the run ended so: {how}")))
}

/// Runs a payload as an enlightened guest.
pub(crate) fn start(qemu: Option<&Path>, payload: &Payload, scratch: &Scratch, log: &mut Vec<String>) -> Result<Ended> {
    let qemu = Qemu::find(qemu)?;
    let image = scratch.file("enlightened.igvm");
    let mut machine = Machine::new(qemu.path, Start::Host { host: build::reference_host()?, image: image.clone() });
    machine.cpu = CPU.into();
    igvm_tools::write_atomically(&image, &snp_guest::build(payload, machine.memory)?)?;
    let streams =
        Streams { console: Console::Kept, command: false, power_button: false, deadline: Some(Instant::now() + LIMIT) };
    let ended = process::run(machine, &streams, &mut |event| {
        if let process::Event::Line(line) = event {
            log.push(line.to_owned());
        }
        Next::Continue
    })?;
    if let Cause::Signal(signal) = ended.cause {
        let status = status::SIGNAL.saturating_add(signal);
        return Err(Failure::new(status, format!("ended by signal {signal}")));
    }
    Ok(ended)
}
