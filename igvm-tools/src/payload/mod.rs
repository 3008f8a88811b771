// SPDX-License-Identifier: MIT OR Apache-2.0
//! Payloads: what a guest can be, found out from the file's content.
//!
//! Each kind has a module that checks a file and says what goes where. What they have in common is here: which memory a
//! payload may occupy, and where its RAM disk goes. A kernel file may be hostile or simply the wrong one; the messages
//! say which.

mod linux;
mod multiboot;
mod program;
mod pvh;

use crate::elf::{self, Class};
use crate::error::{Error, Flaw, ensure};
use crate::{PAGE, page_down, page_up};
use image_abi::{BOOT_STRUCTURES, IMAGE_BASE, PAYLOAD_LIMIT, REGION_LIMIT, Range};
use specs::linux_image::foreign;
use std::path::Path;

/// Bytes to load, followed by zeroes.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Where the first byte goes.
    pub start: u64,
    /// What the file holds.
    pub data: &'a [u8],
    /// With the zeroes.
    pub bytes: u64,
}

/// A checked payload.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    /// One of `image_abi::payload`.
    pub kind: u32,
    /// Where it is entered.
    pub entry: u64,
    /// What goes where.
    pub chunks: Vec<Chunk<'a>>,
    /// All memory that it occupies, ascending.
    pub ranges: Vec<Range>,
    /// The start of the file up to the setup header's end (Linux).
    pub setup_header: &'a [u8],
    /// The longest command line that it takes.
    pub command_line_limit: u64,
    /// The first address that its RAM disk may not reach.
    pub initrd_limit: u64,
}

/// Parados's own memory, as far as payloads are concerned.
const PARADOS: std::ops::Range<u64> = IMAGE_BASE..IMAGE_BASE + REGION_LIMIT;

/// The end of conventional memory, and of the video memory and ROMs above it.
const LEGACY: std::ops::Range<u64> = 0xa_0000..0x10_0000;

/// Finds out what a file is, takes it apart, and checks that it wants only memory that it may have.
pub fn read<'a>(path: &Path, bytes: &'a [u8]) -> Result<Payload<'a>, Error> {
    let payload = parse(bytes).and_then(|payload| payload.check_ranges().map(|()| payload));
    payload.map_err(|flaw| flaw.of(path))
}

/// Finds out what a file is and takes it apart.
pub(crate) fn parse(bytes: &[u8]) -> Result<Payload<'_>, Flaw> {
    ensure!(!bytes.is_empty(), "is empty, expected a bzImage, PVH ELF or Multiboot ELF");
    if linux::is_linux(bytes) {
        return linux::parse(bytes);
    }
    if elf::is_elf(bytes) {
        let elf = elf::parse(bytes)?;
        if let Some(entry) = pvh::entry(&elf)? {
            return pvh::parse(&elf, entry);
        }
    }
    if let Some(header) = multiboot::find(bytes) {
        return multiboot::parse(bytes, header);
    }
    Err(unknown(bytes))
}

/// A file of no kind that a guest can be started from: says what it is instead, where that can be told.
fn unknown(bytes: &[u8]) -> Flaw {
    let magic = bytes.get(foreign::MAGIC_OFFSET..foreign::MAGIC_OFFSET + 4).unwrap_or(&[]);
    let found = if magic == foreign::ARM64 {
        "a Linux Image for arm64".to_owned()
    } else if magic == foreign::RISCV {
        "a Linux Image for RISC-V".to_owned()
    } else if bytes.starts_with(&[0x1f, 0x8b]) {
        "gzip-compressed (unpack it first)".to_owned()
    } else if bytes.starts_with(b"IGVM") {
        "an IGVM image".to_owned()
    } else if bytes.starts_with(b"MZ") {
        "an EFI or DOS program without a Linux boot header".to_owned()
    } else if let Ok(elf) = elf::parse(bytes) {
        let bits = if elf.class == Class::Elf64 { 64 } else { 32 };
        format!("a {bits}-bit ELF for {} with neither a PVH entry note nor a Multiboot header", elf.machine_name())
    } else {
        format!("{} bytes of something else", bytes.len())
    };
    Flaw::new(format_args!("not a bzImage, PVH ELF or Multiboot ELF: {found}"))
}

impl Payload<'_> {
    /// Checks that a payload occupies only memory that it may.
    pub(crate) fn check_ranges(&self) -> Result<(), Flaw> {
        for range in &self.ranges {
            let (start, end) = (range.start, range.end());
            let clashes = |other: &std::ops::Range<u64>| start < other.end && other.start < end;
            ensure!(
                end <= PAYLOAD_LIMIT,
                "wants memory from {start:#x} to {end:#x}, expected it below {PAYLOAD_LIMIT:#x} (2 GiB)"
            );
            for (reserved, owner) in [
                (PARADOS, "Parados itself"),
                (LEGACY, "video memory and ROMs"),
                (BOOT_STRUCTURES.start..BOOT_STRUCTURES.end(), "the structures that Parados starts it with"),
            ] {
                ensure!(
                    !clashes(&reserved),
                    "wants memory from {start:#x} to {end:#x}, which overlaps {owner} at {:#x} to {:#x}",
                    reserved.start,
                    reserved.end
                );
            }
        }
        for pair in self.ranges.windows(2) {
            if let [low, high] = pair {
                ensure!(
                    low.end() <= high.start,
                    "wants the memory at {:#x} twice, for what begins at {:#x} and at {:#x}",
                    high.start,
                    low.start,
                    high.start
                );
            }
        }
        Ok(())
    }

    /// The part of each range that comes out of the file: from the first page up to the last byte. What follows is zero.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = Range> {
        self.ranges.iter().filter_map(|range| {
            let own = self.chunks.iter().filter(|chunk| (range.start..range.end()).contains(&chunk.start));
            let ends = own.filter(|chunk| !chunk.data.is_empty()).map(|chunk| chunk.start + chunk.data.len() as u64);
            let start = page_down(range.start);
            ends.max().map(|end| Range { start, bytes: end - start })
        })
    }

    /// Where a RAM disk (or module) of a size goes: as high as fits below Parados, but above the kernel; else above both.
    pub(crate) fn place_initrd(&self, bytes: u64) -> Result<Range, Flaw> {
        let occupied = page_up(bytes);
        let limit = page_down(self.initrd_limit.min(PAYLOAD_LIMIT));
        let ends = || self.ranges.iter().map(|range| page_up(range.end()));
        let below_end = ends().filter(|end| *end <= IMAGE_BASE).max().unwrap_or(0).max(LEGACY.end);
        let above_end = ends().max().unwrap_or(0).max(PARADOS.end);
        if let Some(start) = limit.min(IMAGE_BASE).checked_sub(occupied).filter(|start| *start >= below_end) {
            return Ok(Range { start, bytes });
        }
        ensure!(
            above_end.checked_add(occupied).is_some_and(|end| end <= limit),
            "{bytes} bytes do not fit: the kernel takes its RAM disk below {limit:#x}, where {} bytes are free above {above_end:#x}",
            limit.saturating_sub(above_end)
        );
        Ok(Range { start: above_end, bytes })
    }
}

/// Makes one range of those that touch or share a page: what matters is whose memory it is.
fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start / PAGE <= page_up(last.end()) / PAGE => {
                last.bytes = last.end().max(range.end()) - last.start;
            }
            _ => merged.push(range),
        }
    }
    merged
}
