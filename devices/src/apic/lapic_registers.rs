// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accesses to the local APIC's registers, through the xAPIC page and through the x2APIC MSRs (SDM vol. 3A, 11.4.1 and
//! 11.12.1), and what a write to each of them does.

use crate::apic::lapic::{Effect, FIRST_LEGAL_VECTOR, Lapic, Mode};
use crate::apic::lapic_lines::Lint;
use crate::apic::lapic_timer::TimerMode;
use crate::apic::vectors;
use platform::Clock;
use specs::apic::{self, ErrorStatus, InterruptCommand, LapicRegister as Reg, Lvt};
use vmm_interface::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

const TIMER_WRITABLE: u32 = Lvt::VECTOR | Lvt::MASKED | Lvt::TIMER_MODE;
const SENSOR_WRITABLE: u32 = Lvt::VECTOR | Lvt::DELIVERY_MODE | Lvt::MASKED;
const ERROR_WRITABLE: u32 = Lvt::VECTOR | Lvt::MASKED;
const SPURIOUS_WRITABLE: u32 = apic::SPURIOUS_ENABLE | apic::SPURIOUS_NO_FOCUS | 0xff;
const DIVIDE_WRITABLE: u32 = 0b1011;

impl Lapic {
    /// Reads from the xAPIC page. All-ones unless in xAPIC mode: nobody answers there.
    ///
    /// The manual promises something for aligned 32-bit reads only. Others get the bytes that lie there, as one would
    /// expect, with zeros for the 12 reserved bytes behind each register.
    pub fn mmio_read(&mut self, offset: u16, width: u8, clock: &impl Clock) -> u64 {
        let ones = u64::MAX.checked_shr(64 - 8 * u32::from(width.min(8))).unwrap_or(0);
        if self.mode != Mode::XApic {
            return ones;
        }
        let value = match Reg::from_offset(offset) {
            Some(Reg::SelfIpi | Reg::LvtCmci) | None => {
                self.record_error(ErrorStatus::ILLEGAL_REGISTER);
                0
            }
            Some(register) => self.read(register, clock),
        };
        u64::from(value).checked_shr(8 * u32::from(offset & 0xf)).unwrap_or(0) & ones
    }

    /// Writes to the xAPIC page. Ignored unless in xAPIC mode, and unless aligned and 32 bits wide.
    pub fn mmio_write(&mut self, offset: u16, width: u8, value: u64, clock: &impl Clock) -> Effect {
        if self.mode != Mode::XApic || width != 4 || offset & 0xf != 0 {
            return Effect::None;
        }
        match Reg::from_offset(offset) {
            Some(Reg::SelfIpi | Reg::LvtCmci) | None => {
                self.record_error(ErrorStatus::ILLEGAL_REGISTER);
                Effect::None
            }
            Some(register) => self.write(register, value as u32, clock),
        }
    }

    /// RDMSR of 800h–8FFh. `None` is #GP: not in x2APIC mode, no such register, or write-only.
    pub fn msr_read(&mut self, index: u32, clock: &impl Clock) -> Option<u64> {
        let register = Reg::from_msr(index).filter(|_| self.mode == Mode::X2Apic)?;
        match register {
            Reg::EndOfInterrupt | Reg::SelfIpi => None,
            Reg::ArbitrationPriority | Reg::RemoteRead | Reg::DestinationFormat | Reg::CommandHigh | Reg::LvtCmci => {
                None
            }
            Reg::CommandLow => {
                let (low, high) = (self.registers.command_low.value, self.registers.command_high.value);
                Some(u64::from(low) | u64::from(high) << 32)
            }
            _ => Some(u64::from(self.read(register, clock))),
        }
    }

    /// WRMSR of 800h–8FFh. `None` is #GP: not in x2APIC mode, no such register, read-only, or a reserved bit set.
    pub fn msr_write(&mut self, index: u32, value: u64, clock: &impl Clock) -> Option<Effect> {
        let register = Reg::from_msr(index).filter(|_| self.mode == Mode::X2Apic)?;
        if value & !self.x2apic_bits(register)? != 0 {
            return None;
        }
        if register == Reg::CommandLow {
            self.registers.command_high.value = (value >> 32) as u32;
        }
        Some(self.write(register, value as u32, clock))
    }

