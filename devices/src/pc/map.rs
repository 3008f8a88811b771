// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which part of the PC answers where.

use vmm_interface::{DispatchError, RangeMap};

use super::PcConfig;
use crate::chipset;

/// A range of ports or addresses, by the part behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Id {
    Pic1,
    Pic2,
    EdgeLevel,
    Pit,
    /// Port 61h.
    PitControl,
    Rtc,
    Com1,
    Com2,
    Power,
    SystemControl,
    KeyboardData,
    KeyboardCommand,
    PciPorts,
    Ecam,
    FwCfg,
    DebugPort,
    DelayPort,
    IoApic,
    TestExit,
    TestCrash,
    TestPorts,
    TestLines,
    TestMemory,
}

impl Id {
    /// Eight-bit parts: the bus turns a wider access into one for each byte.
    pub(super) const fn is_eight_bit(self) -> bool {
        matches!(
            self,
            Self::Pic1
                | Self::Pic2
                | Self::EdgeLevel
                | Self::Pit
                | Self::PitControl
                | Self::Rtc
                | Self::Com1
                | Self::Com2
        )
    }

    /// The 8259s, their ELCR and the IOAPIC, which are wires rather than parts.
    pub(super) const fn is_interrupt_controller(self) -> bool {
        matches!(self, Self::Pic1 | Self::Pic2 | Self::EdgeLevel | Self::IoApic)
    }

    /// Parts whose deadline an access may move.
    pub(super) const fn read_moves_deadline(self) -> bool {
        matches!(self, Self::Rtc | Self::Com1 | Self::Com2)
    }

    /// Whether a write may move the device's deadline.
    pub(super) const fn has_deadline(self) -> bool {
        matches!(self, Self::Pit | Self::Rtc | Self::Com1 | Self::Com2 | Self::Power)
    }
}

/// The I/O space.
pub(super) fn ports(config: &PcConfig) -> Result<RangeMap<Id>, DispatchError> {
    let mut map = RangeMap::default();
    for (range, id) in [
        (0x20..=0x21, Id::Pic1),
        (0xa0..=0xa1, Id::Pic2),
        (0x4d0..=0x4d1, Id::EdgeLevel),
        (0x40..=0x43, Id::Pit),
        (0x61..=0x61, Id::PitControl),
        (0x70..=0x71, Id::Rtc),
        (0x3f8..=0x3ff, Id::Com1),
        (chipset::PM_PORTS, Id::Power),
        (chipset::SYSTEM_CONTROL_PORT.into()..=chipset::SYSTEM_CONTROL_PORT.into(), Id::SystemControl),
        (chipset::I8042_DATA_PORT, Id::KeyboardData),
        (chipset::I8042_COMMAND_PORT, Id::KeyboardCommand),
        (chipset::PCI_PORTS, Id::PciPorts),
        (chipset::FW_CFG_PORTS, Id::FwCfg),
        (chipset::DEBUG_PORT, Id::DebugPort),
        (chipset::DELAY_PORT, Id::DelayPort),
    ] {
        map.insert(range, id)?;
    }
    if config.command_console {
        map.insert(0x2f8..=0x2ff, Id::Com2)?;
    }
    if config.test_devices {
        map.insert(chipset::EXIT_PORTS, Id::TestExit)?;
        map.insert(chipset::CRASH_PORTS, Id::TestCrash)?;
        map.insert(chipset::TEST_PORTS, Id::TestPorts)?;
        map.insert(chipset::LINE_PORTS, Id::TestLines)?;
    }
    Ok(map)
}

/// The physical address space, as far as it is not memory or a local APIC.
pub(super) fn mmio(config: &PcConfig) -> Result<RangeMap<Id>, DispatchError> {
    let mut map = RangeMap::default();
    map.insert(super::IOAPIC, Id::IoApic)?;
    map.insert(chipset::ECAM, Id::Ecam)?;
    if config.test_devices {
        map.insert(chipset::IO_MEMORY, Id::TestMemory)?;
        map.insert(chipset::LOW_IO_MEMORY, Id::TestMemory)?;
    }
    Ok(map)
}
