// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux x86 boot protocol, version 2.12 and later, as far as the 64-bit entry needs it.
//!
//! Sources: the kernel's Documentation/arch/x86/boot.rst (BOOT) and zero-page.rst (ZP). Multi-byte fields are
//! little-endian and mostly unaligned, which their types say. All of this is written for the guest, never read; the header in a
//! kernel's file is in `linux_image`.

use static_assertions::const_assert;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// BOOT, "The Real-Mode Kernel Header": where the setup header begins, in the file and in the zero page alike.
pub const SETUP_HEADER_OFFSET: usize = 0x1f1;

/// BOOT, "64-bit Boot Protocol": `__BOOT_CS`, a flat execute and read segment.
pub const BOOT_CS: u16 = 0x10;

/// BOOT, "64-bit Boot Protocol": `__BOOT_DS`, a flat read and write segment.
pub const BOOT_DS: u16 = 0x18;

/// BOOT, `type_of_loader`: a loader without an assigned number.
pub const LOADER_UNDEFINED: u8 = 0xff;

/// The zero page (`struct boot_params`): offsets of what a loader fills in besides the kernel's own setup header (ZP), and the fields
/// of that header which are the loader's to write (BOOT).
pub mod zero_page {
    /// The page's size.
    pub const BYTES: usize = 4096;
    /// Physical address of the RSDP, u64.
    pub const ACPI_RSDP_ADDR: usize = 0x070;
    /// Upper half of the RAM disk's address, u32.
    pub const EXT_RAMDISK_IMAGE: usize = 0x0c0;
    /// Upper half of the RAM disk's size, u32.
    pub const EXT_RAMDISK_SIZE: usize = 0x0c4;
    /// How many entries the memory map has, u8.
    pub const E820_ENTRIES: usize = 0x1e8;
    /// Zero if the loader cleared the page before it filled it in, u8.
    pub const SENTINEL: usize = 0x1ef;
    /// `type_of_loader`, u8.
    pub const TYPE_OF_LOADER: usize = 0x210;
    /// `ramdisk_image`: the lower half of the RAM disk's address, u32.
    pub const RAMDISK_IMAGE: usize = 0x218;
    /// `ramdisk_size`: the lower half of its size, u32.
    pub const RAMDISK_SIZE: usize = 0x21c;
    /// `cmd_line_ptr`: the lower half of the command line's address, u32.
    pub const CMD_LINE_PTR: usize = 0x228;
    /// The memory map: [`E820Entry`](super::E820Entry).
    pub const E820_TABLE: usize = 0x2d0;
    /// The most entries that the memory map can have.
    pub const E820_MAX: usize = 128;
}

/// One entry of the zero page's memory map (ZP, `e820_table`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct E820Entry {
    /// The first byte.
    pub start: U64,
    /// How many bytes.
    pub bytes: U64,
    /// One of [`e820`].
    pub kind: U32,
}

const_assert!(size_of::<E820Entry>() == 20);
const_assert!(zero_page::E820_TABLE + zero_page::E820_MAX * size_of::<E820Entry>() <= zero_page::BYTES);

/// Kinds of memory (ACPI 6.5, section 15.1, "Address Range Types"); PVH uses the same numbers.
pub mod e820 {
    /// Usable.
    pub const RAM: u32 = 1;
    /// Not to be used.
    pub const RESERVED: u32 = 2;
    /// ACPI tables, usable once they are read.
    pub const ACPI: u32 = 3;
}
