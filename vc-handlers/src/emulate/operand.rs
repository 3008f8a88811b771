// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operands: registers by size, effective addresses, and memory operands placed in guest-physical memory.

use iced_x86::{CodeSize as IcedCodeSize, Instruction, OpKind, Register};
use platform::{Exception, Gpa, Gpr, GuestCpu, PAGE_SIZE, SegmentRegister};

use super::bits::{cr0, rflags};
use super::context::Context;
use super::segment;
use super::stop::{Result, Stop};
use super::walk::{self, Intent, Privilege};
use crate::Env;

/// The bytes of one operand: up to a 256-bit vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Bytes([u8; 32]);

impl From<[u8; 32]> for Bytes {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl Bytes {
    pub(super) const fn all(self) -> [u8; 32] {
        self.0
    }

    pub(super) fn of(value: u64) -> Self {
        Self::wide(u128::from(value))
    }

    pub(super) fn wide(value: u128) -> Self {
        let mut bytes = Self::default();
        bytes.0.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The low eight bytes.
    pub(super) fn low(&self) -> u64 {
        self.get(0, 8)
    }

    /// The low sixteen bytes.
    pub(super) fn low_wide(&self) -> u128 {
        u128::from(self.get(0, 8)) | u128::from(self.get(8, 8)) << 64
    }

    /// `width` bytes at `at`, zero-extended.
    pub(super) fn get(&self, at: usize, width: usize) -> u64 {
        let mut value = [0; 8];
        value.iter_mut().zip(self.0.iter().skip(at).take(width)).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(value)
    }

    /// Replaces `width` bytes at `at`.
    pub(super) fn put(&mut self, at: usize, width: usize, value: u64) {
        let part = self.0.iter_mut().skip(at).take(width);
        part.zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    }

    pub(super) fn part(&self, at: usize, width: usize) -> &[u8] {
        self.0.get(at..at + width).unwrap_or(&[])
    }

    pub(super) fn part_mut(&mut self, at: usize, width: usize) -> &mut [u8] {
        self.0.get_mut(at..at + width).unwrap_or(&mut [])
    }
}

/// All ones in the low `size` bytes.
pub(super) const fn mask(size: u8) -> u64 {
    match size {
        0 => 0,
        1..=7 => (1 << (8 * size)) - 1,
        _ => u64::MAX,
    }
}

/// The low `size` bytes of `value`, sign-extended.
pub(super) const fn sign_extend(value: u64, size: u8) -> u64 {
    let unused = match size {
        1..=7 => 64 - 8 * size as u32,
        _ => 0,
    };
    ((value << unused) as i64 >> unused) as u64
}

/// Part of a general-purpose register, as an instruction names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GprPart {
    pub(super) register: Gpr,
    /// Bytes: 1, 2, 4 or 8.
    pub(super) size: u8,
    /// AH, CH, DH or BH.
    high: bool,
}

impl GprPart {
    /// `None` for anything but a general-purpose register.
    pub(super) fn of(register: Register) -> Option<Self> {
        let number = register.number() as u8;
        if register.is_gpr8() {
            // Numbered AL..BL, AH..BH, SPL..R15L.
            let (encoding, high) = match number {
                0..=3 => (number, false),
                4..=7 => (number - 4, true),
                _ => (number - 4, false),
            };
            return Some(Self { register: Gpr::from_encoding(encoding), size: 1, high });
        }
        register.is_gpr().then(|| Self {
            register: Gpr::from_encoding(number),
            size: register.size() as u8,
            high: false,
        })
    }

    /// The low `size` bytes of a register.
    pub(super) const fn low(register: Gpr, size: u8) -> Self {
        Self { register, size, high: false }
    }

    pub(super) fn read(self, cpu: &impl GuestCpu) -> u64 {
        let whole = cpu.gpr(self.register);
        (if self.high { whole >> 8 } else { whole }) & mask(self.size)
    }

