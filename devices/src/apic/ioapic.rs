// SPDX-License-Identifier: MIT OR Apache-2.0
//! The IOAPIC: 24 interrupt lines in, interrupt messages out (Intel 82093AA data sheet).
//!
//! It is version 11h, the data sheet's own, without an EOI register. Version 20h has one at 40h for operating systems
//! that suppress EOI broadcasts, which our local APICs do not offer. Without it, Linux drops a stuck remote IRR by
//! switching the entry to edge and back, which works here as on the chip; Windows needs neither.
//!
//! Lines are given as *asserted* or not: polarity is a matter of wires, and the entry's bit is only kept.
//!
//! Hostile party: the guest chooses all register accesses. Each call yields at most one message for each pin.

use specs::apic::{
    IOAPIC_ARBITRATION, IOAPIC_ID, IOAPIC_REDIRECTION, IOAPIC_VERSION, IOREGSEL, IOWIN, RedirectionEntry,
};
use vmm_interface::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

/// How many input lines the IOAPIC has.
pub const PINS: u8 = 24;

const VERSION: u32 = 0x11 | (PINS as u32 - 1) << 16;
/// ID and arbitration ID: bits 27:24.
const ID: u32 = 0x0f00_0000;

/// The IOAPIC.
#[derive(Debug)]
pub struct IoApic {
    /// Wiring: one bit for each asserted line.
    lines: u32,
    select: u8,
    id: u32,
    arbitration: u32,
    entries: [RedirectionEntry; PINS as usize],
}

impl IoApic {
    /// After reset: all entries masked. `id` has four bits; the chip starts with 0, firmware gives it the ID that the
    /// MADT tells.
    pub fn new(id: u8) -> Self {
        let id = u32::from(id) << 24 & ID;
        Self { lines: 0, select: 0, id, arbitration: id, entries: [RedirectionEntry::RESET; PINS as usize] }
    }

    /// Reads at an offset within the IOAPIC's page. The window is 32 bits wide; narrower reads get its low bytes, and
    /// where there is nothing, zero is read.
    pub fn read(&self, offset: u64, width: u8) -> u64 {
        let value = match offset {
            IOREGSEL => u32::from(self.select),
            IOWIN => self.read_register(),
            _ => 0,
        };
        let ones = u64::MAX.checked_shr(64 - 8 * u32::from(width.min(8))).unwrap_or(0);
        u64::from(value) & ones
    }

    /// Writes at an offset within the IOAPIC's page. The select register has eight bits and takes any width, the window
    /// 32 bits and no other.
    pub fn write(&mut self, offset: u64, width: u8, value: u64) -> Option<InterruptMessage> {
        match (offset, width) {
            (IOREGSEL, _) => {
                self.select = value as u8;
                None
            }
            (IOWIN, 4) => self.write_register(value as u32),
            _ => None,
        }
    }

    fn read_register(&self) -> u32 {
        match self.select {
            IOAPIC_ID => self.id,
            IOAPIC_VERSION => VERSION,
            IOAPIC_ARBITRATION => self.arbitration,
            index => {
                let Some((pin, high)) = redirection(index) else { return 0 };
                let entry = self.entry(pin).map_or(0, |entry| entry.0);
                if high { (entry >> 32) as u32 } else { entry as u32 }
            }
        }
    }

    fn write_register(&mut self, value: u32) -> Option<InterruptMessage> {
        if self.select == IOAPIC_ID {
            // Writing the ID loads the arbitration ID as well (3.2.3).
            self.id = value & ID;
            self.arbitration = self.id;
            return None;
        }
        let (pin, high) = redirection(self.select)?;
        let entry = self.entries.get_mut(usize::from(pin))?;
        let (keep, value) =
            if high { (0xffff_ffff, u64::from(value) << 32) } else { (0xffff_ffff << 32, u64::from(value)) };
        let keep = keep | !RedirectionEntry::WRITABLE;
        entry.0 = entry.0 & keep | value & RedirectionEntry::WRITABLE;
        if !level_triggered(*entry) {
            // Remote IRR means nothing for an edge, and switching to edge is how software drops a stuck one.
            entry.0 &= !RedirectionEntry::REMOTE_IRR;
        }
        // A level is still there when its entry is unmasked. An edge on a masked entry is gone: "not delivered or held
        // pending" (3.2.4, interrupt mask).
        if level_triggered(*entry) { self.fire(pin) } else { None }
    }

