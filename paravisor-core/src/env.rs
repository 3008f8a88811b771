// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine as the exit handlers of one vCPU see it.

use devices::apic::{Effect, Lapic};
use devices::pc::Answer;
use platform::{Gpa, MemoryError, PageRange, Platform, Visibility};
use specs::msr::{APIC_BASE, TSC_DEADLINE};
use vc_handlers::cpuid::PHYSICAL_BITS;
use vc_handlers::emulate::Emulation;
use vc_handlers::{Conversion, DeviceReply, DeviceRequest, Env, Oddity, Operation, Target};
use vmm_interface::InterruptMessage;
use vmm_interface::sync::Ordering;

use crate::machine::Machine;
use crate::pages::Exchange;
use crate::statistics::Statistics;

/// Ports of the terminal's UART, whose reads make room for input that waits.
const TERMINAL_PORTS: core::ops::RangeInclusive<u16> = 0x3f8..=0x3ff;

/// One vCPU's view. Lives for one exit.
pub(crate) struct VcpuEnv<'a, P: Platform + 'static> {
    pub(crate) machine: &'a Machine<P>,
    pub(crate) lapic: &'a mut Lapic,
    pub(crate) index: u32,
    /// The local APIC or the interrupt wires were touched: the run loop looks for interrupts before it enters again.
    pub(crate) recheck: &'a mut bool,
}

impl<P: Platform> VcpuEnv<'_, P> {
    fn is_trapped(&self, gpa: Gpa) -> bool {
        !self.machine.is_memory(gpa)
    }

    /// Counts something. The counters are looked up, so that exits that count nothing here need not bring them along.
    fn count(&self, count: impl FnOnce(&Statistics)) {
        if let Some(statistics) = self.machine.fabric.beside(self.index) {
            count(statistics);
        }
    }

    /// Logs something odd.
    #[cold]
    fn note(&self, oddity: Oddity) {
        let (machine, vcpu) = (self.machine, u64::from(self.index));
        match oddity {
            Oddity::UnknownMsr(index) => machine.note(&journal::UnknownMsr { vcpu, index: index.into() }),
            Oddity::IgnoredMsrWrite(index) => machine.note(&journal::IgnoredMsrWrite { vcpu, index: index.into() }),
            Oddity::UnknownPort(port) => machine.note(&journal::UnknownPort { vcpu, port: port.into() }),
            Oddity::UnknownMmio(gpa) => machine.note(&journal::UnknownMmio { vcpu, gpa: gpa.0 }),
            Oddity::NotEmulated(gpa) => machine.note(&journal::NotEmulated { vcpu, rip: gpa.0 }),
            Oddity::Mismatch => machine.note(&journal::Mismatch { vcpu }),
        }
    }

    fn apply(&mut self, effect: Effect) {
        *self.recheck = true;
        match effect {
            Effect::None => {}
            Effect::Send(message) => {
                self.send(&message);
            }
            Effect::EndOfInterrupt(vector) => {
                self.count(|statistics| statistics.events.level_ends.count());
                self.machine.with_pc(self.index, |pc, around| pc.end_of_interrupt(vector, around));
            }
        }
    }

    #[inline(never)]
    fn port(&mut self, port: u16, width: u8, operation: Operation) -> u64 {
        let answer = self.machine.with_pc(self.index, |pc, around| match operation {
            Operation::Read => pc.port_read(port, width, around),
            Operation::Write(value) => pc.port_write(port, width, value as u32, around).map(|()| 0),
        });
        if let Answer::Unknown(_) = answer {
            self.oddity(Oddity::UnknownPort(port));
        }
        if TERMINAL_PORTS.contains(&port) && self.machine.input_waits.load(Ordering::Acquire) {
            self.machine.pump_input(self.index);
        }
        u64::from(answer.value())
    }

    #[inline(never)]
    fn mmio(&mut self, gpa: Gpa, width: u8, operation: Operation) -> u64 {
        self.count(|statistics| statistics.mmio(gpa));
        if gpa.page().0 == self.lapic.base() && self.lapic.mode() == devices::apic::Mode::XApic {
            let offset = gpa.page_offset() as u16;
            let clock = self.machine.platform.clock();
            return match operation {
                Operation::Read => {
                    let value = self.lapic.mmio_read(offset, width, clock);
                    // A read of a register that does not exist can raise the error interrupt.
                    *self.recheck |= self.lapic.pending().is_some();
                    value
                }
                Operation::Write(value) => {
                    let effect = self.lapic.mmio_write(offset, width, value, clock);
                    self.apply(effect);
                    0
                }
            };
        }
        if self.machine.shows_statistics_at(gpa) {
            return match operation {
                Operation::Read => self.machine.read_statistics(gpa, width),
                Operation::Write(_) => 0,
            };
        }
        let answer = self.machine.with_pc(self.index, |pc, around| match operation {
            Operation::Read => pc.mmio_read(gpa.0, width, around),
            Operation::Write(value) => pc.mmio_write(gpa.0, width, value, around).map(|()| 0),
        });
        if let Answer::Unknown(_) = answer {
            self.oddity(Oddity::UnknownMmio(gpa));
        }
        answer.value()
    }
}

