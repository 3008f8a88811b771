// SPDX-License-Identifier: MIT OR Apache-2.0
//! fw_cfg, QEMU's firmware configuration device, with the few items that firmware and test programs start from.
//!
//! Follows QEMU's "Firmware Configuration (fw_cfg) Device" (docs/specs/fw_cfg.rst); item numbers beyond that page are
//! those of Linux's `include/uapi/linux/qemu_fw_cfg.h`. Read-only, by the traditional interface: no DMA, no files yet.

use core::ops::RangeInclusive;

use vmm_interface::{Device, Machine, Register};

/// The selector (510h, a word) and the data register (511h, a byte), which overlap.
pub const FW_CFG_PORTS: RangeInclusive<u64> = 0x510..=0x511;

/// Item numbers.
mod key {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const ID: u16 = 0x01;
    pub(super) const RAM_SIZE: u16 = 0x03;
    pub(super) const CPUS: u16 = 0x05;
    pub(super) const MAX_CPUS: u16 = 0x0F;
    pub(super) const FILE_DIRECTORY: u16 = 0x19;
    /// The write bit, which selects the same item.
    pub(super) const WRITE: u16 = 1 << 14;
}

/// Feature bit 0: the traditional interface. Bit 1, DMA, stays clear.
const FEATURES: u32 = 1;

/// The device.
#[derive(Debug)]
pub struct FwCfg {
    ram_bytes: u64,
    processors: u16,
    selector: u16,
    /// Bytes of the selected item that were read.
    offset: usize,
}

impl FwCfg {
    /// For a guest with `ram_bytes` of memory and this many processors, all of them present.
    pub fn new(ram_bytes: u64, processors: u16) -> Self {
        Self { ram_bytes, processors, selector: key::SIGNATURE, offset: 0 }
    }

    /// A byte of the selected item; zero past its end, and for items that do not exist.
    fn byte(&self, offset: usize) -> u8 {
        let at = |item: &[u8]| item.get(offset).copied().unwrap_or(0);
        match self.selector & !key::WRITE {
            key::SIGNATURE => at(b"QEMU"),
            key::ID => at(&FEATURES.to_le_bytes()),
            key::RAM_SIZE => at(&self.ram_bytes.to_le_bytes()),
            key::CPUS | key::MAX_CPUS => at(&self.processors.to_le_bytes()),
            // A big-endian count of files, zero.
            key::FILE_DIRECTORY => at(&0_u32.to_be_bytes()),
            _ => 0,
        }
    }
}

impl Device for FwCfg {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        if (at.offset, at.width) != (1, 1) {
            return at.ones();
        }
        let byte = self.byte(self.offset);
        self.offset = self.offset.saturating_add(1);
        byte.into()
    }

    fn write(&mut self, at: Register, value: u64, _: &mut impl Machine) {
        // Writes to the data register are no longer part of the interface.
        if (at.offset, at.width) == (0, 2) {
            self.selector = value as u16;
            self.offset = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, survives_anything, write};
    use super::*;

    fn item<const N: usize>(device: &mut FwCfg, key: u16) -> [u8; N] {
        write(device, 0, 2, key.into());
        core::array::from_fn(|_| read(device, 1, 1) as u8)
    }

    #[test]
    fn any_access_is_answered() {
        survives_anything(&mut FwCfg::new(1 << 30, 2), 2);
    }

    #[test]
    fn items_have_their_documented_layout() {
        let mut device = FwCfg::new(0x1_2345_6000, 300);
        assert_eq!(&item::<4>(&mut device, 0), b"QEMU");
        assert_eq!(u32::from_le_bytes(item(&mut device, 1)), 1);
        assert_eq!(u64::from_le_bytes(item(&mut device, 3)), 0x1_2345_6000);
        assert_eq!(u16::from_le_bytes(item(&mut device, 5)), 300);
        assert_eq!(u16::from_le_bytes(item(&mut device, 0x0F)), 300);
        assert_eq!(item::<8>(&mut device, 0x19), [0; 8]);
    }

    #[test]
    fn reading_past_an_item_gives_zeros_and_selecting_starts_over() {
        let mut device = FwCfg::new(0, 1);
        assert_eq!(&item::<6>(&mut device, 0), b"QEMU\0\0");
        assert_eq!(&item::<2>(&mut device, 0), b"QE");
        assert_eq!(&item::<2>(&mut device, 0x4000), b"QE", "with the write bit");
        assert_eq!(item::<4>(&mut device, 0xFFFF), [0; 4]);
        assert_eq!(item::<4>(&mut device, 0x8000), [0; 4], "an architecture's own item");
    }

    #[test]
    fn data_register_cannot_be_written() {
        let mut device = FwCfg::new(0, 1);
        write(&mut device, 0, 2, 0);
        write(&mut device, 1, 1, 0x58);
        write(&mut device, 0, 1, 5);
        assert_eq!(read(&mut device, 1, 1), u64::from(b'Q'));
    }
}