    /// The whole register after `value` was written to this part: 32-bit results clear the upper half, smaller ones keep
    /// the rest (APM vol. 1, 3.1.2).
    pub(super) fn merge(self, cpu: &impl GuestCpu, value: u64) -> u64 {
        let whole = cpu.gpr(self.register);
        match (self.size, self.high) {
            (1, true) => whole & !0xff00 | (value & 0xff) << 8,
            (4 | 8, _) => value & mask(self.size),
            (size, _) => whole & !mask(size) | value & mask(size),
        }
    }
}

/// The platform's name for a segment register of the decoder.
pub(super) fn segment_register(register: Register) -> Option<SegmentRegister> {
    Some(match register {
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        Register::DS => SegmentRegister::Ds,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => return None,
    })
}

/// The segment of a ModRM operand. In 64-bit mode a prefix other than for FS and GS is ignored, so it does not decide
/// between #SS and #GP either (APM vol. 3, 1.2.4).
fn named_segment(instruction: &Instruction) -> Option<SegmentRegister> {
    let segment = segment_register(instruction.memory_segment())?;
    if instruction.code_size() != IcedCodeSize::Code64 || matches!(segment, SegmentRegister::Fs | SegmentRegister::Gs) {
        return Some(segment);
    }
    let on_stack =
        GprPart::of(instruction.memory_base()).is_some_and(|base| matches!(base.register, Gpr::Rsp | Gpr::Rbp));
    Some(if on_stack { SegmentRegister::Ss } else { SegmentRegister::Ds })
}

/// A segment and an offset in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub(super) segment: SegmentRegister,
    pub(super) offset: u64,
    /// Bytes of an address: 2, 4 or 8.
    pub(super) size: u8,
}

/// The address of the explicit or string memory operand `index`. `None` if the operand is not in memory.
///
/// `popped` is what POP has already added to RSP when the address is computed (APM vol. 3, POP).
pub(super) fn address(cpu: &impl GuestCpu, instruction: &Instruction, index: u32, popped: u64) -> Option<Address> {
    let source = |size, register| {
        let segment = segment_register(instruction.memory_segment())?;
        Some(Address { segment, offset: GprPart::low(register, size).read(cpu), size })
    };
    let target = |size| {
        let offset = GprPart::low(Gpr::Rdi, size).read(cpu);
        Some(Address { segment: SegmentRegister::Es, offset, size })
    };
    match instruction.op_kind(index) {
        OpKind::Memory => effective(cpu, instruction, popped),
        OpKind::MemorySegSI => source(2, Gpr::Rsi),
        OpKind::MemorySegESI => source(4, Gpr::Rsi),
        OpKind::MemorySegRSI => source(8, Gpr::Rsi),
        OpKind::MemorySegDI => source(2, Gpr::Rdi),
        OpKind::MemorySegEDI => source(4, Gpr::Rdi),
        OpKind::MemorySegRDI => source(8, Gpr::Rdi),
        OpKind::MemoryESDI => target(2),
        OpKind::MemoryESEDI => target(4),
        OpKind::MemoryESRDI => target(8),
        _ => None,
    }
}

/// Base, index, scale and displacement of a ModRM operand or a `moffs` (APM vol. 3, 1.4).
fn effective(cpu: &impl GuestCpu, instruction: &Instruction, popped: u64) -> Option<Address> {
    let segment = named_segment(instruction)?;
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let size = address_size(instruction);
    let mut offset = instruction.memory_displacement64();
    // For a RIP-relative operand the decoder has already added RIP.
    if let Some(part) = GprPart::of(base) {
        offset = offset.wrapping_add(part.read(cpu));
        if part.register == Gpr::Rsp {
            offset = offset.wrapping_add(popped);
        }
    }
    if let Some(part) = GprPart::of(index) {
        offset = offset.wrapping_add(part.read(cpu).wrapping_mul(u64::from(instruction.memory_index_scale())));
    } else if index != Register::None {
        // A vector of indices: gather and scatter.
        return None;
    }
    Some(Address { segment, offset: offset & mask(size), size })
}

fn address_size(instruction: &Instruction) -> u8 {
    let of_register = |register: Register| match register {
        Register::RIP => 8,
        Register::EIP => 4,
        register if register.is_gpr() => register.size() as u8,
        _ => 0,
    };
    let by_registers = of_register(instruction.memory_base()).max(of_register(instruction.memory_index()));
    match (by_registers, instruction.memory_displ_size(), instruction.code_size()) {
        (size @ 1.., _, _) => size,
        (_, size @ 2..=8, _) => size as u8,
        (_, _, IcedCodeSize::Code16) => 2,
        (_, _, IcedCodeSize::Code32) => 4,
        _ => 8,
    }
}

/// A memory operand, translated: all rights are checked, nothing has been accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) linear: u64,
    pub(super) length: u8,
    pub(super) intent: Intent,
    /// Bytes on the first page.
    split: u8,
    first: Part,
    second: Part,
}

