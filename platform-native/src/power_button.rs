// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's power button (`system_powerdown`), which arrives as an SCI of its ICH9 (Intel I/O Controller Hub 9 data sheet,
//! 13.8.3) and becomes a press of the guest's own.

use crate::port;

/// The LPC bridge's configuration space, 00:1f.0, through configuration mechanism 1.
const LPC: u32 = 0x8000_f800;
/// PMBASE, and what it is set to: firmware may not have run.
const PMBASE: u32 = 0x40;
const BASE: u16 = 0x600;
/// ACPI_CNTL: decode the block, SCI on IRQ 9.
const ACPI_CNTL: u32 = 0x44;
const ACPI_EN: u32 = 1 << 7;
/// PM1_STS (write 1 to clear) and PM1_EN.
const STATUS: u16 = BASE;
const ENABLE: u16 = BASE + 2;
const POWER_BUTTON: u16 = 1 << 8;

/// Makes the button raise an SCI.
pub(crate) fn initialise() {
    configure(PMBASE, u32::from(BASE) | 1);
    configure(ACPI_CNTL, ACPI_EN);
    port::write(STATUS, POWER_BUTTON);
    port::write(ENABLE, POWER_BUTTON);
}

/// Whether the button was pressed since the last call.
pub(crate) fn take() -> bool {
    let pressed = port::read::<u16>(STATUS) & POWER_BUTTON != 0;
    port::write(STATUS, POWER_BUTTON);
    pressed
}

fn configure(register: u32, value: u32) {
    port::write::<u32>(0xcf8, LPC | register);
    port::write::<u32>(0xcfc, value);
}
