// SPDX-License-Identifier: MIT OR Apache-2.0
//! The search for the paravisor's canary (`image_abi::canary`): nowhere in what the guest can read may it be, and the
//! paravisor's region may read as nothing but ones.

use core::arch::asm;
use guests::machine;

use crate::start::poke;

pub(crate) use image_abi::canary::is_word;

/// Words that are copied at once.
const BATCH: usize = 512;
/// What absent memory reads as.
const ABSENT: u64 = u64::MAX;

/// What the search found first: an address, and what is there.
pub(crate) type Found = Option<(u64, u64)>;

/// Looks at all words from `start` to `end` for which `wrong` holds.
fn search(start: u64, end: u64, wrong: fn(u64) -> bool) -> Found {
    let mut buffer = [0u64; BATCH];
    for at in (start..end).step_by(8 * BATCH) {
        // SAFETY: the buffer has room for the words; the source is mapped one to one, and whatever lies there may be read.
        unsafe {
            asm!("rep movsq", inout("rcx") BATCH => _, inout("rsi") at => _, inout("rdi") buffer.as_mut_ptr() => _,
                options(nostack, preserves_flags))
        };
        if let Some(index) = buffer.iter().position(|word| wrong(*word)) {
            return Some((at + 8 * index as u64, buffer.get(index).copied().unwrap_or(0)));
        }
    }
    None
}

/// All RAM of the guest's map, and what the map leaves out or reserves below 4 GiB, but for device registers.
pub(crate) fn scan(start_info: u64) -> Found {
    let ram = machine::memory_map(start_info).filter(|entry| entry.kind == 1 && entry.start < 1 << 32);
    for entry in ram {
        if let found @ Some(_) = search(entry.start, (entry.start + entry.bytes).min(1 << 32), is_word) {
            return found;
        }
    }
    search(0xc_0000, 0x10_0000, is_word).or_else(|| scan_region(start_info))
}

/// The paravisor's region, as the guest's map tells it, and the video hole. Each page of the region is written to as well.
pub(crate) fn scan_region(start_info: u64) -> Found {
    let mut regions = machine::memory_map(start_info).filter(|entry| entry.kind != 1 && entry.start == 128 << 20);
    let found = regions.find_map(|entry| {
        let end = entry.start + entry.bytes;
        let found = search(entry.start, end, |word| word != ABSENT);
        (entry.start..end).step_by(4096).for_each(|page| poke(page | page >> 9 & 0xff8, page));
        found
    });
    // Between the two lies the test memory, which is the guest's.
    let absent = |start, end| search(start, end, |word| word != ABSENT);
    found.or_else(|| absent(0xa_0000, 0xa_8000)).or_else(|| absent(0xb_0000, 0xc_0000))
}
