// SPDX-License-Identifier: MIT OR Apache-2.0
//! The judge of the SEV-SNP model: the distribution's stock kernel as an enlightened guest of the reference host, at VMPL0
//! and with its own #VC handler. Parados is not involved.
//!
//! It shows that the model agrees with foreign software where that software goes; the rules off its path have unit tests.

mod attestation;
mod hostile;

use std::time::{Duration, Instant};

use igvm_tools::Platform;

use super::{Totals, crew};
use crate::failure::{Failure, Result, status};
use crate::guest::USER_MODE;
use crate::image::{Payload, Request};
use crate::options::{SNP_CPU, SNP_HOST_OPTIONS};
use crate::process::{self, Cause, Console, Ended, Next, Streams};
use crate::qemu::{Machine, Qemu, Start};
use crate::record::Kind;
use crate::scratch::Scratch;
use crate::{build, say, snp_guest};
use std::path::Path;

/// A boot takes 4 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

const MEMORY: u64 = 1 << 30;

/// What the kernel says about itself once its handlers are in place.
const ACTIVE: &str = "Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP";
const TABLE: &str = "SEV: Using SNP CPUID table";

/// What each misdeed of the probe must be called.
const MISDEEDS: [(u64, &str); 19] = [
    (1, "access.shared-write"),
    (2, "access.guest-owned"),
    (3, "psc.rescind-first"),
    (4, "vmrun.svme"),
    (5, "vmrun.features"),
    (6, "vmrun.vmsa-page"),
    (7, "tlb.flush-before-use"),
    (8, "vc.delivery"),
    (9, "vmrun.reserved"),
    (10, "access.guest-owned"),
    (13, "vmrun.vmsa-page"),
    (14, "vmsa.in-use-write"),
    (15, "vmrun.in-use"),
    (16, "tlb.flush-before-use"),
    (22, "host.rmpupdate"),
    (23, "vmrun.state"),
    (24, "vmrun.vmpl"),
    (25, "vmrun.injection"),
    (26, "model.gap"),
];

/// The probe's task for two processors; misdeeds behind it take two as well.
const PROCESSORS: u64 = 12;

/// The probe's task that needs restricted injection.
const DOORBELL: u64 = 11;

/// The probe's task that writes to the debug console.
const CONSOLE: u64 = 17;

/// How the probe says that all is well.
const CONTENT: &str = "the guest gave up: reason set 15, code 0";

const IMAGE: &str = "model.igvm";

type Outcome = std::result::Result<(), String>;

pub(super) fn run(qemu: Option<&Path>, only: Option<&str>) -> Result<Totals> {
    say::progress("model of SEV-SNP");
    let probe = build::guest("snp-probe")?;
    let mut tests = Tests { only, all: Vec::new() };
    tests.add("stock_kernel_reaches_user_mode_as_an_enlightened_guest", 1, move || boots(qemu, 1));
    tests.add("stock_kernel_brings_up_two_processors", 2, move || boots(qemu, 2));
    tests.add("stock_kernel_brings_up_four_processors", 4, move || boots(qemu, 4));
    tests.add("stock_kernel_has_memory_above_4_gib", 1, move || has_high_memory(qemu));
    tests.add("stock_kernel_needs_no_assumption", 1, move || boots_with(qemu, MEMORY, 1, " assume=contrary", &[]));
    for rules in ["assume=contrary", "rules=permissive"] {
        let name = format!("parados_boots_the_stock_kernel_with_{}", rules.replace('=', "_"));
        tests.add(&name, 1, move || parados(qemu, rules));
    }
    tests.add("one_file_for_two_platforms_starts_on_both", 1, move || combined(qemu));
    tests.add("stock_kernel_gets_a_report_that_verifies", 1, move || attestation::attests(qemu));
    tests.add("parados_gives_a_report_for_a_nonce_that_verifies", 1, move || attestation::for_a_nonce(qemu));
    tests.add("no_key_of_the_firmwares_is_left_in_the_secrets_page", 1, move || attestation::no_key_left(qemu));
    add_probe(&mut tests, qemu, &probe);
    hostile::add(&mut tests, qemu, &probe);
    tests.run()
}