impl<P: Platform> Env for VcpuEnv<'_, P> {
    type Memory = P::Memory;
    type Clock = P::Clock;

    fn memory(&self) -> &P::Memory {
        self.machine.platform.memory()
    }

    fn clock(&self) -> &P::Clock {
        self.machine.platform.clock()
    }

    #[inline]
    fn access(&mut self, request: DeviceRequest) -> DeviceReply {
        DeviceReply::Done(match request.target {
            Target::Port(port) => self.port(port, request.width, request.operation),
            Target::Mmio(gpa) => self.mmio(gpa, request.width, request.operation),
        })
    }

    /// Every device of this machine answers at once, so nothing is ever parked; the outcome that would follow ends the VM.
    fn park(&mut self, _: Emulation) {}

    fn is_mmio(&self, gpa: Gpa) -> bool {
        gpa.page().0 == self.lapic.base() || self.is_trapped(gpa)
    }

    fn apic_msr_read(&mut self, index: u32) -> Option<u64> {
        match index {
            APIC_BASE => Some(self.lapic.base_msr()),
            TSC_DEADLINE => Some(self.lapic.tsc_deadline()),
            _ => self.lapic.msr_read(index, self.machine.platform.clock()),
        }
    }

    fn apic_msr_write(&mut self, index: u32, value: u64) -> Option<()> {
        let clock = self.machine.platform.clock();
        let effect = match index {
            APIC_BASE => {
                // An APIC over memory would have to hide it from its own processor alone, and the pages are everybody's.
                let page = Gpa(value).page();
                let free = || !self.machine.may_become_memory(page);
                if page.0 >> PHYSICAL_BITS != 0 || page.0 != self.lapic.base() && !free() {
                    return None;
                }
                self.lapic.set_base_msr(value)?;
                Effect::None
            }
            TSC_DEADLINE => {
                self.lapic.set_tsc_deadline(value, clock);
                Effect::None
            }
            _ => self.lapic.msr_write(index, value, clock)?,
        };
        self.apply(effect);
        Some(())
    }

    fn send(&mut self, message: &InterruptMessage) -> u32 {
        self.count(|statistics| statistics.events.messages.count());
        self.machine.note(&journal::Sent { vcpu: self.index.into(), vector: message.vector.into() });
        *self.recheck = true;
        self.machine.fabric.deliver(Some(self.index), message, &self.machine.others(self.index))
    }

    fn convert(&mut self, range: PageRange, to: Visibility) -> Conversion {
        match self.machine.exchange(range, to) {
            Ok(Exchange::Pages(pages)) => Conversion::Pages(pages),
            Ok(Exchange::Busy) => Conversion::Busy,
            Ok(Exchange::Refused) => Conversion::Refused,
            Err(MemoryError::NotMemory) => Conversion::NotMemory,
            Err(MemoryError::WrongState) => Conversion::WrongState,
            Err(MemoryError::Exhausted) => Conversion::Exhausted,
            Err(MemoryError::Host) => Conversion::Broken,
        }
    }

    fn oddity(&mut self, oddity: Oddity) {
        self.count(|statistics| statistics.oddity(oddity));
        self.note(oddity);
    }
}
