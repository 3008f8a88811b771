// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an instruction changes, computed from its operands before anything is changed.
//!
//! Registers and flags wait in [`Effects`] until the store has succeeded, so that a fault leaves no trace.

use iced_x86::{Instruction, OpKind};
use platform::{
    Control, DescriptorTable, Exception, Gpr, GuestCpu, GuestMemory, Segment, SegmentRegister, TableRegister,
};

use super::alu::Binary;
use super::bits::rflags::ZF;
use super::context::Context;
use super::decode::{Decoded, Operation};
use super::flags::{self, when};
use super::muldiv;
use super::operand::{Bytes, GprPart, mask, segment_register, sign_extend};
use super::segment;
use super::stack;
use super::stop::{Result, Stop};
use super::string::Element;
use super::vector::VectorWrite;

/// A change of state other than general-purpose registers and flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Vector(VectorWrite),
    Table(TableRegister, DescriptorTable),
    Segment(SegmentRegister, Segment),
    /// A far branch: the new code segment, and where in it the guest goes on.
    Jump(Segment, u64),
    Mmx(u8, u64),
    /// CR0, of which LMSW changes the low four bits.
    Status(u64),
}

impl Change {
    fn apply(&self, cpu: &mut impl GuestCpu) {
        match *self {
            Self::Vector(write) => write.apply(cpu),
            Self::Table(register, table) => cpu.set_descriptor_table(register, table),
            Self::Segment(register, segment) => {
                cpu.set_segment(register, segment);
                if register == SegmentRegister::Ss {
                    cpu.begin_shadow();
                }
            }
            Self::Jump(code, _) => cpu.set_segment(SegmentRegister::Cs, code),
            Self::Mmx(number, value) => cpu.set_mmx(number, value),
            Self::Status(cr0) => cpu.set_control(Control::Cr0, cr0),
        }
    }
}

/// The changes that an instruction makes when it retires.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effects {
    /// Whole registers, in the order in which they are written.
    registers: [Option<(Gpr, u64)>; 2],
    rflags: Option<u64>,
    change: Option<Change>,
    /// What goes to the store operand.
    pub(super) stored: Bytes,
    /// Where the guest goes on, if not after the instruction.
    pub(super) branch: Option<u64>,
}

impl Effects {
    fn storing(stored: Bytes) -> Self {
        Self { stored, ..Self::default() }
    }

    fn changing(change: Option<Change>) -> Self {
        Self { change, ..Self::default() }
    }

    fn set(&mut self, register: Gpr, whole: u64) {
        if let Some(slot) = self.registers.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some((register, whole));
        }
    }

    fn set_part(&mut self, cpu: &impl GuestCpu, part: GprPart, value: u64) {
        self.set(part.register, part.merge(cpu, value));
    }

    /// Writes registers and flags.
    pub(super) fn apply(&self, cpu: &mut impl GuestCpu) {
        for (register, value) in self.registers.iter().flatten() {
            cpu.set_gpr(*register, *value);
        }
        if let Some(value) = self.rflags {
            cpu.set_rflags(value);
        }
        if let Some(change) = self.change {
            change.apply(cpu);
        }
    }
}

/// An instruction with everything that it reads.
pub(super) struct Inputs<'a, C> {
    pub(super) cpu: &'a C,
    pub(super) context: &'a Context,
    pub(super) decoded: &'a Decoded,
    /// What the memory operands held.
    pub(super) loaded: &'a [Bytes; 2],
}

