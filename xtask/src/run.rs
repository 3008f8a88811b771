// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask run`: a guest under Parados in QEMU, from the sources to its last word.

mod attestation;
mod conclusion;
mod options;
mod stats;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Instant;

use igvm_tools::{Platform, can_be_written, write_atomically};
use serde_json::json;

use crate::build;
use crate::failure::{Failure, Result, status};
use crate::image::{self, Request};
use crate::process::{self, Console, Ended, Event, Next, Streams};
use crate::qemu::{Channel, Machine, Qemu, Start};
use crate::say;
use crate::scratch::Scratch;
use attestation::Awaited;
pub(crate) use attestation::qemu_arguments as nonce_arguments;
use conclusion::Conclusion;
pub(crate) use options::Options;

/// The verb.
pub(crate) fn main(parser: lexopt::Parser) -> Result<u8> {
    let options = Options::parse(parser)?;
    if options.print_command {
        return print_command(&options);
    }
    if let Some(path) = &options.status_file {
        can_be_written(path)?;
    }
    let concluded = execute(&options);
    let conclusion = concluded.unwrap_or_else(|failure| Conclusion::not_started(&failure));
    if let Some(path) = &options.status_file {
        let (kind, reason, status) = (conclusion.kind, &conclusion.reason, conclusion.status);
        let object = json!({ "kind": kind, "reason": reason, "status": status });
        write_atomically(path, format!("{object}\n").as_bytes())?;
    }
    if conclusion.worth_a_line {
        say::error(&conclusion.reason);
    }
    Ok(conclusion.status)
}

/// Builds the image where it stays, and prints what would run it.
fn print_command(options: &Options) -> Result<u8> {
    let image = image_file(options, &kept_image()?)?;
    let qemu = options.qemu.clone().unwrap_or_else(|| "qemu-system-x86_64".into());
    let start = Start::Host { host: build::reference_host()?, image };
    let machine = machine(options, qemu, start);
    say::out(&format!("{}\n", machine.shell_command()));
    Ok(status::OK)
}

/// Where an image stays that is not for one run alone.
fn kept_image() -> Result<PathBuf> {
    let directory = image::directory();
    std::fs::create_dir_all(&directory).map_err(|error| Failure::system(directory.display(), error))?;
    Ok(directory.join("run.igvm"))
}

fn execute(options: &Options) -> Result<Conclusion> {
    // What could not be written in the end is said before a guest runs for it.
    for file in [&options.out, &options.stats_json].into_iter().flatten() {
        can_be_written(file)?;
    }
    if options.log.is_some() && !options.debug_log && options.platform == Platform::Snp && options.image.is_none() {
        say::progress("an SNP image keeps its log to itself; --debug-log shows it");
    }
    let scratch = Scratch::new()?;
    // A report is worth nothing without the image that it is held against.
    let place = if options.attest.is_some() { kept_image()? } else { scratch.file("image.igvm") };
    let image = image_file(options, &place)?;
    let qemu = Qemu::find(options.qemu.as_deref())?;
    let mut awaited = match (&options.attest, &options.out) {
        (Some(nonce), Some(out)) => Some(Awaited::new(nonce, out, &image)),
        _ => None,
    };
    let start = Start::Host { host: build::reference_host()?, image };
    let deadline = options.timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let machine = machine(options, qemu.path.clone(), start.clone());
        let ended = once(options, machine, deadline, &mut awaited)?;
        let conclusion = conclusion::of(&ended, options);
        if conclusion.again {
            say::progress(&format!("{}; starting it again", conclusion.reason));
            continue;
        }
        show_console(options, &ended);
        let conclusion = report_statistics(options, &ended, conclusion)?;
        return Ok(match awaited.and_then(Awaited::failure) {
            Some(why) if conclusion.status == status::OK => Conclusion::no_report(why),
            Some(why) => {
                say::error(&why);
                conclusion
            }
            None => conclusion,
        });
    }
}

/// The image to run: the one given, or a new one at `place`.
fn image_file(options: &Options, place: &std::path::Path) -> Result<PathBuf> {
    if let Some(image) = &options.image {
        image::verify(image, options.platform)?;
        return Ok(image.clone());
    }
    let request = Request {
        platform: options.platform,
        kernel: options.kernel.as_deref(),
        initrd: options.initrd.as_deref(),
        append: options.append.as_deref(),
        command: options.exec.as_deref(),
        memory: options.memory,
        flags: options.image_flags(),
        ..Request::default()
    };
    write_atomically(place, &request.build()?.bytes)?;
    Ok(place.to_owned())
}

fn machine(options: &Options, qemu: PathBuf, start: Start) -> Machine {
    let command = options.exec.is_some().then_some(Channel::Stderr);
    let (processors, memory, cpu) = (options.processors, options.memory, options.cpu.clone());
    // A given image may be for others as well; one to attack is for SNP.
    let several = options.image.is_some() && options.hostile.is_none();
    let named = if several { format!(" platform={}", options.platform.name()) } else { String::new() };
    let host_options = named + &options.host_options();
    let extra = options.attest.as_deref().map(attestation::qemu_arguments).unwrap_or_default();
    Machine { processors, memory, cpu, command, host_options, extra, ..Machine::new(qemu, start) }
}

fn once(
    options: &Options,
    machine: Machine,
    deadline: Option<Instant>,
    awaited: &mut Option<Awaited<'_>>,
) -> Result<Ended> {
    let command = options.exec.is_some();
    let console = if command { Console::Kept } else { Console::Inherited { terminal: io::stdin().is_terminal() } };
    let mut listener = |event: Event| {
        match event {
            Event::Started(_) | Event::Console(_) => {}
            Event::Line(line) => say::line(line),
            Event::Facts(facts) => {
                if let Some(awaited) = awaited {
                    awaited.look(facts);
                }
            }
            Event::Output(bytes) => {
                if say::write_out(bytes).is_err() {
                    return Next::Stop;
                }
            }
        }
        Next::Continue
    };
    // A command's RAM disk has nobody who waits for the button.
    let streams = Streams { console, command, power_button: !command, deadline };
    process::run(machine, &streams, &mut listener)
}

/// A console that nobody watched is of interest if the command did not come to its end.
fn show_console(options: &Options, ended: &Ended) {
    if options.exec.is_none() || ended.command.is_some() || ended.console.is_empty() {
        return;
    }
    say::progress("the guest's console:");
    for line in ended.console.split(|&byte| byte == b'\n') {
        say::line(&say::printable(line.strip_suffix(b"\r").unwrap_or(line)));
    }
}

fn report_statistics(options: &Options, ended: &Ended, conclusion: Conclusion) -> Result<Conclusion> {
    if !options.stats && options.stats_json.is_none() {
        return Ok(conclusion);
    }
    let Some(stats) = stats::collect(&ended.facts) else {
        say::error("no statistics: Parados did not send them");
        let in_vain = conclusion.status == status::OK && options.stats_json.is_some();
        return Ok(if in_vain { Conclusion::no_statistics() } else { conclusion });
    };
    if options.stats {
        say::line(stats::table(&stats).trim_end());
    }
    if let Some(path) = &options.stats_json {
        write_atomically(path, format!("{stats:#}\n").as_bytes())?;
    }
    Ok(conclusion)
}
