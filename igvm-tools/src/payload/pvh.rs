// SPDX-License-Identifier: MIT OR Apache-2.0
//! PVH programs: an ELF of either class with a Xen note that names the 32-bit entry point.
//!
//! Sources: System V ABI, chapter 5 ("Note Section"), and the Xen headers behind `specs::pvh`.

use super::{Payload, program};
use crate::elf::{Elf, segment_type};
use crate::error::{Flaw, ensure};
use image_abi::payload;
use specs::pvh::{NOTE_NAME, NOTE_PHYS32_ENTRY};

/// A note's three words: name size, descriptor size, type.
const NOTE_HEADER: usize = 12;

/// The entry point by the program's notes, if it has one.
pub(super) fn entry(elf: &Elf<'_>) -> Result<Option<u64>, Flaw> {
    for segment in elf.segments.iter().filter(|segment| segment.kind == segment_type::NOTE) {
        // Notes are padded to 4 bytes, in some 64-bit files to 8, which the segment's alignment tells.
        let padding = if segment.align == 8 { 8 } else { 4 };
        if let Some(descriptor) = find(segment.data, padding) {
            ensure!(
                matches!(descriptor.len(), 4 | 8),
                "PVH entry note with a descriptor of {} bytes, expected 4 or 8",
                descriptor.len()
            );
            let entry = descriptor.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte));
            ensure!(entry <= u64::from(u32::MAX), "PVH entry {entry:#x}, expected an address below 4 GiB");
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// The descriptor of the entry note. A malformed note ends the search: what follows it cannot be found.
fn find(mut notes: &[u8], padding: usize) -> Option<&[u8]> {
    while notes.len() >= NOTE_HEADER {
        let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at + 4)?.try_into().ok()?));
        let (name_bytes, descriptor_bytes, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let name = notes.get(NOTE_HEADER..NOTE_HEADER.checked_add(name_bytes)?)?;
        let start = (NOTE_HEADER + name_bytes).checked_next_multiple_of(padding)?;
        let end = start.checked_add(descriptor_bytes)?;
        let descriptor = notes.get(start..end)?;
        if kind == NOTE_PHYS32_ENTRY && name == NOTE_NAME {
            return Some(descriptor);
        }
        notes = notes.get(end.checked_next_multiple_of(padding)?..)?;
    }
    None
}

/// Takes the program apart.
pub(super) fn parse<'a>(elf: &Elf<'a>, entry: u64) -> Result<Payload<'a>, Flaw> {
    program::from_elf(elf, payload::PVH, entry)
}
