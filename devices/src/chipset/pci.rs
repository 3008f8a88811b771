// SPDX-License-Identifier: MIT OR Apache-2.0
//! PCI bus 0 of a Q35 machine: the host bridge and the LPC bridge, by configuration mechanism #1 and by ECAM.
//!
//! Follows PCI 3.0 section 3.2.2.3.2, PCI Express 5.0 section 7.2.2, and the MCH and ICH9 datasheets (see
//! [`specs::pci`]). Everything but the two functions is absent: reads all-ones, ignores writes.
//!
//! What firmware would set up is set up already and cannot be moved: PCIEXBAR and PMBASE are read-only and say where ECAM
//! and the power management ports are; GPIOBASE and RCBA are read-only and off; the C0000–FFFFFh area is RAM (PAM) and
//! SMM space is locked off. PCIEXBAR cannot say less than 64 MiB, of which bus 0 is the first; the other buses are
//! absent, and the MCFG table does not list them.

use core::ops::RangeInclusive;

use specs::pci::{self, command, header, lpc, mch};
use vmm_interface::{Device, Machine, Register};

use super::power::PM_BASE;
use super::{ResetControl, lanes};

/// Range of [`Pci::ports`]: CONFIG_ADDRESS, CONFIG_DATA and, in their midst, the reset control register.
pub const PCI_PORTS: RangeInclusive<u64> = 0xCF8..=0xCFF;
/// Where ECAM begins.
pub const ECAM_BASE: u64 = 0xB000_0000;
/// Bytes of ECAM: bus 0 alone.
pub const ECAM_BYTES: u64 = pci::ECAM_BUS_BYTES;
/// Range of [`Pci::ecam`].
pub const ECAM: RangeInclusive<u64> = ECAM_BASE..=ECAM_BASE + ECAM_BYTES - 1;

/// Device and function numbers, as bits 7:0 of a requester ID.
const HOST_BRIDGE: u8 = 0;
const LPC_BRIDGE: u8 = 0x1F << 3;

/// One function's configuration space.
#[derive(Debug)]
struct Function {
    registers: [u8; pci::CONFIG_BYTES],
    writable: [u8; pci::CONFIG_BYTES],
}

impl Function {
    const fn new(device: u16, revision: u8, class: [u8; 3]) -> Self {
        Self { registers: [0; pci::CONFIG_BYTES], writable: [0; pci::CONFIG_BYTES] }
            .with(header::VENDOR_ID, pci::VENDOR_INTEL.to_le_bytes())
            .with(header::DEVICE_ID, device.to_le_bytes())
            .with(header::REVISION_ID, [revision])
            .with(header::CLASS_CODE, class)
    }

    /// Sets a register's value after reset. Only called in constants.
    #[allow(clippy::indexing_slicing, reason = "evaluated at compile time, with constant registers")]
    const fn with<const N: usize>(mut self, register: u8, value: [u8; N]) -> Self {
        let mut i = 0;
        while i < N {
            self.registers[register as usize + i] = value[i];
            i += 1;
        }
        self
    }

    /// Lets the guest write the bits of `mask`.
    #[allow(clippy::indexing_slicing, reason = "evaluated at compile time, with constant registers")]
    const fn writable<const N: usize>(mut self, register: u8, mask: [u8; N]) -> Self {
        let mut i = 0;
        while i < N {
            self.writable[register as usize + i] = mask[i];
            i += 1;
        }
        self
    }

    fn read(&self, register: u16) -> u8 {
        // A conventional function has nothing beyond its 256 bytes.
        self.registers.get(usize::from(register)).copied().unwrap_or(0xFF)
    }

    fn write(&mut self, register: u16, value: u8) {
        let index = usize::from(register);
        if let (Some(byte), Some(mask)) = (self.registers.get_mut(index), self.writable.get(index)) {
            *byte = *byte & !mask | value & mask;
        }
    }
}

const HOST_BRIDGE_RESET: Function = {
    let fixed = command::MEMORY_SPACE | command::BUS_MASTER;
    let exbar = ECAM_BASE | mch::PCIEXBAR_64_MIB | mch::PCIEXBAR_ENABLE;
    Function::new(mch::DEVICE_ID, 0, mch::CLASS_CODE)
        .with(header::COMMAND, fixed.to_le_bytes())
        .writable(header::COMMAND, command::SERR_ENABLE.to_le_bytes())
        .with(header::STATUS, pci::STATUS_FAST_BACK_TO_BACK.to_le_bytes())
        .with(mch::PCIEXBAR, exbar.to_le_bytes())
        .with(mch::PAM0, [mch::PAM_HIGH_DRAM])
        .with(mch::PAM1, [mch::PAM_HIGH_DRAM | mch::PAM_LOW_DRAM; 6])
        .with(mch::SMRAM, [mch::SMRAM_LOCKED_OFF])
};

