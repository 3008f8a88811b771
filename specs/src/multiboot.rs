// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multiboot 1: the information that the kernel finds when it starts. The header in its file is in `multiboot_header`.
//!
//! Source: Multiboot Specification 0.6.96 (MB), sections 3.2 and 3.3. It is ours to write for the guest.

use static_assertions::const_assert;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// MB 3.2: EAX at the kernel's entry.
pub const LOADER_MAGIC: u32 = 0x2bad_b002;

/// MB 3.3, `flags` of the information.
pub mod info_flag {
    /// `mem_lower` and `mem_upper` are valid.
    pub const MEMORY: u32 = 1 << 0;
    /// `cmdline` is valid.
    pub const COMMAND_LINE: u32 = 1 << 2;
    /// `mods_count` and `mods_addr` are valid.
    pub const MODULES: u32 = 1 << 3;
    /// `mmap_length` and `mmap_addr` are valid.
    pub const MEMORY_MAP: u32 = 1 << 6;
    /// `boot_loader_name` is valid.
    pub const LOADER_NAME: u32 = 1 << 9;
}

/// MB 3.3: EBX points to it at the entry. It ends before the VBE fields, which `flags` declares absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Info {
    /// [`info_flag`].
    pub flags: U32,
    /// KiB of memory from 0 on.
    pub mem_lower: U32,
    /// KiB of memory from 1 MiB on.
    pub mem_upper: U32,
    /// Boot device.
    pub boot_device: U32,
    /// Address of the command line, terminated by a zero.
    pub cmdline: U32,
    /// How many modules there are.
    pub mods_count: U32,
    /// Address of the [`Module`] array.
    pub mods_addr: U32,
    /// Symbol table.
    pub syms: [U32; 4],
    /// Bytes of the memory map.
    pub mmap_length: U32,
    /// Address of the first [`MemoryMapEntry`].
    pub mmap_addr: U32,
    /// Bytes of the drive list.
    pub drives_length: U32,
    /// Address of the drive list.
    pub drives_addr: U32,
    /// Address of the ROM configuration table.
    pub config_table: U32,
    /// Address of the loader's name, terminated by a zero.
    pub boot_loader_name: U32,
    /// Address of an APM table.
    pub apm_table: U32,
}

/// MB 3.3, `mods_addr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Module {
    /// The first byte.
    pub start: U32,
    /// One past the last byte.
    pub end: U32,
    /// Address of the module's string.
    pub string: U32,
    /// Zero.
    pub reserved: U32,
}

/// MB 3.3, `mmap_addr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MemoryMapEntry {
    /// The size of the entry without this field.
    pub size: U32,
    /// The first byte.
    pub start: U64,
    /// How many bytes.
    pub bytes: U64,
    /// One for usable memory; the numbers of [`e820`](crate::linux_boot::e820).
    pub kind: U32,
}

/// [`MemoryMapEntry::size`].
pub const MEMORY_MAP_ENTRY_SIZE: u32 = 20;

const_assert!(size_of::<Info>() == 72);
const_assert!(size_of::<Module>() == 16);
const_assert!(size_of::<MemoryMapEntry>() == MEMORY_MAP_ENTRY_SIZE as usize + 4);
