// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes the reference host's IGVM loader: a file with damage anywhere, behind a checksum that is right.
//!
//! The input is a machine and the beginning of a file; the rest of what the file claims to have is zeros. Claimed:
//! - memory is written only where the guest has some, no page is filled twice, and parameters stay in their areas;
//! - a refusal names an offset in the file and what was expected there, in one line;
//! - a file that is loaded is placed byte by byte as `igvm-tools`, which reads the format by itself, says;
//! - the entry of the image's page table that the host borrows is a free one.

use platform::Slip;
use reference_host::handover::Slot;
use reference_host::image::Image;
use reference_host::loader::{Machine, load};
use reference_host::memory::{GuestMap, PageSet};
use reference_host::options::Options;
use reference_host::report::Stop;

use crate::Target;
use crate::guest_ram::SparseRam;
use crate::input::Input;

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "igvm-loader",
    run: play,
    planted: &[
        ("a page with data goes to the next address", |data| Slip::Shifted.planted(|| play(data))),
        ("a parameter lands eight bytes low", |data| Slip::Low.planted(|| play(data))),
        ("a refusal names a place behind the file", |data| Slip::Offset.planted(|| play(data))),
    ],
    longest: 4096,
    mutations: 250_000,
};

/// No file of an input is longer.
const LONGEST_FILE: usize = 64 << 10;

const PAGE: usize = 4096;

/// The file that an input stands for: as long as it says that it is, and with the checksum that it needs, unless the input
/// wants neither.
pub(crate) fn file(kind: u8, start: &[u8]) -> Vec<u8> {
    let mut file = start.to_vec();
    let word = |file: &[u8], at: usize| {
        file.get(at..at + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().expect("four bytes"))) as usize
    };
    if kind & 1 == 0 {
        let total = word(&file, 16);
        if (24..=LONGEST_FILE).contains(&total) {
            file.resize(total, 0);
        }
    }
    if kind & 2 == 0 && file.len() >= 24 {
        let start = word(&file, 8).min(file.len());
        let end = start.saturating_add(word(&file, 12)).min(file.len());
        let fixed = if word(&file, 4) == 2 { 32 } else { 24 };
        file[20..24].fill(0);
        let head = file[..fixed.min(file.len())].iter();
        let checksum = checksum(head.chain(&file[start..end]));
        file[20..24].copy_from_slice(&checksum.to_le_bytes());
    }
    file
}

/// CRC-32, bit by bit.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn play(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    // Nearly always a few MiB; sometimes more than fits below 4 GiB.
    let memory = match kind >> 2 & 7 {
        7 => 3 << 30,
        6 => u64::from(input.byte() | 1) << 21,
        _ => 8 << 20,
    };
    check_options(&mut input.clone());
    let machine = Machine { map: GuestMap::new(memory), processors: 1 + u32::from(kind >> 5) };
    let file = file(kind, input.rest());
    let mut bits = vec![0; PageSet::bytes(&machine.map) as usize];
    let mut placed = PageSet::new(machine.map, &mut bits);
    let mut ram = SparseRam::new(memory);
    let result =
        Image::parse(&file).map_err(Stop::from).and_then(|image| load(&image, &machine, &mut ram, &mut placed));
    assert_eq!(ram.twice, None, "a page was filled twice");
    assert_eq!(ram.astray, None, "a write outside of the guest's memory, or of every parameter area");
    match result {
        Ok(context) => {
            check_placed(&file, &ram);
            if let Ok(slot) = Slot::find(&ram, &context) {
                assert_eq!(ram.get(context.root() + 8 * slot.number(), 8), [0; 8], "the entry that is lent is in use");
            }
        }
        Err(stop) => {
            check_refusal(&stop, file.len());
        }
    }
}

fn check_refusal(stop: &Stop, length: usize) {
    let Stop::Image(bad) = stop else { panic!("a file makes the host say: {stop}") };
    assert!(bad.offset <= length as u64, "{stop}: the file has {length:#x} bytes");
    let text = stop.to_string();
    assert!(!bad.what.is_empty() && bad.expectation.starts_with("expected"), "{text}");
    assert!(!text.contains('\n') && text.len() < 250, "{text}");
    assert_eq!(stop.status(), 65, "{text}");
}

/// A second opinion on where pages go. What `igvm-tools` refuses it has no opinion on.
fn check_placed(file: &[u8], ram: &SparseRam) {
    let path = std::path::Path::new("input");
    let Ok(parsed) = igvm_tools::file::parse(path, file) else { return };
    let native = parsed.platforms().find(|platform| platform.platform_type == igvm_defs::IgvmPlatformType::NATIVE);
    let Some(mask) = native.map(|platform| platform.compatibility_mask) else { return };
    for (_, page) in parsed.pages().filter(|(_, page)| page.compatibility_mask & mask != 0) {
        let bytes = if page.flags.is_2mb_page() { 2 << 20 } else { PAGE };
        let Some(content) = parsed.data(page.file_offset, bytes as u64) else { continue };
        for (gpa, content) in (page.gpa..).step_by(PAGE).zip(content.chunks(PAGE)) {
            assert!(ram.claimed.contains(&gpa), "the page at {gpa:#x} was not filled");
            assert!(ram.page_is(gpa, content), "the page at {gpa:#x} is not as in the file");
        }
    }
}

/// The host's command line, from the same bytes.
fn check_options(input: &mut Input<'_>) {
    let line = input.rest();
    match Options::parse(line) {
        Ok(options) => {
            assert!(options.memory >= 2 << 20 && options.memory.is_multiple_of(2 << 20), "{options:?}");
            let digits = options.memory.to_string();
            assert!(line.windows(digits.len()).any(|word| word == digits.as_bytes()) || line.contains(&b'0'));
        }
        Err(stop) => assert!(!stop.to_string().contains('\n')),
    }
}
