// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multiboot 1: the header in the kernel's file.
//!
//! Source: Multiboot Specification 0.6.96 (MB), section 3.1. For loaders alone: anyone may have written such a file.

use static_assertions::const_assert;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// MB 3.1: the header lies wholly within this many first bytes of the file.
pub const SEARCH_BYTES: usize = 8192;

/// MB 3.1: the header's alignment in the file.
pub const HEADER_ALIGN: usize = 4;

/// MB 3.1.1, `magic`.
pub const HEADER_MAGIC: u32 = 0x1bad_b002;

/// MB 3.1.1, `flags`.
pub mod header_flag {
    /// Modules must be aligned to pages.
    pub const ALIGN_MODULES: u32 = 1 << 0;
    /// The memory fields of the information must be filled in.
    pub const MEMORY_INFO: u32 = 1 << 1;
    /// The kernel would like a video mode.
    pub const VIDEO_MODE: u32 = 1 << 2;
    /// The address fields of the header are valid, and outrank an ELF header.
    pub const ADDRESSES: u32 = 1 << 16;
    /// A loader that does not know one of these bits must not load the kernel.
    pub const REQUIRED: u32 = 0xffff;
}

/// MB 3.1: the header. The last five fields exist only with [`header_flag::ADDRESSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`HEADER_MAGIC`].
    pub magic: U32,
    /// [`header_flag`].
    pub flags: U32,
    /// Makes the sum of the first three fields zero.
    pub checksum: U32,
    /// Physical address of the header itself.
    pub header_addr: U32,
    /// Where the kernel is loaded: text and data.
    pub load_addr: U32,
    /// Where the data ends; zero for the end of the file.
    pub load_end_addr: U32,
    /// Where the bss ends; zero for no bss.
    pub bss_end_addr: U32,
    /// Where the kernel starts.
    pub entry_addr: U32,
}

/// How much of [`Header`] always exists.
pub const HEADER_SHORT_BYTES: usize = 12;

const_assert!(size_of::<Header>() == 32);
