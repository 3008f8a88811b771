// SPDX-License-Identifier: MIT OR Apache-2.0
//! Foreign code: noise, and noise in the form of instructions that exit or that touch memory.

use crate::area::{Area, BLOB_BYTES, BLOBS, BLOBS_AT};
use crate::probes::registers::HIGHEST_BREAKPOINT;
use crate::random::Random;
use crate::start::{peek, poke};

/// Bits of code that all modes read alike, to start from.
const ONE_BYTE: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x08, 0x0b, 0x11, 0x13, 0x19, 0x20, 0x23, 0x29, 0x2b, 0x31, 0x33, 0x38, 0x39, 0x3a, 0x3b,
    0x63, 0x69, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c,
    0x8e, 0x8f, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xc0, 0xc1, 0xc4,
    0xc5, 0xc6, 0xc7, 0xc8, 0xd0, 0xd1, 0xd2, 0xd3, 0xd8, 0xdb, 0xdd, 0xe4, 0xe5, 0xe6, 0xe7, 0xec, 0xed, 0xee, 0xef,
    0xf6, 0xf7, 0xfe, 0xff, 0xff, 0xfa, 0xfb, 0x9c, 0x9d, 0xcc, 0xcd, 0xce, 0xcf, 0xf1,
];
const TWO_BYTE: &[u8] = &[
    0x00, 0x01, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0b, 0x0d, 0x10, 0x11, 0x12, 0x13, 0x16, 0x17, 0x18,
    0x20, 0x21, 0x23, 0x28, 0x29, 0x2b, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x40, 0x45, 0x6e, 0x6f, 0x7e, 0x7f, 0x90,
    0x95, 0xa2, 0xa2, 0xa3, 0xa4, 0xa5, 0xab, 0xac, 0xae, 0xaf, 0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb6, 0xb7, 0xba, 0xbb,
    0xbc, 0xbd, 0xbe, 0xbf, 0xc0, 0xc1, 0xc3, 0xc7, 0xd6, 0xe7, 0xf0, 0xff,
];
const PREFIXES: &[u8] = &[0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x48, 0x41];

struct Writer {
    at: u64,
    end: u64,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.at < self.end {
                poke(self.at, *byte);
                self.at += 1;
            }
        }
    }

    fn noise(&mut self, random: &mut Random, count: u64) {
        for _ in 0..count {
            self.put(&[random.byte()]);
        }
    }

    fn instruction(&mut self, random: &mut Random) {
        while random.once_in(3) {
            self.put(&[random.pick(PREFIXES)]);
        }
        // ModRM mostly without a displacement or with a short one.
        let modes = random.byte() & if random.once_in(4) { 0xff } else { 0x7f };
        match random.below(16) {
            0..=5 => {
                self.put(&[0x0f, random.pick(TWO_BYTE), modes]);
            }
            6 => self.put(&[0x0f, 0x38, random.pick(&[0xf0, 0xf1, 0x2a, 0x82]), modes]),
            7 => self.put(&[0x0f, 0x01, modes | 0xc0]),
            8 if random.once_in(16) => self.put(&[0xf4]),
            9 => self.put(&[0xc5, random.byte(), random.pick(&[0x10, 0x11, 0x28, 0x29, 0x6f, 0x7f]), modes]),
            _ => self.put(&[random.pick(ONE_BYTE), modes]),
        }
        // Displacements and immediates.
        let more = random.below(6);
        self.noise(random, more);
    }
}

/// Fills a victim's sandbox, or its real-mode segment at `base`, with pieces of code.
pub(crate) fn fill(random: &mut Random, base: u64) {
    for blob in 0..BLOBS as u64 {
        let start = base + BLOBS_AT + blob * BLOB_BYTES;
        let mut writer = Writer { at: start, end: start + BLOB_BYTES };
        match random.below(8) {
            // CPUID and UD2: an exit each, in whatever mode this is.
            0 => writer.put(&[0x0f, 0xa2, 0x0f, 0x0b]),
            1 | 2 => {}
            _ => {
                for _ in 0..random.below(12) {
                    writer.instruction(random);
                }
            }
        }
        writer.noise(random, BLOB_BYTES);
    }
    tame(random, base + BLOBS_AT, BLOBS as u64 * BLOB_BYTES);
}

