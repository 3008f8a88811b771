// SPDX-License-Identifier: MIT OR Apache-2.0
//! ACPI: table layouts, fixed-hardware register bits and the AML opcodes that a plain namespace needs.
//!
//! Source: ACPI, "Advanced Configuration and Power Interface Specification", release 6.5 (UEFI Forum, 2022). Sections are
//! given at each item. Layouts are little-endian and packed, as section 5.2.1 asks; they are written, never parsed, so
//! nothing here is hostile.

use static_assertions::const_assert_eq;
use zerocopy::{Immutable, IntoBytes};

/// Root System Description Pointer, revision 2 (5.2.5.3).
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct Rsdp {
    /// [`RSDP_SIGNATURE`].
    pub signature: [u8; 8],
    /// Makes the first 20 bytes sum to zero.
    pub checksum: u8,
    /// Who made the tables.
    pub oem_id: [u8; 6],
    /// 2.
    pub revision: u8,
    /// Address of the RSDT, for software that knows only ACPI 1.0.
    pub rsdt: u32,
    /// 36.
    pub length: u32,
    /// Address of the XSDT.
    pub xsdt: u64,
    /// Makes all 36 bytes sum to zero.
    pub extended_checksum: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const_assert_eq!(size_of::<Rsdp>(), 36);

/// "RSD PTR " (5.2.5.3).
pub const RSDP_SIGNATURE: [u8; 8] = *b"RSD PTR ";
/// Bytes of the RSDP that its first checksum covers (5.2.5.3).
pub const RSDP_CHECKSUMMED: usize = 20;
/// The RSDP lies on such a border, within [`RSDP_AREA`] (5.2.5.1).
pub const RSDP_ALIGNMENT: u64 = 16;
/// Where an operating system started without UEFI looks for the RSDP (5.2.5.1).
pub const RSDP_AREA: core::ops::RangeInclusive<u64> = 0xE_0000..=0xF_FFFF;

/// System description table header (5.2.6).
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct SdtHeader {
    /// Which table.
    pub signature: [u8; 4],
    /// Bytes in the table, this header included.
    pub length: u32,
    /// Revision of the table's layout.
    pub revision: u8,
    /// Makes the table sum to zero.
    pub checksum: u8,
    /// Who made the tables.
    pub oem_id: [u8; 6],
    /// Which of the maker's tables.
    pub oem_table_id: [u8; 8],
    /// The maker's revision.
    pub oem_revision: u32,
    /// Who made the tool that made the table.
    pub creator_id: [u8; 4],
    /// That tool's revision.
    pub creator_revision: u32,
}
const_assert_eq!(size_of::<SdtHeader>(), 36);
/// Offset of [`SdtHeader::length`].
pub const SDT_LENGTH: usize = 4;
/// Offset of [`SdtHeader::checksum`].
pub const SDT_CHECKSUM: usize = 9;

/// Table signatures (5.2.6, tables 5.5 and 5.6).
pub mod signature {
    #![allow(missing_docs, reason = "the specification's own names")]
    pub const RSDT: [u8; 4] = *b"RSDT";
    pub const XSDT: [u8; 4] = *b"XSDT";
    pub const FADT: [u8; 4] = *b"FACP";
    pub const FACS: [u8; 4] = *b"FACS";
    pub const MADT: [u8; 4] = *b"APIC";
    pub const MCFG: [u8; 4] = *b"MCFG";
    pub const DSDT: [u8; 4] = *b"DSDT";
}

/// Generic Address Structure (5.2.3.2).
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct GenericAddress {
    /// [`SYSTEM_IO`] or another address space; zero in an absent structure.
    pub address_space: u8,
    /// Width of the register in bits.
    pub bit_width: u8,
    /// Offset of its first bit.
    pub bit_offset: u8,
    /// 1 byte, 2 word, 3 doubleword, 4 quadword.
    pub access_size: u8,
    /// Where.
    pub address: u64,
}
const_assert_eq!(size_of::<GenericAddress>(), 12);
/// [`GenericAddress::address_space`]: I/O ports (5.2.3.2).
pub const SYSTEM_IO: u8 = 1;

/// Fixed ACPI Description Table, revision 6 (5.2.9). The header stands before it.
#[allow(missing_docs, reason = "field names are the specification's, in its order")]
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct FadtBody {
    pub firmware_ctrl: u32,
    pub dsdt: u32,
    pub reserved_int_model: u8,
    pub preferred_pm_profile: u8,
    pub sci_int: u16,
    pub smi_cmd: u32,
    pub acpi_enable: u8,
    pub acpi_disable: u8,
    pub s4bios_req: u8,
    pub pstate_cnt: u8,
    pub pm1a_evt_blk: u32,
    pub pm1b_evt_blk: u32,
    pub pm1a_cnt_blk: u32,
    pub pm1b_cnt_blk: u32,
    pub pm2_cnt_blk: u32,
    pub pm_tmr_blk: u32,
    pub gpe0_blk: u32,
    pub gpe1_blk: u32,
    pub pm1_evt_len: u8,
    pub pm1_cnt_len: u8,
    pub pm2_cnt_len: u8,
    pub pm_tmr_len: u8,
    pub gpe0_blk_len: u8,
    pub gpe1_blk_len: u8,
    pub gpe1_base: u8,
    pub cst_cnt: u8,
    pub p_lvl2_lat: u16,
    pub p_lvl3_lat: u16,
    pub flush_size: u16,
    pub flush_stride: u16,
    pub duty_offset: u8,
    pub duty_width: u8,
    pub day_alrm: u8,
    pub mon_alrm: u8,
    pub century: u8,
    pub iapc_boot_arch: u16,
    pub reserved: u8,
    pub flags: u32,
    pub reset_reg: GenericAddress,
    pub reset_value: u8,
    pub arm_boot_arch: u16,
    pub minor_version: u8,
    pub x_firmware_ctrl: u64,
    pub x_dsdt: u64,
    pub x_pm1a_evt_blk: GenericAddress,
    pub x_pm1b_evt_blk: GenericAddress,
    pub x_pm1a_cnt_blk: GenericAddress,
    pub x_pm1b_cnt_blk: GenericAddress,
    pub x_pm2_cnt_blk: GenericAddress,
    pub x_pm_tmr_blk: GenericAddress,
    pub x_gpe0_blk: GenericAddress,
    pub x_gpe1_blk: GenericAddress,
    pub sleep_control_reg: GenericAddress,
    pub sleep_status_reg: GenericAddress,
    pub hypervisor_vendor_identity: u64,
}
const_assert_eq!(size_of::<SdtHeader>() + size_of::<FadtBody>(), 276);

/// [`FadtBody::flags`] (5.2.9, table 5.10).
pub mod fadt_flag {
    /// WBINVD works as the processor manuals say.
    pub const WBINVD: u32 = 1 << 0;
    /// The C1 state (HLT) is supported on all processors.
    pub const PROC_C1: u32 = 1 << 2;
    /// The sleep button is a control-method device, or there is none.
    pub const SLP_BUTTON: u32 = 1 << 5;
    /// RTC wake status is not in the fixed register space.
    pub const FIX_RTC: u32 = 1 << 6;
    /// [`super::FadtBody::reset_reg`] resets the machine.
    pub const RESET_REG_SUP: u32 = 1 << 10;
}

/// [`FadtBody::iapc_boot_arch`] (5.2.9.3, table 5.11).
pub mod boot_arch {
    /// User-visible devices on the LPC or ISA bus.
    pub const LEGACY_DEVICES: u16 = 1 << 0;
    /// A keyboard controller at 60h and 64h.
    pub const KEYBOARD_CONTROLLER: u16 = 1 << 1;
    /// VGA hardware must not be probed.
    pub const VGA_NOT_PRESENT: u16 = 1 << 2;
}

/// Firmware ACPI Control Structure, version 2 (5.2.10). It has no checksum, and the guest writes to it.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct Facs {
    /// [`signature::FACS`].
    pub signature: [u8; 4],
    /// 64.
    pub length: u32,
    /// Of the hardware at the last boot.
    pub hardware_signature: u32,
    /// Real-mode wake vector.
    pub waking_vector: u32,
    /// The lock shared with firmware.
    pub global_lock: u32,
    /// What the firmware supports.
    pub flags: u32,
    /// Protected-mode wake vector.
    pub x_waking_vector: u64,
    /// 2.
    pub version: u8,
    /// Zero.
    pub reserved: [u8; 31],
}
const_assert_eq!(size_of::<Facs>(), 64);
/// The FACS lies on such a border (5.2.10).
pub const FACS_ALIGNMENT: u64 = 64;

