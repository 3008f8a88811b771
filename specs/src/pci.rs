// SPDX-License-Identifier: MIT OR Apache-2.0
//! PCI configuration space, and the registers of the two functions of a Q35 machine that every guest looks at.
//!
//! Sources: PCI, "PCI Local Bus Specification" 3.0 (sections 3.2.2.3.2 and 6.1–6.2); PCIE, "PCI Express Base
//! Specification" 5.0 (section 7.2.2); MCH, "Intel 3 Series Express Chipset Family Datasheet", document 316966, chapter 5
//! (D0:F0); ICH9, "Intel I/O Controller Hub 9 Family Datasheet", document 316972, chapter 13 (D31:F0).

/// CONFIG_ADDRESS, configuration mechanism #1 (PCI 3.2.2.3.2).
pub const CONFIG_ADDRESS: u16 = 0xCF8;
/// CONFIG_DATA (PCI 3.2.2.3.2).
pub const CONFIG_DATA: u16 = 0xCFC;
/// CONFIG_ADDRESS: accesses to CONFIG_DATA become configuration cycles.
pub const CONFIG_ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS: bits that can be set; the others read as zero.
pub const CONFIG_ADDRESS_MASK: u32 = 0x80FF_FFFC;

/// Bytes of configuration space of a conventional function.
pub const CONFIG_BYTES: usize = 256;
/// Bytes of ECAM space for each function (PCIE 7.2.2, table 7-1).
pub const ECAM_FUNCTION_BYTES: u64 = 4096;
/// Bytes of ECAM space for each bus.
pub const ECAM_BUS_BYTES: u64 = 1 << 20;

/// Registers of the type 0 header (PCI 6.1, figure 6-1).
pub mod header {
    #![allow(missing_docs, reason = "the specification's own names")]
    pub const VENDOR_ID: u8 = 0x00;
    pub const DEVICE_ID: u8 = 0x02;
    pub const COMMAND: u8 = 0x04;
    pub const STATUS: u8 = 0x06;
    pub const REVISION_ID: u8 = 0x08;
    pub const CLASS_CODE: u8 = 0x09;
    pub const HEADER_TYPE: u8 = 0x0E;
}

/// COMMAND bits (PCI 6.2.2, table 6-1).
pub mod command {
    #![allow(missing_docs, reason = "the specification's own names")]
    pub const IO_SPACE: u16 = 1 << 0;
    pub const MEMORY_SPACE: u16 = 1 << 1;
    pub const BUS_MASTER: u16 = 1 << 2;
    pub const PARITY_ERROR_RESPONSE: u16 = 1 << 6;
    pub const SERR_ENABLE: u16 = 1 << 8;
}

/// STATUS: medium DEVSEL timing (PCI 6.2.3, table 6-2).
pub const STATUS_DEVSEL_MEDIUM: u16 = 0b01 << 9;
/// STATUS: can take fast back-to-back transfers (PCI 6.2.3, table 6-2).
pub const STATUS_FAST_BACK_TO_BACK: u16 = 1 << 7;
/// HEADER_TYPE: the device has more than one function (PCI 6.2.1).
pub const MULTI_FUNCTION: u8 = 1 << 7;

/// Intel's vendor ID.
pub const VENDOR_INTEL: u16 = 0x8086;

/// The Q35 host bridge, D0:F0 (MCH 5.1).
pub mod mch {
    /// Device ID.
    pub const DEVICE_ID: u16 = 0x29C0;
    /// Base class 06h bridge, subclass 00h host.
    pub const CLASS_CODE: [u8; 3] = [0x00, 0x00, 0x06];
    /// PCIEXBAR, 64 bits: base of the ECAM range.
    pub const PCIEXBAR: u8 = 0x60;
    /// PCIEXBAR: the range is decoded.
    pub const PCIEXBAR_ENABLE: u64 = 1;
    /// PCIEXBAR, bits 2:1: 64 MiB, buses 0–63; the least that can be said.
    pub const PCIEXBAR_64_MIB: u64 = 0b10 << 1;
    /// PAM0: attributes of F0000–FFFFFh.
    pub const PAM0: u8 = 0x90;
    /// PAM1–PAM6: attributes of C0000–EFFFFh, two areas of 16 KiB each.
    pub const PAM1: u8 = 0x91;
    /// PAM: reads and writes of the upper area (bits 5:4) go to DRAM.
    pub const PAM_HIGH_DRAM: u8 = 0b11 << 4;
    /// PAM: reads and writes of the lower area (bits 1:0) go to DRAM.
    pub const PAM_LOW_DRAM: u8 = 0b11;
    /// SMRAM: control of the compatible SMM space.
    pub const SMRAM: u8 = 0x9D;
    /// SMRAM: locked until reset, C_BASE_SEG hard-wired to 010b, SMM space off.
    pub const SMRAM_LOCKED_OFF: u8 = 1 << 4 | 0b010;
}

/// The ICH9 LPC bridge, D31:F0 (ICH9 13.1).
pub mod lpc {
    /// Device ID.
    pub const DEVICE_ID: u16 = 0x2918;
    /// Stepping A2.
    pub const REVISION: u8 = 0x02;
    /// Base class 06h bridge, subclass 01h ISA.
    pub const CLASS_CODE: [u8; 3] = [0x00, 0x01, 0x06];
    /// PMBASE: base of the 128 ACPI ports.
    pub const PMBASE: u8 = 0x40;
    /// PMBASE: hard-wired one, an I/O range.
    pub const PMBASE_IO: u32 = 1;
    /// ACPI_CNTL.
    pub const ACPI_CNTL: u8 = 0x44;
    /// ACPI_CNTL: PMBASE is decoded. SCI_IRQ_SEL (bits 2:0) zero is IRQ 9.
    pub const ACPI_EN: u8 = 1 << 7;
    /// GPIOBASE.
    pub const GPIOBASE: u8 = 0x48;
    /// PIRQA_ROUT–PIRQD_ROUT.
    pub const PIRQA_ROUT: u8 = 0x60;
    /// SIRQ_CNTL.
    pub const SIRQ_CNTL: u8 = 0x64;
    /// SIRQ_CNTL after reset: 17 data frames.
    pub const SIRQ_CNTL_DEFAULT: u8 = 0x10;
    /// PIRQE_ROUT–PIRQH_ROUT.
    pub const PIRQE_ROUT: u8 = 0x68;
    /// PIRQ routing off: the pin goes to the IOAPIC alone.
    pub const PIRQ_OFF: u8 = 1 << 7;
    /// Writable bits of a PIRQ register.
    pub const PIRQ_WRITABLE: u8 = 0x8F;
    /// LPC_I/O_DEC: which ranges the COM and LPT decoders take.
    pub const LPC_IO_DEC: u8 = 0x80;
    /// LPC_EN: which decoders are on.
    pub const LPC_EN: u8 = 0x82;
}
