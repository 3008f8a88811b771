// SPDX-License-Identifier: MIT OR Apache-2.0
//! What PVH and Multiboot programs have in common: ELF segments that go to their physical addresses.

use super::{Chunk, Payload, merge};
use crate::elf::{Elf, machine};
use crate::error::{Flaw, ensure};
use image_abi::{COMMAND_LINE_LIMIT, PAYLOAD_LIMIT, Range};
use platform::Slip;

/// A payload made of an ELF file's loaded segments.
pub(super) fn from_elf<'a>(elf: &Elf<'a>, kind: u32, entry: u64) -> Result<Payload<'a>, Flaw> {
    ensure!(
        matches!(elf.machine, machine::I386 | machine::X86_64),
        "an ELF for {}, expected i386 or x86-64",
        elf.machine_name()
    );
    let chunks = elf.loaded().map(|segment| Chunk {
        start: segment.physical_address,
        data: segment.data,
        bytes: segment.memory_bytes,
    });
    from_chunks(chunks.collect(), kind, entry)
}

/// A payload made of chunks, entered somewhere in them.
pub(super) fn from_chunks(mut chunks: Vec<Chunk<'_>>, kind: u32, entry: u64) -> Result<Payload<'_>, Flaw> {
    ensure!(!chunks.is_empty(), "has nothing to load (no PT_LOAD segment)");
    chunks.sort_by_key(|chunk| chunk.start);
    for pair in chunks.windows(2) {
        if let [low, high] = pair {
            ensure!(
                low.start.saturating_add(low.bytes) <= high.start,
                "segments at {:#x} and {:#x} overlap",
                low.start,
                high.start
            );
        }
    }
    let beyond = u64::from(Slip::Entry.is_planted());
    let inside = |chunk: &Chunk<'_>| entry >= chunk.start && entry - chunk.start < chunk.data.len() as u64 + beyond;
    ensure!(chunks.iter().any(inside), "the entry point {entry:#x} is not in any loaded segment");
    let ranges = merge(chunks.iter().map(|chunk| Range { start: chunk.start, bytes: chunk.bytes }).collect());
    Ok(Payload {
        kind,
        entry,
        chunks,
        ranges,
        setup_header: &[],
        command_line_limit: COMMAND_LINE_LIMIT,
        initrd_limit: PAYLOAD_LIMIT,
    })
}
