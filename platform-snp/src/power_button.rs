// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's power button, by port requests through the GHCB (*ours*: `docs/host-contract.md`).
//!
//! A host that refuses has no button: its guest runs all the same.

use platform_shared::power_button::{self, Registers};

use crate::apic;
use crate::ghcb::{Refusal, port_read, port_write};

struct Ports;

impl Registers for Ports {
    type Refusal = Refusal;

    fn read_word(&self, port: u16) -> Result<u16, Refusal> {
        port_read(port, 2).map(|value| value as u16)
    }

    fn write_word(&self, port: u16, value: u16) -> Result<(), Refusal> {
        port_write(port, 2, value.into())
    }

    fn write_long(&self, port: u16, value: u32) -> Result<(), Refusal> {
        port_write(port, 4, value)
    }
}

/// Makes the button interrupt the boot processor, if the host has one.
pub(crate) fn initialise() {
    let _ = power_button::initialise(&Ports).and_then(|()| apic::route_power_button());
}

/// Whether the button was pressed since the last call.
pub(crate) fn take() -> bool {
    power_button::take(&Ports)
}
