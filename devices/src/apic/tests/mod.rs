// SPDX-License-Identifier: MIT OR Apache-2.0
//! Register-level tests of the interrupt controllers: what hypervisor test suites check, and what the manuals say.

mod fabric;
mod ioapic;
mod lapic;
mod lines;
mod model;
mod modes;
mod timer;

use crate::apic::{ApicPort, Effect, Fabric, IoApic, Lapic, Signals};
use core::cell::{Cell, RefCell};
use platform::{Clock, Instant, Waker};
use vmm_interface::InterruptMessage;

// Offsets in the xAPIC page.
const ID: u16 = 0x20;
const VERSION: u16 = 0x30;
const TPR: u16 = 0x80;
const APR: u16 = 0x90;
const PPR: u16 = 0xa0;
const EOI: u16 = 0xb0;
const LDR: u16 = 0xd0;
const DFR: u16 = 0xe0;
const SVR: u16 = 0xf0;
const ISR: u16 = 0x100;
const TMR: u16 = 0x180;
const IRR: u16 = 0x200;
const ESR: u16 = 0x280;
const ICR: u16 = 0x300;
const ICR_HIGH: u16 = 0x310;
const LVT_TIMER: u16 = 0x320;
const LVT_THERMAL: u16 = 0x330;
const LVT_PERFORMANCE: u16 = 0x340;
const LVT_LINT0: u16 = 0x350;
const LVT_LINT1: u16 = 0x360;
const LVT_ERROR: u16 = 0x370;
const INITIAL: u16 = 0x380;
const CURRENT: u16 = 0x390;
const DIVIDE: u16 = 0x3e0;

const MASKED: u32 = 1 << 16;
const BASE: u64 = 0xfee0_0000;
const ENABLED: u64 = 1 << 11;
const EXTENDED: u64 = 1 << 10;

/// A clock that the test sets. The time-stamp counter runs at 2 GHz and started at 1000.
#[derive(Default)]
struct FakeClock(Cell<u64>);

impl FakeClock {
    fn advance(&self, nanos: u64) {
        self.0.set(self.0.get() + nanos);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Instant {
        Instant(self.0.get())
    }
    fn guest_tsc(&self) -> u64 {
        1000 + 2 * self.0.get()
    }
    fn tsc_hz(&self) -> u64 {
        2_000_000_000
    }
    fn instant_of_tsc(&self, tsc: u64) -> Instant {
        Instant(tsc.saturating_sub(1000).div_ceil(2))
    }
}

#[derive(Default)]
struct Kicks(RefCell<Vec<u32>>);

impl Waker for Kicks {
    fn kick(&self, index: u32) {
        self.0.borrow_mut().push(index);
    }
}

/// One local APIC, enabled by software, with its port and a clock.
struct Bench {
    lapic: Lapic,
    clock: FakeClock,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self::after_power_up();
        bench.write(SVR, 0x1ff);
        bench
    }

    fn after_power_up() -> Self {
        Self { lapic: Lapic::new(0, true), clock: FakeClock::default() }
    }

    fn x2apic() -> Self {
        let mut bench = Self::new();
        bench.lapic.set_base_msr(BASE | ENABLED | EXTENDED).unwrap();
        bench
    }

    fn read(&mut self, offset: u16) -> u32 {
        self.lapic.mmio_read(offset, 4, &self.clock) as u32
    }

    fn effect(&mut self, offset: u16, value: u32) -> Effect {
        self.lapic.mmio_write(offset, 4, value.into(), &self.clock)
    }

    fn write(&mut self, offset: u16, value: u32) {
        assert_eq!(self.effect(offset, value), Effect::None, "write of {value:#x} to {offset:#x}");
    }

    fn rdmsr(&mut self, index: u32) -> Option<u64> {
        self.lapic.msr_read(index, &self.clock)
    }

    fn wrmsr(&mut self, index: u32, value: u64) -> Option<Effect> {
        self.lapic.msr_write(index, value, &self.clock)
    }

    fn self_ipi(&mut self, vector: u8) {
        self.write(ICR, 0x4_0000 | u32::from(vector));
    }

    /// Takes the next interrupt, as the run loop does.
    fn take(&mut self) -> Option<u8> {
        let vector = self.lapic.pending()?;
        assert_eq!(self.lapic.acknowledge(vector), vector);
        Some(vector)
    }

    /// Errors since the last look.
    fn errors(&mut self) -> u32 {
        self.write(ESR, 0);
        self.read(ESR)
    }

    fn run(&mut self, nanos: u64) {
        self.clock.advance(nanos);
        self.lapic.expire(&self.clock);
    }
}

/// Several processors, their fabric and an IOAPIC.
struct Board {
    lapics: Vec<Lapic>,
    fabric: Fabric,
    ioapic: IoApic,
    clock: FakeClock,
    kicks: Kicks,
}

