// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scripts of a hostile host (`docs/hostile-hosts.md`), each against a guest that it means something to, with the outcome
//! that this guest should have. An honest host gives the probe another one, so a script that does nothing fails its test.

use std::path::Path;
use std::time::Duration;

use super::{CONTENT, LIMIT, MEMORY, Outcome, Tests, attestation, expect, hosted, hosted_for};
use crate::failure::Result;
use crate::guest::USER_MODE;
use crate::image::{Payload, Request};
use crate::scratch::Scratch;
use crate::test::driver;
use crate::{build, say, snp_guest};

/// Against the probe: script, task, whether it has restricted injection, how it ends.
const PROBE: [(&str, u64, bool, &str); 5] = [
    ("second-thought", 18, false, "the guest gave up: reason set 15, code 1"),
    ("low-vector", 19, true, "the guest gave up: reason set 15, code 14"),
    ("stray-entry", 20, false, "the guest gave up: reason set 15, code 2"),
    ("snatched-page", 21, false, "the guest gave up: reason set 15, code 1"),
    ("moved-page", 21, false, "SNP rule access.reverse-map broken"),
];

/// Against the stock kernel: script, how it ends, what its console says.
const KERNEL: [(&str, &str, &str); 11] = [
    ("no-features", "the guest gave up: reason set 0, code 2", ""),
    ("old-protocol", "the guest gave up: reason set 0, code 1", ""),
    ("no-registration", "the guest gave up: reason set 1, code 0", ""),
    ("no-conversion", "the guest gave up: reason set 1, code 1", ""),
    ("silence", HANGS, ""),
    ("late", "the guest powered off", USER_MODE),
    ("false-cpuid", "the guest powered off", USER_MODE),
    ("snatched-page", "the guest gave up: reason set 0, code 0", ""),
    ("moved-page", "SNP rule access.reverse-map broken", ""),
    ("forged-exception", "the guest reset the machine", PANIC),
    ("forged-interrupt", "the guest reset the machine", PANIC),
];

const PANIC: &str = "Kernel panic - not syncing";

/// A guest that hears nothing does nothing: the host's right. Several times as long as the others take.
const HANGS: &str = "never";
const SOON: Duration = Duration::from_secs(25);

/// Against Parados with the stock kernel above it: script, status of the run, what is said. With status 0 the kernel's own
/// command has run.
const PARADOS: &[(&str, i32, &str)] = &[
    ("no-features", 70, "the processor lacks a needed feature"),
    ("old-protocol", 70, "the processor lacks a needed feature"),
    ("no-registration", 70, "the host registered no GHCB"),
    ("no-conversion", 70, "the host refused a change of page states"),
    ("no-doorbell", 70, "the host refused what the start needs"),
    ("no-creation", 70, "the host refused what the start needs"),
    ("silence", 70, "the host refused what the start needs"),
    ("late", 0, ""),
    ("false-cpuid", 0, ""),
    ("snatched-page", 70, "exception in Parados"),
    ("moved-page", 70, "SNP rule access.reverse-map broken"),
    ("second-thought", 0, ""),
    ("early-run", 0, ""),
    ("second-run", 70, "the host ran the guest while Parados worked on it"),
    ("low-vector", 0, ""),
    ("forged-interrupt", 0, ""),
    ("forged-exception", 0, ""),
    ("stray-entry", 0, ""),
    ("turned-back", 0, ""),
];

/// Against Parados with a guest that converts pages: script, status of the run, what is said. With status 1 the guest has found
/// every page where it should be.
const CONVERSION: [(&str, i32, &str); 5] = [
    ("slow-conversion", 1, "0 failed"),
    ("half-conversion", 1, "0 failed"),
    ("rare-conversion", 1, "0 failed"),
    ("claimed-conversion", 70, "SNP rule access.shared-write broken"),
    ("false-conversion", 70, "the guest's memory failed"),
];

/// Against the driver for `/dev/sev-guest`: no report may come of it.
const DRIVER: [&str; 3] = ["twice", "replay", "forged-answer"];

/// Against Parados that is asked for a report: script, status of the run, what is said. The guest runs in any case.
const REPORT: [(&str, i32, &str); 5] = [
    ("twice", 70, "no report: the firmware did not take the message, status 0x16"),
    ("forged-answer", 70, "no report: the answer is not authentic"),
    ("no-messenger", 70, "no report: the host refused to carry the message"),
    // The report is the first message, the key the second.
    ("replay", 0, "no key: the answer is out of sequence"),
    ("throttle", 0, "this image's key on this chip has the check value"),
];

