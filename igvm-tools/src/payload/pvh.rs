// SPDX-License-Identifier: MIT OR Apache-2.0
//! PVH programs: an ELF of either class with a Xen note that names the 32-bit entry point.
//!
//! Sources: System V ABI, chapter 5 ("Note Section"), and the Xen headers behind `specs::pvh`.

use super::{Payload, program};
use crate::elf::Elf;
use crate::error::{Flaw, ensure};
use image_abi::payload;
use specs::pvh::{NOTE_NAME, NOTE_PHYS32_ENTRY};

/// The entry point by the program's notes, if it has one.
pub(super) fn entry(elf: &Elf<'_>) -> Result<Option<u64>, Flaw> {
    let Some(descriptor) = elf.note(&NOTE_NAME, NOTE_PHYS32_ENTRY) else { return Ok(None) };
    ensure!(
        matches!(descriptor.len(), 4 | 8),
        "PVH entry note with a descriptor of {} bytes, expected 4 or 8",
        descriptor.len()
    );
    let entry = descriptor.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte));
    ensure!(entry <= u64::from(u32::MAX), "PVH entry {entry:#x}, expected an address below 4 GiB");
    Ok(Some(entry))
}

/// Takes the program apart.
pub(super) fn parse<'a>(elf: &Elf<'a>, entry: u64) -> Result<Payload<'a>, Flaw> {
    program::from_elf(elf, payload::PVH, entry)
}