/// What stands between the header and the entries of the MADT (5.2.12).
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct MadtBody {
    /// Address of each processor's local APIC.
    pub local_apic: u32,
    /// Bit 0, [`PCAT_COMPAT`].
    pub flags: u32,
}
/// [`MadtBody::flags`]: two 8259s are there as well (5.2.12, table 5.20).
pub const PCAT_COMPAT: u32 = 1;

/// MADT entry type 0: a processor by its xAPIC ID (5.2.12.2).
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct MadtLocalApic {
    /// 0.
    pub kind: u8,
    /// 8.
    pub length: u8,
    /// `_UID` of the processor's device object.
    pub uid: u8,
    /// Its APIC ID, at most 254.
    pub apic_id: u8,
    /// Bit 0: [`PROCESSOR_ENABLED`].
    pub flags: u32,
}
const_assert_eq!(size_of::<MadtLocalApic>(), 8);
/// Local APIC flags: the processor is usable (5.2.12.2, table 5.22).
pub const PROCESSOR_ENABLED: u32 = 1;

/// MADT entry type 1: an IOAPIC (5.2.12.3).
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct MadtIoApic {
    /// 1.
    pub kind: u8,
    /// 12.
    pub length: u8,
    /// Its APIC ID.
    pub id: u8,
    /// Zero.
    pub reserved: u8,
    /// Its address.
    pub address: u32,
    /// The global system interrupt of its first pin.
    pub gsi_base: u32,
}
const_assert_eq!(size_of::<MadtIoApic>(), 12);

