// SPDX-License-Identifier: MIT OR Apache-2.0
//! The start of the TDX image, `cargo xtask test boot --platform tdx` and a part of every whole run: from the reset vector, in the first state of a TD's processors, to the reason with which it ends.
//!
//! The reference host places the pages, lets all processors take turns under SVM, and answers the four calls that a start makes. It
//! is no model of TDX: what is seen here is that the code runs from its first instruction on, on every processor, and what it
//! does with what it is told. Addresses of 52 bits, #VE and a host that gives no memory are not seen.

use std::fs;
use std::time::{Duration, Instant};

use igvm_tools::{Image, Platform};
use image_abi::flag;
use platform::{Reason, Termination};

use super::images::in_file;
use super::{Case, Context, Outcome, Verdict};
use crate::build;
use crate::image::Request;
use crate::process::{self, Console, Ended, Event, Next, Streams};
use crate::qemu::{Machine, Qemu, Start};
use crate::record::Detail;
use crate::scratch::Scratch;

/// All of them.
pub(super) const ALL: &[Case] = &[
    Case { name: "tdx_start_reaches_its_end_on_every_processor", run: every_processor },
    Case { name: "tdx_start_says_nothing_unless_the_policy_lets_it", run: silent },
    Case { name: "tdx_start_refuses_attributes_that_the_policy_does_not_ask_for", run: attributes },
    Case { name: "tdx_start_refuses_a_payload_that_is_not_what_was_measured", run: damaged },
    Case { name: "tdx_image_in_the_file_for_all_platforms_starts_alike", run: combined },
    Case { name: "tdx_image_is_refused_by_a_host_that_is_not_told_to_start_it", run: refused },
];

const MEMORY: u64 = 256 << 20;

fn image(flags: u32) -> Result<Image, String> {
    let request = Request { platform: Platform::Tdx, figure: true, flags, ..Request::default() };
    request.build().map_err(|failure| failure.message)
}

/// Starts a file with these words for the reference host; how it ended and all lines.
fn start(
    context: &Context,
    bytes: &[u8],
    processors: u32,
    memory: u64,
    words: &str,
) -> Result<(Ended, Vec<String>), String> {
    let started = || {
        let scratch = Scratch::new()?;
        let file = scratch.file("image.igvm");
        fs::write(&file, bytes).map_err(|error| crate::failure::Failure::system(file.display(), error))?;
        let qemu = Qemu::find(context.qemu.as_deref())?;
        let start = Start::Host { host: build::reference_host()?, image: file };
        let machine = Machine { processors, memory, host_options: words.to_owned(), ..Machine::new(qemu.path, start) };
        let deadline = Some(Instant::now() + Duration::from_secs(120));
        let streams = Streams { console: Console::Kept, command: false, power_button: false, deadline };
        let mut lines = Vec::new();
        let ended = process::run(machine, &streams, &mut |event| {
            if let Event::Line(line) = event {
                lines.push(line.to_owned());
            }
            Next::Continue
        })?;
        Ok((ended, lines))
    };
    started().map_err(|failure: crate::failure::Failure| failure.message)
}

/// Both words of the end: Parados's record, and what the host was told by TDG.VP.VMCALL.
fn expect((ended, lines): &(Ended, Vec<String>), reason: Reason) -> Result<(), String> {
    let told = format!("[host] fatal error {:#x}: {}", reason.code(), Termination::Fatal(reason, 0).words());
    match &ended.end {
        Some(end) if end.code == u64::from(reason.code()) && lines.contains(&told) => Ok(()),
        end => Err(format!("expected \"{reason}\", got {end:?}, {:?}: {lines:?}", ended.cause)),
    }
}

const START: &str = " platform=tdx-start";

fn every_processor(context: &Context) -> Outcome {
    let image = image(flag::DEBUG_LOG)?;
    for processors in [1, 2, 5] {
        let ended = start(context, &image.bytes, processors, MEMORY, START)?;
        expect(&ended, Reason::NoGuestYet)?;
        let has = |wanted: &str| ended.1.iter().any(|line| line.contains(wanted));
        for index in 0..processors {
            let first = format!("processor {index}: leaf 1 at ");
            if !ended.1.iter().any(|line| line.contains(&first) && line.contains("64-bit mode, CR3")) {
                return Err(format!("processor {index} of {processors} was not seen: {:?}", ended.1));
            }
        }
        let block = image.report.launch_block.ok_or("no launch block")?;
        let judged: u64 = block.digests.iter().map(|digest| digest.range.bytes).sum();
        if judged == 0 || !has(&format!("{judged} bytes of the payload judged, {processors} processors")) {
            return Err(format!("expected {judged} bytes judged: {:?}", ended.1));
        }
    }
    Ok(Verdict::Passed)
}

fn silent(context: &Context) -> Outcome {
    let ended = start(context, &image(0)?.bytes, 2, MEMORY, START)?;
    expect(&ended, Reason::NoGuestYet)?;
    match ended.1.iter().find(|line| line.contains("[parados]")) {
        None => Ok(Verdict::Passed),
        Some(line) => Err(format!("it said: {line}")),
    }
}

fn attributes(context: &Context) -> Outcome {
    let image = image(0)?;
    // DEBUG, SEPT_VE_DISABLE, MIGRATABLE; PERFMON is nobody's policy.
    for wrong in [1u64, 1 << 28, 1 << 29] {
        let ended = start(context, &image.bytes, 1, MEMORY, &format!("{START} td-attributes={wrong}"))?;
        expect(&ended, Reason::PolicyMismatch)?;
        match &ended.0.end {
            Some(end) if end.detail == Detail(Some(wrong)) => {}
            end => return Err(format!("expected {wrong:#x} as its detail, got {end:?}")),
        }
    }
    let ended = start(context, &image.bytes, 1, MEMORY, &format!("{START} td-attributes={}", 1u64 << 63))?;
    expect(&ended, Reason::NoGuestYet)?;
    Ok(Verdict::Passed)
}

fn damaged(context: &Context) -> Outcome {
    let image = image(0)?;
    let block = image.report.launch_block.ok_or("no launch block")?;
    for digest in block.digests.iter().filter(|digest| digest.range.bytes > 0) {
        for place in [digest.range.start, digest.range.end() - 1] {
            let mut bytes = image.bytes.clone();
            *bytes.get_mut(in_file(&image.bytes, place)?).ok_or("a place outside of the file")? ^= 0x10;
            let ended = start(context, &bytes, 1, MEMORY, START)?;
            expect(&ended, Reason::PayloadMismatch)?;
        }
    }
    Ok(Verdict::Passed)
}

fn combined(context: &Context) -> Outcome {
    let image = |platform| Request { platform, figure: true, ..Request::default() }.build();
    let images = Platform::ALL.into_iter().map(image).collect::<crate::failure::Result<Vec<_>>>();
    let whole = igvm_tools::combine(&images.map_err(|failure| failure.message)?).map_err(|error| error.to_string())?;
    expect(&start(context, &whole.bytes, 2, MEMORY, START)?, Reason::NoGuestYet)?;
    Ok(Verdict::Passed)
}

fn refused(context: &Context) -> Outcome {
    let ended = start(context, &image(0)?.bytes, 1, MEMORY, "")?;
    match &ended.0.end {
        Some(end) if end.reason.contains("no TDX model here") => Ok(Verdict::Passed),
        end => Err(format!("expected a refusal, got {end:?}: {:?}", ended.1)),
    }
}
