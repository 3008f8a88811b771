// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stock kernel's own driver for `/dev/sev-guest` asks the model of the secure processor for a report, and
//! `igvm-tools` verifies it with the certificates that came along. The TEST root is named; nothing trusts it otherwise.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use igvm_tools::Platform;
use igvm_tools::verify::{Expected, Trust, verify};

use specs::guest_message::{SECRETS_VMPCK, VMPCK_BYTES, VMPCKS};

use super::{IMAGE, LIMIT, MEMORY, Outcome, hosted};
use crate::failure::{Failure, Result};
use crate::image::{Payload, Request};
use crate::options::{SNP_CPU, SNP_HOST_OPTIONS};
use crate::process::{self, Console, Next, Streams};
use crate::qemu::{Machine, Qemu, Start};
use crate::scratch::Scratch;
use crate::test::driver::{self, Finished};
use crate::{build, guest, say, snp_guest};

/// What `guest-programs/src/bin/attest.rs` asks for.
const REPORT_DATA: u8 = 0x64;
/// The response's header, and the report behind it.
const REPORT: std::ops::Range<usize> = 0x20..0x4c0;
/// How a secrets page begins that the model's firmware has filled: its version.
const SECRETS_VERSION: [u8; 4] = [3, 0, 0, 0];
const ENTRY_BYTES: usize = 24;
const PAGE: usize = 4096;

pub(super) fn attests(qemu: Option<&Path>) -> Result<Outcome> {
    let (outcome, said) = attests_with(qemu, "")?;
    if outcome.is_err() {
        said.iter().for_each(|line| say::line(line));
    }
    Ok(outcome)
}

/// The same with words for the host; and what host and guest said.
pub(super) fn attests_with(qemu: Option<&Path>, words: &str) -> Result<(Outcome, Vec<String>)> {
    let scratch = Scratch::new()?;
    let (kernel, disk) = guest::attesting(&build::guest_program("attest")?)?;
    let initrd = scratch.file("initrd");
    igvm_tools::write_atomically(&initrd, &disk)?;
    let payload = Payload { kernel, initrd: Some(initrd), command_line: guest::COMMAND_LINE.into() };
    let mut log = Vec::new();
    let image = snp_guest::build(&payload, MEMORY, 1)?;
    let ended = hosted(qemu, &image, 1, words, &mut log)?;
    let console = String::from_utf8_lossy(&ended.console).into_owned();
    let tail: Vec<_> = console.lines().rev().take(30).collect();
    log.extend(tail.iter().rev().map(|line| say::printable(line.get(..200).unwrap_or(line).as_bytes())));
    Ok((judge(&console, &scratch, &image), log))
}

/// The nonce of the tests.
const NONCE: &str = "8c0ffee5eed5eed5eed5eed5eed5eed5";

/// A run of Parados that is asked for a report, with a guest that only powers off.
fn asked(qemu: Option<&Path>, arguments: &[&str]) -> std::result::Result<Finished, String> {
    let fixed = ["--platform", "snp", "--attest", NONCE];
    driver::run(qemu, &[&fixed[..], arguments].concat())
}

fn poweroff() -> std::result::Result<String, String> {
    build::guest("poweroff").map(|guest| guest.to_string_lossy().into_owned()).map_err(|failure| failure.message)
}

/// Parados's report for a nonce, held against its image, against another nonce, and against another image; and its key, which
/// the same image gets again and the other one does not.
pub(super) fn for_a_nonce(qemu: Option<&Path>) -> Result<Outcome> {
    let scratch = Scratch::new()?;
    let images = ["one", "other"].map(|name| scratch.file(name));
    for (image, flags) in images.iter().zip([0, image_abi::flag::STATISTICS]) {
        let kernel = build::guest("poweroff")?;
        let request = Request { platform: Platform::Snp, kernel: Some(&kernel), flags, ..Request::default() };
        igvm_tools::write_atomically(image, &request.build()?.bytes)?;
    }
    Ok(nonces(qemu, &scratch, &images))
}