/// Where a span lies on one of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Part {
    gpa: Gpa,
    mmio: bool,
}

/// What the next access of a span covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// Memory.
    Ram { gpa: Gpa, length: usize },
    /// A device: 1, 2, 4 or 8 bytes, naturally aligned.
    Mmio { gpa: Gpa, width: usize },
}

impl Span {
    /// Checks and translates `length` bytes at `address`.
    pub(super) fn place(
        cpu: &impl GuestCpu,
        context: &Context,
        env: &impl Env,
        address: Address,
        length: u8,
        intent: Intent,
    ) -> Result<Self> {
        let linear = segment::linear(cpu, context, address.segment, address.offset, u64::from(length), intent)?;
        // Processors look at the alignment before they translate.
        check_alignment(context, linear, length)?;
        let translate = |linear| {
            let gpa = walk::translate(env.memory(), &context.system, linear, intent, Privilege::Current)?;
            Ok(Part { gpa, mmio: env.is_mmio(gpa) })
        };
        let in_page = PAGE_SIZE - (linear & (PAGE_SIZE - 1));
        let first = translate(linear)?;
        let (split, second) = if in_page < u64::from(length) {
            let next = linear.wrapping_add(in_page);
            (in_page as u8, translate(if context.is_64bit() { next } else { next & 0xffff_ffff })?)
        } else {
            (length, first)
        };
        Ok(Self { linear, length, intent, split, first, second })
    }

    /// The same operand `step` bytes on, if that lies on the same page whole, so that the translation still holds.
    pub(super) fn advanced(&self, linear: u64) -> Option<Self> {
        let same_page = (linear ^ self.linear) & !(PAGE_SIZE - 1) == 0;
        let whole = (linear & (PAGE_SIZE - 1)) + u64::from(self.length) <= PAGE_SIZE;
        if !same_page || !whole || self.split != self.length {
            return None;
        }
        let gpa = Gpa(self.first.gpa.page().0 | linear & (PAGE_SIZE - 1));
        let part = Part { gpa, ..self.first };
        Some(Self { linear, first: part, second: part, ..*self })
    }

    /// Whether any byte lies on a device.
    pub(super) fn touches_mmio(&self) -> bool {
        self.first.mmio || self.second.mmio
    }

    /// Whether a byte lies on the page of `gpa`.
    pub(super) fn touches(&self, gpa: Gpa) -> bool {
        [self.first, self.second].iter().any(|part| part.gpa.page() == gpa.page())
    }

    /// Where the span lies if an atomic access can cover it: in memory, aligned, of a size that exists.
    pub(super) fn atomic(&self) -> Option<Gpa> {
        let length = u64::from(self.length);
        let fits = matches!(length, 1 | 2 | 4 | 8 | 16) && self.first.gpa.0.is_multiple_of(length.max(1));
        (fits && !self.touches_mmio() && self.split == self.length).then_some(self.first.gpa)
    }

    /// What to access after `done` bytes; `None` at the end.
    pub(super) fn piece(&self, done: u8) -> Option<Piece> {
        let left = self.length.checked_sub(done).filter(|left| *left > 0)?;
        let (part, offset, left) = match self.split.checked_sub(done) {
            Some(in_first @ 1..) => (self.first, done, in_first.min(left)),
            _ => (self.second, done.saturating_sub(self.split), left),
        };
        let gpa = Gpa(part.gpa.0.wrapping_add(u64::from(offset)));
        if !part.mmio {
            return Some(Piece::Ram { gpa, length: usize::from(left) });
        }
        let aligned = 1_usize << gpa.0.trailing_zeros().min(3);
        let width = aligned.min(1 << usize::from(left).ilog2());
        Some(Piece::Mmio { gpa, width })
    }
}

/// #AC, where the guest asked for it (APM vol. 2, 8.2.18).
fn check_alignment(context: &Context, linear: u64, length: u8) -> Result<()> {
    let wanted = context.is_user() && context.system.cr0 & cr0::AM != 0 && context.system.rflags & rflags::AC != 0;
    // A 32-byte operand counts as two of 16.
    let natural = matches!(length, 2 | 4 | 8 | 16 | 32);
    if wanted && natural && linear & u64::from(length.min(16) - 1) != 0 {
        return Err(Stop::Fault(Exception::ALIGNMENT));
    }
    Ok(())
}
