// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Linux kernel's file: the setup header of a bzImage, and what tells it from other kernels.
//!
//! Sources: as in [`linux_boot`](crate::linux_boot). For loaders alone: anyone may have written such a file. The image gets the header
//! as bytes and knows where the four fields are that it writes.

use core::mem::offset_of;
use static_assertions::const_assert;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::linux_boot::{SETUP_HEADER_OFFSET, zero_page};

/// BOOT, `boot_flag`: at file offset 1FEh.
pub const BOOT_FLAG: u16 = 0xaa55;

/// BOOT, `header`: "HdrS", at file offset 202h.
pub const HEADER_MAGIC: [u8; 4] = *b"HdrS";

/// BOOT, `version`: the first one with `xloadflags`.
pub const VERSION_XLOADFLAGS: u16 = 0x020c;

/// BOOT, `setup_sects`: what a zero there means.
pub const DEFAULT_SETUP_SECTORS: u8 = 4;

/// BOOT: the setup code is counted in sectors, and the boot sector comes on top.
pub const SECTOR_BYTES: usize = 512;

/// BOOT, "64-bit Boot Protocol": the entry point, from the load address of the protected-mode kernel on.
pub const ENTRY_64_OFFSET: u64 = 0x200;

/// BOOT, `loadflags`.
pub mod load_flag {
    /// The protected-mode code is loaded at 100000h or above: this is a bzImage.
    pub const LOADED_HIGH: u8 = 1 << 0;
}

/// BOOT, `xloadflags`.
pub mod xload_flag {
    /// The kernel has the 64-bit entry point.
    pub const KERNEL_64: u16 = 1 << 0;
}

/// The setup header, as of protocol 2.15; older kernels end it earlier, at [`SetupHeader::end`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SetupHeader {
    /// Sectors of setup code; zero means [`DEFAULT_SETUP_SECTORS`].
    pub setup_sects: u8,
    /// Whether the root is mounted read-only.
    pub root_flags: U16,
    /// Size of the protected-mode code in units of 16 bytes.
    pub syssize: U32,
    /// Obsolete.
    pub ram_size: U16,
    /// Video mode.
    pub vid_mode: U16,
    /// Default root device.
    pub root_dev: U16,
    /// [`BOOT_FLAG`].
    pub boot_flag: U16,
    /// A short jump; its displacement tells where the header ends.
    pub jump: [u8; 2],
    /// [`HEADER_MAGIC`].
    pub header: [u8; 4],
    /// Protocol version, major in the high byte.
    pub version: U16,
    /// Real-mode hook.
    pub realmode_swtch: U32,
    /// Obsolete.
    pub start_sys_seg: U16,
    /// Offset of the version string, less 200h.
    pub kernel_version: U16,
    /// Who loads: written by the loader.
    pub type_of_loader: u8,
    /// [`load_flag`].
    pub loadflags: u8,
    /// Real-mode only.
    pub setup_move_size: U16,
    /// Entry of the 32-bit protocol.
    pub code32_start: U32,
    /// Address of the RAM disk: written by the loader.
    pub ramdisk_image: U32,
    /// Bytes of the RAM disk: written by the loader.
    pub ramdisk_size: U32,
    /// Obsolete.
    pub bootsect_kludge: U32,
    /// Real-mode heap.
    pub heap_end_ptr: U16,
    /// Extended loader version.
    pub ext_loader_ver: u8,
    /// Extended loader type.
    pub ext_loader_type: u8,
    /// Address of the command line: written by the loader.
    pub cmd_line_ptr: U32,
    /// The highest address that the RAM disk's last byte may have.
    pub initrd_addr_max: U32,
    /// Alignment of the load address if the kernel is relocatable.
    pub kernel_alignment: U32,
    /// Non-zero if the kernel runs at any aligned address.
    pub relocatable_kernel: u8,
    /// The least alignment, as a power of two.
    pub min_alignment: u8,
    /// [`xload_flag`].
    pub xloadflags: U16,
    /// Longest command line, without the terminating zero.
    pub cmdline_size: U32,
    /// Paravirtual platform, zero for a PC.
    pub hardware_subarch: U32,
    /// Belongs to `hardware_subarch`.
    pub hardware_subarch_data: U64,
    /// Where the compressed kernel lies in the protected-mode code.
    pub payload_offset: U32,
    /// Bytes of the compressed kernel.
    pub payload_length: U32,
    /// Physical address of a list of setup data.
    pub setup_data: U64,
    /// Preferred load address.
    pub pref_address: U64,
    /// Memory that the kernel needs from its load address on before it reads the memory map.
    pub init_size: U32,
    /// EFI handover entry.
    pub handover_offset: U32,
    /// Offset of the `kernel_info` structure (2.15).
    pub kernel_info_offset: U32,
}

/// File offset of a header field whose position BOOT gives as a number.
const fn at(field: usize) -> usize {
    SETUP_HEADER_OFFSET + field
}

const_assert!(at(offset_of!(SetupHeader, boot_flag)) == 0x1fe);
const_assert!(at(offset_of!(SetupHeader, header)) == 0x202);
const_assert!(at(offset_of!(SetupHeader, type_of_loader)) == zero_page::TYPE_OF_LOADER);
const_assert!(at(offset_of!(SetupHeader, ramdisk_image)) == zero_page::RAMDISK_IMAGE);
const_assert!(at(offset_of!(SetupHeader, ramdisk_size)) == zero_page::RAMDISK_SIZE);
const_assert!(at(offset_of!(SetupHeader, cmd_line_ptr)) == zero_page::CMD_LINE_PTR);
const_assert!(at(offset_of!(SetupHeader, xloadflags)) == 0x236);
const_assert!(at(offset_of!(SetupHeader, pref_address)) == 0x258);
const_assert!(at(offset_of!(SetupHeader, kernel_info_offset)) == 0x268);
const_assert!(at(size_of::<SetupHeader>()) == 0x26c);

impl SetupHeader {
    /// Where the header ends in the file (BOOT, "64-bit Boot Protocol": 202h plus the byte at 201h).
    pub const fn end(&self) -> usize {
        0x202 + self.jump[1] as usize
    }

    /// Where the protected-mode kernel begins in the file.
    pub const fn kernel_offset(&self) -> usize {
        let sectors = if self.setup_sects == 0 { DEFAULT_SETUP_SECTORS } else { self.setup_sects };
        (sectors as usize + 1) * SECTOR_BYTES
    }
}

/// Other architectures' kernel images, so that a mistaken file can be named (Documentation/arch/arm64/booting.rst and
/// Documentation/arch/riscv/boot-image-header.rst): both have their magic number at the same offset.
pub mod foreign {
    /// Where the magic numbers are.
    pub const MAGIC_OFFSET: usize = 0x38;
    /// An arm64 `Image`.
    pub const ARM64: [u8; 4] = *b"ARM\x64";
    /// A RISC-V `Image`.
    pub const RISCV: [u8; 4] = *b"RSC\x05";
}