/// MADT entry type 2: an ISA interrupt that is not on the pin of its own number (5.2.12.5).
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct MadtSourceOverride {
    /// 2.
    pub kind: u8,
    /// 10.
    pub length: u8,
    /// 0, ISA.
    pub bus: u8,
    /// The ISA interrupt.
    pub source: u8,
    /// Where it arrives.
    pub gsi: u32,
    /// [`mps_inti`].
    pub flags: u16,
}
const_assert_eq!(size_of::<MadtSourceOverride>(), 10);

/// MADT entry type 4: a local interrupt pin that is wired to NMI (5.2.12.7).
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct MadtLocalApicNmi {
    /// 4.
    pub kind: u8,
    /// 6.
    pub length: u8,
    /// A processor's `_UID`; FFh is all.
    pub uid: u8,
    /// [`mps_inti`].
    pub flags: u16,
    /// 0 or 1.
    pub pin: u8,
}
const_assert_eq!(size_of::<MadtLocalApicNmi>(), 6);

/// MPS INTI flags: polarity in bits 1:0, trigger mode in bits 3:2 (5.2.12.5, table 5.26).
pub mod mps_inti {
    /// As the bus has it: edge and active high for ISA.
    pub const CONFORMS: u16 = 0;
    /// Edge-triggered, active high.
    pub const EDGE_HIGH: u16 = 0b01 << 2 | 0b01;
    /// Level-triggered, active high.
    pub const LEVEL_HIGH: u16 = 0b11 << 2 | 0b01;
}

/// MCFG after its header: eight reserved bytes and one allocation (PCI Firmware Specification 3.2, table 4-3).
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct McfgBody {
    /// Zero.
    pub reserved: u64,
    /// Base address of bus 0's configuration space, whatever the first bus is.
    pub base: u64,
    /// PCI segment group.
    pub segment: u16,
    /// First bus that is decoded.
    pub first_bus: u8,
    /// Last bus that is decoded.
    pub last_bus: u8,
    /// Zero.
    pub reserved_end: u32,
}
const_assert_eq!(size_of::<SdtHeader>() + size_of::<McfgBody>(), 60);