    /// The bits of a register that WRMSR may set; `None` if it is not written in x2APIC mode (11.12.1.2, table 11-6).
    /// Read-only status bits may be written back.
    fn x2apic_bits(&self, register: Reg) -> Option<u64> {
        let bits = match register {
            Reg::EndOfInterrupt | Reg::ErrorStatus => 0,
            Reg::TaskPriority | Reg::SelfIpi => 0xff,
            Reg::Spurious => SPURIOUS_WRITABLE,
            Reg::CommandLow => {
                let low = InterruptCommand::WRITABLE | InterruptCommand::DELIVERY_STATUS;
                return Some(u64::from(low) | 0xffff_ffff << 32);
            }
            Reg::LvtTimer => TIMER_WRITABLE | Lvt::DELIVERY_STATUS,
            Reg::LvtThermal | Reg::LvtPerformance => SENSOR_WRITABLE | Lvt::DELIVERY_STATUS,
            Reg::LvtLint0 | Reg::LvtLint1 => {
                SENSOR_WRITABLE | Lvt::DELIVERY_STATUS | Lvt::ACTIVE_LOW | Lvt::REMOTE_IRR | Lvt::LEVEL
            }
            Reg::LvtError => ERROR_WRITABLE | Lvt::DELIVERY_STATUS,
            Reg::InitialCount => u32::MAX,
            Reg::Divide => DIVIDE_WRITABLE,
            Reg::Id | Reg::Version | Reg::ProcessorPriority | Reg::LogicalDestination | Reg::CurrentCount => {
                return None;
            }
            Reg::InService(_) | Reg::TriggerMode(_) | Reg::Request(_) => return None,
            Reg::ArbitrationPriority | Reg::RemoteRead | Reg::DestinationFormat | Reg::CommandHigh | Reg::LvtCmci => {
                return None;
            }
        };
        Some(u64::from(bits))
    }

    fn read(&mut self, register: Reg, clock: &impl Clock) -> u32 {
        let registers = &self.registers;
        match register {
            Reg::Id => registers.id.value,
            Reg::Version => registers.version.value,
            Reg::TaskPriority => registers.task_priority.value,
            Reg::ArbitrationPriority => self.arbitration_priority(),
            Reg::ProcessorPriority => registers.processor_priority.value,
            Reg::LogicalDestination => registers.logical_destination.value,
            Reg::DestinationFormat => registers.destination_format.value,
            Reg::Spurious => registers.spurious.value,
            Reg::InService(at) => vectors::word(&registers.in_service, at),
            Reg::TriggerMode(at) => vectors::word(&registers.trigger_mode, at),
            Reg::Request(at) => vectors::word(&registers.request, at),
            Reg::ErrorStatus => registers.error_status.value,
            Reg::CommandLow => registers.command_low.value,
            Reg::CommandHigh => registers.command_high.value,
            Reg::LvtTimer => registers.lvt_timer.value,
            Reg::LvtThermal => registers.lvt_thermal.value,
            Reg::LvtPerformance => registers.lvt_performance.value,
            Reg::LvtLint0 => registers.lvt_lint0.value,
            Reg::LvtLint1 => registers.lvt_lint1.value,
            Reg::LvtError => registers.lvt_error.value,
            Reg::InitialCount => registers.initial_count.value,
            Reg::CurrentCount => self.timer.current(clock.now()),
            Reg::Divide => registers.divide.value,
            // Write-only, Pentium Pro only, or absent.
            Reg::EndOfInterrupt | Reg::SelfIpi | Reg::RemoteRead | Reg::LvtCmci => 0,
        }
    }

