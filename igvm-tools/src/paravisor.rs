// SPDX-License-Identifier: MIT OR Apache-2.0
//! The paravisor's own ELF: what an image can be made of.
//!
//! It is linked statically at `image_abi::IMAGE_BASE`, virtual addresses equal to physical ones, with one segment of code
//! and segments of constants and data that share no page. The page tables built here give each page its segment's
//! permissions, so a file with other wishes (writable code, an interpreter, thread-local data) is refused.

use crate::build::Platform;
use crate::elf::{self, Elf, Segment, machine, segment_flag, segment_type};
use crate::error::{Flaw, ensure};
use crate::layout::Access;
use crate::{PAGE, page_down, page_up};
use image_abi::{IMAGE_BASE, NOTE_NAME, NOTE_PLATFORM, REGION_LIMIT, RESET_MAGIC, RESET_PAGE};
use std::borrow::Cow;

/// Whole pages of one segment.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    /// The first byte, at a page boundary.
    pub(crate) start: u64,
    /// One past the last byte, at a page boundary.
    pub(crate) end: u64,
    /// What is there; zeroes follow.
    pub(crate) content: Cow<'a, [u8]>,
    pub(crate) access: Access,
}

/// A checked paravisor: its parts in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct Paravisor<'a> {
    pub(crate) parts: Vec<Part<'a>>,
    pub(crate) entry: u64,
    /// What a TDX image has at the reset vector, from the start of [`RESET_PAGE`] on.
    pub(crate) reset: Option<Cow<'a, [u8]>>,
    /// The platform that it says it is for.
    pub(crate) platform: Option<Platform>,
}

/// Checks an ELF file and takes it apart.
pub(crate) fn parse(bytes: &[u8]) -> Result<Paravisor<'_>, Flaw> {
    let elf = elf::parse(bytes).map_err(|flaw| Flaw::new(format_args!("not a Parados image ELF: {flaw}")))?;
    check_kind(&elf)?;
    let (reset, others): (Vec<_>, Vec<_>) = elf.loaded().partition(|segment| segment.physical_address == RESET_PAGE);
    let reset = reset.first().map(reset_page).transpose()?;
    let mut parts = others.iter().map(part).collect::<Result<Vec<_>, Flaw>>()?;
    parts.sort_by_key(|part| part.start);
    for pair in parts.windows(2) {
        if let [low, high] = pair {
            ensure!(
                low.end <= high.start,
                "segments at {:#x} and {:#x} share a page, expected each on pages of its own (align them to {PAGE:#x})",
                low.start,
                high.start
            );
        }
    }
    let entry = elf.entry;
    let code = parts.iter().filter(|part| part.access == Access::Execute).count();
    ensure!(code == 1, "{code} executable segments, expected 1");
    ensure!(
        parts.iter().any(|part| part.access == Access::Execute && (part.start..part.end).contains(&entry)),
        "e_entry {entry:#x} is not in the executable segment"
    );
    contiguous_constants(&parts)?;
    let platform = elf.note(&NOTE_NAME, NOTE_PLATFORM).map(platform).transpose()?;
    Ok(Paravisor { parts, entry, reset, platform })
}

impl Paravisor<'_> {
    /// Refuses one for another platform. Only one for TDX has a page at the reset vector; the rest is told by a note, which a
    /// program that was linked elsewhere may lack.
    pub(crate) fn check_platform(&self, wanted: Platform) -> Result<(), Flaw> {
        if let Some(own) = self.platform {
            ensure!(own == wanted, "a paravisor for {}, expected one for {}", own.name(), wanted.name());
        }
        let has = self.reset.is_some();
        ensure!(
            has == (wanted == Platform::Tdx),
            "{} a page at the reset vector, so it is not a paravisor for {}",
            if has { "has" } else { "lacks" },
            wanted.name()
        );
        Ok(())
    }
}

