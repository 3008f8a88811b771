// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of the interrupt controllers a host must not leave to the guest: commands from one processor to another.
//!
//! The local APICs and the IOAPIC are the machine's own, and a guest may program them (APM vol. 2, 16.5 and 16.11; Intel
//! 82093AA). But a command may also say INIT, which on the machine's own controllers would reset the *host's* processor. So
//! the interrupt command register is the host's: it decodes the command, lets fixed interrupts through, and carries out NMI,
//! INIT and start-up itself, as KVM does. The guest is hostile; nothing it writes here is an index.

use crate::{Devices, Host, PROCESSORS};

/// The local APIC's page, and the messages behind it that interrupt like an IPI (APM vol. 2, 16.5).
pub(crate) const LOCAL_APIC: u64 = 0xfee0_0000;
const MESSAGES: core::ops::Range<u64> = LOCAL_APIC + 0x1000..0xfef0_0000;
const ID: u64 = 0x20;
const LOGICAL: u64 = 0xd0;
const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
/// The IOAPIC's register select, and the window to what it selects.
const IOAPIC: core::ops::Range<u64> = 0xfec0_0000..0xfec0_1000;
const IOAPIC_WINDOW: u64 = 0x10;
/// Its first redirection entry; even registers are lower halves.
const REDIRECTION: u64 = 0x10;
const MASKED: u64 = 1 << 16;

/// The same registers as an x2APIC's (APM vol. 2, 16.11.1): its number is only to be read, and it has neither a destination
/// format nor a second command word.
const X2APIC_ID: u32 = 0x802;
const X2APIC_FORMAT: u32 = 0x80e;
const X2APIC_COMMAND: u32 = 0x830;
const X2APIC_COMMAND_HIGH: u32 = 0x831;
const X2APIC_SELF: u32 = 0x83f;
/// A destination shorthand: to oneself.
const TO_SELF: u32 = 1 << 18;
const LOGICAL_MODE: u32 = 1 << 11;
/// Delivery status: the command is still under way.
const PENDING: u32 = 1 << 12;

/// A set of processors.
pub type Targets = u64;
const _: () = assert!(PROCESSORS <= Targets::BITS as usize);

/// What one processor says to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// To whom.
    pub targets: Targets,
    /// What.
    pub kind: SignalKind,
}

/// What can be said besides an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalKind {
    /// A non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// A start-up IPI. Where an SNP guest starts is not the sender's choice.
    Startup,
}

/// What the host keeps of a processor's local APIC.
#[derive(Clone, Copy, Debug, Default)]
pub struct Commands {
    low: u32,
    high: u32,
    logical: u8,
}

impl Commands {
    pub(crate) const RESET: Self = Self { low: 0, high: 0, logical: 0 };
}

/// How an access to the controllers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// The device does it.
    Forward,
    /// It is done.
    Done(Option<Signal>),
}

impl Host {
    /// A write to a register in memory; `value` may be changed before it is forwarded.
    pub(crate) fn filter_write(
        &mut self,
        processor: u32,
        gpa: u64,
        bytes: u64,
        value: &mut u64,
        devices: &mut impl Devices,
    ) -> Handled {
        if MESSAGES.contains(&gpa) {
            return Handled::Done(None);
        }
        if IOAPIC.contains(&gpa) {
            return self.filter_ioapic(gpa - IOAPIC.start, bytes, value);
        }
        if !(LOCAL_APIC..MESSAGES.start).contains(&gpa) {
            return Handled::Forward;
        }
        // Registers have 16 bytes of room and are four wide; what else hardware would do is not defined.
        if bytes != 4 || !gpa.is_multiple_of(16) {
            return Handled::Done(None);
        }
        let word = *value as u32;
        match gpa - LOCAL_APIC {
            // By its number the host itself finds the processor.
            ID => {}
            COMMAND_HIGH => self.commands(processor).high = word,
            COMMAND_LOW => {
                let destination = self.commands(processor).high >> 24;
                return Handled::Done(self.command(processor, word, destination, 0xff, devices));
            }
            LOGICAL => {
                self.commands(processor).logical = (word >> 24) as u8;
                return Handled::Forward;
            }
            _ => return Handled::Forward,
        }
        Handled::Done(None)
    }

