// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptor tables, task segments and page tables of a victim (APM vol. 2, 4.7, 5.2 to 5.4 and 12.2).
//!
//! Foreign code sees, in every mode with paging, the same linear addresses: its sandbox, conventional memory that is the
//! sandbox again, every device, the paravisor's region, and a page of absurd entries. What handles its exceptions is
//! mapped for the supervisor alone, and read-only but for the victim's own area.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::area::{Area, SANDBOX, address_of, put};
use crate::handler;
use crate::random::Random;
use crate::start;

pub(crate) const CODE: u64 = 0x08;
pub(crate) const DATA: u64 = 0x10;
const TSS64: u64 = 0x30;
pub(crate) const LDT: u64 = 0x40;
const NMI_TASK: u64 = 0x50;
/// From here on: eight descriptors for each privilege level.
const LEVELS: u64 = 0x60;

/// Descriptors of a privilege level, by their place.
pub(crate) mod kind {
    pub(crate) const CODE64: u64 = 0;
    pub(crate) const CODE32: u64 = 1;
    pub(crate) const CODE16: u64 = 2;
    pub(crate) const DATA: u64 = 3;
    pub(crate) const DEVICES: u64 = 4;
    pub(crate) const REGION: u64 = 5;
    pub(crate) const VIDEO: u64 = 6;
    pub(crate) const DOWN: u64 = 7;
}

/// The selector of a descriptor for a level.
pub(crate) const fn selector(level: u64, kind: u64) -> u16 {
    ((LEVELS + 64 * level + 8 * kind) | level) as u16
}

/// Where foreign code in long mode and with PAE finds a page table of absurd entries.
pub(crate) const ABSURD: u64 = 0x4000_0000;

