// SPDX-License-Identifier: MIT OR Apache-2.0
//! One instruction as a value that goes forward step by step, so that a device may answer later.
//!
//! Load, execute, store, retire. All addresses are checked and translated before the first access, so that a fault
//! leaves devices and memory untouched. A repeated string instruction goes round once for each element.
//!
//! Hostile party: the guest chose the instruction and everything that it works on, and its other processors write the
//! same memory meanwhile. Every loop here has a bound.

use platform::{Gpa, GuestCpu, GuestMemory, MemoryFault, Slip};

use super::bits::rflags::TF;
use super::context::Context;
use super::decode::{Decoded, Operation};
use super::effects::{Effects, Inputs};
use super::operand::{Bytes, Piece, Span};
use super::place::{Place, Places, Placing};
use super::stop::{self, Result, Stop};
use super::string;
use super::walk::Intent;
use crate::{DeviceRequest, Env, Operation as DeviceOperation, Outcome, Target};

/// Elements of a repeated string instruction in one exit; an interrupt waits for no more.
const MAX_ELEMENTS: u16 = 1024;
/// Attempts of an atomic access to memory that other processors keep changing.
const MAX_EXCHANGES: u8 = 16;

/// What a step came to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A device has to answer this before the next step.
    Request(DeviceRequest),
    /// The instruction is over.
    Finished(Outcome),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Loading operand 0 or 1.
    Load(usize),
    Execute,
    Store,
    Retire,
}

/// An instruction under way. Plain data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    pub(super) decoded: Decoded,
    operation: Operation,
    places: Places,
    loaded: [Bytes; 2],
    effects: Effects,
    stage: Stage,
    /// Bytes of the present operand that are through, and those of the request under way.
    done: u8,
    asked: u8,
    elements: u16,
    exchanges: u8,
    /// A repetition of no elements.
    empty: bool,
}

impl Machine {
    /// Places the operands of an instruction: every check of addresses and rights, and no access.
    pub(super) fn begin(
        decoded: Decoded,
        operation: Operation,
        cpu: &impl GuestCpu,
        context: &Context,
        env: &impl Env,
    ) -> Result<Self> {
        let mut machine = Self {
            decoded,
            operation,
            places: Places::default(),
            loaded: [Bytes::default(); 2],
            effects: Effects::default(),
            stage: Stage::Load(0),
            done: 0,
            asked: 0,
            elements: MAX_ELEMENTS,
            exchanges: MAX_EXCHANGES,
            empty: false,
        };
        if matches!(operation, Operation::String(_)) && string::is_exhausted(cpu, &decoded.instruction) {
            machine.empty = true;
            machine.stage = Stage::Retire;
        } else {
            machine.places = Placing { cpu, context, env, decoded: &machine.decoded }.of(operation)?;
        }
        Ok(machine)
    }

    /// Whether the instruction can have caused `fault`.
    pub(super) fn agrees(&self, fault: &MemoryFault) -> bool {
        let fits = |span: &Span| {
            let direction = match fault.access {
                platform::Access::Write => span.intent == Intent::Write,
                // The load of a read-modify-write may be reported as a read.
                platform::Access::Read => true,
                platform::Access::Fetch => false,
            };
            let gpa = fault.gpa.is_none_or(|gpa| fault.table_walk || span.touches(gpa));
            let page = !(platform::PAGE_SIZE - 1);
            let last = span.linear.wrapping_add(u64::from(span.length.max(1) - 1));
            let gva = fault.gva.is_none_or(|gva| [span.linear, last].iter().any(|at| (at ^ gva.0) & page == 0));
            direction && gpa && gva
        };
        self.empty || self.operation == Operation::Prefetch || self.places.spans().any(fits)
    }

    /// Whether an operand is on a device.
    pub(super) fn touches_mmio(&self) -> bool {
        self.places.spans().any(Span::touches_mmio)
    }

