// SPDX-License-Identifier: MIT OR Apache-2.0
//! Jobs of foreign code: random bytes at random privilege in every mode.

use core::sync::atomic::Ordering::SeqCst;

use guests::coverage::{Deed, Point};
use guests::instructions::{read_cr3, write_cr3};

use crate::area::{Area, BLOB_BYTES, BLOBS, BLOBS_AT, address_of};
use crate::code;
use crate::handler::{self, Entry};
use crate::note::{note, note_deed};
use crate::random::Random;
use crate::start::{self, REAL_BEAT, REAL_HANDLER, REAL_IMAGES, REAL_LIMIT, REAL_NEXT, REAL_STATE, Start, peek, poke};
use crate::tables::{self, Paging, build_paging, kind, selector};
use crate::victim::repair;

/// Modes by their place in `guests::coverage::MODES`.
mod mode {
    pub(super) const REAL: usize = 0;
    pub(super) const VIRTUAL: usize = 1;
    pub(super) const PROTECTED16: usize = 2;
    pub(super) const PROTECTED32: usize = 3;
    pub(super) const COMPATIBILITY16: usize = 4;
    pub(super) const COMPATIBILITY32: usize = 5;
    pub(super) const LONG: usize = 6;
}

/// RFLAGS: what foreign code may start with, but for the trap flag and NT, which come seldom.
fn flags(random: &mut Random) -> u64 {
    const ARITHMETIC: u64 = 0xcd5;
    const INTERRUPTS: u64 = 0x200;
    const LEVEL: u64 = 0x3000;
    const RARE: u64 = 0x4_4100;
    let noise = random.next();
    let rare = if random.once_in(16) { noise >> 20 & RARE } else { 0 };
    noise & (ARITHMETIC | INTERRUPTS | LEVEL) | rare | 2
}

fn blob(random: &mut Random) -> u64 {
    BLOBS_AT + random.below(BLOBS as u64) * BLOB_BYTES
}

/// In the victim, which is in long mode.
pub(crate) fn run_long(area: &Area, random: &mut Random) {
    let boot = read_cr3();
    let root = build_paging(area, Paging::Long, random);
    code::fill(random, area.sandbox());
    for _ in 0..2 * BLOBS {
        let (mode, code) = match random.below(4) {
            0 => (mode::COMPATIBILITY16, kind::CODE16),
            1 => (mode::COMPATIBILITY32, kind::CODE32),
            _ => (mode::LONG, kind::CODE64),
        };
        let level = random.pick(&[0, 0, 1, 2, 3, 3, 3]);
        let base = if mode == mode::LONG { area.sandbox() } else { 0 };
        let mut entry = Entry {
            rip: base + blob(random),
            cs: selector(level, code).into(),
            flags: flags(random),
            rsp: base + 0x9000 + random.below(0x2000),
            ss: selector(level, kind::DATA).into(),
            ..Entry::default()
        };
        entry.registers = entry.registers.map(|_| code::register(random, area));
        entry.segments = entry.segments.map(|_| segment(random, level).into());
        write_cr3(root);
        handler::enter(area, &entry);
        repair(area, boot);
        note(Point::mode(mode, level));
    }
}

/// A data segment for a level.
fn segment(random: &mut Random, level: u64) -> u16 {
    match random.below(8) {
        0 => 0,
        1 => selector(level, kind::DEVICES),
        2 => selector(level, kind::REGION),
        3 => selector(level, kind::VIDEO),
        4 => selector(level, kind::DOWN),
        _ => selector(level, kind::DATA),
    }
}

/// What [`prepare_tasks`] made, to tell afterwards how far it came.
pub(crate) struct Prepared {
    pub(crate) start: Start,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    modes: [(usize, u64); BLOBS],
}

