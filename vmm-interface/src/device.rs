// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device trait and what a device may do to the machine around it.

use platform::{Console, Instant};

/// A guest access, already resolved to one of the device's ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// Bytes from the start of the range. The whole access lies inside the range.
    pub offset: u64,
    /// Access size in bytes: 1, 2 or 4 for a port, 1 to 8 for MMIO.
    pub width: u8,
}

impl Register {
    /// All bits of this access's width: what an absent register reads as.
    pub const fn ones(self) -> u64 {
        match self.width {
            0 => 0,
            1..=7 => (1 << (8 * self.width as u64)) - 1,
            _ => u64::MAX,
        }
    }
}

/// An interrupt input wire, numbered as a global system interrupt: 0–15 are the ISA lines (the timer on 0 reaches IOAPIC
/// pin 2), 16–23 the other IOAPIC pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line(pub u8);

/// What a device can ask of the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifecycle {
    /// ACPI S5: the VM ends.
    PowerOff,
    /// A reset register was written.
    Reset,
    /// The test device's exit port was written with this value.
    TestExit(u32),
    /// The test device's crash port was written: Parados itself is to die, so that somebody can see what is left.
    TestCrash,
}

/// The machine as a device sees it during one call.
pub trait Machine {
    /// The current time, the same throughout the call.
    fn now(&self) -> Instant;
    /// Drives an interrupt wire. Level by level: an edge is two calls. Calling with the present level does nothing.
    fn set_line(&mut self, line: Line, level: bool);
    /// Sends a byte of console output to the host.
    fn transmit(&mut self, console: Console, byte: u8);
    /// Ends the VM after the current instruction. The first request wins.
    fn request(&mut self, change: Lifecycle);
}

/// A device model. Every method is total: no offset, width or value may panic it.
pub trait Device {
    /// Reads a register. The upper, unused bits of the reply are zero.
    fn read(&mut self, at: Register, machine: &mut impl Machine) -> u64;

    /// Writes a register. Bits of `value` beyond the access's width are zero.
    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine);

    /// When the device next wants [`Self::expire`] called; [`Instant::NEVER`] if it waits for nothing.
    fn deadline(&self) -> Instant {
        Instant::NEVER
    }

    /// Catches up with the time. Called at or after [`Self::deadline`], perhaps much later, perhaps early; bounded work
    /// however late.
    fn expire(&mut self, machine: &mut impl Machine) {
        let _ = machine;
    }
}
