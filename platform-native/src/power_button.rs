// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's power button, by its own ports.

use core::convert::Infallible;

use platform_shared::power_button::{self, Registers};

use crate::port;

struct Ports;

impl Registers for Ports {
    type Refusal = Infallible;

    fn read_word(&self, port: u16) -> Result<u16, Infallible> {
        Ok(port::read(port))
    }

    fn write_word(&self, port: u16, value: u16) -> Result<(), Infallible> {
        port::write(port, value);
        Ok(())
    }

    fn write_long(&self, port: u16, value: u32) -> Result<(), Infallible> {
        port::write(port, value);
        Ok(())
    }
}

/// Makes the button raise an SCI.
pub(crate) fn initialise() {
    let Ok(()) = power_button::initialise(&Ports);
}

/// Whether the button was pressed since the last call.
pub(crate) fn take() -> bool {
    power_button::take(&Ports)
}
