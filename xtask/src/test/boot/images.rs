// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot tests about files: kernels and RAM disks that cannot be used, images that are corrupt, and another loader.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use igvm_tools::Platform;

use super::{Case, Context, Outcome, Verdict};
use crate::guest::USER_MODE;
use crate::image::Request;
use crate::process::{self, Console, Next, Streams};
use crate::qemu::{Machine, Qemu, Start};
use crate::scratch::Scratch;
use crate::test::driver;

pub(super) const ALL: &[Case] = &[
    Case { name: "unusable_kernels_are_refused", run: kernels },
    Case { name: "unusable_initrds_are_refused", run: initrds },
    Case { name: "corrupt_images_are_refused", run: corrupt },
    Case { name: "files_that_cannot_be_written_are_refused_before_a_guest_runs", run: unwritable },
    Case { name: "a_payload_that_is_not_what_was_measured_is_not_started", run: damaged },
    Case { name: "one_image_for_all_platforms_starts_on_each", run: combined },
    Case { name: "an_image_is_built_of_its_platforms_own_paravisor", run: swapped },
    Case { name: "print_command_runs_nothing", run: print_command },
    Case { name: "qemus_own_igvm_loader_starts_the_image", run: own_loader },
];

fn scratch() -> Result<Scratch, String> {
    Scratch::new().map_err(|failure| failure.message)
}