const LPC_BRIDGE_RESET: Function = {
    let fixed = command::IO_SPACE | command::MEMORY_SPACE | command::BUS_MASTER;
    let errors = command::PARITY_ERROR_RESPONSE | command::SERR_ENABLE;
    Function::new(lpc::DEVICE_ID, lpc::REVISION, lpc::CLASS_CODE)
        .with(header::COMMAND, fixed.to_le_bytes())
        .writable(header::COMMAND, errors.to_le_bytes())
        .with(header::STATUS, pci::STATUS_DEVSEL_MEDIUM.to_le_bytes())
        .with(header::HEADER_TYPE, [pci::MULTI_FUNCTION])
        .with(lpc::PMBASE, (PM_BASE as u32 | lpc::PMBASE_IO).to_le_bytes())
        .with(lpc::ACPI_CNTL, [lpc::ACPI_EN])
        .with(lpc::GPIOBASE, [1])
        // No INTx wire exists, so routing is remembered and routes nothing.
        .with(lpc::PIRQA_ROUT, [lpc::PIRQ_OFF; 4])
        .writable(lpc::PIRQA_ROUT, [lpc::PIRQ_WRITABLE; 4])
        .with(lpc::PIRQE_ROUT, [lpc::PIRQ_OFF; 4])
        .writable(lpc::PIRQE_ROUT, [lpc::PIRQ_WRITABLE; 4])
        .with(lpc::SIRQ_CNTL, [lpc::SIRQ_CNTL_DEFAULT])
        .writable(lpc::SIRQ_CNTL, [0xFF])
        .writable(lpc::LPC_IO_DEC, [0xFF; 2])
        .writable(lpc::LPC_EN, [0xFF; 2])
};

/// Bus 0. [`Self::ports`] and [`Self::ecam`] are its two devices.
#[derive(Debug)]
pub struct Pci {
    host_bridge: Function,
    lpc_bridge: Function,
    config_address: u32,
    reset_control: ResetControl,
}

impl Default for Pci {
    /// The bus as firmware leaves it.
    fn default() -> Self {
        Self {
            host_bridge: HOST_BRIDGE_RESET,
            lpc_bridge: LPC_BRIDGE_RESET,
            config_address: 0,
            reset_control: ResetControl::default(),
        }
    }
}

impl Pci {
    /// Ports CF8h–CFFh.
    pub fn ports(&mut self) -> PciPorts<'_> {
        PciPorts(self)
    }

    /// The ECAM range.
    pub fn ecam(&mut self) -> PciEcam<'_> {
        PciEcam(self)
    }

    fn function(&mut self, devfn: u8) -> Option<&mut Function> {
        match devfn {
            HOST_BRIDGE => Some(&mut self.host_bridge),
            LPC_BRIDGE => Some(&mut self.lpc_bridge),
            _ => None,
        }
    }

    fn read(&mut self, devfn: u8, at: Register) -> u64 {
        let Some(function) = self.function(devfn) else { return at.ones() };
        lanes::read(at, |register| function.read(u16::try_from(register).unwrap_or(u16::MAX)))
    }

    fn write(&mut self, devfn: u8, at: Register, value: u64) {
        let Some(function) = self.function(devfn) else { return };
        lanes::write(at, value, |register, byte| function.write(u16::try_from(register).unwrap_or(u16::MAX), byte));
    }

    /// Where CONFIG_ADDRESS points an access to CONFIG_DATA.
    fn selected(&self, at: Register) -> Option<(u8, Register)> {
        let [register, devfn, bus, _] = self.config_address.to_le_bytes();
        let lane = at.offset.checked_sub(4)?;
        if self.config_address & pci::CONFIG_ENABLE == 0 || bus != 0 || lane + u64::from(at.width) > 4 {
            return None;
        }
        Some((devfn, Register { offset: u64::from(register) | lane, width: at.width }))
    }
}

/// Configuration mechanism #1 of a [`Pci`] bus, with the reset control register in its midst.
#[derive(Debug)]
pub struct PciPorts<'a>(&'a mut Pci);