impl<C: GuestCpu> Inputs<'_, C> {
    fn instruction(&self) -> &Instruction {
        &self.decoded.instruction
    }

    /// Bytes of operand `index`.
    fn size(&self, index: u32) -> u8 {
        match self.instruction().op_kind(index) {
            OpKind::Register => self.instruction().op_register(index).size() as u8,
            _ => self.instruction().memory_size().size() as u8,
        }
    }

    /// The value of operand `index`, zero-extended; immediates are extended as the instruction says.
    fn value(&self, index: u32) -> u64 {
        match self.instruction().op_kind(index) {
            OpKind::Register => {
                let register = self.instruction().op_register(index);
                match (GprPart::of(register), segment_register(register)) {
                    (Some(part), _) => part.read(self.cpu),
                    (_, Some(segment)) => u64::from(self.cpu.segment(segment).selector),
                    _ => 0,
                }
            }
            OpKind::Memory => self.first().low() & mask(self.size(index)),
            _ => self.instruction().try_immediate(index).unwrap_or(0),
        }
    }

    fn first(&self) -> &Bytes {
        let [first, _] = self.loaded;
        first
    }

    fn accumulator(&self, size: u8) -> u64 {
        GprPart::low(Gpr::Rax, size).read(self.cpu)
    }

    /// Gives operand `index` a new value.
    fn deliver(&self, effects: &mut Effects, index: u32, value: u64) {
        match self.instruction().op_kind(index) {
            OpKind::Register => {
                if let Some(part) = GprPart::of(self.instruction().op_register(index)) {
                    effects.set_part(self.cpu, part, value);
                }
            }
            _ => effects.stored = Bytes::of(value),
        }
    }

    /// A new value for the first operand, and new flags.
    fn result(&self, (value, rflags): (u64, u64)) -> Effects {
        let mut effects = Effects { rflags: Some(rflags), ..Effects::default() };
        self.deliver(&mut effects, 0, value);
        effects
    }

    /// A new value for the first operand; the flags stay.
    fn moved(&self, value: u64) -> Effects {
        let mut effects = Effects::default();
        self.deliver(&mut effects, 0, value);
        effects
    }

    /// Executes `operation`. Descriptors are read from `memory`.
    pub(super) fn execute(&self, operation: Operation, memory: &impl GuestMemory) -> Result<Effects> {
        let rflags = self.cpu.rflags();
        let size = self.size(0);
        Ok(match operation {
            Operation::Move => self.moved(self.value(1)),
            Operation::MoveSigned => self.moved(sign_extend(self.value(1), self.size(1))),
            Operation::MoveSwapped => self.moved(self.value(1).swap_bytes() >> (64 - 8 * u32::from(size.clamp(1, 8)))),
            Operation::MoveIf => {
                let holds = flags::holds(self.instruction().condition_code(), rflags);
                self.moved(self.value(u32::from(holds)))
            }
            Operation::Set => self.moved(u64::from(flags::holds(self.instruction().condition_code(), rflags))),
            Operation::Binary(binary) => {
                let (value, rflags) = binary.apply(size, self.value(0), self.value(1), rflags);
                if binary.writes() {
                    self.result((value, rflags))
                } else {
                    Effects { rflags: Some(rflags), ..Effects::default() }
                }
            }
            Operation::Unary(unary) => self.result(unary.apply(size, self.value(0), rflags)),
            Operation::Exchange => {
                let mut effects = self.moved(self.value(1));
                self.deliver(&mut effects, 1, self.value(0));
                effects
            }
            Operation::ExchangeAdd => {
                let mut effects = self.result(Binary::Add.apply(size, self.value(0), self.value(1), rflags));
                self.deliver(&mut effects, 1, self.value(0));
                effects
            }
            Operation::CompareExchange => self.compare_exchange(size, rflags),
            Operation::CompareExchangeWide => self.compare_exchange_wide(size, rflags),
            Operation::Shift(shift) => self.result(shift.apply(size, self.value(0), self.count(1), rflags)),
            Operation::DoubleShift(side) => {
                self.result(side.apply(size, self.value(0), self.value(1), self.count(2), rflags))
            }
            Operation::Bit(bit) => self.result(bit.apply(size, self.value(0), self.value(1), rflags)),
            Operation::Scan(scan) => {
                let (found, rflags) = scan.apply(size, self.value(1), rflags);
                let mut effects = Effects { rflags: Some(rflags), ..Effects::default() };
                if let Some(index) = found {
                    self.deliver(&mut effects, 0, index);
                }
                effects
            }
            Operation::Multiply { signed } => self.multiply(size, signed, rflags),
            Operation::MultiplyInto => {
                let (left, right) = if self.instruction().op_count() == 2 { (0, 1) } else { (1, 2) };
                let (low, _, rflags) = muldiv::multiply(size, true, self.value(left), self.value(right), rflags);
                self.result((low, rflags))
            }
            Operation::Divide { signed } => self.divide(size, signed)?,
            Operation::String(element) => self.element(element, rflags),
            Operation::Push => self.push(self.value(0)),
            Operation::Pop => self.pop(),
            Operation::Call => {
                let mut effects = self.push(self.decoded.next_rip);
                effects.branch = Some(self.target(size)?);
                effects
            }
            Operation::CallDirect => {
                let mut effects = self.push(self.decoded.next_rip);
                let rip = self.instruction().near_branch_target();
                segment::check_branch(self.context, rip)?;
                effects.branch = Some(rip);
                effects
            }
            Operation::Return => self.return_near()?,
            Operation::Enter => self.enter(),
            Operation::Leave => self.leave(),
            Operation::Jump => Effects { branch: Some(self.target(size)?), ..Effects::default() },
            Operation::Touch | Operation::Prefetch => Effects::default(),
            Operation::Vector(it) if it.stores() => Effects::storing(it.stored(self.cpu, self.instruction())),
            Operation::Vector(it) => {
                let write = it.loaded(self.cpu, self.instruction(), self.first());
                Effects::changing(write.map(Change::Vector))
            }
            Operation::Mmx(it) if it.stores => Effects::storing(it.stored(self.cpu)?),
            Operation::Mmx(it) => Effects::changing(Some(Change::Mmx(it.register, self.value(1)))),
            Operation::System(it) if it.stores() => Effects::storing(it.stored(self.cpu, self.context)),
            Operation::System(it) => {
                let in_register = self.instruction().op0_kind() == OpKind::Register && it.takes_register();
                let operand = if in_register { Bytes::of(self.value(0)) } else { *self.first() };
                let change = it.loaded(self.cpu, self.context, memory, self.instruction(), &operand)?;
                let branch = if let Change::Jump(_, rip) = change { Some(rip) } else { None };
                Effects { branch, ..Effects::changing(Some(change)) }
            }
        })
    }

    /// A shift count; the forms that shift by one may leave it out.
    fn count(&self, index: u32) -> u64 {
        if index < self.instruction().op_count() { self.value(index) } else { 1 }
    }

    /// The destination is written in either case, as processors do.
    fn compare_exchange(&self, size: u8, rflags: u64) -> Effects {
        let found = self.value(0);
        let (_, rflags) = Binary::Cmp.apply(size, self.accumulator(size), found, rflags);
        if rflags & ZF != 0 {
            self.result((self.value(1), rflags))
        } else {
            let mut effects = self.result((found, rflags));
            effects.set_part(self.cpu, GprPart::low(Gpr::Rax, size), found);
            effects
        }
    }

    fn compare_exchange_wide(&self, size: u8, rflags: u64) -> Effects {
        let half = size / 2;
        let bits = 8 * u32::from(half);
        let pair = |high, low| {
            let [high, low] = [high, low].map(|register| u128::from(GprPart::low(register, half).read(self.cpu)));
            high << bits | low
        };
        let found = self.first().low_wide() & if half == 4 { u128::from(u64::MAX) } else { u128::MAX };
        let equal = found == pair(Gpr::Rdx, Gpr::Rax);
        let mut effects = Effects { rflags: Some(rflags & !ZF | when(equal, ZF)), ..Effects::default() };
        if equal {
            effects.stored = Bytes::wide(pair(Gpr::Rcx, Gpr::Rbx));
        } else {
            effects.stored = Bytes::wide(found);
            effects.set_part(self.cpu, GprPart::low(Gpr::Rax, half), found as u64);
            effects.set_part(self.cpu, GprPart::low(Gpr::Rdx, half), (found >> bits) as u64);
        }
        effects
    }

    fn multiply(&self, size: u8, signed: bool, rflags: u64) -> Effects {
        let (low, high, rflags) = muldiv::multiply(size, signed, self.accumulator(size), self.value(0), rflags);
        let mut effects = Effects { rflags: Some(rflags), ..Effects::default() };
        self.deliver_pair(&mut effects, size, high, low);
        effects
    }

    fn divide(&self, size: u8, signed: bool) -> Result<Effects> {
        let high = match size {
            1 => self.accumulator(2) >> 8,
            _ => GprPart::low(Gpr::Rdx, size).read(self.cpu),
        };
        let (quotient, remainder) = muldiv::divide(size, signed, high, self.accumulator(size), self.value(0))
            .ok_or(Stop::Fault(Exception::DIVIDE))?;
        let mut effects = Effects::default();
        self.deliver_pair(&mut effects, size, remainder, quotient);
        Ok(effects)
    }

    /// AH:AL for bytes, rDX:rAX for the rest.
    fn deliver_pair(&self, effects: &mut Effects, size: u8, high: u64, low: u64) {
        if size == 1 {
            effects.set_part(self.cpu, GprPart::low(Gpr::Rax, 2), high << 8 | low & 0xff);
        } else {
            effects.set_part(self.cpu, GprPart::low(Gpr::Rax, size), low);
            effects.set_part(self.cpu, GprPart::low(Gpr::Rdx, size), high);
        }
    }

    /// What one element changes apart from count and indices.
    fn element(&self, element: Element, rflags: u64) -> Effects {
        let size = self.instruction().memory_size().size() as u8;
        let [first, second] = self.loaded;
        let mut effects = Effects::default();
        let compared = |left, right| Some(Binary::Cmp.apply(size, left, right, rflags).1);
        match element {
            Element::Movs | Element::Ins | Element::Outs => effects.stored = *first,
            Element::Stos => effects.stored = Bytes::of(self.accumulator(size)),
            Element::Lods => effects.set_part(self.cpu, GprPart::low(Gpr::Rax, size), first.low()),
            Element::Cmps => effects.rflags = compared(first.low(), second.low()),
            Element::Scas => effects.rflags = compared(self.accumulator(size), first.low()),
        }
        effects
    }

    fn push(&self, value: u64) -> Effects {
        let mut effects = Effects { stored: Bytes::of(value), ..Effects::default() };
        let pointer = stack::pointer(self.cpu, self.context);
        let size = stack::slot(self.instruction());
        effects.set_part(self.cpu, pointer, pointer.read(self.cpu).wrapping_sub(u64::from(size)));
        effects
    }

    fn pop(&self) -> Effects {
        let mut effects = Effects::default();
        let pointer = stack::pointer(self.cpu, self.context);
        let size = stack::slot(self.instruction());
        effects.set_part(self.cpu, pointer, pointer.read(self.cpu).wrapping_add(u64::from(size)));
        self.deliver(&mut effects, 0, self.first().low() & mask(size));
        effects
    }

    fn return_near(&self) -> Result<Effects> {
        let mut effects = Effects::default();
        let pointer = stack::pointer(self.cpu, self.context);
        let size = stack::slot(self.instruction());
        let rip = self.first().low() & mask(size);
        segment::check_branch(self.context, rip)?;
        let popped = u64::from(size) + u64::from(stack::released(self.instruction()));
        effects.set_part(self.cpu, pointer, pointer.read(self.cpu).wrapping_add(popped));
        effects.branch = Some(rip);
        Ok(effects)
    }

    fn enter(&self) -> Effects {
        let pointer = stack::pointer(self.cpu, self.context);
        let size = stack::slot(self.instruction());
        let base = GprPart::low(Gpr::Rbp, size);
        let frame = pointer.read(self.cpu).wrapping_sub(size.into());
        let mut effects = Effects { stored: Bytes::of(base.read(self.cpu)), ..Effects::default() };
        effects.set_part(self.cpu, base, frame);
        effects.set_part(self.cpu, pointer, frame.wrapping_sub(stack::released(self.instruction()).into()));
        effects
    }

    fn leave(&self) -> Effects {
        let pointer = stack::pointer(self.cpu, self.context);
        let size = stack::slot(self.instruction());
        let frame = GprPart::low(Gpr::Rbp, pointer.size).read(self.cpu);
        let mut effects = Effects::default();
        effects.set_part(self.cpu, pointer, frame.wrapping_add(size.into()));
        effects.set_part(self.cpu, GprPart::low(Gpr::Rbp, size), self.first().low());
        effects
    }

    /// Where a near branch through memory goes.
    fn target(&self, size: u8) -> Result<u64> {
        let rip = self.value(0) & mask(size);
        segment::check_branch(self.context, rip)?;
        Ok(rip)
    }
}