fn nonces(qemu: Option<&Path>, scratch: &Scratch, [one, other]: &[PathBuf; 2]) -> Outcome {
    let out = scratch.file("report");
    let run = |image: &Path| {
        let finished = asked(qemu, &["--out", &out.to_string_lossy(), "--image", &image.to_string_lossy()])?;
        let check = finished.stderr.lines().find_map(|line| line.split_once("has the check value "));
        match (finished.status, check) {
            (0, Some((_, check))) => Ok((fs::read(&out).map_err(|error| error.to_string())?, check.to_owned())),
            _ => Err(format!("status {}, {:?}", finished.status, finished.stderr)),
        }
    };
    let (first, again, foreign) = (run(one)?, run(one)?, run(other)?);
    if first.1 != again.1 || first.1 == foreign.1 {
        return Err(format!("keys: {} and {} of one image, {} of another", first.1, again.1, foreign.1));
    }
    if first.0 == again.0 {
        return Err("two launches gave the same report".into());
    }
    let data = |nonce: &str| {
        let bytes = hex::decode(nonce).map_err(|error| error.to_string())?;
        igvm_tools::verify::report_data(&bytes)
    };
    let chain = build::workspace().join("snp-psp/test-chain/certs");
    let root = chain.join("ark.der");
    let trust =
        Trust { certificates: Some(&chain), root: Some(&root), without_signature: false, now: SystemTime::now() };
    let judged = |report: &[u8], image: &Path, nonce: &str| {
        let expected = Expected { report_data: Some(data(nonce)?), vmpl: Some(0), ..Expected::default() };
        let bytes = fs::read(image).map_err(|error| error.to_string())?;
        let verdict = verify((Path::new("report"), report), (image, &bytes), &trust, &expected);
        let verdict = verdict.map_err(|error| error.to_string())?;
        Ok(verdict.differing().map(|check| check.name.clone()).collect::<Vec<_>>())
    };
    let expect = |what: &str, found: std::result::Result<Vec<String>, String>, wanted: &[&str]| match found? {
        differing if differing == wanted => Ok(()),
        differing => Err(format!("{what}: {differing:?} differ")),
    };
    expect("the report", judged(&first.0, one, NONCE), &[])?;
    expect("another launch's report", judged(&again.0, one, NONCE), &[])?;
    expect("another nonce", judged(&first.0, one, &NONCE.replace('8', "9")), &["report data"])?;
    expect("another image", judged(&first.0, other, NONCE), &["measurement"])
}

/// What is left of the firmware's keys in the secrets page when a guest that was reported on has ended: the machine's memory is a file.
/// A run that is not asked for a report holds no other keys.
pub(super) fn no_key_left(qemu: Option<&Path>) -> Result<Outcome> {
    let kernel = build::guest("poweroff")?;
    let image = Request { platform: Platform::Snp, kernel: Some(&kernel), ..Request::default() }.build()?;
    let Some(secrets) = image.report.launch_block.map(|block| block.secrets_page.start) else {
        return Ok(Err("the image has no launch block".into()));
    };
    for asked in [true, false] {
        let scratch = Scratch::new()?;
        let (file, memory) = (scratch.file("image"), scratch.file("memory"));
        igvm_tools::write_atomically(&file, &image.bytes)?;
        let start = Start::Host { host: build::reference_host()?, image: file };
        let mut machine = Machine::new(Qemu::find(qemu)?.path, start);
        (machine.memory, machine.cpu, machine.host_options) = (MEMORY, SNP_CPU.into(), SNP_HOST_OPTIONS.into());
        machine.memory_file = Some(memory.clone());
        if asked {
            machine.extra = crate::run::nonce_arguments(NONCE);
        }
        let deadline = Some(Instant::now() + LIMIT);
        let streams = Streams { console: Console::Kept, command: false, power_button: false, deadline };
        let ended = process::run(machine, &streams, &mut |_| Next::Continue)?;
        let read = || {
            let (mut page, mut memory) = ([0; PAGE], fs::File::open(&memory)?);
            memory.seek(SeekFrom::Start(secrets))?;
            memory.read_exact(&mut page).map(|()| page)
        };
        let page = read().map_err(|error| Failure::system(memory.display(), error))?;
        let keys = page.get(SECRETS_VMPCK..SECRETS_VMPCK + VMPCKS * VMPCK_BYTES).unwrap_or_default();
        let filled = page.first_chunk() == Some(&SECRETS_VERSION);
        if ended.facts.contains_key("attestation") != asked || !filled || keys.iter().any(|byte| *byte != 0) {
            let facts = ended.facts.contains_key("attestation");
            return Ok(Err(format!("asked {asked}, answered {facts}; the page is the secrets' {filled}: {keys:x?}")));
        }
    }
    Ok(Ok(()))
}

