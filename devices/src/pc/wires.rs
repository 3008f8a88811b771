// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interrupt wires, and the machine that a device sees while it is accessed.

use core::cell::Cell;

use platform::Slip;
use vmm_interface::{Console, Instant, InterruptMessage, Lifecycle, Line, Machine};

use super::PcHost;
use crate::acpi::IOAPIC_ID;
use crate::apic::{IoApic, PINS};
use crate::pic::Pic;

/// Where the timer's wire, ISA IRQ 0, reaches the IOAPIC: the cascade of the 8259s leaves pin 2 free, and pin 0 is not
/// connected. The MADT tells the guest by an interrupt source override.
pub const TIMER_PIN: u8 = 2;
/// Wires of the 8259s.
const PIC_LINES: u8 = 16;

/// Both kinds of interrupt controller and the levels between them and everything else.
#[derive(Debug)]
pub(super) struct Wires {
    pub(super) pic: Pic,
    pub(super) ioapic: IoApic,
    /// The present level of each wire.
    levels: u32,
    /// What the host last heard of the 8259s' INTR.
    pic_output: bool,
}

impl Wires {
    pub(super) fn new() -> Self {
        Self { pic: Pic::default(), ioapic: IoApic::new(IOAPIC_ID), levels: 0, pic_output: false }
    }

    fn set_line(&mut self, line: u8, level: bool, host: &mut impl PcHost) {
        let bit = 1_u32.checked_shl(line.into()).unwrap_or(0);
        if line >= PINS || (self.levels & bit != 0) == level {
            return;
        }
        self.levels ^= bit;
        if line < PIC_LINES {
            self.pic.set_line(line, level);
            self.sync_pic(host);
        }
        let pin = if line == 0 { TIMER_PIN } else { line };
        let message = self.ioapic.set_line(pin, level);
        self.send(message, host);
    }

    /// Drops the remote IRR of a level-triggered message that nobody takes: its EOI would never come.
    pub(super) fn send(&mut self, message: Option<InterruptMessage>, host: &mut impl PcHost) {
        if let Some(message) = message
            && !host.send(&message)
        {
            self.ioapic.not_accepted(&message);
        }
    }

    /// A local APIC has broadcast an EOI.
    pub(super) fn end_of_interrupt(&mut self, vector: u8, host: &mut impl PcHost) {
        let mut refused = [None; PINS as usize];
        let messages = self.ioapic.end_of_interrupt(vector).filter(|message| !host.send(message));
        for (slot, message) in refused.iter_mut().zip(messages) {
            *slot = Some(message);
        }
        for message in refused.iter().flatten() {
            self.ioapic.not_accepted(message);
        }
    }

    /// Tells the host when INTR has changed.
    pub(super) fn sync_pic(&mut self, host: &mut impl PcHost) {
        let output = self.pic.output();
        if output != self.pic_output {
            self.pic_output = output;
            if output || !Slip::StuckIntr.is_planted() {
                host.pic_output(output);
            }
        }
    }
}

/// The time of one call to the PC: asked for once, and only if a device wants it. The bytes of an access that the bus splits
/// share it.
pub(super) type Time = Cell<Option<Instant>>;

/// The machine around one device, for one call.
pub(super) struct Around<'a, H> {
    wires: &'a mut Wires,
    host: &'a mut H,
    now: &'a Time,
}

impl<'a, H: PcHost> Around<'a, H> {
    pub(super) const fn new(wires: &'a mut Wires, host: &'a mut H, now: &'a Time) -> Self {
        Self { wires, host, now }
    }
}

impl<H: PcHost> Machine for Around<'_, H> {
    fn now(&self) -> Instant {
        let now = self.now.get().unwrap_or_else(|| self.host.now());
        self.now.set(Some(now));
        now
    }

    fn set_line(&mut self, Line(line): Line, level: bool) {
        self.wires.set_line(line, level, self.host);
    }

    fn transmit(&mut self, console: Console, byte: u8) {
        self.host.transmit(console, byte);
    }

    fn request(&mut self, change: Lifecycle) {
        self.host.request(change);
    }
}
