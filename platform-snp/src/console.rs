// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's consoles and clock, by port requests through the GHCB.

use platform_shared::console::{Consoles, Ports};

use crate::ghcb::{Refusal, port_read, port_write};

/// The consoles of this machine.
pub(crate) static CONSOLES: Consoles<HostPorts> = Consoles::new(HostPorts);

/// The host's ports.
pub(crate) struct HostPorts;

impl Ports for HostPorts {
    const PATIENCE: u32 = 10_000;
    type Refusal = Refusal;

    fn read(&self, port: u16) -> Result<u8, Refusal> {
        port_read(port, 1).map(|value| value as u8)
    }

    fn write(&self, port: u16, value: u8) -> Result<(), Refusal> {
        port_write(port, 1, value.into())
    }
}
