// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PVH entry: how a kernel announces it, and what it finds in memory when it starts.
//!
//! Sources: Xen public headers elfnote.h (NOTE) and arch-x86/hvm/start_info.h (START), and Xen's docs/misc/pvh.pandoc
//! (PVH). The note lies in a file that anyone may have written; the start info is ours to write for the guest.

use static_assertions::const_assert;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// NOTE, `XEN_ELFNOTE_PHYS32_ENTRY`: the note whose descriptor is the entry point's physical address.
pub const NOTE_PHYS32_ENTRY: u32 = 18;

/// NOTE: the name of Xen's notes, with its terminating zero.
pub const NOTE_NAME: [u8; 4] = *b"Xen\0";

/// START, `XEN_HVM_START_MAGIC_VALUE`.
pub const START_MAGIC: u32 = 0x336e_c578;

/// START: the version with a memory map.
pub const START_VERSION: u32 = 1;

/// START, `struct hvm_start_info`: EBX points to it at the entry, below 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// [`START_MAGIC`].
    pub magic: u32,
    /// [`START_VERSION`].
    pub version: u32,
    /// SIF_* bits, all of them Xen's.
    pub flags: u32,
    /// How many modules there are.
    pub module_count: u32,
    /// Address of the [`Module`] array.
    pub modules: u64,
    /// Address of the command line, terminated by a zero.
    pub command_line: u64,
    /// Address of the RSDP.
    pub rsdp: u64,
    /// Address of the [`MemoryMapEntry`] array.
    pub memory_map: u64,
    /// How many entries it has.
    pub memory_map_entries: u32,
    /// Zero.
    pub reserved: u32,
}

/// START, `struct hvm_modlist_entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Module {
    /// Address of the module.
    pub start: u64,
    /// Its size.
    pub bytes: u64,
    /// Address of its command line, or zero.
    pub command_line: u64,
    /// Zero.
    pub reserved: u64,
}

/// START, `struct hvm_memmap_table_entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMapEntry {
    /// The first byte.
    pub start: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The same numbers as in [`e820`](crate::linux_boot::e820).
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

const_assert!(size_of::<StartInfo>() == 56);
const_assert!(size_of::<Module>() == 32);
const_assert!(size_of::<MemoryMapEntry>() == 24);