fn descriptor(base: u64, limit: u64, access: u64, flags: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

/// Flags of a descriptor: limit in pages, 32-bit, 64-bit.
const PAGES: u64 = 8;
const BIG: u64 = 4;
const LONG: u64 = 2;

pub(crate) fn build_descriptors(area: &Area, random: &mut Random) {
    let sandbox = area.sandbox();
    let set = |selector: u64, value: u64| put(&area.gdt, selector / 8, value);
    set(0, 0);
    set(CODE, descriptor(0, 0xf_ffff, 0x9b, PAGES | LONG));
    set(DATA, descriptor(0, 0xf_ffff, 0x93, PAGES | BIG));
    set(0x18, descriptor(0, 0xf_ffff, 0x9b, PAGES | BIG));
    set(0x20, descriptor(address_of(&area.task), 0x206b, 0x8b, 0));
    set(0x28, descriptor(address_of(&area.handler), 0x67, 0x89, 0));
    set(TSS64, descriptor(address_of(&area.tss64), 0x206b, 0x89, 0));
    set(TSS64 + 8, 0);
    set(LDT, descriptor(sandbox + 0x1_0000, 0xfff, 0x82, 0));
    set(LDT + 8, 0);
    set(NMI_TASK, descriptor(address_of(&area.nmi), 0x67, 0x89, 0));
    let pages = (SANDBOX >> 12) - 1;
    for level in 0..4 {
        let at = LEVELS + 64 * level;
        let (code, data) = (0x9b | level << 5, 0x93 | level << 5);
        set(at, descriptor(0, 0xf_ffff, code, PAGES | LONG));
        set(at + 8 * kind::CODE32, descriptor(sandbox, pages, code, PAGES | BIG));
        set(at + 8 * kind::CODE16, descriptor(sandbox, pages, code, PAGES));
        set(at + 8 * kind::DATA, descriptor(sandbox, pages, data, PAGES | BIG));
        set(at + 8 * kind::DEVICES, descriptor(0xfec0_0000, 0x13ff, data, PAGES | BIG));
        set(at + 8 * kind::REGION, descriptor((128 << 20) - 0x1000, 0x201, data, PAGES | BIG));
        set(at + 8 * kind::VIDEO, descriptor(0xa_0000, 0x1f, data, PAGES));
        set(at + 8 * kind::DOWN, descriptor(sandbox, random.below(0x8000), data | 4, BIG));
    }
    // The local descriptor table is the foreign code's own.
    for slot in 0..512 {
        let noise = random.next();
        let present = if random.once_in(2) { noise | 0x90 << 40 } else { noise };
        start::poke(sandbox + 0x1_0000 + 8 * slot, present);
    }
}

/// Tables of the 64-bit mode, and the task segments of the others.
pub(crate) fn build_gates(area: &Area, cr3: u64, random: &mut Random) {
    const GATE: u64 = 0xee00;
    const NMI: u64 = 2;
    for vector in 0..256 {
        let stub = handler::stub(vector);
        let stack = if vector == NMI { 2 } else { 1 };
        let low = stub & 0xffff | CODE << 16 | stack << 32 | GATE << 32 | (stub >> 16 & 0xffff) << 48;
        put(&area.idt64, 2 * vector, low);
        put(&area.idt64, 2 * vector + 1, stub >> 32);
        let task = if vector == NMI { NMI_TASK } else { 0x28 };
        put(&area.idt32, vector, task << 16 | 0xe500 << 32);
    }
    let faults = address_of(&area.stack_faults);
    let nmis = address_of(&area.stack_nmis);
    put(&area.stack_faults, 0, area.address());
    put(&area.stack_nmis, 0, area.address());
    let top = |stack: u64| stack + 16384;
    // RSP0 to RSP2 and the interrupt stacks are not aligned to eight bytes in the segment.
    for (offset, value) in [(4, top(faults)), (12, top(faults)), (20, top(faults)), (36, top(faults)), (44, top(nmis))]
    {
        put32(&area.tss64, offset / 4, value as u32);
        put32(&area.tss64, offset / 4 + 1, (value >> 32) as u32);
    }
    put32(&area.tss64, 25, 104 << 16);
    let (tasks, nmi) = start::task_entries();
    let stack = address_of(&area.stack) as u32;
    for (task, entry, top) in [(&area.handler, tasks, stack + 0x8000), (&area.nmi, nmi, stack + 0x1000)] {
        let ebp = area.address() as u32;
        let flat = [(7, cr3 as u32), (8, entry), (9, 2), (14, top), (15, ebp), (25, 104 << 16)];
        task.iter().for_each(|word| word.store(0, SeqCst));
        for (index, word) in flat {
            store(task, index, word);
        }
        for segment in 18..24 {
            store(task, segment, DATA as u32);
        }
        store(task, 19, 0x18);
    }
    build_bitmaps(area, random);
}

/// Which ports foreign code may use at its level: all, none, or some.
fn build_bitmaps(area: &Area, random: &mut Random) {
    let how = random.below(3);
    for word in 26..26 + 2048 {
        let noise = random.next() as u32;
        let bits = [0, u32::MAX, noise & noise >> 7].get(how as usize).copied().unwrap_or(0);
        put32(&area.tss64, word, bits);
        store(&area.task, word as usize, bits);
    }
    put32(&area.tss64, 26 + 2048, u32::MAX);
    store(&area.task, 26 + 2048, u32::MAX);
}

pub(crate) fn store(table: &[AtomicU32], index: usize, value: u32) {
    if let Some(slot) = table.get(index) {
        slot.store(value, SeqCst);
    }
}

fn put32(table: &[AtomicU64], index: u64, value: u32) {
    let Some(slot) = table.get(index as usize / 2) else { return };
    let (old, value) = (slot.load(SeqCst), u64::from(value));
    slot.store(
        if index.is_multiple_of(2) { old & !0xffff_ffff | value } else { old & 0xffff_ffff | value << 32 },
        SeqCst,
    );
}

/// How foreign code is paged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paging {
    None,
    TwoLevel,
    Pae,
    Long,
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const LARGE: u64 = 0x80;
const ALL: u64 = PRESENT | WRITABLE | USER;

/// What lies behind a page of the first 1.06 MiB: the sandbox, and devices between.
fn low_page(area: &Area, page: u64) -> u64 {
    match page {
        0xa0..=0xbf => page << 12,
        0xd0 => 0xfee0_0000,
        0xd1 => 0xfec0_0000,
        0xd2 => 0xff00_0000,
        0xd4..=0xd7 => (128 << 20) + ((page - 0xd4) << 12),
        _ => area.sandbox() + (page << 12),
    }
}

/// Rights of a page of the guest's own program.
fn own_page(area: &Area, address: u64) -> u64 {
    let own = area.address()..area.address() + size_of::<Area>() as u64;
    PRESENT | if own.contains(&address) { WRITABLE } else { 0 }
}

/// An entry as no operating system would write it, mostly.
pub(crate) fn absurd_entry(random: &mut Random, area: &Area) -> u64 {
    let page = match random.below(6) {
        0 => area.sandbox(),
        1 => 128 << 20 | random.below(512) << 12,
        2 => 0xfee0_0000,
        3 => 0xff00_0000,
        4 => 0xd000_0000 + (random.below(0x1000) << 12),
        // Reserved bits, beyond the guest's physical address space.
        _ => random.next() & 0x7fff_ff00_0000_0000 | 0xc000_0000,
    };
    page | random.next() & 0xfff | random.next() & random.next() & 1 << 63
}

/// Builds tables; what CR3 must hold.
pub(crate) fn build_paging(area: &Area, paging: Paging, random: &mut Random) -> u64 {
    match paging {
        Paging::None => 0,
        Paging::TwoLevel => two_levels(area, random),
        Paging::Pae | Paging::Long => more_levels(area, paging, random),
    }
}

fn more_levels(area: &Area, paging: Paging, random: &mut Random) -> u64 {
    let [pd0, pd1, pd2, pd3] = &area.pds;
    let [low, own, absurd, border] = &area.pts;
    for table in area.pds.iter().chain(&area.pts).chain([&area.pml4, &area.pdpt]) {
        table.iter().for_each(|entry| entry.store(0, SeqCst));
    }
    let rights = if paging == Paging::Long { ALL } else { PRESENT };
    put(&area.pml4, 0, address_of(&area.pdpt) | ALL);
    for (index, pd) in (0..).zip(&area.pds) {
        put(&area.pdpt, index, address_of(pd) | rights);
    }
    for (index, pt) in [(0, low), (1, own), (127, border)] {
        put(pd0, index, address_of(pt) | ALL);
    }
    put(pd1, 0, address_of(absurd) | ALL);
    for page in 0..512 {
        put(low, page, if page < 0x110 { low_page(area, page) | ALL } else { 0 });
        let address = (2 << 20) + (page << 12);
        put(own, page, address | own_page(area, address));
        put(absurd, page, absurd_entry(random, area));
        put(border, page, 127 << 21 | page << 12 | ALL);
    }
    let large = |pd, at: u64| put(pd, at >> 21 & 511, at | LARGE | ALL);
    for piece in 0..SANDBOX >> 21 {
        large(pd0, area.sandbox() + (piece << 21));
    }
    for at in [126 << 20, 128 << 20, 130 << 20, 256 << 20] {
        large(pd0, at);
    }
    large(pd2, 0xb000_0000);
    for at in [0xd000_0000, 0xfec0_0000, 0xfee0_0000, 0xff00_0000] {
        large(pd3, at);
    }
    address_of(if paging == Paging::Long { &area.pml4 } else { &area.pdpt })
}

fn two_levels(area: &Area, random: &mut Random) -> u64 {
    let [table, absurd, ..] = &area.pts;
    for entries in [&area.pml4, table, absurd] {
        entries.iter().for_each(|entry| entry.store(0, SeqCst));
    }
    for page in 0..1024 {
        let address = page << 12;
        let entry = match page {
            ..0x110 => low_page(area, page) | ALL,
            0x200.. => address | own_page(area, address),
            _ => 0,
        };
        put32(table, page, entry as u32);
        put32(absurd, page, absurd_entry(random, area) as u32);
    }
    let root = &area.pml4;
    put32(root, 0, (address_of(table) | ALL) as u32);
    put32(root, (ABSURD >> 22) as u32 as u64, (address_of(absurd) | ALL) as u32);
    let sandbox = area.sandbox();
    for at in [
        sandbox,
        sandbox + (4 << 20),
        124 << 20,
        128 << 20,
        252 << 20,
        256 << 20,
        0xb000_0000,
        0xd000_0000,
        0xfec0_0000,
        0xff00_0000,
    ] {
        put32(root, at >> 22, (at & !0x3f_ffff | LARGE | ALL) as u32);
    }
    address_of(root)
}

/// Makes the 64-bit task segment loadable again.
pub(crate) fn free_task_segment(area: &Area) {
    put(&area.gdt, TSS64 / 8, descriptor(address_of(&area.tss64), 0x206b, 0x89, 0));
    put(&area.gdt, TSS64 / 8 + 1, 0);
}
