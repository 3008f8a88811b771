// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own page tables, which the image brings along for the low 4 GiB and which grow here: memory above, guard
//! pages under stacks, and the page that starts other processors.
//!
//! Everything is identity-mapped; data is never executable.

use alloc::alloc::{Layout, alloc_zeroed};
use core::ptr;

use x86_64::instructions::tlb;
use x86_64::registers::control::Cr3;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const DATA: u64 = PRESENT | WRITE | ACCESSED | DIRTY | NO_EXECUTE;
const GIB: u64 = 1 << 30;

/// No memory for a page table, or an address beyond the first 512 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoTable;

/// Maps all memory up to `end` as data. The low 4 GiB are mapped already.
pub(crate) fn map_up_to(end: u64, huge: bool) -> Result<(), NoTable> {
    if end > 512 * GIB {
        return Err(NoTable);
    }
    let pdpt = entry(root(), 0) & ADDRESS;
    for slot in 4..end.div_ceil(GIB) {
        let base = slot * GIB;
        let value = if huge {
            base | DATA | LARGE
        } else {
            let directory = fresh()?;
            for index in 0..512 {
                set(directory, index, (base + index * (2 << 20)) | DATA | LARGE);
            }
            directory | PRESENT | WRITE | ACCESSED
        };
        set(pdpt, slot, value);
    }
    Ok(())
}

/// Maps page 0, which the image leaves absent: it is the guest's memory, with its real-mode vectors and often the code that
/// starts its other processors.
pub(crate) fn map_first_page() -> Result<(), NoTable> {
    let (table, index) = leaf(0)?;
    set(table, index, DATA);
    flush(0);
    Ok(())
}

/// Makes the 4 KiB page at `address` absent: a guard.
pub(crate) fn unmap(address: u64) -> Result<(), NoTable> {
    let (table, index) = leaf(address)?;
    set(table, index, 0);
    flush(address);
    Ok(())
}

/// Makes the 4 KiB page at `address` code (readable, executable) or data again.
pub(crate) fn set_code(address: u64, code: bool) -> Result<(), NoTable> {
    let (table, index) = leaf(address)?;
    let flags = if code { PRESENT | ACCESSED } else { DATA };
    set(table, index, address & ADDRESS | flags);
    flush(address);
    Ok(())
}

/// Whether something is mapped at `address`, so that reading there raises no exception.
pub fn is_mapped(address: u64) -> bool {
    if address >= 512 * GIB {
        return false;
    }
    let mut table = root();
    for level in (1..=4).rev() {
        let entry = entry(table, address >> (3 + 9 * level) & 511);
        if entry & PRESENT == 0 {
            return false;
        }
        if level < 4 && entry & LARGE != 0 {
            return true;
        }
        table = entry & ADDRESS;
    }
    true
}

/// The table and the index of the 4 KiB entry for `address`, splitting a 2 MiB page if need be.
fn leaf(address: u64) -> Result<(u64, u64), NoTable> {
    if address >= 4 * GIB {
        return Err(NoTable);
    }
    let pdpt = entry(root(), 0) & ADDRESS;
    let directory = entry(pdpt, address >> 30 & 511) & ADDRESS;
    let index = address >> 21 & 511;
    let large = entry(directory, index);
    let table = if large & LARGE == 0 {
        large & ADDRESS
    } else {
        let table = fresh()?;
        for page in 0..512 {
            set(table, page, (large & !LARGE) + page * 4096);
        }
        set(directory, index, table | PRESENT | WRITE | ACCESSED);
        table
    };
    Ok((table, address >> 12 & 511))
}

fn root() -> u64 {
    Cr3::read().0.start_address().as_u64()
}

fn flush(address: u64) {
    tlb::flush(x86_64::VirtAddr::new_truncate(address));
}

fn fresh() -> Result<u64, NoTable> {
    // SAFETY: the layout has a size that is not zero.
    let page = unsafe { alloc_zeroed(Layout::new::<[[u64; 512]; 1]>().align_to(4096).map_err(|_| NoTable)?) };
    if page.is_null() { Err(NoTable) } else { Ok(page.expose_provenance() as u64) }
}

fn slot(table: u64, index: u64) -> *mut u64 {
    ptr::with_exposed_provenance_mut::<u64>(table as usize).wrapping_add(index as usize & 511)
}

fn entry(table: u64, index: u64) -> u64 {
    // SAFETY: `table` is a page table of this tree, identity-mapped; the slot lies in its page.
    unsafe { slot(table, index).read_volatile() }
}

fn set(table: u64, index: u64, value: u64) {
    // SAFETY: as in `entry`. Only the boot processor changes the tree, before any other processor or the guest runs.
    unsafe { slot(table, index).write_volatile(value) };
}