impl Board {
    /// Enabled by software, xAPIC mode, flat model, LDR of processor n is bit n.
    fn new(processors: u32) -> Self {
        let mut board = Self::after_power_up(processors);
        for index in 0..processors {
            assert_eq!(board.write(index, SVR, 0x1ff), 0);
            assert_eq!(board.write(index, LDR, 1u32.checked_shl(24 + index).unwrap_or(0)), 0);
        }
        board
    }

    fn after_power_up(processors: u32) -> Self {
        Self {
            lapics: (0..processors).map(|id| Lapic::new(id, id == 0)).collect(),
            fabric: Fabric::new(processors).unwrap(),
            ioapic: IoApic::new(0),
            clock: FakeClock::default(),
            kicks: Kicks::default(),
        }
    }

    fn x2apic(processors: u32) -> Self {
        let mut board = Self::new(processors);
        for index in 0..processors {
            let lapic = &mut board.lapics[index as usize];
            let base = lapic.base_msr();
            lapic.set_base_msr(base | EXTENDED).unwrap();
            lapic.publish(board.fabric.port(index).unwrap());
        }
        board
    }

    fn port(&self, index: u32) -> &ApicPort {
        self.fabric.port(index).unwrap()
    }

    /// Carries out a register write to the end; returns how many processors took the message that came of it.
    fn write(&mut self, index: u32, offset: u16, value: u32) -> u32 {
        let effect = self.lapics[index as usize].mmio_write(offset, 4, value.into(), &self.clock);
        self.carry_out(index, effect)
    }

    fn wrmsr(&mut self, index: u32, msr: u32, value: u64) -> u32 {
        let effect = self.lapics[index as usize].msr_write(msr, value, &self.clock).expect("#GP");
        self.carry_out(index, effect)
    }

    fn carry_out(&mut self, index: u32, effect: Effect) -> u32 {
        self.lapics[index as usize].publish(self.fabric.port(index).unwrap());
        match effect {
            Effect::None => 0,
            Effect::Send(message) => self.fabric.deliver(Some(index), &message, &self.kicks),
            Effect::EndOfInterrupt(vector) => {
                let messages: Vec<_> = self.ioapic.end_of_interrupt(vector).collect();
                messages.iter().map(|message| self.fabric.deliver(None, message, &self.kicks)).sum()
            }
        }
    }

    fn deliver(&self, message: Option<InterruptMessage>) -> u32 {
        message.map_or(0, |message| self.fabric.deliver(None, &message, &self.kicks))
    }

    fn line(&mut self, pin: u8, asserted: bool) -> u32 {
        let message = self.ioapic.set_line(pin, asserted);
        self.deliver(message)
    }

    fn redirect(&mut self, pin: u8, entry: u64) -> u32 {
        let mut taken = 0;
        for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
            assert_eq!(self.ioapic.write(0, 4, u64::from(0x10 + 2 * pin + half)), None);
            let message = self.ioapic.write(0x10, 4, value);
            taken += self.deliver(message);
        }
        taken
    }

    fn entry(&mut self, pin: u8) -> u64 {
        let half = |ioapic: &mut IoApic, half| {
            ioapic.write(0, 4, u64::from(0x10 + 2 * pin + half));
            ioapic.read(0x10, 4)
        };
        half(&mut self.ioapic, 0) | half(&mut self.ioapic, 1) << 32
    }

    fn absorb(&mut self, index: u32) -> Signals {
        self.lapics[index as usize].absorb(self.fabric.port(index).unwrap())
    }

    /// The vector that processor `index` takes next.
    fn take(&mut self, index: u32) -> Option<u8> {
        assert_eq!(self.absorb(index), Signals::NONE);
        let lapic = &mut self.lapics[index as usize];
        let vector = lapic.pending()?;
        assert_eq!(lapic.acknowledge(vector), vector);
        Some(vector)
    }

    /// Which processors have `vector` pending; they take it and end it.
    fn receivers(&mut self, vector: u8) -> Vec<u32> {
        let mut receivers = Vec::new();
        for index in 0..self.fabric.processors() {
            if self.take(index) == Some(vector) {
                receivers.push(index);
                self.end(index);
            }
        }
        receivers
    }

    fn end(&mut self, index: u32) -> u32 {
        if self.lapics[index as usize].mode() == crate::apic::Mode::X2Apic {
            self.wrmsr(index, 0x80b, 0)
        } else {
            self.write(index, EOI, 0)
        }
    }

    /// An IPI in xAPIC mode: `command` is the ICR's low half, `destination` its top byte.
    fn ipi(&mut self, from: u32, destination: u32, command: u32) -> u32 {
        assert_eq!(self.write(from, ICR_HIGH, destination << 24), 0);
        self.write(from, ICR, command)
    }

    fn kicked(&self) -> Vec<u32> {
        self.kicks.0.take()
    }
}
