// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses: ModRM bytes and registers with which an operand lies at its target (APM vol. 3, 1.4).

use super::{Generator, PREFIX_DS, PREFIX_ES, PREFIX_GS, PREFIX_SS, RBP, RDI, RSI, RSP, Site};
use crate::forms::{Field, Immediate, Kind};
use crate::layout::{self, DATA, Mode};
use crate::random::Random;
use alloc::vec;
use alloc::vec::Vec;

impl Generator<'_> {
    pub(super) fn segment_prefix(&self) -> Option<u8> {
        let is_override = |byte: &u8| [PREFIX_DS, PREFIX_ES, PREFIX_SS, PREFIX_GS].contains(byte);
        self.encoding.prefixes.iter().copied().find(is_override)
    }

    /// The offset in the operand's segment at which `target` lies.
    pub(super) fn offset_of(&self, target: i64, segment: Option<u8>) -> u64 {
        let gs = segment == Some(PREFIX_GS);
        let in_segment = target - if gs { layout::GS_OFFSET as i64 } else { 0 };
        if self.mode.is_long() && !gs { in_segment.wrapping_add(DATA as i64) as u64 } else { in_segment as u64 }
    }

    /// Gives a register the low part of `value` that an address uses.
    pub(super) fn set_low(&mut self, register: usize, value: u64) {
        let keep = match self.cell.address {
            2 => !0xffff,
            4 => !0xffff_ffff,
            _ => 0,
        };
        let gpr = &mut self.state.gprs[register];
        *gpr = *gpr & keep | value & !keep;
    }

    fn low(&self, register: usize) -> u64 {
        self.state.gprs[register]
    }

    /// ModRM, SIB and displacement with `target` as the effective address.
    pub(super) fn modrm(&mut self, target: i64) {
        let field = match self.form.field {
            Field::Digit(digit) => digit,
            // In real mode the selectors of the data are not the same on both sides; those of CS and FS are.
            Field::Segment if self.mode == Mode::Real && !self.is(Kind::Selector) => self.random.pick(&[1, 4]),
            Field::Segment => self.random.pick(&[0, 3, 5]),
            _ => self.vector_number(),
        };
        let mut field = field;
        if matches!(self.form.kind, Kind::Bit) && field == 4 {
            field = 3;
        }
        self.encoding.rex |= field >> 3 << 2;
        if self.mode.is_long() && self.random.one_in(8) {
            self.encoding.needs_rex = true;
        }
        let reg = (field & 7) << 3;
        if self.is(Kind::Bit) {
            // The bit may lie outside the word, but inside the data.
            let number = self.random.below(1024).wrapping_sub(512);
            let size = self.cell.size;
            let gpr = &mut self.state.gprs[usize::from(field)];
            let mask = if size == 8 { 0 } else { !0 << (8 * u32::from(size)) };
            *gpr = *gpr & mask | number & !mask;
        }
        if self.cell.address == 2 {
            self.modrm16(target, reg);
        } else {
            self.modrm32(target, reg, field);
        }
    }

    /// Whether an address through RSP or RBP would lie on a stack that is no device.
    fn avoids_stack(&self) -> bool {
        self.mode == Mode::Real && self.segment_prefix().is_none()
    }

    /// QEMU's processor forgets the immediate of SHLD and SHRD when it adds RIP.
    fn avoids_relative(&self) -> bool {
        let of_double_shift = matches!(self.form.family, "shld" | "shrd") && self.form.immediate == Immediate::Byte;
        self.site != Site::Process && self.mode.is_long() && of_double_shift
    }

    fn displacement(&mut self, mode: u8, wide: usize) -> i64 {
        let (value, bytes) = match mode {
            1 => (i64::from(self.random.word() as i8), 1),
            2 => ((self.random.below(0x2000) as i64) - 0x1000, wide),
            _ => return 0,
        };
        self.encoding.address.extend(&value.to_le_bytes()[..bytes]);
        value
    }

    fn modrm16(&mut self, target: i64, reg: u8) {
        const RBX: usize = 3;
        const PAIRS: [(usize, Option<usize>); 8] = [
            (RBX, Some(RSI)),
            (RBX, Some(RDI)),
            (RBP, Some(RSI)),
            (RBP, Some(RDI)),
            (RSI, None),
            (RDI, None),
            (RBP, None),
            (RBX, None),
        ];
        let mut rm = self.random.below(8) as u8;
        let mode = self.random.below(3) as u8;
        let bit_register = self.is(Kind::Bit).then_some(usize::from(reg >> 3));
        let uses = |rm: u8, register: Option<usize>| {
            let (base, index) = PAIRS[usize::from(rm)];
            register.is_some_and(|it| it == base || Some(it) == index)
        };
        let on_stack = |rm: u8| matches!(rm, 2 | 3) || rm == 6 && mode != 0;
        while uses(rm, bit_register) || self.avoids_stack() && on_stack(rm) {
            rm = self.random.below(8) as u8;
        }
        let absolute = mode == 0 && rm == 6;
        let (base, index) = PAIRS[usize::from(rm)];
        let default = (base == RBP && !absolute).then_some(PREFIX_SS);
        let offset = self.offset_of(target, self.segment_prefix().or(default));
        self.encoding.address.push(mode << 6 | reg | rm);
        if absolute {
            self.encoding.address.extend(&(offset as u16).to_le_bytes());
            return;
        }
        let displacement = self.displacement(mode, 2);
        let rest = offset.wrapping_sub(displacement as u64);
        self.set_low(base, rest.wrapping_sub(index.map_or(0, |index| self.low(index))));
    }

    fn modrm32(&mut self, target: i64, reg: u8, field: u8) {
        let count = if self.mode.is_long() { 16 } else { 8 };
        let bit_register = self.is(Kind::Bit).then_some(usize::from(field));
        let free = |random: &mut Random, taken: &[usize]| loop {
            let register = random.below(count) as usize;
            if !taken.contains(&register) {
                return register;
            }
        };
        let mut taken: Vec<usize> = bit_register.into_iter().collect();
        if self.avoids_stack() {
            taken.extend([RSP, RBP]);
        }
        if self.site != Site::Process && matches!(self.form.kind, Kind::Stack | Kind::Branch) {
            // The stack shall be where the generator puts it.
            taken.push(RSP);
        }
        let base = free(self.random, &taken);
        let default = matches!(base, 4 | 5).then_some(PREFIX_SS);
        let segment = self.segment_prefix().or(default);
        let shape = self.random.below(8);
        if shape == 0 && !self.avoids_relative() {
            // A displacement alone: from RIP in 64-bit mode.
            let offset = self.offset_of(target, self.segment_prefix());
            self.encoding.address.push(reg | 5);
            self.encoding.address.extend(&(offset as u32).to_le_bytes());
            self.encoding.relative = self.mode.is_long();
            return;
        }
        if shape == 1 {
            // A scaled index without a base.
            let taken: Vec<usize> = taken.into_iter().chain([RSP]).collect();
            let index = free(self.random, &taken);
            let scale = self.random.below(4) as u8;
            let value = self.random.below(64);
            self.set_low(index, value);
            let offset = self.offset_of(target, self.segment_prefix()).wrapping_sub(value << scale);
            self.encoding.rex |= (index as u8 >> 3) << 1;
            self.encoding.address.extend([reg | 4, scale << 6 | (index as u8 & 7) << 3 | 5]);
            self.encoding.address.extend(&(offset as u32).to_le_bytes());
            return;
        }
        let mut mode = self.random.below(3) as u8;
        if mode == 0 && base & 7 == 5 {
            mode = 1;
        }
        let sib = base & 7 == RSP || self.random.one_in(2);
        let mut scaled = 0;
        self.encoding.rex |= base as u8 >> 3;
        if sib {
            let taken: Vec<usize> = taken.into_iter().chain([base]).collect();
            let index = free(self.random, &taken);
            let scale = self.random.below(4) as u8;
            if index != RSP {
                scaled = self.low(index) << scale;
                self.encoding.rex |= (index as u8 >> 3) << 1;
            }
            let base = base as u8 & 7;
            self.encoding.address.extend([mode << 6 | reg | 4, scale << 6 | (index as u8 & 7) << 3 | base]);
        } else {
            self.encoding.address.push(mode << 6 | reg | base as u8 & 7);
        }
        let displacement = self.displacement(mode, 4);
        let offset = self.offset_of(target, segment);
        let mut value = offset.wrapping_sub(displacement as u64).wrapping_sub(scaled);
        if self.cell.address == 8 && self.random.one_in(64) {
            // Not canonical.
            value ^= 1 << (47 + self.random.below(17));
            self.is_wild = true;
        }
        self.set_low(base, value);
    }

    /// `moffs`.
    pub(super) fn offset(&mut self, target: i64) {
        let offset = self.offset_of(target, self.segment_prefix());
        self.encoding.address.extend(&offset.to_le_bytes()[..usize::from(self.cell.address)]);
    }

    /// The registers of the address.
    pub(super) fn used_registers(&self) -> Vec<usize> {
        let Some(&modrm) = self.encoding.address.first() else { return Vec::new() };
        if self.form.field == Field::None {
            return vec![];
        }
        if self.cell.address == 2 {
            return vec![3, 5, 6, 7];
        }
        let rex = usize::from(self.encoding.rex);
        if modrm & 7 == 4 {
            let sib = usize::from(self.encoding.address[1]);
            return vec![sib & 7 | (rex & 1) << 3, sib >> 3 & 7 | (rex & 2) << 2];
        }
        vec![usize::from(modrm & 7) | (rex & 1) << 3]
    }
}