/// The platform that a note names.
fn platform(descriptor: &[u8]) -> Result<Platform, Flaw> {
    let end = descriptor.iter().position(|byte| *byte == 0).unwrap_or(descriptor.len());
    let (name, rest) = descriptor.split_at_checked(end).unwrap_or((descriptor, &[]));
    let known = Platform::ALL.into_iter().find(|platform| platform.name().as_bytes() == name);
    let known = known.filter(|_| rest.iter().all(|byte| *byte == 0));
    known.ok_or_else(|| Flaw::new("the note with its platform is malformed, expected native, snp or tdx in it"))
}

fn check_kind(elf: &Elf<'_>) -> Result<(), Flaw> {
    let name = elf.machine_name();
    ensure!(
        elf.class == elf::Class::Elf64 && elf.machine == machine::X86_64,
        "not a Parados image ELF: an ELF for {name} ({:?}), expected x86-64 (Elf64)",
        elf.class
    );
    ensure!(
        elf.kind == elf::TYPE_EXECUTABLE && !elf.has(segment_type::DYNAMIC) && !elf.has(segment_type::INTERPRETER),
        "not a Parados image ELF: dynamically linked or relocatable (e_type {}), expected a static executable linked at {IMAGE_BASE:#x}",
        elf.kind
    );
    ensure!(!elf.has(segment_type::TLS), "has thread-local data (PT_TLS), which nothing in the image sets up");
    Ok(())
}

fn part<'a>(segment: &Segment<'a>) -> Result<Part<'a>, Flaw> {
    let Segment { index, flags, virtual_address, physical_address, data, memory_bytes, align, .. } = *segment;
    ensure!(
        virtual_address == physical_address,
        "program header {index}: p_vaddr {virtual_address:#x} differs from p_paddr {physical_address:#x}, the image runs where it is loaded"
    );
    ensure!(align >= PAGE, "program header {index}: p_align is {align:#x}, expected at least {PAGE:#x}");
    // The ELF parser has excluded an overflow here.
    let end = physical_address.saturating_add(memory_bytes);
    ensure!(
        physical_address >= IMAGE_BASE && end <= IMAGE_BASE + REGION_LIMIT,
        "program header {index}: occupies {physical_address:#x} to {end:#x}, expected it between {IMAGE_BASE:#x} and {:#x}",
        IMAGE_BASE + REGION_LIMIT
    );
    let access = match flags & (segment_flag::READ | segment_flag::WRITE | segment_flag::EXECUTE) {
        0b100 => Access::Read,
        0b101 => Access::Execute,
        0b110 => Access::Write,
        other => {
            return Err(Flaw::new(format_args!("program header {index}: p_flags {other:#x}, expected R, R+X or R+W")));
        }
    };
    let start = page_down(physical_address);
    let lead = (physical_address - start) as usize;
    let content = if lead == 0 { Cow::Borrowed(data) } else { Cow::Owned([&vec![0; lead], data].concat()) };
    Ok(Part { start, end: page_up(end), content, access })
}

/// The segment at the reset vector: a page of code, with room for what is told it at its start.
fn reset_page<'a>(segment: &Segment<'a>) -> Result<Cow<'a, [u8]>, Flaw> {
    let Segment { index, flags, data, memory_bytes, .. } = *segment;
    ensure!(
        memory_bytes == PAGE && flags == segment_flag::READ | segment_flag::EXECUTE,
        "program header {index}: {memory_bytes:#x} bytes at the reset vector with p_flags {flags:#x}, expected a page of code"
    );
    ensure!(
        data.starts_with(&RESET_MAGIC),
        "program header {index}: the reset page does not begin as one of Parados's"
    );
    Ok(Cow::Borrowed(data))
}

/// The launch block describes the constants as one range.
fn contiguous_constants(parts: &[Part<'_>]) -> Result<(), Flaw> {
    let constants: Vec<_> = parts.iter().filter(|part| part.access == Access::Read).collect();
    for pair in constants.windows(2) {
        if let [low, high] = pair {
            ensure!(
                low.end == high.start,
                "read-only segments at {:#x} and {:#x} are apart, expected one range of constants",
                low.start,
                high.start
            );
        }
    }
    Ok(())
}