/// What the probe sees of an honest host.
fn add_probe<'a>(tests: &mut Tests<'a>, qemu: Option<&'a Path>, probe: &'a Path) {
    let mut add = |name: &str, task, rules: &'static str, end: String| {
        let processors = if task >= PROCESSORS { 2 } else { 1 };
        tests.add(name, processors as usize, move || {
            let image = snp_guest::build_probe(probe, task, task >= DOORBELL)?;
            Ok(expect(&hosted(qemu, &image, processors, rules, &mut Vec::new())?, &end))
        });
    };
    add("probe_sees_what_hardware_shows", 0, "", CONTENT.into());
    add("probe_needs_no_assumption", 0, " assume=contrary", CONTENT.into());
    add("doorbell_rings_for_vmpl0_whoever_runs", DOORBELL, "", CONTENT.into());
    add("a_second_processor_comes_hears_and_loses_rights_at_once", PROCESSORS, "", CONTENT.into());
    let goes_on = "the guest gave up: reason set 0, code 0";
    add("permissive_model_goes_on_where_hardware_would", 3, " rules=permissive", goes_on.into());
    for (task, rule) in MISDEEDS {
        add(&format!("misdeed_{task}_is_called_{rule}"), task, "", format!("SNP rule {rule} broken"));
    }
    for (name, word, open) in [("is_closed", "", 0), ("opens_on_the_hosts_word", " ports=vmpl0", 1)] {
        tests.add(&format!("debug_console_{name}"), 1, move || {
            let mut log = Vec::new();
            let image = snp_guest::build_probe(probe, CONSOLE, false)?;
            let ended = hosted(qemu, &image, 1, word, &mut log)?;
            if log.iter().any(|line| line == "probe") != (open == 1) {
                return Ok(Err(format!("the console has {log:?}")));
            }
            Ok(expect(&ended, &format!("the guest gave up: reason set 15, code {open}")))
        });
    }
}

/// The tests that were asked for.
struct Tests<'a> {
    only: Option<&'a str>,
    all: Vec<Test<'a>>,
}

struct Test<'a> {
    name: String,
    /// How many the guest has.
    processors: usize,
    run: Box<dyn Fn() -> Result<Outcome> + Sync + 'a>,
}

impl<'a> Tests<'a> {
    fn add(&mut self, name: &str, processors: usize, run: impl Fn() -> Result<Outcome> + Sync + 'a) {
        if self.only.is_none_or(|only| only.split(',').any(|part| name.contains(part))) {
            self.all.push(Test { name: name.into(), processors, run: Box::new(run) });
        }
    }

    /// Nothing here depends on the time that a guest has, so its processors may be all that the machine has.
    fn run(&self) -> Result<Totals> {
        let mut totals = Totals::default();
        for total in crew::each(&self.all, |test| test.processors, Test::run) {
            totals += total?;
        }
        Ok(totals)
    }
}

impl Test<'_> {
    fn run(&self) -> Result<Totals> {
        let start = Instant::now();
        let outcome = (self.run)()?;
        let seconds = start.elapsed().as_secs_f64();
        let (word, totals) = match &outcome {
            Ok(()) => (format!("ok ({seconds:.1} s)"), Totals { passed: 1, ..Totals::default() }),
            Err(why) => (format!("FAILED: {why}"), Totals { failed: 1, ..Totals::default() }),
        };
        say::out(&format!("test snp-model::{} ... {word}\n", self.name));
        Ok(totals)
    }
}

fn expect(ended: &Ended, reason: &str) -> Outcome {
    match &ended.end {
        Some(end) if end.reason.starts_with(reason) => Ok(()),
        Some(end) => Err(format!("expected \"{reason}\", got {:?} \"{}\"", end.kind, end.reason)),
        None => Err(format!("expected \"{reason}\", got {:?}", ended.cause)),
    }
}

fn boots(qemu: Option<&Path>, processors: u32) -> Result<Outcome> {
    boots_with(qemu, MEMORY, processors, "", &[])
}

/// 2 GiB of the VM's memory lie below, the rest from 4 GiB on; the kernel takes from the top first.
fn has_high_memory(qemu: Option<&Path>) -> Result<Outcome> {
    const MAP: &str = "[mem 0x0000000100000000-0x000000013fffffff] usable";
    const NODE: &str = "  node   0: [mem 0x0000000100000000-0x000000013fffffff]";
    boots_with(qemu, 3 << 30, 1, "", &[MAP, NODE])
}

