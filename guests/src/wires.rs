// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupt wires driven by hand (the test ports 2000h–2017h), and the two controllers that they lead to: the IOAPIC
//! (82093AA data sheet) and the 8259s (231468).

use crate::instructions::{in_byte, out_byte};
use core::arch::asm;
use specs::apic::{IOAPIC_BASE, IOAPIC_REDIRECTION, IOREGSEL, IOWIN};

/// Wires that no device of the machine uses: two of them reach the 8259s as well, one on each.
pub const MASTER_WIRE: u8 = 5;
/// See [`MASTER_WIRE`].
pub const SLAVE_WIRE: u8 = 11;
/// A wire of the IOAPIC alone.
pub const HIGH_WIRE: u8 = 20;

/// Drives a wire.
pub fn drive(wire: u8, level: bool) {
    out_byte(0x2000 + u16::from(wire), level.into());
}

/// A rising and a falling edge.
pub fn pulse(wire: u8) {
    drive(wire, true);
    drive(wire, false);
}

/// The IOAPIC.
pub mod ioapic {
    use super::{IOAPIC_BASE, IOAPIC_REDIRECTION, IOREGSEL, IOWIN, asm};

    /// Redirection entry: level-triggered.
    pub const LEVEL: u64 = 1 << 15;
    /// Redirection entry: remote IRR.
    pub const REMOTE_IRR: u64 = 1 << 14;
    /// Redirection entry: masked.
    pub const MASKED: u64 = 1 << 16;
    /// Redirection entry: logical destination.
    pub const LOGICAL: u64 = 1 << 11;
    /// Redirection entry: where the destination starts.
    pub const DESTINATION_SHIFT: u32 = 56;

    fn access(index: u8) -> u64 {
        // SAFETY: a device register, not memory of ours.
        unsafe { asm!("mov [{}], {:e}", in(reg) IOAPIC_BASE + IOREGSEL, in(reg) u32::from(index), options(nostack)) };
        IOAPIC_BASE + IOWIN
    }

    /// Reads a register.
    pub fn read(index: u8) -> u32 {
        let value;
        // SAFETY: as in `access`.
        unsafe { asm!("mov {:e}, [{}]", out(reg) value, in(reg) access(index), options(nostack)) };
        value
    }

    /// Writes a register.
    pub fn write(index: u8, value: u32) {
        // SAFETY: as in `access`; interrupts that a write causes find their handler.
        unsafe { asm!("mov [{}], {:e}", in(reg) access(index), in(reg) value, options(nostack)) };
    }

    /// Reads a redirection entry.
    pub fn entry(pin: u8) -> u64 {
        let index = IOAPIC_REDIRECTION + 2 * pin;
        u64::from(read(index)) | u64::from(read(index + 1)) << 32
    }

    /// Writes a redirection entry, the half with the mask last.
    pub fn set_entry(pin: u8, entry: u64) {
        let index = IOAPIC_REDIRECTION + 2 * pin;
        write(index, MASKED as u32);
        write(index + 1, (entry >> 32) as u32);
        write(index, entry as u32);
    }

    /// Masks all pins.
    pub fn mask_all() {
        for pin in 0..24 {
            set_entry(pin, MASKED);
        }
    }
}

/// The two 8259s.
pub mod pic {
    use super::{in_byte, out_byte};

    /// Command port of the master; the slave's.
    pub const COMMAND: [u16; 2] = [0x20, 0xa0];
    /// Data ports.
    pub const DATA: [u16; 2] = [0x21, 0xa1];
    /// Vector of input 0 after [`initialise`].
    pub const BASE: u8 = 0x40;
    /// Non-specific EOI.
    pub const END_OF_INTERRUPT: u8 = 0x20;

    /// Initialises both for vectors from [`BASE`] on, all inputs masked, with `modes` as ICW4.
    pub fn initialise(modes: u8) {
        for (chip, (command, data)) in (0..).zip(COMMAND.iter().zip(DATA)) {
            out_byte(*command, 0x11);
            out_byte(data, BASE + 8 * chip);
            out_byte(data, if chip == 0 { 4 } else { 2 });
            out_byte(data, modes);
            out_byte(data, 0xff);
        }
    }

    /// Sets both masks: a set bit is masked.
    pub fn set_masks(master: u8, slave: u8) {
        out_byte(0x21, master);
        out_byte(0xa1, slave);
    }

    /// Reads IRR of both, the slave's in the high byte.
    pub fn requests() -> u16 {
        both(0x0a)
    }

    /// Reads ISR of both.
    pub fn in_service() -> u16 {
        both(0x0b)
    }

    fn both(choice: u8) -> u16 {
        let [master, slave] = COMMAND.map(|port| {
            out_byte(port, choice);
            in_byte(port)
        });
        u16::from_le_bytes([master, slave])
    }

    /// Ends an interrupt of the master, or of both.
    pub fn end(slave: bool) {
        if slave {
            out_byte(0xa0, END_OF_INTERRUPT);
        }
        out_byte(0x20, END_OF_INTERRUPT);
    }
}
