// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multiboot 1 programs (Multiboot Specification 0.6.96): ELF files of either class, or anything else whose header gives
//! the addresses itself.
//!
//! A wish for a video mode is ignored, as QEMU does: there is none, and programs look before they draw.

use super::{Chunk, Payload, program};
use crate::elf::{self, Elf};
use crate::error::{Flaw, ensure};
use image_abi::payload;
use specs::multiboot_header::{HEADER_ALIGN, HEADER_MAGIC, HEADER_SHORT_BYTES, Header, SEARCH_BYTES, header_flag};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A header and its place in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    offset: usize,
    header: Header,
}

/// Looks for the header: in the first 8 KiB, aligned, with a right checksum.
pub(super) fn find(bytes: &[u8]) -> Option<Found> {
    let searched = bytes.get(..bytes.len().min(SEARCH_BYTES)).unwrap_or_default();
    (0..searched.len()).step_by(HEADER_ALIGN).find_map(|offset| {
        let short = searched.get(offset..offset + HEADER_SHORT_BYTES)?;
        let words = <[U32; 3]>::read_from_bytes(short).ok()?;
        let [magic, flags, checksum] = words.map(U32::get);
        if magic != HEADER_MAGIC || magic.wrapping_add(flags).wrapping_add(checksum) != 0 {
            return None;
        }
        let mut header = Header::new_zeroed();
        let available = searched.get(offset..)?;
        let length = available.len().min(size_of::<Header>());
        header.as_mut_bytes().get_mut(..length)?.copy_from_slice(available.get(..length)?);
        Some(Found { offset, header })
    })
}

/// Takes the program apart.
pub(super) fn parse(bytes: &[u8], found: Found) -> Result<Payload<'_>, Flaw> {
    let flags = found.header.flags.get();
    let known = header_flag::ALIGN_MODULES | header_flag::MEMORY_INFO | header_flag::VIDEO_MODE;
    let unknown = flags & header_flag::REQUIRED & !known;
    ensure!(
        unknown == 0,
        "Multiboot header at offset {:#x}: flags {flags:#x} require {unknown:#x}, which is not defined",
        found.offset
    );
    if flags & header_flag::ADDRESSES != 0 {
        return by_addresses(bytes, found);
    }
    ensure!(
        elf::is_elf(bytes),
        "Multiboot header at offset {:#x} gives no addresses (bit 16 of its flags), expected that or an ELF",
        found.offset
    );
    let elf = elf::parse(bytes)?;
    let entry = physical_entry(&elf);
    ensure!(entry <= u64::from(u32::MAX), "e_entry {entry:#x}, expected an address below 4 GiB");
    program::from_elf(&elf, payload::MULTIBOOT, entry)
}

/// `e_entry` is a virtual address; programs linked high are entered at the physical one.
fn physical_entry(elf: &Elf<'_>) -> u64 {
    let holds = |start: u64, bytes: u64| elf.entry >= start && elf.entry - start < bytes;
    let segment = elf.loaded().find(|segment| holds(segment.virtual_address, segment.memory_bytes));
    segment.map_or(elf.entry, |segment| {
        segment.physical_address.wrapping_add(elf.entry.wrapping_sub(segment.virtual_address))
    })
}

/// The address fields (section 3.1.3).
fn by_addresses(bytes: &[u8], found: Found) -> Result<Payload<'_>, Flaw> {
    let Found { offset, header } = found;
    let here = |what: &str| Flaw::new(format_args!("Multiboot header at offset {offset:#x}: {what}"));
    let field = |field: U32| u64::from(field.get());
    let load = field(header.load_addr);
    let before_header =
        field(header.header_addr).checked_sub(load).ok_or_else(|| here("load_addr lies above header_addr"))?;
    let start = (offset as u64)
        .checked_sub(before_header)
        .ok_or_else(|| here("load_addr lies before the start of the file"))?;
    let data = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
    let data = match field(header.load_end_addr) {
        0 => data,
        end => {
            let length = end.checked_sub(load).ok_or_else(|| here("load_end_addr lies below load_addr"))?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            data.get(..length).ok_or_else(|| here("truncated: load_end_addr lies past the end of the file"))?
        }
    };
    let loaded = data.len() as u64;
    let memory = match field(header.bss_end_addr) {
        0 => loaded,
        end => end.checked_sub(load).ok_or_else(|| here("bss_end_addr lies below load_addr"))?.max(loaded),
    };
    let chunk = Chunk { start: load, data, bytes: memory };
    program::from_chunks(vec![chunk], payload::MULTIBOOT, field(header.entry_addr))
}