/// The stock kernel with this much memory, the model's rules, and what it must say besides.
fn boots_with(qemu: Option<&Path>, memory: u64, processors: u32, rules: &str, words: &[&str]) -> Result<Outcome> {
    let scratch = Scratch::new()?;
    let payload = Request { figure: true, ..Request::default() }.payload(&scratch)?;
    // Without `quiet`: the kernel's own words are what is looked for.
    let payload = Payload { command_line: payload.command_line.replace("quiet ", ""), ..payload };
    let mut log = Vec::new();
    let image = snp_guest::build(&payload, memory, processors)?;
    let ended = hosted_for(LIMIT, qemu, &image, (memory, processors), rules, &mut log)?;
    let console = String::from_utf8_lossy(&ended.console).into_owned();
    let online = format!("Brought up 1 node, {processors} CPU");
    let expected = [ACTIVE, TABLE, &online, USER_MODE];
    let missing: Vec<_> =
        expected.into_iter().chain(words.iter().copied()).filter(|text| !console.contains(text)).collect();
    let predicted = predicted_digest(&image)?;
    if !log.contains(&predicted) {
        return Ok(Err(format!("the reference host did not say `{predicted}`")));
    }
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

/// Parados for the native platform and the enlightened guest for SNP, in one file.
fn combined(qemu: Option<&Path>) -> Result<Outcome> {
    let scratch = Scratch::new()?;
    let request = Request { figure: true, hashed: true, ..Request::default() };
    let bytes = snp_guest::build(&request.payload(&scratch)?, MEMORY, 1)?;
    let predicted = predicted_digest(&bytes)?;
    let report = igvm_tools::inspect(Path::new(IMAGE), &bytes)?;
    let enlightened = igvm_tools::Image { bytes, report, inputs: Vec::new() };
    let both = igvm_tools::combine(&[request.build()?, enlightened])?;
    for platform in ["native", "snp"] {
        let mut log = Vec::new();
        let ended = hosted(qemu, &both.bytes, 1, &format!(" platform={platform}"), &mut log)?;
        if !String::from_utf8_lossy(&ended.console).contains(USER_MODE) {
            return Ok(Err(format!("no guest in user mode as {platform}: {}", log.join(" / "))));
        }
        if log.contains(&predicted) != (platform == "snp") {
            return Ok(Err(format!("as {platform}, the reference host said: {}", log.join(" / "))));
        }
    }
    Ok(Ok(()))
}

/// What the reference host says of the launch if it launched the image as `igvm-tools` reads it.
fn predicted_digest(image: &[u8]) -> Result<String> {
    let measured = igvm_tools::measure::measure(Path::new(IMAGE), image)?;
    let digest = measured.snp().and_then(|snp| snp.digests.first()).map(|first| first.digest);
    let digest: String = digest.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("[host] launch digest {digest}"))
}

/// Parados's own image with the stock kernel: it depends neither on what the model only assumes nor on being stopped.
fn parados(qemu: Option<&Path>, rules: &str) -> Result<Outcome> {
    let request = Request { platform: Platform::Snp, figure: true, ..Request::default() };
    let image = request.build()?.bytes;
    let mut log = Vec::new();
    let ended = hosted(qemu, &image, 1, &format!("{SNP_HOST_OPTIONS} {rules}"), &mut log)?;
    let broken = log.iter().find(|line| line.contains("broken"));
    if let Some(line) = broken {
        return Ok(Err(line.clone()));
    }
    let reached = String::from_utf8_lossy(&ended.console).contains(USER_MODE);
    let in_order = ended.end.as_ref().is_some_and(|end| end.kind == Kind::PowerOff);
    Ok(if reached && in_order { Ok(()) } else { Err(format!("user mode: {reached}; the end: {:?}", ended.end)) })
}

/// Runs an image on the model.
fn hosted(qemu: Option<&Path>, image: &[u8], processors: u32, rules: &str, log: &mut Vec<String>) -> Result<Ended> {
    hosted_for(LIMIT, qemu, image, (MEMORY, processors), rules, log)
}

/// The same, with another time limit, memory and number of processors.
fn hosted_for(
    limit: Duration,
    qemu: Option<&Path>,
    image: &[u8],
    (memory, processors): (u64, u32),
    rules: &str,
    log: &mut Vec<String>,
) -> Result<Ended> {
    let qemu = Qemu::find(qemu)?;
    let scratch = Scratch::new()?;
    let file = scratch.file(IMAGE);
    igvm_tools::write_atomically(&file, image)?;
    let mut machine = Machine::new(qemu.path, Start::Host { host: build::reference_host()?, image: file });
    machine.cpu = SNP_CPU.into();
    (machine.memory, machine.processors) = (memory, processors);
    machine.host_options = rules.into();
    let streams =
        Streams { console: Console::Kept, command: false, power_button: false, deadline: Some(Instant::now() + limit) };
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