    /// Drives an input line. Calling with the present level does nothing.
    pub fn set_line(&mut self, pin: u8, asserted: bool) -> Option<InterruptMessage> {
        if pin >= PINS {
            return None;
        }
        let bit = 1 << pin;
        let before = self.lines & bit != 0;
        if !asserted {
            self.lines &= !bit;
            return None;
        }
        self.lines |= bit;
        if before { None } else { self.fire(pin) }
    }

    /// A level-triggered interrupt with this vector ended on some processor. Entries that wait for that are ready again,
    /// and those whose line is still asserted fire: the caller delivers each message.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Redeliveries<'_> {
        let mut pins = 0;
        for (pin, entry) in self.entries.iter_mut().enumerate() {
            if entry.remote_irr() && entry.vector() == vector {
                entry.0 &= !RedirectionEntry::REMOTE_IRR;
                let asserted = self.lines & 1 << pin != 0;
                if asserted && !entry.masked() {
                    entry.0 |= RedirectionEntry::REMOTE_IRR;
                    pins |= 1 << pin;
                }
            }
        }
        Redeliveries { ioapic: self, pins }
    }

    /// No processor took this message of ours ([`super::Fabric::deliver`] returned zero). If it was level-triggered, its
    /// EOI will never come, so its entry does not wait for it: it fires again on the line's next edge, or when software
    /// writes the entry.
    pub fn not_accepted(&mut self, refused: &InterruptMessage) {
        for entry in self.entries.iter_mut().filter(|entry| message(**entry).as_ref() == Some(refused)) {
            entry.0 &= !RedirectionEntry::REMOTE_IRR;
        }
    }

    /// Sends what the line asks for: an edge that just came, or a level.
    fn fire(&mut self, pin: u8) -> Option<InterruptMessage> {
        let asserted = self.lines & 1 << (pin & 31) != 0;
        let entry = self.entries.get_mut(usize::from(pin))?;
        if !asserted || entry.masked() || entry.remote_irr() {
            return None;
        }
        let message = message(*entry)?;
        if message.trigger == TriggerMode::Level {
            entry.0 |= RedirectionEntry::REMOTE_IRR;
        }
        Some(message)
    }

    fn entry(&self, pin: u8) -> Option<RedirectionEntry> {
        self.entries.get(usize::from(pin)).copied()
    }
}

/// The messages that an EOI sets free.
#[derive(Debug)]
pub struct Redeliveries<'a> {
    ioapic: &'a IoApic,
    pins: u32,
}

impl Iterator for Redeliveries<'_> {
    type Item = InterruptMessage;

    fn next(&mut self) -> Option<InterruptMessage> {
        while self.pins != 0 {
            let pin = self.pins.trailing_zeros() as u8;
            self.pins &= self.pins - 1;
            if let Some(message) = self.ioapic.entry(pin).and_then(message) {
                return Some(message);
            }
        }
        None
    }
}

/// The pin and half of a redirection register.
fn redirection(index: u8) -> Option<(u8, bool)> {
    let index = index.checked_sub(IOAPIC_REDIRECTION).filter(|index| *index < 2 * PINS)?;
    Some((index / 2, index % 2 != 0))
}

/// Whether the trigger bit counts: SMI, NMI, INIT and ExtINT are edges whatever it says (3.2.4, delivery mode).
fn level_triggered(entry: RedirectionEntry) -> bool {
    let mode = DeliveryMode::from_bits(entry.delivery_mode());
    entry.level() && matches!(mode, Some(DeliveryMode::Fixed | DeliveryMode::LowestPriority))
}

/// What an entry sends; nothing in a reserved delivery mode.
fn message(entry: RedirectionEntry) -> Option<InterruptMessage> {
    let mode = match DeliveryMode::from_bits(entry.delivery_mode())? {
        // Not a mode of redirection entries.
        DeliveryMode::Startup => return None,
        mode => mode,
    };
    let id = u32::from(entry.destination());
    let destination = if entry.logical() { Destination::Logical(id) } else { Destination::Physical(id) };
    let trigger = if level_triggered(entry) { TriggerMode::Level } else { TriggerMode::Edge };
    Some(InterruptMessage { destination, mode, vector: entry.vector(), trigger, assert: true })
}