/// PM1 status and enable bits; the two registers have the same layout (4.8.3.1, tables 4.11 and 4.12).
pub mod pm1 {
    /// TMR: the PM timer's most significant bit changed.
    pub const TIMER: u16 = 1 << 0;
    /// GBL: firmware released the global lock.
    pub const GLOBAL_LOCK: u16 = 1 << 5;
    /// PWRBTN: the power button was pressed.
    pub const POWER_BUTTON: u16 = 1 << 8;
    /// RTC: the clock's alarm.
    pub const RTC: u16 = 1 << 10;
}

/// PM1 control bits (4.8.3.2, table 4.13).
pub mod pm1_control {
    /// SCI_EN: power management events raise SCI rather than SMI.
    pub const SCI_EN: u16 = 1 << 0;
    /// BM_RLD: bus master requests leave C3.
    pub const BM_RLD: u16 = 1 << 1;
    /// SLP_TYP: which sleeping state.
    pub const SLP_TYP: u16 = 0b111 << 10;
    /// SLP_EN: enter it; write-only.
    pub const SLP_EN: u16 = 1 << 13;
}

/// Frequency of the PM timer (4.8.3.3).
pub const PM_TIMER_HZ: u64 = 3_579_545;

/// AML encoding of the terms that our DSDT uses (20.2).
pub mod aml {
    #![allow(missing_docs, reason = "the specification's own names")]
    pub const ZERO_OP: u8 = 0x00;
    pub const ONE_OP: u8 = 0x01;
    pub const NAME_OP: u8 = 0x08;
    pub const BYTE_PREFIX: u8 = 0x0A;
    pub const WORD_PREFIX: u8 = 0x0B;
    pub const DWORD_PREFIX: u8 = 0x0C;
    pub const STRING_PREFIX: u8 = 0x0D;
    pub const SCOPE_OP: u8 = 0x10;
    pub const BUFFER_OP: u8 = 0x11;
    pub const PACKAGE_OP: u8 = 0x12;
    pub const DEVICE_OP: [u8; 2] = [0x5B, 0x82];
}

/// Resource descriptor tags and flags (6.4.2 and 6.4.3).
pub mod resource {
    /// IRQ descriptor without an information byte: edge, active high, exclusive (6.4.2.1).
    pub const IRQ_NO_FLAGS: u8 = 0x22;
    /// I/O port descriptor (6.4.2.5).
    pub const IO_PORT: u8 = 0x47;
    /// [`IO_PORT`]'s information byte: all 16 address bits are decoded.
    pub const DECODE_16: u8 = 1;
    /// End tag; the checksum byte that follows may be zero (6.4.2.9).
    pub const END: u8 = 0x79;
    /// 32-bit fixed memory range (6.4.3.4).
    pub const MEMORY_32_FIXED: u8 = 0x86;
    /// Doubleword address space (6.4.3.5.2).
    pub const DWORD_SPACE: u8 = 0x87;
    /// Word address space (6.4.3.5.3).
    pub const WORD_SPACE: u8 = 0x88;
    /// Address space resource types (6.4.3.5).
    pub const SPACE_MEMORY: u8 = 0;
    /// I/O.
    pub const SPACE_IO: u8 = 1;
    /// Bus numbers.
    pub const SPACE_BUS: u8 = 2;
    /// General flags: minimum and maximum are fixed, the range is produced, decode is positive (6.4.3.5).
    pub const PRODUCED_FIXED: u8 = 0b1100;
    /// Type-specific flags of I/O: the whole range, ISA aliases included (6.4.3.5.5, table 6.55).
    pub const IO_ENTIRE_RANGE: u8 = 0b11;
    /// Type-specific flags of memory: non-cacheable, read and write (6.4.3.5.5, table 6.54).
    pub const MEMORY_READ_WRITE: u8 = 1;
}
