// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short way for what drivers do most: a 32-bit MOV between a register and device memory, in 64-bit mode.
//!
//! The processor itself has translated the operand and checked the rights before it reported the fault, so the operand
//! needs no second walk: if the bytes are such a MOV, its direction is the fault's and its address has the fault's page
//! offset, then its operand is at the reported address. Should another processor of the guest have put this MOV in the
//! place of the one that faulted, with the same direction and page offset but another page, it reaches the page of the
//! old one; that too is an access that the processor has allowed this code. Anything else takes the long way.

use platform::{Access, Gpa, Gpr, GuestCpu, MemoryFault, PAGE_SIZE};

use super::context::Context;
use super::fetch::Code;
use super::operand::mask;
use crate::{DeviceRequest, Env, Operation, Target};

/// A decoded `mov r32, [mem]` or `mov [mem], r32` with 64-bit addresses and no segment base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PlainMov {
    pub(super) register: Gpr,
    /// Whether memory is written.
    pub(super) store: bool,
    pub(super) base: Option<Gpr>,
    /// The index register and the shift that its scale amounts to.
    pub(super) index: Option<(Gpr, u8)>,
    pub(super) displacement: i32,
    /// The displacement counts from the next instruction.
    pub(super) relative: bool,
    pub(super) length: u8,
}

/// Reads one byte of an instruction after another.
struct Cursor<'a>(&'a [u8], u8);

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        self.1 += 1;
        Some(*first)
    }

    fn dword(&mut self) -> Option<i32> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        self.1 += 4;
        Some(i32::from_le_bytes(*first))
    }
}

impl PlainMov {
    /// Decodes 89 /r and 8B /r with at most a REX prefix whose W bit is clear (APM vol. 3, 1.4 and 1.8).
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes, 0);
        let mut opcode = cursor.byte()?;
        let mut rex = 0;
        if opcode & 0xf0 == 0x40 {
            rex = opcode;
            opcode = cursor.byte()?;
        }
        if opcode & !2 != 0x89 || rex & 8 != 0 {
            return None;
        }
        let modrm = cursor.byte()?;
        let (mode, rm) = (modrm >> 6, modrm & 7);
        if mode == 3 {
            return None;
        }
        let extended = |low: u8, bit: u8| Gpr::from_encoding(low & 7 | (rex >> bit & 1) << 3);
        let (mut base, mut index, mut relative) = (Some(extended(rm, 0)), None, false);
        let mut absolute = false;
        if rm == 4 {
            let sib = cursor.byte()?;
            let register = extended(sib >> 3, 1);
            index = (register != Gpr::Rsp).then_some((register, sib >> 6));
            absolute = mode == 0 && sib & 7 == 5;
            base = (!absolute).then(|| extended(sib, 0));
        } else if mode == 0 && rm == 5 {
            (base, relative) = (None, true);
        }
        let displacement = match mode {
            1 => i32::from(cursor.byte()? as i8),
            0 if !absolute && !relative => 0,
            _ => cursor.dword()?,
        };
        let register = extended(modrm >> 3, 2);
        Some(Self { register, store: opcode == 0x89, base, index, displacement, relative, length: cursor.1 })
    }

    /// The operand's linear address.
    pub(super) fn address(&self, cpu: &impl GuestCpu, next_rip: u64) -> u64 {
        let base = match self.base {
            Some(base) => cpu.gpr(base),
            None if self.relative => next_rip,
            None => 0,
        };
        let index = self.index.map_or(0, |(index, shift)| cpu.gpr(index) << shift);
        base.wrapping_add(index).wrapping_add(self.displacement as i64 as u64)
    }
}

/// A MOV whose device access is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Where a loaded value goes.
    target: Option<Gpr>,
    next_rip: u64,
}

impl Pending {
    /// Takes the device's answer; returns RIP after the instruction.
    pub(super) fn finish(self, value: u64, cpu: &mut impl GuestCpu) -> u64 {
        if let Some(register) = self.target {
            cpu.set_gpr(register, value & mask(4));
        }
        self.next_rip
    }
}

/// The device access to make, if the short way may be taken.
pub(super) fn attempt(
    fault: &MemoryFault,
    code: &Code,
    cpu: &impl GuestCpu,
    context: &Context,
    env: &impl Env,
) -> Option<(DeviceRequest, Pending)> {
    let gpa: Gpa = fault.gpa.filter(|_| !fault.table_walk && context.is_64bit())?;
    let mov = PlainMov::decode(code.bytes())?;
    let next_rip = cpu.rip().wrapping_add(u64::from(mov.length));
    let address = mov.address(cpu, next_rip);
    let access = if mov.store { Access::Write } else { Access::Read };
    let same_offset = (address ^ gpa.0) & (PAGE_SIZE - 1) == 0;
    let same_page = fault.gva.is_none_or(|gva| (address ^ gva.0) & !(PAGE_SIZE - 1) == 0);
    if access != fault.access || !same_offset || !same_page || address & 3 != 0 || !env.is_mmio(gpa) {
        return None;
    }
    let operation = if mov.store { Operation::Write(cpu.gpr(mov.register) & mask(4)) } else { Operation::Read };
    let request = DeviceRequest { target: Target::Mmio(gpa), width: 4, operation };
    Some((request, Pending { target: (!mov.store).then_some(mov.register), next_rip }))
}
