// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two of the PC's reset switches: the reset control register at CF9h and system control port A at 92h.
//!
//! Follows the ICH9 datasheet (316972), sections 13.7.5 (RST_CNT) and 13.7.3 (PORT92). CF9h lies within the ports of PCI
//! configuration mechanism #1, so [`super::Pci`] owns a [`ResetControl`] and passes byte accesses on.
//!
//! A soft reset (INIT to all processors) would leave memory as it is and go on at the firmware's reset vector. There is
//! no firmware to go on in, and what firmware does there on a PC is a full reset: so every reset is one, and ends the VM.

use vmm_interface::{Device, Lifecycle, Machine, Register};

/// The reset control register.
pub const CONTROL_PORT: u16 = 0xCF9;
/// System control port A.
pub const SYSTEM_CONTROL_PORT: u16 = 0x92;
/// What the FADT tells the guest to write to [`CONTROL_PORT`]: RST_CPU with SYS_RST, a hard reset.
pub const HARD_RESET: u8 = RST_CPU | SYS_RST;

const SYS_RST: u8 = 1 << 1;
const RST_CPU: u8 = 1 << 2;
const FULL_RST: u8 = 1 << 3;

/// RST_CNT at CF9h: a change of RST_CPU from 0 to 1 resets.
#[derive(Debug, Default)]
pub struct ResetControl {
    register: u8,
}

impl Device for ResetControl {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        if at.width == 1 { self.register.into() } else { at.ones() }
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        if at.width != 1 {
            return;
        }
        let value = value as u8 & (RST_CPU | SYS_RST | FULL_RST);
        if value & !self.register & RST_CPU != 0 {
            machine.request(Lifecycle::Reset);
        }
        self.register = value;
    }
}

const INIT_NOW: u8 = 1 << 0;
const ALT_A20_GATE: u8 = 1 << 1;

/// Port 92h: fast A20 and fast reset. The A20 bit reads back but masks nothing: address line 20 is always on, as on
/// every PC without the gate, and a guest that needs the wrap-around of real mode does not run here.
#[derive(Debug)]
pub struct SystemControl {
    register: u8,
}

impl Default for SystemControl {
    /// The port as firmware leaves it: A20 on.
    fn default() -> Self {
        Self { register: ALT_A20_GATE }
    }
}

impl Device for SystemControl {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        if at.width == 1 { self.register.into() } else { at.ones() }
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        if at.width != 1 {
            return;
        }
        let value = value as u8 & (INIT_NOW | ALT_A20_GATE);
        if value & !self.register & INIT_NOW != 0 {
            machine.request(Lifecycle::Reset);
        }
        self.register = value;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, survives_anything, write};
    use super::*;

    #[test]
    fn any_access_is_answered() {
        survives_anything(&mut ResetControl::default(), 1);
        survives_anything(&mut SystemControl::default(), 1);
    }

    #[test]
    fn reset_control_acts_on_the_rising_edge_of_rst_cpu() {
        let mut control = ResetControl::default();
        assert_eq!(write(&mut control, 0, 1, 0x02), None);
        assert_eq!(write(&mut control, 0, 1, 0xFB), None);
        assert_eq!(read(&mut control, 0, 1), 0x0A);
        assert_eq!(write(&mut control, 0, 1, 0x06), Some(Lifecycle::Reset));
        assert_eq!(write(&mut control, 0, 1, 0x06), None, "it stayed at one");
        assert_eq!(write(&mut control, 0, 1, 0x00), None);
        assert_eq!(write(&mut control, 0, 1, 0x04), Some(Lifecycle::Reset), "a soft reset too");
    }

    #[test]
    fn value_in_the_fadt_resets() {
        assert_eq!(HARD_RESET, 6);
        assert_eq!(write(&mut ResetControl::default(), 0, 1, HARD_RESET.into()), Some(Lifecycle::Reset));
    }

    #[test]
    fn port_92h_keeps_a20_and_resets_on_the_rising_edge_of_bit_0() {
        let mut control = SystemControl::default();
        assert_eq!(read(&mut control, 0, 1), 2);
        assert_eq!(write(&mut control, 0, 1, 0xFC), None);
        assert_eq!(read(&mut control, 0, 1), 0);
        assert_eq!(write(&mut control, 0, 1, 0x02), None);
        assert_eq!(read(&mut control, 0, 1), 2);
        assert_eq!(write(&mut control, 0, 1, 0x03), Some(Lifecycle::Reset));
        assert_eq!(write(&mut control, 0, 1, 0x03), None);
    }
}
