// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own page tables, which the image brings along for the low 4 GiB and which grow here: memory above, guard pages
//! under stacks, the page that starts other processors, pages that are shared with the host.
//!
//! Everything is identity-mapped; data is never executable; with a C-bit, all but what [`share`] names is private.

use alloc::alloc::{Layout, alloc_zeroed};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

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
const TABLE: u64 = PRESENT | WRITE | ACCESSED;
const GIB: u64 = 1 << 30;

/// The C-bit as a mask, zero where memory is not encrypted. Written once, by the first instructions of an SNP image.
pub static C_MASK: AtomicU64 = AtomicU64::new(0);

/// The C-bit as a mask.
pub fn c_mask() -> u64 {
    C_MASK.load(Ordering::Relaxed)
}

/// No memory for a page table, or an address that has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoTable;

/// Maps all memory up to `end` as private data, by pages of 1 GiB if those are `huge`. The low 4 GiB are mapped already.
pub fn map_up_to(end: u64, huge: bool) -> Result<(), NoTable> {
    if end > 512 * GIB {
        return Err(NoTable);
    }
    let pdpt = address(entry(root(), 0));
    for slot in 4..end.div_ceil(GIB) {
        let base = slot * GIB;
        let value = if huge {
            base | DATA | LARGE
        } else {
            let directory = fresh()?;
            for index in 0..512 {
                set(directory, index, (base + index * (2 << 20)) | DATA | LARGE | c_mask());
            }
            directory | TABLE
        };
        set(pdpt, slot, value | c_mask());
    }
    Ok(())
}

/// Where [`map_shared_up_to`] maps memory a second time.
pub const SHARED_BASE: u64 = 512 * GIB;

/// Maps all memory up to `end` a second time, from [`SHARED_BASE`] on, as data that is shared with the host. What of it is shared
/// indeed, the caller has to know.
pub fn map_shared_up_to(end: u64) -> Result<(), NoTable> {
    if end > 512 * GIB {
        return Err(NoTable);
    }
    let pdpt = fresh()?;
    for slot in 0..end.div_ceil(GIB) {
        let directory = fresh()?;
        for index in 0..512 {
            set(directory, index, (slot * GIB + index * (2 << 20)) | DATA | LARGE);
        }
        set(pdpt, slot, directory | TABLE | c_mask());
    }
    set(root(), SHARED_BASE >> 39, pdpt | TABLE | c_mask());
    Ok(())
}

/// Maps page 0, which the image leaves absent: it is the guest's memory, with its real-mode vectors and often the
/// code that starts its other processors.
pub fn map_first_page() -> Result<(), NoTable> {
    change(0, DATA | c_mask())
}

/// Makes the 4 KiB page at `address` absent: a guard.
pub fn unmap(address: u64) -> Result<(), NoTable> {
    change(address, 0)
}

/// Makes the 4 KiB page at `address` private code (readable, executable) or data again.
pub fn set_code(address: u64, code: bool) -> Result<(), NoTable> {
    let flags = if code { PRESENT | ACCESSED } else { DATA };
    change(address, address & ADDRESS | flags | c_mask())
}

/// Maps the 4 KiB page at `address` shared with the host.
pub fn share(address: u64) -> Result<(), NoTable> {
    change(address, address & ADDRESS | DATA)
}

/// Whether something private is mapped at `address`, so that reading there raises no exception.
pub fn is_mapped(address: u64) -> bool {
    if address >= SHARED_BASE {
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
        table = self::address(entry);
    }
    true
}

/// Sets the 4 KiB entry for `address`, splitting a 2 MiB page if need be.
fn change(address: u64, value: u64) -> Result<(), NoTable> {
    if address >= 4 * GIB {
        return Err(NoTable);
    }
    let pdpt = self::address(entry(root(), 0));
    let directory = self::address(entry(pdpt, address >> 30 & 511));
    let index = address >> 21 & 511;
    let large = entry(directory, index);
    let table = if large & LARGE == 0 {
        self::address(large)
    } else {
        let table = fresh()?;
        for page in 0..512 {
            set(table, page, (large & !LARGE) + page * 4096);
        }
        set(directory, index, table | TABLE | c_mask());
        table
    };
    set(table, address >> 12 & 511, value);
    tlb::flush(x86_64::VirtAddr::new_truncate(address));
    Ok(())
}

fn root() -> u64 {
    address(Cr3::read_raw().0.start_address().as_u64())
}

/// Where an entry leads, without the C-bit.
fn address(entry: u64) -> u64 {
    entry & ADDRESS & !c_mask()
}

fn fresh() -> Result<u64, NoTable> {
    let layout = Layout::from_size_align(4096, 4096).map_err(|_| NoTable)?;
    // SAFETY: the layout has a size that is not zero.
    let page = unsafe { alloc_zeroed(layout) };
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