pub(super) fn add<'a>(tests: &mut Tests<'a>, qemu: Option<&'a Path>, probe: &'a Path) {
    for (script, task, restricted, reason) in PROBE {
        tests.add(&format!("hostile_{script}_is_seen_by_the_probe"), 1, move || {
            let image = snp_guest::build_probe(probe, task, restricted)?;
            let honest = hosted(qemu, &image, 1, "", &mut Vec::new())?;
            let end = hosted(qemu, &image, 1, &format!(" hostile={script}"), &mut Vec::new())?;
            Ok(expect(&honest, CONTENT).and_then(|()| expect(&end, reason)))
        });
    }
    tests.add("hostile_scripts_are_an_option_of_run", 1, move || by_option(qemu, probe));
    for (script, reason, words) in KERNEL {
        tests.add(&format!("hostile_{script}_meets_the_stock_kernel"), 1, move || kernel(qemu, script, reason, words));
    }
    for &(script, status, words) in PARADOS {
        tests.add(&format!("hostile_{script}_meets_parados"), 1, move || Ok(parados(qemu, script, status, words)));
    }
    for (script, status, words) in CONVERSION {
        let name = format!("hostile_{script}_meets_a_guest_that_converts_pages");
        tests.add(&name, 2, move || Ok(conversion(qemu, script, status, words)));
    }
    // The other one is for the host's clock, which its guest compares with its own.
    tests.add("hostile_turned-back_meets_a_guest_that_looks_at_the_time", 2, move || Ok(turned_back(qemu)));
    for (script, status, words) in REPORT {
        let name = format!("hostile_{script}_meets_a_request_for_a_report");
        tests.add(&name, 1, move || Ok(attestation::parados(qemu, script, status, words)));
    }
    for script in DRIVER {
        tests.add(&format!("hostile_{script}_gets_no_report"), 1, move || {
            let (outcome, _) = attestation::attests_with(qemu, &format!(" hostile={script}"))?;
            Ok(match outcome {
                Ok(()) => Err("the report verifies".into()),
                Err(_) => Ok(()),
            })
        });
    }
}

/// `cargo xtask run --hostile`, with an image that is no test's own.
fn by_option(qemu: Option<&Path>, probe: &Path) -> Result<Outcome> {
    let scratch = Scratch::new()?;
    let image = scratch.file("probe.igvm");
    igvm_tools::write_atomically(&image, &snp_guest::build_probe(probe, 18, false)?)?;
    let image = image.to_string_lossy().into_owned();
    let run = |name: &str| driver::run(qemu, &["--platform", "snp", "--image", &image, "--hostile", name]);
    let judge = |name: &str, status: i32, words: &str| {
        let finished = run(name)?;
        let fits = finished.status == status && finished.stderr.contains(words);
        if fits { Ok(()) } else { Err(format!("{name}: status {}, {:?}", finished.status, finished.stderr)) }
    };
    Ok(judge("second-thought", 70, "the guest gave up: reason set 15, code 1")
        .and_then(|()| judge("kindness", 70, "names no script of docs/hostile-hosts.md")))
}

fn parados(qemu: Option<&Path>, script: &str, status: i32, words: &str) -> Outcome {
    let finished = driver::run(qemu, &["--platform", "snp", "--hostile", script, "--exec", "echo alive"])?;
    let output = if status == 0 { "alive\n" } else { "" };
    if finished.status == status && finished.stderr.contains(words) && finished.stdout == output {
        return Ok(());
    }
    Err(format!("status {}, {:?}, {:?}", finished.status, finished.stdout, finished.stderr))
}

/// Two processors; no longer than a refusal or a claim needs to be met.
fn conversion(qemu: Option<&Path>, script: &str, status: i32, words: &str) -> Outcome {
    let guest = build::guest("page-conversion").map_err(|failure| failure.message)?.to_string_lossy().into_owned();
    let options = ["--platform", "snp", "--smp", "2", "--test-devices", "--page-conversion", "--append", "2 1"];
    let finished = driver::run(qemu, &[&options[..], &["--kernel", &guest, "--hostile", script]].concat())?;
    if finished.status == status && (finished.stderr.contains(words) || finished.stdout.contains(words)) {
        return Ok(());
    }
    Err(format!("status {}, {:?}, {:?}", finished.status, finished.stdout, finished.stderr))
}

/// With a host that turns nothing back, the guest would miss it.
fn turned_back(qemu: Option<&Path>) -> Outcome {
    let guest = build::guest("turned-back").map_err(|failure| failure.message)?.to_string_lossy().into_owned();
    let options = ["--platform", "snp", "--test-devices", "--kernel", &guest, "--hostile", "turned-back"];
    let finished = driver::run(qemu, &options)?;
    if finished.status == 1 && finished.stdout.contains("0 failed") {
        return Ok(());
    }
    Err(format!("status {}, {:?}, {:?}", finished.status, finished.stdout, finished.stderr))
}

fn kernel(qemu: Option<&Path>, script: &str, reason: &str, words: &str) -> Result<Outcome> {
    let scratch = Scratch::new()?;
    let payload = Request { figure: true, ..Request::default() }.payload(&scratch)?;
    let payload = Payload { command_line: payload.command_line.replace("quiet ", ""), ..payload };
    let image = snp_guest::build(&payload, MEMORY, 1)?;
    let limit = if reason == HANGS { SOON } else { LIMIT };
    let ended = hosted_for(limit, qemu, &image, (MEMORY, 1), &format!(" hostile={script}"), &mut Vec::new())?;
    let console = String::from_utf8_lossy(&ended.console).into_owned();
    let outcome = match &ended.end {
        None if reason == HANGS => Ok(()),
        _ => expect(&ended, reason),
    };
    if outcome.is_ok() && console.contains(words) {
        return Ok(Ok(()));
    }
    let tail: Vec<_> = console.lines().rev().take(20).collect();
    tail.iter().rev().for_each(|line| say::line(&say::printable(line.as_bytes())));
    Ok(outcome.and_then(|()| Err(format!("the console lacks {words:?}"))))
}