    /// A read of one; `None` if the device answers.
    pub(crate) fn filter_read(&mut self, processor: u32, gpa: u64) -> Option<u64> {
        match gpa.checked_sub(LOCAL_APIC)? {
            COMMAND_LOW => Some(self.commands(processor).low.into()),
            COMMAND_HIGH => Some(self.commands(processor).high.into()),
            _ => None,
        }
    }

    /// A redirection entry that would send NMI, SMI or INIT to the host's processors stays masked.
    fn filter_ioapic(&mut self, offset: u64, bytes: u64, value: &mut u64) -> Handled {
        if bytes != 4 || !offset.is_multiple_of(16) {
            return Handled::Done(None);
        }
        match offset {
            0 => self.ioapic_selects = *value as u8,
            IOAPIC_WINDOW => {
                let selected = u64::from(self.ioapic_selects);
                let mode = *value >> 8 & 7;
                if selected >= REDIRECTION && selected.is_multiple_of(2) && matches!(mode, 2 | 4 | 5) {
                    *value |= MASKED;
                }
            }
            _ => {}
        }
        Handled::Forward
    }

    /// A write of an x2APIC's register; false is a #GP.
    pub(crate) fn filter_msr_write(
        &mut self,
        processor: u32,
        number: u32,
        value: u64,
        devices: &mut impl Devices,
    ) -> Option<(bool, Option<Signal>)> {
        match number {
            X2APIC_COMMAND => {
                let (low, destination) = (value as u32, (value >> 32) as u32);
                self.commands(processor).high = destination;
                Some((true, self.command(processor, low, destination, u32::MAX, devices)))
            }
            X2APIC_SELF if value <= 0xff => {
                Some((true, self.command(processor, TO_SELF | value as u32, 0, u32::MAX, devices)))
            }
            X2APIC_SELF | X2APIC_ID | X2APIC_FORMAT | X2APIC_COMMAND_HIGH => Some((false, None)),
            _ => None,
        }
    }

    /// A read of one: outside, the device answers; inside, `None` is a #GP.
    pub(crate) fn filter_msr_read(&mut self, processor: u32, number: u32) -> Option<Option<u64>> {
        match number {
            X2APIC_COMMAND => {
                let commands = self.commands(processor);
                Some(Some(u64::from(commands.low) | u64::from(commands.high) << 32))
            }
            X2APIC_SELF | X2APIC_FORMAT | X2APIC_COMMAND_HIGH => Some(None),
            _ => None,
        }
    }

    /// Carries out a command. `all` is the destination that means everybody.
    fn command(
        &mut self,
        processor: u32,
        low: u32,
        destination: u32,
        all: u32,
        devices: &mut impl Devices,
    ) -> Option<Signal> {
        let low = low & !PENDING;
        self.commands(processor).low = low;
        let kind = match low >> 8 & 7 {
            // Fixed, and to the lowest priority.
            0 | 1 => {
                if low >> 18 & 3 != 0 || destination == all || Self::is_reachable(low, destination, all) {
                    devices.interrupt(low, destination as u8);
                }
                return None;
            }
            4 => SignalKind::Nmi,
            // Level-triggered and deasserted, INIT is a leftover that does nothing.
            5 if low >> 14 & 3 != 2 => SignalKind::Init,
            6 => SignalKind::Startup,
            _ => return None,
        };
        let targets = self.targets(processor, low, destination, all);
        (targets != 0).then_some(Signal { targets, kind })
    }

    /// An x2APIC has more addresses than the machine's controllers: what they lack leads to nobody, and so does its way to
    /// name several processors.
    const fn is_reachable(low: u32, destination: u32, all: u32) -> bool {
        destination < 0xff && (all == 0xff || low & LOGICAL_MODE == 0)
    }

