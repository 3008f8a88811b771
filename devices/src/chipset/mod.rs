// SPDX-License-Identifier: MIT OR Apache-2.0
//! The small parts of a Q35-shaped PC: power management, reset, keyboard controller, PCI identity, firmware
//! configuration, and the list of what is not there.
//!
//! Each part says in constants which ports or addresses it wants; `pc` assembles them. A part with two ranges that share
//! state hands out one view for each range ([`I8042::data_port`], [`Pci::ecam`] and the like), because a device sees
//! offsets within a range, not addresses.
//!
//! Hostile party, for every file in this folder: the guest, which chooses every offset, width and value.

mod absent;
mod fw_cfg;
mod i8042;
mod lanes;
mod misc;
mod pci;
mod power;
mod reset;
mod test_devices;
#[cfg(test)]
mod testing;

pub use absent::{is_absent_mmio, is_absent_port};
pub use fw_cfg::{FW_CFG_PORTS, FwCfg};
pub use i8042::{COMMAND_PORT as I8042_COMMAND_PORT, DATA_PORT as I8042_DATA_PORT};
pub use i8042::{I8042, I8042CommandPort, I8042DataPort};
pub use misc::{DEBUG_PORT, DELAY_PORT, DelayPort};
pub use pci::{ECAM, ECAM_BASE, ECAM_BYTES, PCI_PORTS, Pci, PciEcam, PciPorts};
pub use power::{PM_BASE, PM_PORTS, Power, SCI, SLEEP_TYPE_S5, block};
pub use reset::{CONTROL_PORT as RESET_CONTROL_PORT, HARD_RESET, ResetControl, SYSTEM_CONTROL_PORT, SystemControl};
pub use test_devices::{CRASH_PORTS, CrashPort};
pub use test_devices::{EXIT_PORTS, IO_MEMORY, LINE_PORTS, LOW_IO_MEMORY, TEST_PORTS};
pub use test_devices::{ExitPort, InterruptLines, IoMemory, TestPorts};
