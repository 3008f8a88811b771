// SPDX-License-Identifier: MIT OR Apache-2.0
//! Absurd page-table entries at every level, page tables on devices, and accesses through them.

use core::sync::atomic::Ordering::SeqCst;
use guests::coverage::Deed;
use guests::instructions::{read_cr3, write_cr3};

use crate::area::{Area, put};
use crate::handler::probe;
use crate::note::note_deed;
use crate::probes::memory;
use crate::random::Random;
use crate::tables::{ABSURD, Paging, absurd_entry, build_paging};

/// Places of devices that can be taken for page tables; what a device reads as makes absurd entries.
const TABLES: &[u64] = &[128 << 20, 0xfee0_0000, 0xfec0_0000, 0xff00_0000, 0xd000_0000, 0xa_0000, 0xb000_0000];

pub(crate) fn run(area: &Area, random: &mut Random, count: u64) {
    let boot = read_cr3();
    let root = build_paging(area, Paging::Long, random);
    let [_, pd1, ..] = &area.pds;
    for round in 0..count {
        if round % 8 == 0 {
            // The second and later entries of three levels: the first ones hold this program.
            for level in [&area.pml4, &area.pdpt, pd1] {
                let free = 4 + random.below(500);
                let device = random.pick(TABLES) | 7;
                let entry = if random.once_in(2) { absurd_entry(random, area) } else { device };
                put(level, free, entry);
                put(level, 4, entry);
                put(level, 5, device);
            }
        }
        write_cr3(root);
        once(area, random);
        write_cr3(boot);
        area.beat();
    }
    note_deed(Deed::Entry);
    note_deed(Deed::TablesOnDevice);
}

fn once(area: &Area, random: &mut Random) {
    let [_, _, absurd, _] = &area.pts;
    let at = match random.below(5) {
        0 => (4 + random.below(2)) << 39,
        1 => (4 + random.below(2)) << 30,
        2 => ABSURD | (4 + random.below(2)) << 21,
        _ => ABSURD | random.below(512) << 12,
    } | random.next() & 0xfff;
    let bytes = random.pick(&[1, 2, 4, 8]);
    if random.once_in(8) {
        put(absurd, random.below(512), absurd_entry(random, area));
    }
    let _ = match random.below(8) {
        0 => memory_store(area, random, at, bytes),
        1 => probe!(area, "invlpg [{at}]", at = in(reg) at),
        2 => probe!(area, "call {at}", at = in(reg) at & !0xfff | 0xfff),
        3 => probe!(area, "rep movsb", inout("rcx") 24u64 => _, inout("rsi") at | 0xff0 => _,
            inout("rdi") area.sandbox() + 0x3_0000 => _),
        _ => memory::load(area, random, at, bytes),
    };
    area.words.fault.store(0, SeqCst);
}

/// Stores must not reach the interrupt command register by an alias.
fn memory_store(area: &Area, random: &mut Random, at: u64, bytes: u64) -> Option<u32> {
    let at = at & !0xf00 | at & 0xf00 & !0x300;
    let value = random.value() & !0x0500_0500_0500_0500;
    match bytes {
        1 => probe!(area, "mov [{at}], {v}", v = in(reg_byte) value as u8, at = in(reg) at),
        2 => probe!(area, "or [{at}], {v:x}", v = in(reg) value, at = in(reg) at),
        4 => probe!(area, "xchg [{at}], {v:e}", v = inout(reg) value => _, at = in(reg) at),
        _ => probe!(area, "mov [{at}], {v}", v = in(reg) value, at = in(reg) at),
    }
}