/// An image whose guest powers off as soon as it is in user mode.
fn image() -> Result<Vec<u8>, String> {
    let request = Request { figure: true, ..Request::default() };
    Ok(request.build().map_err(|failure| failure.message)?.bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// A run that must not get as far as QEMU, and say why in one line.
fn refused(context: &Context, arguments: &[&str], statuses: &[i32]) -> Result<(), String> {
    let finished = driver::run(context.qemu.as_deref(), arguments)?;
    let kind = finished.record.get("kind").and_then(|kind| kind.as_str());
    if !statuses.contains(&finished.status) || kind != Some("not-started") || !finished.stdout.is_empty() {
        return Err(format!("{arguments:?}: expected status {statuses:?}, got {finished:?}"));
    }
    let lines = finished.stderr.lines().count();
    if lines == 1 { Ok(()) } else { Err(format!("{arguments:?}: expected one line, got {:?}", finished.stderr)) }
}

fn kernels(context: &Context) -> Outcome {
    let scratch = scratch()?;
    let stock = fs::read(&context.kernel).map_err(|error| error.to_string())?;
    let half = stock.get(..stock.len() / 2).unwrap_or_default();
    let garbage: Vec<u8> = (0..65_536u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as u8).collect();
    // Linux, Documentation/arch/arm64/booting.rst: "MZ" for UEFI, and the magic at offset 56.
    let mut arm64 = vec![0; 65_536];
    arm64.splice(0..2, *b"MZ");
    arm64.splice(56..60, *b"ARM\x64");
    for (name, bytes) in [("half", half), ("garbage", &garbage), ("arm64", &arm64), ("empty", &[])] {
        let file = scratch.file(name);
        write(&file, bytes)?;
        refused(context, &["--kernel", &file.to_string_lossy()], &[64, 65])?;
    }
    refused(context, &["--kernel", "/nowhere/vmlinuz"], &[64])?;
    refused(context, &["--kernel", "/"], &[64])?;
    Ok(Verdict::Passed)
}

fn initrds(context: &Context) -> Outcome {
    let scratch = scratch()?;
    let file = scratch.file("large");
    let large = fs::File::create(&file).and_then(|file| file.set_len(300 << 20));
    large.map_err(|error| error.to_string())?;
    refused(context, &["--initrd", &file.to_string_lossy(), "--memory", "256M"], &[64])?;
    refused(context, &["--initrd", "/nowhere/initrd"], &[64])?;
    Ok(Verdict::Passed)
}

fn corrupt(context: &Context) -> Outcome {
    let scratch = scratch()?;
    let image = image()?;
    let file = scratch.file("image.igvm");
    let name = file.to_string_lossy();
    for position in [0, 5, 30, 60, 200, 1000] {
        let mut bad = image.clone();
        *bad.get_mut(position).ok_or("the image is tiny")? ^= 0x10;
        write(&file, &bad)?;
        refused(context, &["--image", &name], &[65]).map_err(|error| format!("byte {position} changed: {error}"))?;
    }
    for length in [0, 10, 24, 500, image.len() / 2, image.len() - 1] {
        write(&file, image.get(..length).unwrap_or_default())?;
        refused(context, &["--image", &name], &[65]).map_err(|error| format!("cut at {length}: {error}"))?;
    }
    refused(context, &["--image", "/nowhere/image"], &[64])?;
    Ok(Verdict::Passed)
}

/// The guest ran to its end first, for however long that was, and the report was lost.
fn unwritable(context: &Context) -> Outcome {
    for file in ["/nowhere/report", "/", "/dev/null"] {
        let nonce = "5e".repeat(16);
        refused(context, &["--platform", "snp", "--attest", &nonce, "--out", file], &[64])?;
        refused(context, &["--stats-json", file], &[64])?;
    }
    Ok(Verdict::Passed)
}

fn damaged(context: &Context) -> Outcome {
    damaged_on(context, Platform::Native)
}

/// An image whose payload the launch does not measure, and Parados judges: as it is, and with a byte changed at various places.
pub(super) fn damaged_on(context: &Context, platform: Platform) -> Outcome {
    let scratch = scratch()?;
    let request = Request { platform, figure: true, hashed: true, ..Request::default() };
    let built = request.build().map_err(|failure| failure.message)?;
    let block = built.report.launch_block.ok_or("no launch block")?;
    let parts: Vec<_> = block.digests.iter().map(|digest| digest.range).filter(|range| range.bytes > 0).collect();
    let [kernel, initrd] = parts.as_slice() else { return Err(format!("{} parts, expected 2", parts.len())) };
    let file = scratch.file("image.igvm");
    let run = |place: Option<u64>| {
        let mut image = built.bytes.clone();
        if let Some(place) = place {
            *image.get_mut(in_file(&built.bytes, place)?).ok_or("a place outside of the file")? ^= 0x10;
        }
        write(&file, &image)?;
        driver::run(context.qemu.as_deref(), &["--image", &file.to_string_lossy(), "--platform", platform.name()])
    };
    // Behind the RAM disk's end its last page is nobody's: Parados clears it.
    let tail = (!initrd.end().is_multiple_of(4096)).then_some(initrd.end());
    for place in [None, tail] {
        let finished = run(place)?;
        if finished.status != 0 || !finished.stdout.contains(USER_MODE) {
            return Err(format!("changed at {place:x?}: expected a guest in user mode, got {finished:?}"));
        }
    }
    for place in [kernel.start, kernel.end() - 1, initrd.start + initrd.bytes / 2] {
        let finished = run(Some(place))?;
        let reason = finished.record.get("reason").and_then(|reason| reason.as_str()).unwrap_or_default();
        if finished.status != 70 || !reason.contains("not the one that was measured") || !finished.stdout.is_empty() {
            return Err(format!("changed at {place:#x}: expected reason 1Fh and no guest, got {finished:?}"));
        }
    }
    Ok(Verdict::Passed)
}

/// Where an image has the byte of a guest-physical address.
pub(super) fn in_file(image: &[u8], gpa: u64) -> Result<usize, String> {
    let file = igvm_tools::file::parse(Path::new("image"), image).map_err(|error| error.to_string())?;
    let page = file.pages().find(|(_, page)| page.gpa == gpa & !0xfff && page.file_offset != 0);
    let (_, page) = page.ok_or_else(|| format!("no page with data at {gpa:#x}"))?;
    Ok(page.file_offset as usize + (gpa & 0xfff) as usize)
}

/// One file for all platforms for which there are images, started as each of them.
fn combined(context: &Context) -> Outcome {
    let scratch = scratch()?;
    let image = |platform| Request { platform, figure: true, ..Request::default() }.build();
    let images = Platform::ALL.into_iter().map(image).collect::<crate::failure::Result<Vec<_>>>();
    let whole = igvm_tools::combine(&images.map_err(|failure| failure.message)?).map_err(|error| error.to_string())?;
    let file = scratch.file("all.igvm");
    write(&file, &whole.bytes)?;
    let name = file.to_string_lossy();
    let finished = driver::run(context.qemu.as_deref(), &["--image", &name, "--platform", "tdx"])?;
    if finished.status != 64 || finished.stderr.lines().count() != 1 {
        return Err(format!("tdx: expected one line that no guest starts there, got {finished:?}"));
    }
    for platform in [Platform::Native, Platform::Snp] {
        let options = ["--image", &name, "--platform", platform.name()];
        let finished = driver::run(context.qemu.as_deref(), &options)?;
        if finished.status != 0 || !finished.stdout.contains(USER_MODE) {
            return Err(format!("{}: expected a guest in user mode, got {finished:?}", platform.name()));
        }
    }
    Ok(Verdict::Passed)
}

/// The native paravisor, placed as an SNP image, is an image that is measured, signed and never starts.
fn swapped(_: &Context) -> Outcome {
    for platform in Platform::ALL {
        for other in Platform::ALL.into_iter().filter(|other| *other != platform) {
            let paravisor = crate::build::paravisor_for(other).map_err(|failure| failure.message)?;
            let request = Request { platform, figure: true, paravisor: Some(&paravisor), ..Request::default() };
            let expected = format!("a paravisor for {}, expected one for {}", other.name(), platform.name());
            match request.build() {
                Err(failure) if failure.message.ends_with(&expected) => {}
                Err(failure) => return Err(format!("expected '{expected}', got '{}'", failure.message)),
                Ok(_) => return Err(format!("{}: built of the paravisor for {}", platform.name(), other.name())),
            }
        }
    }
    Ok(Verdict::Passed)
}

fn print_command(context: &Context) -> Outcome {
    let finished = driver::run(context.qemu.as_deref(), &["--print-command", "--smp", "3"])?;
    // The machine has one processor more than the VM.
    let told = |words| finished.stdout.contains(words);
    let one_line = finished.stdout.lines().count() == 1 && told(" -smp 4 ") && told(" processors=3'");
    if finished.status == 0 && one_line { Ok(Verdict::Passed) } else { Err(format!("{finished:?}")) }
}

/// The same file, without the reference host.
fn own_loader(context: &Context) -> Outcome {
    let qemu = Qemu::find(context.qemu.as_deref()).map_err(|failure| failure.message)?;
    if !has_loader(&qemu) {
        let (major, minor) = qemu.version;
        return Ok(Verdict::Skipped(format!(
            "QEMU {major}.{minor} has no IGVM loader, 10.2 and later have one if built with libigvm"
        )));
    }
    let scratch = scratch()?;
    let file = scratch.file("image.igvm");
    write(&file, &image()?)?;
    let machine = Machine { processors: 2, ..Machine::new(qemu.path, Start::Igvm { image: file }) };
    let deadline = Some(Instant::now() + Duration::from_secs(120));
    let streams = Streams { console: Console::Kept, command: false, power_button: false, deadline };
    let ended = process::run(machine, &streams, &mut |_| Next::Continue).map_err(|failure| failure.message)?;
    if ended.end.is_some() && String::from_utf8_lossy(&ended.console).contains(USER_MODE) {
        Ok(Verdict::Passed)
    } else {
        Err(format!("{:?}, {:?}, {}", ended.cause, ended.end, ended.qemu_said))
    }
}

fn has_loader(qemu: &Qemu) -> bool {
    let output = Command::new(&qemu.path).args(["-object", "igvm-cfg,help"]).output();
    qemu.version >= (10, 1) && output.is_ok_and(|output| output.status.success())
}
