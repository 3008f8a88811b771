// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moves the program above the guest's RAM, by copying its 2 MiB and mapping the copy at the same virtual address.

use super::entry::{BLOCK_VIRTUAL, DIRECT};
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};
use reference_host::memory::BLOCK;
use reference_host::report::Stop;

pub(super) const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 0x80;
const GIB: u64 = 1 << 30;
/// CPUID 8000_0001h EDX: 1 GiB pages.
const PAGE_1GB: u32 = 1 << 26;
/// How many GiB can be mapped with 2 MiB pages.
const SMALL_GIB: usize = 32;
/// Which of the boot tables maps the program; the entry code lays them out.
const BOOT_HIGH: usize = 7;

pub(super) type Table = [u64; 512];

/// The final tables: everything at [`DIRECT`] and one to one, the program at its link address.
#[repr(C, align(4096))]
struct Tables {
    top: Table,
    direct: Table,
    last_512_gib: Table,
    last_2_gib: Table,
    by_gib: [Table; SMALL_GIB],
}

static mut TABLES: Tables = Tables {
    top: [0; 512],
    direct: [0; 512],
    last_512_gib: [0; 512],
    last_2_gib: [0; 512],
    by_gib: [[0; 512]; SMALL_GIB],
};

unsafe extern "C" {
    static mut boot_tables: [Table; 8];
}

/// Where the final tables' root is, once the program has moved.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// Moves the program to `block`, and maps physical memory at least up to `limit`.
pub(super) fn move_program(block: u64, limit: u64) -> Result<(), Stop> {
    // Intel and AMD both answer 8000_0000h; a processor with long mode has leaf 8000_0001h.
    let large = __cpuid(0x8000_0001).edx & PAGE_1GB != 0;
    if limit > if large { 512 } else { SMALL_GIB as u64 } * GIB {
        return Err(Stop::Machine("this processor model cannot map so much memory: choose one with 1 GiB pages"));
    }
    let tables = &raw mut TABLES;
    let address = physical_address(tables.cast(), block);
    // SAFETY: this function is called once, on the only processor, and nothing else uses the static.
    fill(unsafe { &mut *tables }, address, block, large);
    // The window through which the copy is written: the second 2 MiB of the last 2 GiB.
    let window = (&raw mut boot_tables).cast::<Table>().wrapping_add(BOOT_HIGH).cast::<u64>().wrapping_add(1);
    // SAFETY: the entry is within the boot tables, and was not present, so no translation is stale.
    unsafe { window.write_volatile(block | PRESENT_WRITABLE | LARGE) };
    // SAFETY: `Room::plan` says that `block` is 2 MiB of free RAM, mapped by the window. The copy holds all of the program,
    // its stack as it is now, and the final tables, which map the copy where the original was: execution goes on in it. No
    // memory of ours is written between the copy and the switch.
    unsafe {
        asm!(
            "cld",
            "rep movsq",
            "mov cr3, {root}",
            root = in(reg) address + core::mem::offset_of!(Tables, top) as u64,
            inout("rsi") BLOCK_VIRTUAL => _,
            inout("rdi") BLOCK_VIRTUAL + BLOCK => _,
            inout("rcx") BLOCK / 8 => _,
            options(nostack),
        );
    }
    ROOT.store(address + core::mem::offset_of!(Tables, top) as u64, Ordering::Release);
    Ok(())
}

/// The physical address of a static, once the program is at `block`.
pub(super) fn physical_address(object: *const u8, block: u64) -> u64 {
    object as u64 - BLOCK_VIRTUAL + block
}

/// Lets an entry of the final top table lead to another table.
pub(super) fn link(slot: u64, table: u64) {
    let entry = (&raw mut TABLES).cast::<u64>().wrapping_add((slot & 0x1ff) as usize);
    // SAFETY: the entry is in the top table, the first in the structure. It was not present, so that no translation is stale.
    unsafe { entry.write_volatile(table | PRESENT_WRITABLE) };
}

/// A copy of the final top table.
pub(super) fn top_table() -> Table {
    let top = (&raw const TABLES).cast::<Table>();
    // SAFETY: after `move_program` only `link` writes there, which the callers of this function do not run beside it.
    unsafe { top.read() }
}

/// Loads the final tables and the program's own descriptors on another processor, which has a copy of the top table.
pub(super) fn load_tables() {
    let root = ROOT.load(Ordering::Acquire);
    // SAFETY: `move_program` has stored the root of the tables that the boot processor uses, in which this code and this
    // stack are where they are now. The descriptors are those that the segments were loaded from.
    unsafe { asm!("mov cr3, {}", "lgdt [rip + high_gdt_register]", in(reg) root, options(nostack)) };
}

/// Fills the tables as they will be when they, and the program, are at `block`; `address` is then theirs.
fn fill(tables: &mut Tables, address: u64, block: u64, large: bool) {
    let link = |offset: usize| (address + offset as u64) | PRESENT_WRITABLE;
    let direct = link(core::mem::offset_of!(Tables, direct));
    let set = |table: &mut Table, index: u64, value: u64| {
        if let Some(entry) = table.get_mut((index & 0x1ff) as usize) {
            *entry = value;
        }
    };
    set(&mut tables.top, 0, direct);
    set(&mut tables.top, DIRECT >> 39, direct);
    set(&mut tables.top, BLOCK_VIRTUAL >> 39, link(core::mem::offset_of!(Tables, last_512_gib)));
    set(&mut tables.last_512_gib, BLOCK_VIRTUAL >> 30, link(core::mem::offset_of!(Tables, last_2_gib)));
    set(&mut tables.last_2_gib, 0, block | PRESENT_WRITABLE | LARGE);
    if large {
        for (entry, gib) in tables.direct.iter_mut().zip(0u64..) {
            *entry = (gib * GIB) | PRESENT_WRITABLE | LARGE;
        }
        return;
    }
    let by_gib = core::mem::offset_of!(Tables, by_gib);
    for ((entry, table), number) in tables.direct.iter_mut().zip(tables.by_gib.iter_mut()).zip(0usize..) {
        *entry = link(by_gib + number * size_of::<Table>());
        for (page, address) in table.iter_mut().zip((number as u64 * GIB..).step_by(BLOCK as usize)) {
            *page = address | PRESENT_WRITABLE | LARGE;
        }
    }
}