/// Protected or virtual-8086 mode: in the warden, before the victim starts.
pub(crate) fn prepare_tasks(area: &Area, random: &mut Random, v86: bool) -> Prepared {
    let paging = match random.below(3) {
        0 if !v86 => Paging::None,
        0 | 1 => Paging::TwoLevel,
        _ => Paging::Pae,
    };
    let cr3 = build_paging(area, paging, random);
    tables::build_gates(area, cr3, random);
    code::fill(random, area.sandbox());
    // PSE, PAE, VME and PVI.
    let extensions = random.below(4);
    let cr4 = match paging {
        Paging::Pae => 0x20 | extensions,
        _ => 0x10 | extensions,
    } | 0x600;
    note_deed(match paging {
        Paging::None => Deed::Unpaged,
        Paging::TwoLevel => Deed::TwoLevel,
        Paging::Pae | Paging::Long => Deed::Pae,
    });
    let mut modes = [(mode::PROTECTED32, 0); BLOBS];
    for (image, how) in area.images.iter().zip(&mut modes) {
        let level = random.below(4);
        *how = match random.below(2) {
            _ if v86 => (mode::VIRTUAL, 3),
            0 => (mode::PROTECTED16, level),
            _ => (mode::PROTECTED32, level),
        };
        let store = |index: usize, value: u64| tables::store(image, index, value as u32);
        (1..26).for_each(|index| store(index, 0));
        store(7, cr3);
        store(9, flags(random) | if v86 { 1 << 17 } else { 0 });
        (10..18).for_each(|index| store(index, code::register(random, area)));
        store(14, 0x9000 + random.below(0x1000));
        store(25, 104 << 16 | u64::from(random.once_in(32)));
        if v86 {
            store(8, blob(random) - BLOBS_AT);
            store(19, BLOBS_AT >> 4);
            for index in [18, 20, 21, 22, 23] {
                store(index, random.pick(&[0x900, 0x900, 0xa000, 0xb800, 0xd000, 0xd100, 0xd400, 0xffff]));
            }
            continue;
        }
        let code = if how.0 == mode::PROTECTED16 { kind::CODE16 } else { kind::CODE32 };
        store(8, blob(random));
        store(19, selector(level, code).into());
        store(20, selector(level, kind::DATA).into());
        for index in [18, 21, 22, 23] {
            store(index, segment(random, level).into());
        }
        store(24, if random.once_in(2) { tables::LDT } else { 0 });
    }
    let words = &area.words;
    words.next.store(0, SeqCst);
    words.limit.store(BLOBS as u32, SeqCst);
    words.images.store(address_of(&area.images) as u32, SeqCst);
    Prepared { start: Start::Tasks, cr3, cr4, modes }
}

/// Real mode: in the warden, before the victim starts.
pub(crate) fn prepare_real(area: &Area, random: &mut Random) -> Prepared {
    let real = area.real();
    let segment = real >> 4;
    for vector in 0..256 {
        poke(real + 4 * vector, (REAL_HANDLER | segment << 16) as u32);
    }
    start::place_real_handler(area);
    code::fill(random, real);
    for image in 0..BLOBS as u64 {
        let at = real + REAL_IMAGES + 64 * image;
        let mut words = [0u16; 8];
        let mut data = || random.pick(&[segment, segment, 0xa000, 0xb800, 0x9fff, 0xbfff, 0xc000, 0xffff]) as u16;
        let [es, fs, gs, ds] = [(); 4].map(|()| data());
        let stack = 0x8000 + random.below(0x3000) as u16;
        let values = [es, fs, gs, flags(random) as u16 & !0x100, blob(random) as u16, segment as u16, stack & !1, ds];
        words.copy_from_slice(&values);
        for (index, word) in (0..).zip(words) {
            poke(at + 2 * index, word);
        }
        for register in 0..7 {
            let value = code::register(random, area) as u32;
            poke(at + 16 + 4 * register, if random.once_in(2) { value & 0xffff } else { value });
        }
    }
    poke(real + REAL_NEXT, 0u16);
    poke(real + REAL_LIMIT, BLOBS as u16);
    poke(real + REAL_BEAT, 0u32);
    poke(real + REAL_STATE, 0u16);
    Prepared { start: Start::Real, cr3: 0, cr4: 0, modes: [(mode::REAL, 0); BLOBS] }
}

impl Prepared {
    /// Notes the modes of all pieces that came to their end.
    pub(crate) fn note(&self, area: &Area) {
        let next = match self.start {
            Start::Real => u32::from(peek::<u16>(area.real() + REAL_NEXT)),
            _ => area.words.next.load(SeqCst),
        };
        for (mode, level) in self.modes.iter().take((next as usize).saturating_sub(1)) {
            note(Point::mode(*mode, *level));
        }
    }
}