/// A hostile host, and what comes of the question.
pub(super) fn parados(qemu: Option<&Path>, script: &str, status: i32, words: &str) -> Outcome {
    let scratch = Scratch::new().map_err(|failure| failure.message)?;
    let (out, kernel) = (scratch.file("report"), poweroff()?);
    let finished = asked(qemu, &["--out", &out.to_string_lossy(), "--kernel", &kernel, "--hostile", script])?;
    let fits = finished.status == status && finished.stderr.contains(words) && out.exists() == (status == 0);
    if fits { Ok(()) } else { Err(format!("status {}, {:?}", finished.status, finished.stderr)) }
}

fn judge(console: &str, scratch: &Scratch, image: &[u8]) -> Outcome {
    let response = printed(console, "response")?;
    if response.get(..4) != Some(&[0; 4]) {
        return Err(format!("the firmware's status is {:x?}", response.get(..4)));
    }
    let report = response.get(REPORT).ok_or("the response is short")?;
    let folder = scratch.file("certificates");
    let kept = keep_certificates(&printed(console, "certificates")?, &folder)?;
    if kept != 3 {
        return Err(format!("the host handed out {kept} certificates, expected 3"));
    }
    let root = build::workspace().join("snp-psp/test-chain/certs/ark.der");
    let accepts = |root: Option<&Path>| {
        let trust = Trust { certificates: Some(&folder), root, without_signature: false, now: SystemTime::now() };
        let expected = Expected { report_data: Some(vec![REPORT_DATA; 64]), vmpl: Some(0), ..Expected::default() };
        let verdict = verify((Path::new("report"), report), (Path::new(IMAGE), image), &trust, &expected);
        verdict.map_err(|error| error.to_string())
    };
    let verdict = accepts(Some(&root))?;
    if !verdict.passes() {
        return Err(format!("igvm-tools refuses the report: {:?}", verdict.differing().collect::<Vec<_>>()));
    }
    if accepts(None).is_ok_and(|verdict| verdict.passes()) {
        return Err("igvm-tools trusts the TEST root by itself".into());
    }
    Ok(())
}

/// Bytes that the guest printed under a name.
fn printed(console: &str, name: &str) -> std::result::Result<Vec<u8>, String> {
    let start = format!("attest: {name} ");
    let line = console.lines().find_map(|line| line.split_once(&start)).map(|(_, hex)| hex.trim());
    let line = line.ok_or(format!("the guest printed no {name}"))?;
    let byte = |at: usize| line.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    (0..line.len()).step_by(2).map(|at| byte(at).ok_or(format!("the {name} is garbled"))).collect()
}

/// Writes each certificate of the table to a file; gives how many there were.
fn keep_certificates(table: &[u8], folder: &Path) -> std::result::Result<usize, String> {
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let word = |entry: &[u8], at: usize| {
        let bytes = entry.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes) as usize
    };
    let entries = table.chunks(ENTRY_BYTES).take_while(|entry| entry.iter().any(|byte| *byte != 0));
    let mut kept = 0;
    for entry in entries.take(PAGE / ENTRY_BYTES) {
        let (offset, length) = (word(entry, 16), word(entry, 20));
        let certificate = table.get(offset..offset.saturating_add(length)).ok_or("a certificate outside the table")?;
        fs::write(folder.join(format!("{kept}.der")), certificate).map_err(|error| error.to_string())?;
        kept += 1;
    }
    Ok(kept)
}
