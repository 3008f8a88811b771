// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's consoles and clock, at their ports.

use core::convert::Infallible;

use platform_shared::console::{Consoles, Ports};

use crate::port;

/// The consoles of this machine.
pub(crate) static CONSOLES: Consoles<QemuPorts> = Consoles::new(QemuPorts);

/// QEMU's ports.
pub(crate) struct QemuPorts;

impl Ports for QemuPorts {
    const PATIENCE: u32 = 100_000;
    type Refusal = Infallible;

    fn read(&self, port: u16) -> Result<u8, Infallible> {
        Ok(port::read(port))
    }

    fn write(&self, port: u16, value: u8) -> Result<(), Infallible> {
        port::write(port, value);
        Ok(())
    }
}