    fn write(&mut self, register: Reg, value: u32, clock: &impl Clock) -> Effect {
        match register {
            Reg::TaskPriority => self.write_task_priority(value),
            Reg::EndOfInterrupt => return self.end_of_interrupt(),
            Reg::LogicalDestination => {
                self.registers.logical_destination.value = value & 0xff00_0000;
                self.unpublished = true;
            }
            Reg::DestinationFormat => {
                self.registers.destination_format.value = value | 0x0fff_ffff;
                self.unpublished = true;
            }
            Reg::Spurious => self.write_spurious(value & SPURIOUS_WRITABLE, clock),
            Reg::ErrorStatus => {
                self.registers.error_status.value = self.errors.bits();
                self.errors = ErrorStatus::empty();
            }
            Reg::CommandLow => {
                self.registers.command_low.value = value & InterruptCommand::WRITABLE;
                return self.command(InterruptCommand(value));
            }
            Reg::CommandHigh => self.registers.command_high.value = value & 0xff00_0000,
            Reg::LvtTimer => self.write_lvt_timer(value, clock),
            Reg::LvtThermal => {
                self.registers.lvt_thermal.value = self.masked_if_disabled(value & SENSOR_WRITABLE);
            }
            Reg::LvtPerformance => {
                self.registers.lvt_performance.value = self.masked_if_disabled(value & SENSOR_WRITABLE);
            }
            Reg::LvtLint0 => self.write_lint(Lint::Lint0, value),
            Reg::LvtLint1 => self.write_lint(Lint::Lint1, value),
            Reg::LvtError => self.registers.lvt_error.value = self.masked_if_disabled(value & ERROR_WRITABLE),
            Reg::InitialCount => {
                self.expire(clock);
                self.timer.set_initial(value, clock.now());
                self.registers.initial_count.value = self.timer.initial();
            }
            Reg::Divide => {
                self.expire(clock);
                self.registers.divide.value = value & DIVIDE_WRITABLE;
                self.timer.set_shift(apic::divide_shift(value), clock.now());
            }
            Reg::SelfIpi => self.self_ipi(value as u8),
            // Read-only. The ID, too: whether software can change it is up to the model (11.4.6), and a fixed one makes
            // destinations certain.
            Reg::Id | Reg::Version | Reg::ArbitrationPriority | Reg::ProcessorPriority | Reg::RemoteRead => {}
            Reg::InService(_) | Reg::TriggerMode(_) | Reg::Request(_) | Reg::CurrentCount | Reg::LvtCmci => {}
        }
        Effect::None
    }

    /// The arbitration priority register (11.6.2.4), which later processors no longer have.
    fn arbitration_priority(&self) -> u32 {
        let task = self.registers.task_priority.value;
        let request = u32::from(self.highest_request().unwrap_or(0));
        let service = u32::from(self.highest_in_service().unwrap_or(0));
        if task >> 4 >= request >> 4 && task >> 4 > service >> 4 { task } else { task.max(request).max(service) & 0xf0 }
    }

    fn write_spurious(&mut self, value: u32, clock: &impl Clock) {
        let enabled = value & apic::SPURIOUS_ENABLE != 0;
        if !enabled {
            // What is due comes before the mask does.
            self.expire(clock);
            self.mask_local_interrupts();
        }
        self.registers.spurious.value = value;
        self.unpublished = true;
    }

    fn write_lvt_timer(&mut self, value: u32, clock: &impl Clock) {
        // What is due belongs to the old entry.
        self.expire(clock);
        let value = self.masked_if_disabled(value & TIMER_WRITABLE);
        self.registers.lvt_timer.value = value;
        self.timer.set_mode(TimerMode::from_bits(Lvt(value).timer_mode()), clock.now());
        self.registers.initial_count.value = self.timer.initial();
    }

    fn self_ipi(&mut self, vector: u8) {
        if vector < FIRST_LEGAL_VECTOR {
            self.record_error(ErrorStatus::SEND_ILLEGAL_VECTOR);
        } else {
            self.accept(vector, TriggerMode::Edge);
        }
    }

    /// A write to the low half of the ICR: sends (11.6.1). Which combinations are valid: tables 11-3 and 11-4. The others
    /// are not sent, except for an NMI to oneself, which hardware is known to deliver.
    fn command(&mut self, command: InterruptCommand) -> Effect {
        use DeliveryMode::{ExtInt, Fixed, Init, LowestPriority, Nmi};
        let Some(mode) = DeliveryMode::from_bits(command.delivery_mode()).filter(|mode| *mode != ExtInt) else {
            return Effect::None;
        };
        if mode == Init && command.level_triggered() && !command.assert() {
            // An INIT level de-assert: ignored since the Pentium 4.
            return Effect::None;
        }
        if matches!(mode, Fixed | LowestPriority) && command.vector() < FIRST_LEGAL_VECTOR {
            self.record_error(ErrorStatus::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        let destination = match (command.shorthand(), mode) {
            (0, _) => self.command_destination(command.logical()),
            (1, Fixed) => {
                self.accept(command.vector(), TriggerMode::Edge);
                return Effect::None;
            }
            (1, Nmi) => Destination::Myself,
            (2, Fixed | Nmi) => Destination::All,
            (3, _) => Destination::Others,
            _ => return Effect::None,
        };
        // The level and trigger bits mean nothing but for an INIT level de-assert: all else is an edge.
        let message =
            InterruptMessage { destination, mode, vector: command.vector(), trigger: TriggerMode::Edge, assert: true };
        Effect::Send(message)
    }

    fn command_destination(&self, logical: bool) -> Destination {
        let field = self.registers.command_high.value;
        let id = if self.mode == Mode::X2Apic { field } else { field >> 24 };
        if logical { Destination::Logical(id) } else { Destination::Physical(id) }
    }
}
