// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the operands of an instruction are: which addresses it reads and writes, and which ports.

use platform::{Gpr, GuestCpu};

use super::bit;
use super::context::Context;
use super::decode::{self, Decoded, Operation};
use super::mmx::MmxMove;
use super::operand::{self, Address, GprPart, Span, mask};
use super::segment;
use super::stack;
use super::stop::{Result, Stop};
use super::string::{self, Element};
use super::walk::Intent;
use crate::Env;

/// Where an operand is loaded from or stored to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Memory(Span),
    Port { port: u16, width: u8 },
}

/// The places of an instruction's operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Places {
    pub(super) loads: [Option<Place>; 2],
    pub(super) store: Option<Place>,
    /// Checked, but neither loaded nor stored.
    touched: Option<Place>,
}

impl Places {
    pub(super) fn all(&self) -> impl Iterator<Item = &Place> {
        self.loads.iter().chain([&self.store, &self.touched]).flatten()
    }

    pub(super) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.all().filter_map(|place| match place {
            Place::Memory(span) => Some(span),
            Place::Port { .. } => None,
        })
    }
}

/// Finds the places of operands.
pub(super) struct Placing<'a, C, E> {
    pub(super) cpu: &'a C,
    pub(super) context: &'a Context,
    pub(super) env: &'a E,
    pub(super) decoded: &'a Decoded,
}

impl<C: GuestCpu, E: Env> Placing<'_, C, E> {
    fn span(&self, address: Address, length: u8, intent: Intent) -> Result<Option<Place>> {
        Span::place(self.cpu, self.context, self.env, address, length, intent).map(|span| Some(Place::Memory(span)))
    }

    /// The places of all operands, checked in the order in which hardware faults on them.
    pub(super) fn of(&self, operation: Operation) -> Result<Places> {
        let instruction = &self.decoded.instruction;
        match operation {
            Operation::Vector(it) => it.check(self.cpu, self.context)?,
            Operation::Mmx(_) => MmxMove::check(self.cpu, self.context)?,
            Operation::System(it) => it.check(self.context)?,
            // A prefetch of a bad address does nothing.
            Operation::Prefetch => return Ok(Places::default()),
            _ => {}
        }
        match operation {
            Operation::String(element) => self.element(element),
            // Not all of these have an operand in memory besides the stack.
            Operation::Push | Operation::Call | Operation::CallDirect | Operation::Enter => {
                let loads = self.explicit(operation, 0)?.loads;
                let size = stack::slot(instruction);
                let store = self.span(stack::pushed(self.cpu, self.context, instruction), size, Intent::Write)?;
                // ENTER does not write the new top of the stack, which must be writable all the same (APM vol. 3, ENTER).
                let touched = match operation {
                    Operation::Enter => {
                        self.span(stack::reserved(self.cpu, self.context, instruction), size, Intent::Write)?
                    }
                    _ => None,
                };
                Ok(Places { loads, store, touched })
            }
            Operation::Return | Operation::Leave | Operation::Pop => {
                let size = stack::slot(instruction);
                let slot = match operation {
                    Operation::Leave => stack::frame(self.cpu, self.context),
                    _ => stack::popped(self.cpu, self.context),
                };
                let load = self.span(slot, size, Intent::Read)?;
                Ok(Places { loads: [load, None], ..self.explicit(operation, u64::from(size))? })
            }
            _ => self.explicit(operation, 0),
        }
    }

    /// The operand that ModRM gives, if it is in memory.
    fn explicit(&self, operation: Operation, popped: u64) -> Result<Places> {
        let instruction = &self.decoded.instruction;
        let Some(index) = decode::explicit_memory(instruction) else { return Ok(Places::default()) };
        let mut address = operand::address(self.cpu, instruction, index, popped).ok_or(Stop::Unsupported)?;
        let length = u8::try_from(instruction.memory_size().size()).map_err(|_| Stop::Unsupported)?;
        if length == 0 || length > 32 {
            return Err(Stop::Unsupported);
        }
        if matches!(operation, Operation::Bit(_))
            && let Some(part) = GprPart::of(instruction.op_register(1))
        {
            let beyond = bit::displacement(length, part.read(self.cpu));
            address.offset = address.offset.wrapping_add(beyond) & mask(address.size);
        }
        let (reads, writes) = operation.accesses(index);
        let intent = if writes { Intent::Write } else { Intent::Read };
        let is_aligned = match operation {
            Operation::CompareExchangeWide => length == 16,
            Operation::Vector(it) => it.is_aligned(),
            _ => false,
        };
        if is_aligned {
            let beyond = u64::from(length);
            let linear = segment::unchecked(self.cpu, self.context, address.segment, address.offset);
            if linear & (beyond - 1) != 0 {
                return Err(Stop::GENERAL_PROTECTION);
            }
        }
        let place = self.span(address, length, intent)?;
        Ok(Places {
            loads: [place.filter(|_| reads), None],
            store: place.filter(|_| writes),
            touched: place.filter(|_| !reads && !writes),
        })
    }

    /// The operands of one element.
    fn element(&self, element: Element) -> Result<Places> {
        let instruction = &self.decoded.instruction;
        let (source, target) = string::memory_operands(instruction);
        let length = u8::try_from(instruction.memory_size().size()).map_err(|_| Stop::Unsupported)?;
        let place = |index: Option<u32>, intent| {
            let index = index.ok_or(Stop::Unsupported)?;
            let address = operand::address(self.cpu, instruction, index, 0).ok_or(Stop::Unsupported)?;
            self.span(address, length, intent)
        };
        let port = Some(Place::Port { port: self.cpu.gpr(Gpr::Rdx) as u16, width: length });
        let places = |loads, store| Ok(Places { loads, store, touched: None });
        match element {
            Element::Movs => {
                let load = place(source, Intent::Read)?;
                places([load, None], place(target, Intent::Write)?)
            }
            Element::Stos => places([None; 2], place(target, Intent::Write)?),
            Element::Lods => places([place(source, Intent::Read)?, None], None),
            Element::Cmps => {
                let first = place(source, Intent::Read)?;
                places([first, place(target, Intent::Read)?], None)
            }
            Element::Scas => places([place(target, Intent::Read)?, None], None),
            Element::Ins => places([port, None], place(target, Intent::Write)?),
            Element::Outs => places([place(source, Intent::Read)?, None], port),
        }
    }

    /// The operands of the element after `last`: translated anew only where an index leaves its page.
    pub(super) fn next(&self, last: &Places, element: Element) -> Result<Places> {
        let instruction = &self.decoded.instruction;
        let (source, target) = string::memory_operands(instruction);
        let moved = |place: Option<Place>, index: Option<u32>| -> Option<Option<Place>> {
            let Some(Place::Memory(span)) = place else { return Some(place) };
            let address = operand::address(self.cpu, instruction, index?, 0)?;
            let length = u64::from(span.length);
            let linear =
                segment::linear(self.cpu, self.context, address.segment, address.offset, length, span.intent).ok()?;
            span.advanced(linear).map(|span| Some(Place::Memory(span)))
        };
        let [first, second] = last.loads;
        let from = if element == Element::Scas { target } else { source };
        let moved = moved(first, from).zip(moved(second, target)).zip(moved(last.store, target));
        match moved {
            Some(((first, second), store)) => Ok(Places { loads: [first, second], store, touched: None }),
            None => self.element(element),
        }
    }
}
