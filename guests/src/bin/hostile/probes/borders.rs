// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accesses that lie on both sides of a page's border, for every pair of neighbours: RAM, devices, the paravisor's region,
//! absent, read-only and supervisor pages, and the end of the canonical addresses.

use guests::coverage::Deed;
use guests::instructions::{read_cr3, write_cr3};

use crate::area::{Area, put};
use crate::handler::probe;
use crate::note::note_deed;
use crate::probes::memory;
use crate::random::Random;
use crate::tables::{ABSURD, Paging, build_paging};

/// Borders of the physical address space.
const PHYSICAL: &[u64] = &[
    0xa_0000,
    0xc_0000,
    128 << 20,
    130 << 20,
    256 << 20,
    0xb000_0000,
    0xb010_0000,
    0xfec0_0000,
    0xfec0_1000,
    0xfee0_0000,
    0xfee0_1000,
    0xff00_0000,
    0xff01_0000,
    0xfef0_0000,
    0xfef0_1000,
    0xd000_1000,
    0x800_1000,
];

/// What a page can be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ram,
    ReadOnly,
    Absent,
    Device,
}

/// Pages to put side by side.
fn pages(area: &Area) -> [(Kind, u64); 10] {
    let ram = area.sandbox() + 0x4_0000;
    [
        (Kind::Ram, ram | 7),
        (Kind::Ram, (ram + 0x1000) | 7),
        (Kind::ReadOnly, (ram + 0x2000) | 5),
        (Kind::Absent, ram),
        (Kind::Device, 128 << 20 | 7),
        (Kind::Device, 0xff00_0000 | 7),
        (Kind::Device, 0xfee0_0000 | 7),
        (Kind::Device, 0xfec0_0000 | 7),
        (Kind::Device, 0xd000_0000 | 7),
        (Kind::Device, 0xa_0000 | 7),
    ]
}

pub(crate) fn run(area: &Area, random: &mut Random, count: u64) {
    let boot = read_cr3();
    memory::enable_vectors();
    let root = build_paging(area, Paging::Long, random);
    let pages = pages(area);
    let [_, _, table, _] = &area.pts;
    for _ in 0..count {
        if random.once_in(3) {
            let border = random.pick(PHYSICAL);
            once(area, random, border);
            continue;
        }
        if random.once_in(16) {
            once(area, random, 1 << 47);
            once(area, random, 0u64.wrapping_sub(1 << 47));
            note_deed(Deed::AcrossCanonical);
            continue;
        }
        let pair = [(); 2].map(|()| pages.get(random.below(10) as usize).copied().unwrap_or((Kind::Absent, 0)));
        let [below, above] = pair;
        put(table, 0, below.1);
        put(table, 1, above.1);
        write_cr3(root);
        once(area, random, ABSURD + 0x1000);
        write_cr3(boot);
        note_pair(below.0, above.0);
    }
}

fn note_pair(below: Kind, above: Kind) {
    match (below, above) {
        (Kind::Ram, Kind::Device) => note_deed(Deed::IntoDevice),
        (Kind::Device, Kind::Ram) => note_deed(Deed::OutOfDevice),
        (Kind::Device, Kind::Device) => note_deed(Deed::AcrossDevices),
        (Kind::Absent, _) | (_, Kind::Absent) => note_deed(Deed::AcrossAbsent),
        (Kind::ReadOnly, _) | (_, Kind::ReadOnly) => note_deed(Deed::AcrossReadOnly),
        _ => {}
    }
}

/// An access to the last bytes below a border and the first above.
fn once(area: &Area, random: &mut Random, border: u64) {
    let bytes = random.pick(&[2, 4, 8, 16, 32]);
    let at = border.wrapping_sub(1 + random.below(bytes - 1));
    let value = random.value();
    let _ = match random.below(8) {
        0 => probe!(area, "rep stosb", inout("rcx") 9u64 => _, in("al") value as u8, inout("rdi") at => _),
        1 => {
            probe!(area, "rep movsw", inout("rcx") 9u64 => _, inout("rsi") at => _, inout("rdi") area.sandbox() + 0x3_0000 => _)
        }
        2 => probe!(area, "jmp {at}", at = in(reg) at),
        3 => {
            probe!(area, "mov {k}, rsp\n mov rsp, {at}\n pop {at}\n mov rsp, {k}", k = out(reg) _, at = inout(reg) at => _)
        }
        4 | 5 => raw_store(area, at, bytes, value),
        _ => memory::load(area, random, at, bytes),
    };
    area.beat();
}

/// Plain stores: these must not note anything, for the notes are read-only here.
fn raw_store(area: &Area, at: u64, bytes: u64, value: u64) -> Option<u32> {
    match bytes {
        2 => probe!(area, "mov [{at}], {v:x}", v = in(reg) value, at = in(reg) at),
        4 => probe!(area, "lock add [{at}], {v:e}", v = in(reg) value, at = in(reg) at),
        8 => probe!(area, "mov [{at}], {v}", v = in(reg) value, at = in(reg) at),
        16 => probe!(area, "movups [{at}], xmm0", at = in(reg) at),
        _ => probe!(area, "vmovdqu [{at}], ymm0", at = in(reg) at),
    }
}