/// Loads of CR3 and of the tables' registers end the VM at the next exception, and some ports end it at once, so both are
/// kept rare. Other jobs do these things on purpose.
fn tame(random: &mut Random, start: u64, bytes: u64) {
    for at in start..start + bytes - 2 {
        let (first, opcode, modes) = (peek::<u8>(at), peek::<u8>(at + 1), peek::<u8>(at + 2));
        if random.once_in(256) {
            continue;
        }
        if matches!((first, opcode), (0xe6 | 0xe7, 0x64 | 0x8f..=0x92 | 0xf1..=0xf7)) {
            poke(at + 1, 0x80u8);
        }
        if first != 0x0f {
            continue;
        }
        let field = modes >> 3 & 7;
        match opcode {
            // LTR of selector 0, which QEMU 7.2 obeys, and ends at the next change of stacks: "invalid tss".
            0x00 if field == 3 => poke(at + 2, modes & !0x38),
            // LOCK before a bit test of a register, which QEMU 7.2 cannot translate and gives up: "tcg fatal error".
            0xab | 0xb3 | 0xba | 0xbb if modes >= 0xc0 => poke(at + 2, modes & 0x3f),
            // Breakpoints that are set when INIT comes: QEMU 7.2 keeps pointers to them that it must not follow.
            0x23 => poke(at + 1, 0x21u8),
            0x22 if field == 3 => poke(at + 1, 0x20u8),
            0x01 if modes < 0xc0 && matches!(field, 2 | 3) => poke(at + 2, modes | 0xc0),
            _ => {}
        }
    }
}

/// Addresses that are worth having in a register: borders of everything.
const PLACES: &[u64] = &[
    0xa_0000,
    0xc_0000,
    0xf_0000,
    0x800_0000,
    0x820_0000,
    0x1000_0000,
    0xb000_0000,
    0xb00f_8000,
    0xb010_0000,
    0xd000_0000,
    0xfec0_0000,
    0xfec0_0010,
    0xfec0_1000,
    0xfee0_0000,
    0xfee0_0080,
    0xfee0_0300,
    0xfee0_0310,
    0xfee0_0380,
    0xfee0_03e0,
    0xfee0_1000,
    0xff00_0000,
    0xff01_0000,
    0x1_0000_0000,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    0x4000_0000,
    0x4000_1000,
];
const PORTS: &[u64] = &[
    0x20, 0x40, 0x43, 0x60, 0x61, 0x70, 0x71, 0x80, 0xa0, 0xe0, 0x3f8, 0x3fd, 0x4d0, 0x510, 0x511, 0x600, 0x608, 0xcf8,
    0xcfc, 0x2005,
];
const MSRS: &[u64] = &[
    0x10,
    0x1b,
    0x174,
    0x1a0,
    0x1d9,
    0x200,
    0x277,
    0x2ff,
    0x6e0,
    0x808,
    0x80b,
    0x830,
    0x838,
    0x83f,
    0xc000_0080,
    0xc000_0082,
    0xc000_0101,
    0xc000_0103,
    0xc001_0015,
    0xc001_0114,
    0xc001_0117,
    0xc001_0130,
    0x4000_0070,
];

/// What to put into a register.
pub(crate) fn register(random: &mut Random, area: &Area) -> u64 {
    let value = match random.below(10) {
        0..=3 => random.pick(PLACES).wrapping_add(random.below(64)).wrapping_sub(random.below(33)),
        4 => random.pick(PORTS),
        5 => random.pick(MSRS),
        6 => area.sandbox() + random.below(0x1_0000),
        7 => random.below(0x1_0000),
        _ => random.value(),
    };
    value.min(HIGHEST_BREAKPOINT)
}