impl Device for PciPorts<'_> {
    fn read(&mut self, at: Register, machine: &mut impl Machine) -> u64 {
        match (at.offset, at.width) {
            (0, 4) => self.0.config_address.into(),
            (1, 1) => self.0.reset_control.read(Register { offset: 0, width: 1 }, machine),
            // Narrower accesses to CONFIG_ADDRESS are ordinary port accesses, and nothing else is there.
            _ => match self.0.selected(at) {
                Some((devfn, register)) => self.0.read(devfn, register),
                None => at.ones(),
            },
        }
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        match (at.offset, at.width) {
            (0, 4) => self.0.config_address = value as u32 & pci::CONFIG_ADDRESS_MASK,
            (1, 1) => self.0.reset_control.write(Register { offset: 0, width: 1 }, value, machine),
            _ => {
                if let Some((devfn, register)) = self.0.selected(at) {
                    self.0.write(devfn, register, value);
                }
            }
        }
    }
}

/// The memory-mapped configuration space of a [`Pci`] bus.
#[derive(Debug)]
pub struct PciEcam<'a>(&'a mut Pci);

impl PciEcam<'_> {
    fn decode(at: Register) -> Option<(u8, Register)> {
        let devfn = u8::try_from(at.offset / pci::ECAM_FUNCTION_BYTES).ok()?;
        let offset = at.offset % pci::ECAM_FUNCTION_BYTES;
        // The root complex need not take an access that crosses a doubleword border (PCIE 7.2.2.1); quadwords at their
        // own border it may, and we do.
        let fits = matches!(at.width, 1 | 2 | 4 | 8) && offset % 8 + u64::from(at.width) <= 8;
        fits.then_some((devfn, Register { offset, width: at.width }))
    }
}