    fn targets(&mut self, processor: u32, low: u32, destination: u32, all: u32) -> Targets {
        let everybody = Targets::MAX >> (Targets::BITS - self.processors.clamp(1, Targets::BITS));
        let own = 1 << (processor % Targets::BITS);
        match low >> 18 & 3 {
            1 => own,
            2 => everybody,
            3 => everybody & !own,
            _ if destination == all => everybody,
            _ if !Self::is_reachable(low, destination, all) => 0,
            _ if low & LOGICAL_MODE != 0 => {
                let flat = destination as u8;
                let named = |(_, commands): &(Targets, &Commands)| commands.logical & flat != 0;
                let each = (0..self.processors).map(|number| 1 << (number % Targets::BITS)).zip(&self.commands);
                each.filter(named).fold(0, |all, (one, _)| all | one)
            }
            _ if destination < self.processors => 1 << (destination % Targets::BITS),
            _ => 0,
        }
    }

    fn commands(&mut self, processor: u32) -> &mut Commands {
        match self.commands.get_mut(processor as usize) {
            Some(commands) => commands,
            None => &mut self.nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Machine, host};

    fn write(host: &mut Host, machine: &mut Machine, gpa: u64, value: u64) -> (Handled, u64) {
        let mut value = value;
        let handled = host.filter_write(1, gpa, 4, &mut value, &mut machine.devices);
        (handled, value)
    }

    fn command(low: u64, high: u64) -> (Handled, Vec<(u32, u8)>) {
        let (mut host, mut machine) = (host(), Machine::default());
        assert_eq!(write(&mut host, &mut machine, LOCAL_APIC + COMMAND_HIGH, high).0, Handled::Done(None));
        let (handled, _) = write(&mut host, &mut machine, LOCAL_APIC + COMMAND_LOW, low);
        (handled, machine.devices.interrupts)
    }

    fn signal(targets: Targets, kind: SignalKind) -> Handled {
        Handled::Done(Some(Signal { targets, kind }))
    }

    #[test]
    fn fixed_interrupts_are_the_devices_business() {
        assert_eq!(command(0x41, 2 << 24), (Handled::Done(None), vec![(0x41, 2)]));
        assert_eq!(command(0xc_08fd, 0), (Handled::Done(None), vec![(0xc_08fd, 0)]));
    }

    #[test]
    fn what_would_hit_the_hosts_own_processors_is_carried_out_by_the_host() {
        assert_eq!(command(0x400, 2 << 24), (signal(4, SignalKind::Nmi), vec![]));
        assert_eq!(command(0xc_0400, 0), (signal(5, SignalKind::Nmi), vec![]), "to all but oneself");
        assert_eq!(command(0x4500, 0xff << 24), (signal(7, SignalKind::Init), vec![]));
        assert_eq!(command(0x8500, 0).0, Handled::Done(None), "deasserted");
        assert_eq!(command(0x4608, 0).0, signal(1, SignalKind::Startup));
        for ignored in [0x200, 0x300, 0x700, 0x8500] {
            assert_eq!(command(ignored, 0), (Handled::Done(None), vec![]), "{ignored:#x}");
        }
        assert_eq!(command(0x400, 3 << 24), (Handled::Done(None), vec![]), "there are three processors");
    }

    #[test]
    fn a_logical_destination_is_found_by_what_the_processors_have_written() {
        let (mut host, mut machine) = (host(), Machine::default());
        for processor in 0..3 {
            let mut value = 1 << (24 + processor);
            let handled = host.filter_write(processor, LOCAL_APIC + LOGICAL, 4, &mut value, &mut machine.devices);
            assert_eq!(handled, Handled::Forward);
        }
        write(&mut host, &mut machine, LOCAL_APIC + COMMAND_HIGH, 0b101 << 24);
        let (handled, _) = write(&mut host, &mut machine, LOCAL_APIC + COMMAND_LOW, 0xc00);
        assert_eq!(handled, signal(0b101, SignalKind::Nmi));
    }

    #[test]
    fn messages_and_odd_widths_reach_no_controller() {
        let (mut host, mut machine) = (host(), Machine::default());
        assert_eq!(write(&mut host, &mut machine, 0xfee0_1000, 0x4500).0, Handled::Done(None));
        assert_eq!(write(&mut host, &mut machine, LOCAL_APIC + 0x304, 0x4500).0, Handled::Done(None));
        let mut wide = 0x4500;
        let handled = host.filter_write(0, LOCAL_APIC + COMMAND_LOW, 8, &mut wide, &mut machine.devices);
        assert_eq!(handled, Handled::Done(None));
        assert_eq!(write(&mut host, &mut machine, LOCAL_APIC + 0xb0, 0).0, Handled::Forward);
        assert_eq!(write(&mut host, &mut machine, 0xfed0_0000, 1).0, Handled::Forward);
    }

    #[test]
    fn a_guest_does_not_change_its_processors_numbers() {
        let (mut host, mut machine) = (host(), Machine::default());
        assert_eq!(write(&mut host, &mut machine, LOCAL_APIC + ID, 2 << 24).0, Handled::Done(None));
        assert_eq!(host.filter_msr_write(1, X2APIC_ID, 2, &mut machine.devices), Some((false, None)));
        assert_eq!(host.filter_msr_read(1, X2APIC_ID), None, "the device answers");
    }

    #[test]
    fn a_redirection_entry_delivers_interrupts_and_nothing_else() {
        let (mut host, mut machine) = (host(), Machine::default());
        assert_eq!(write(&mut host, &mut machine, IOAPIC.start, 0x12), (Handled::Forward, 0x12));
        for mode in [2, 4, 5] {
            let entry = mode << 8 | 0x30;
            assert_eq!(write(&mut host, &mut machine, IOAPIC.start + 0x10, entry), (Handled::Forward, entry | MASKED));
        }
        for mode in [0, 1, 7] {
            let entry = mode << 8 | 0x30;
            assert_eq!(write(&mut host, &mut machine, IOAPIC.start + 0x10, entry), (Handled::Forward, entry));
        }
        write(&mut host, &mut machine, IOAPIC.start, 0x13);
        assert_eq!(write(&mut host, &mut machine, IOAPIC.start + 0x10, 0x500).1, 0x500, "an upper half");
    }

    #[test]
    fn what_was_commanded_can_be_read() {
        let (mut host, mut machine) = (host(), Machine::default());
        write(&mut host, &mut machine, LOCAL_APIC + COMMAND_HIGH, 2 << 24);
        write(&mut host, &mut machine, LOCAL_APIC + COMMAND_LOW, 0x1041);
        assert_eq!(host.filter_read(1, LOCAL_APIC + COMMAND_HIGH), Some(2 << 24));
        assert_eq!(host.filter_read(1, LOCAL_APIC + COMMAND_LOW), Some(0x41), "delivered");
        assert_eq!(host.filter_read(0, LOCAL_APIC + COMMAND_LOW), Some(0), "each processor has its own");
        assert_eq!(host.filter_read(1, LOCAL_APIC + 0x20), None);
    }

    #[test]
    fn an_x2apic_has_one_command_word_and_a_register_for_oneself() {
        let (mut host, mut machine) = (host(), Machine::default());
        let devices = &mut machine.devices;
        assert_eq!(host.filter_msr_write(0, X2APIC_COMMAND, 2 << 32 | 0x41, devices), Some((true, None)));
        assert_eq!(host.filter_msr_read(0, X2APIC_COMMAND), Some(Some(2 << 32 | 0x41)));
        let nmi = Signal { targets: 2, kind: SignalKind::Nmi };
        assert_eq!(host.filter_msr_write(0, X2APIC_COMMAND, 1 << 32 | 0x400, devices), Some((true, Some(nmi))));
        assert_eq!(host.filter_msr_write(0, X2APIC_SELF, 0x55, devices), Some((true, None)));
        assert_eq!(host.filter_msr_write(0, X2APIC_COMMAND, 0x100 << 32 | 0x66, devices), Some((true, None)));
        assert_eq!(host.filter_msr_write(0, X2APIC_COMMAND, 1 << 32 | 0x866, devices), Some((true, None)));
        assert_eq!(
            machine.devices.interrupts,
            [(0x41, 2), (TO_SELF | 0x55, 0)],
            "nobody has number 100h, or a cluster"
        );
        let devices = &mut machine.devices;
        for (number, value) in [(X2APIC_SELF, 0x100), (X2APIC_FORMAT, 0), (X2APIC_COMMAND_HIGH, 0)] {
            assert_eq!(host.filter_msr_write(0, number, value, devices), Some((false, None)));
        }
        assert_eq!(host.filter_msr_read(0, X2APIC_SELF), Some(None));
        assert_eq!(host.filter_msr_write(0, 0x80b, 0, devices), None);
    }
}
