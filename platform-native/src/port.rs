// SPDX-License-Identifier: MIT OR Apache-2.0
//! Port I/O to QEMU's devices, which are Parados's alone: the guest reaches emulated ports only.
//!
//! The functions are safe to call because none of the devices that Parados uses moves memory on a port access. The one
//! exception, the host bridge's PAM registers, is used once, by `start::uncover_low_memory`, which argues it.

use x86_64::instructions::port::{PortRead, PortWrite};

/// IN.
pub(crate) fn read<T: PortRead>(port: u16) -> T {
    // SAFETY: see the module's description.
    unsafe { T::read_from_port(port) }
}

/// OUT.
pub(crate) fn write<T: PortWrite>(port: u16, value: T) {
    // SAFETY: see the module's description.
    unsafe { T::write_to_port(port, value) }
}