impl Device for PciEcam<'_> {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        match Self::decode(at) {
            Some((devfn, register)) => self.0.read(devfn, register),
            None => at.ones(),
        }
    }

    fn write(&mut self, at: Register, value: u64, _: &mut impl Machine) {
        if let Some((devfn, register)) = Self::decode(at) {
            self.0.write(devfn, register, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_interface::Lifecycle;

    use super::super::testing::{read, survives_anything, write};
    use super::*;

    /// A configuration read by mechanism #1, as a driver does it.
    fn by_port(bus: &mut Pci, devfn: u8, register: u8, width: u8) -> u64 {
        let address = 1 << 31 | u64::from(devfn) << 8 | u64::from(register & !3);
        write(&mut bus.ports(), 0, 4, address);
        read(&mut bus.ports(), 4 + u64::from(register & 3), width)
    }

    fn by_ecam(bus: &mut Pci, devfn: u8, register: u64, width: u8) -> u64 {
        read(&mut bus.ecam(), u64::from(devfn) << 12 | register, width)
    }

    #[test]
    fn any_access_is_answered() {
        let mut bus = Pci::default();
        survives_anything(&mut bus.ports(), 8);
        for devfn in [HOST_BRIDGE, 8, LPC_BRIDGE] {
            write(&mut bus.ports(), 0, 4, 1 << 31 | u64::from(devfn) << 8);
            survives_anything(&mut bus.ports(), 8);
        }
        survives_anything(&mut bus.ecam(), 0x2000);
    }

    #[test]
    fn both_mechanisms_see_the_same_two_functions() {
        let mut bus = Pci::default();
        for devfn in 0..=255 {
            let id = match devfn {
                HOST_BRIDGE => 0x29C0_8086,
                LPC_BRIDGE => 0x2918_8086,
                _ => 0xFFFF_FFFF,
            };
            assert_eq!(by_port(&mut bus, devfn, 0, 4), id);
            assert_eq!(by_ecam(&mut bus, devfn, 0, 4), id);
        }
        for devfn in [HOST_BRIDGE, LPC_BRIDGE] {
            for register in 0..=255 {
                let value = by_port(&mut bus, devfn, register, 1);
                assert_eq!(by_ecam(&mut bus, devfn, register.into(), 1), value);
            }
        }
    }

    #[test]
    fn class_codes_and_header_types_are_those_of_the_chips() {
        let mut bus = Pci::default();
        assert_eq!(by_port(&mut bus, HOST_BRIDGE, 0x08, 4), 0x0600_0000);
        assert_eq!(by_port(&mut bus, LPC_BRIDGE, 0x08, 4), 0x0601_0002);
        assert_eq!(by_port(&mut bus, HOST_BRIDGE, 0x0E, 1), 0x00);
        assert_eq!(by_port(&mut bus, LPC_BRIDGE, 0x0E, 1), 0x80);
    }

    #[test]
    fn base_registers_agree_with_what_is_decoded_and_cannot_be_moved() {
        let mut bus = Pci::default();
        for _ in 0..2 {
            let exbar = by_ecam(&mut bus, HOST_BRIDGE, 0x60, 8);
            assert_eq!(exbar & !0xFFF_FFFF, ECAM_BASE);
            assert_eq!(exbar & 7, 0b101);
            let pmbase = by_port(&mut bus, LPC_BRIDGE, 0x40, 4);
            assert_eq!(pmbase, *super::super::PM_PORTS.start() | 1);
            assert_eq!(by_port(&mut bus, LPC_BRIDGE, 0x44, 1), 0x80);
            write(&mut bus.ecam(), 0x60, 8, u64::MAX);
            write(&mut bus.ecam(), 0xF_8040, 8, 0);
        }
    }

    #[test]
    fn config_address_takes_doublewords_alone() {
        let mut bus = Pci::default();
        write(&mut bus.ports(), 0, 4, 0x8000_0000);
        write(&mut bus.ports(), 3, 1, 0x01);
        write(&mut bus.ports(), 0, 2, 0xFFFF);
        write(&mut bus.ports(), 0, 1, 0xFF);
        assert_eq!(read(&mut bus.ports(), 0, 4), 0x8000_0000);
        assert_eq!(read(&mut bus.ports(), 0, 2), 0xFFFF);
        assert_eq!(read(&mut bus.ports(), 3, 1), 0xFF);
    }

    #[test]
    fn reserved_bits_of_config_address_read_zero() {
        let mut bus = Pci::default();
        write(&mut bus.ports(), 0, 4, 0xFFFF_FFFF);
        assert_eq!(read(&mut bus.ports(), 0, 4), 0x80FF_FFFC);
    }

    #[test]
    fn config_data_is_absent_unless_enabled_and_on_bus_0() {
        let mut bus = Pci::default();
        write(&mut bus.ports(), 0, 4, 0);
        assert_eq!(read(&mut bus.ports(), 4, 4), 0xFFFF_FFFF);
        write(&mut bus.ports(), 0, 4, 0x8001_0000);
        assert_eq!(read(&mut bus.ports(), 4, 4), 0xFFFF_FFFF);
    }

    #[test]
    fn narrow_reads_of_config_data_take_their_lane() {
        let mut bus = Pci::default();
        assert_eq!(by_port(&mut bus, LPC_BRIDGE, 0x02, 2), 0x2918);
        assert_eq!(by_port(&mut bus, LPC_BRIDGE, 0x03, 1), 0x29);
        assert_eq!(by_port(&mut bus, LPC_BRIDGE, 0x01, 2), 0x1880);
    }

    #[test]
    fn writes_reach_writable_bits_alone() {
        let mut bus = Pci::default();
        by_port(&mut bus, LPC_BRIDGE, 0x60, 4);
        write(&mut bus.ports(), 4, 4, 0x7F0A_FF0B);
        assert_eq!(by_port(&mut bus, LPC_BRIDGE, 0x60, 4), 0x0F0A_8F0B);
        by_port(&mut bus, LPC_BRIDGE, 0x04, 4);
        write(&mut bus.ports(), 4, 4, 0xFFFF_FFFF);
        assert_eq!(by_port(&mut bus, LPC_BRIDGE, 0x04, 4), 0x0200_0147);
        write(&mut bus.ecam(), 0, 4, 0);
        assert_eq!(by_ecam(&mut bus, HOST_BRIDGE, 0, 4), 0x29C0_8086);
    }

    #[test]
    fn bars_of_the_bridges_size_as_unimplemented() {
        let mut bus = Pci::default();
        for devfn in [HOST_BRIDGE, LPC_BRIDGE] {
            for bar in (0x10..0x28).step_by(4).chain([0x30]) {
                write(&mut bus.ecam(), u64::from(devfn) << 12 | bar, 4, 0xFFFF_FFFF);
                assert_eq!(by_ecam(&mut bus, devfn, bar, 4), 0);
            }
        }
    }

    #[test]
    fn extended_configuration_space_is_absent() {
        let mut bus = Pci::default();
        assert_eq!(by_ecam(&mut bus, HOST_BRIDGE, 0x100, 4), 0xFFFF_FFFF);
        assert_eq!(by_ecam(&mut bus, LPC_BRIDGE, 0xFFC, 4), 0xFFFF_FFFF);
    }

    #[test]
    fn byte_at_cf9_is_the_reset_control_register() {
        let mut bus = Pci::default();
        assert_eq!(write(&mut bus.ports(), 1, 1, 0x02), None);
        assert_eq!(read(&mut bus.ports(), 1, 1), 0x02);
        assert_eq!(read(&mut bus.ports(), 0, 4), 0);
        assert_eq!(write(&mut bus.ports(), 1, 1, 0x06), Some(Lifecycle::Reset));
        assert_eq!(write(&mut bus.ports(), 0, 4, 0x0600), None, "an address, not a reset");
    }
}