    /// Goes on until a device is needed or the instruction is over. `reply` answers the last request.
    pub(super) fn step(
        &mut self,
        mut reply: Option<u64>,
        cpu: &mut impl GuestCpu,
        context: &Context,
        env: &mut impl Env,
    ) -> Result<Step> {
        // Each turn finishes a piece, a stage or an element, and all of these are bounded.
        loop {
            if let Some(value) = reply.take() {
                self.take(value);
            }
            let request = match self.stage {
                Stage::Load(index) => self.load(index, env)?,
                Stage::Execute => {
                    let inputs = Inputs { cpu, context, decoded: &self.decoded, loaded: &self.loaded };
                    self.effects = inputs.execute(self.operation, env.memory())?;
                    self.enter(Stage::Store);
                    if Slip::EarlyRegisters.is_planted() {
                        self.effects.apply(cpu);
                    }
                    None
                }
                Stage::Store => self.store(env)?,
                Stage::Retire => match self.retire(cpu, context, env)? {
                    Some(outcome) => return Ok(Step::Finished(outcome)),
                    None => None,
                },
            };
            if let Some(request) = request {
                return Ok(Step::Request(request));
            }
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.done = 0;
        self.asked = 0;
    }

    /// Takes a device's answer to the last request.
    fn take(&mut self, value: u64) {
        if let Stage::Load(index) = self.stage
            && let Some(bytes) = self.loaded.get_mut(index)
        {
            bytes.put(usize::from(self.done), usize::from(self.asked), value);
        }
        self.done = self.done.saturating_add(self.asked);
        self.asked = 0;
    }

    fn load(&mut self, index: usize, env: &impl Env) -> Result<Option<DeviceRequest>> {
        let place = self.places.loads.get(index).copied().flatten();
        let Some((piece, bytes)) = place.and_then(|place| self.next_piece(place)).zip(self.loaded.get_mut(index))
        else {
            self.enter(if index == 0 { Stage::Load(1) } else { Stage::Execute });
            return Ok(None);
        };
        if let Next::Ram { gpa, length } = piece {
            let part = bytes.part_mut(usize::from(self.done), length);
            if stop::operand(gpa, |view| env.memory().copy_in(gpa, view, part))?.is_none() {
                // A page that just ceased to be memory reads as absent hardware.
                part.fill(0xff);
            }
            self.done = self.done.saturating_add(length as u8);
            return Ok(None);
        }
        Ok(self.ask(piece, None))
    }

    fn store(&mut self, env: &impl Env) -> Result<Option<DeviceRequest>> {
        if let Some(gpa) = self.atomic() {
            self.exchange(gpa, env)?;
            return Ok(None);
        }
        let Some(piece) = self.places.store.and_then(|place| self.next_piece(place)) else {
            self.enter(Stage::Retire);
            return Ok(None);
        };
        if let Next::Ram { gpa, length } = piece {
            let spilled = usize::from(length == 2 && Slip::Spill.is_planted());
            let part = self.effects.stored.part(usize::from(self.done), length + spilled);
            // A page that just ceased to be memory ignores writes, as absent hardware does.
            stop::operand(gpa, |view| env.memory().copy_out(gpa, view, part))?;
            self.done = self.done.saturating_add(length as u8);
            return Ok(None);
        }
        Ok(self.ask(piece, Some(self.effects.stored)))
    }

    fn next_piece(&self, place: Place) -> Option<Next> {
        match place {
            Place::Memory(span) => Some(match span.piece(self.done)? {
                Piece::Ram { gpa, length } => Next::Ram { gpa, length },
                Piece::Mmio { gpa, width } => Next::Device { target: Target::Mmio(gpa), width: width as u8 },
            }),
            Place::Port { port, width } if self.done == 0 => Some(Next::Device { target: Target::Port(port), width }),
            Place::Port { .. } => None,
        }
    }

    fn ask(&mut self, piece: Next, stored: Option<Bytes>) -> Option<DeviceRequest> {
        let Next::Device { target, width } = piece else { return None };
        self.asked = width;
        let operation = match stored {
            Some(bytes) => DeviceOperation::Write(bytes.get(usize::from(self.done), usize::from(width))),
            None => DeviceOperation::Read,
        };
        let (width, operation) = match operation {
            DeviceOperation::Write(value) if width == 8 && Slip::Order.is_planted() => {
                (width, DeviceOperation::Write(value.rotate_left(32)))
            }
            DeviceOperation::Write(_) if width == 4 && Slip::Width.is_planted() => (8, operation),
            _ => (width, operation),
        };
        Some(DeviceRequest { target, width, operation })
    }

    /// Where to store in one atomic exchange, if the instruction is locked and its operand allows it. On a device, or if
    /// misaligned, a locked access is a read and a write.
    fn atomic(&self) -> Option<Gpa> {
        let locked = self.decoded.instruction.has_lock_prefix() || self.operation == Operation::Exchange;
        match (self.places.loads, self.places.store) {
            ([Some(load), _], Some(Place::Memory(span))) if locked && load == Place::Memory(span) => span.atomic(),
            _ => None,
        }
    }

    fn exchange(&mut self, gpa: Gpa, env: &impl Env) -> Result<()> {
        let [loaded, _] = &mut self.loaded;
        let width = match self.places.store {
            Some(Place::Memory(span)) => usize::from(span.length),
            _ => return Ok(()),
        };
        let expected = loaded.low_wide();
        let new = self.effects.stored.low_wide() & wide_mask(width);
        let found = stop::operand(gpa, |view| env.memory().compare_exchange(gpa, view, width, expected, new))?;
        let found = found.unwrap_or(expected);
        if found == expected {
            self.enter(Stage::Retire);
            return Ok(());
        }
        self.exchanges = self.exchanges.checked_sub(1).ok_or(Stop::Retry)?;
        *loaded = Bytes::wide(found);
        self.enter(Stage::Execute);
        Ok(())
    }

    /// Writes registers, and starts the next element of a repetition.
    fn retire(&mut self, cpu: &mut impl GuestCpu, context: &Context, env: &impl Env) -> Result<Option<Outcome>> {
        let complete = Some(Outcome::Complete(self.effects.branch.unwrap_or(self.decoded.next_rip)));
        if self.empty {
            return Ok(complete);
        }
        self.effects.apply(cpu);
        let Operation::String(element) = self.operation else { return Ok(complete) };
        if string::advance(cpu, &self.decoded.instruction, element) {
            return Ok(complete);
        }
        if cpu.rflags() & TF != 0 {
            // Each element is a step: the trap comes with RIP still at the instruction.
            return Ok(Some(Outcome::Complete(context.truncate_rip(cpu.rip()))));
        }
        self.elements = self.elements.saturating_sub(1);
        if self.elements == 0 {
            return Ok(Some(Outcome::Resume));
        }
        let placing = Placing { cpu, context, env, decoded: &self.decoded };
        self.places = placing.next(&self.places, element)?;
        let on_device = |place: &Place| match place {
            Place::Memory(span) => span.touches_mmio(),
            Place::Port { .. } => true,
        };
        if !self.places.all().any(on_device) {
            // The processor itself does the rest faster.
            return Ok(Some(Outcome::Resume));
        }
        self.enter(Stage::Load(0));
        Ok(None)
    }
}

/// The next access of an operand.
#[derive(Clone, Copy, Debug)]
enum Next {
    Ram { gpa: Gpa, length: usize },
    Device { target: Target, width: u8 },
}

const fn wide_mask(width: usize) -> u128 {
    if width >= 16 { u128::MAX } else { (1 << (8 * width)) - 1 }
}
