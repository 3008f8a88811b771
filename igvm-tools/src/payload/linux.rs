// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux bzImages for x86-64, by the 64-bit boot protocol (Documentation/arch/x86/boot.rst).
//!
//! The protected-mode kernel goes to its preferred address and is entered 200h bytes further; it needs `init_size` bytes
//! from there on before it reads a memory map. The setup code is not loaded, only its header is passed on.

use super::{Chunk, PARADOS, Payload};
use crate::error::{Flaw, ensure};
use image_abi::{COMMAND_LINE_LIMIT, PAYLOAD_LIMIT, Range, payload};
use platform::Slip;
use specs::linux_boot::SETUP_HEADER_OFFSET;
use specs::linux_image::{
    BOOT_FLAG, ENTRY_64_OFFSET, HEADER_MAGIC, SetupHeader, VERSION_XLOADFLAGS, load_flag, xload_flag,
};
use zerocopy::FromBytes;

/// The lowest address that a kernel is loaded at.
const LOWEST: u64 = 0x10_0000;

/// The unit of `syssize`.
const PARAGRAPH: u64 = 16;

/// Whether a file has a Linux boot header, whatever else is wrong with it.
pub(super) fn is_linux(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(&HEADER_MAGIC)
}

/// Takes a bzImage apart.
pub(super) fn parse(bytes: &[u8]) -> Result<Payload<'_>, Flaw> {
    let header = check_header(bytes)?;
    let kernel = protected_mode_kernel(bytes, &header)?;
    let (init_size, size) = (u64::from(header.init_size.get()), kernel.len() as u64);
    ensure!(
        init_size >= size,
        "init_size at offset 0x260 is {init_size:#x}, less than the kernel's own {size:#x} bytes"
    );
    ensure!(
        init_size <= PAYLOAD_LIMIT,
        "init_size at offset 0x260 is {init_size:#x}, expected at most {PAYLOAD_LIMIT:#x}"
    );
    let load = load_address(&header, init_size)?;
    let setup_header = bytes.get(..header.end()).unwrap_or_default();
    Ok(Payload {
        kind: payload::LINUX,
        entry: load + ENTRY_64_OFFSET,
        chunks: vec![Chunk { start: load, data: kernel, bytes: size }],
        ranges: vec![Range { start: load, bytes: if Slip::Unreserved.is_planted() { size / 2 } else { init_size } }],
        setup_header,
        command_line_limit: u64::from(header.cmdline_size.get()).min(COMMAND_LINE_LIMIT),
        initrd_limit: u64::from(header.initrd_addr_max.get()) + 1,
    })
}

fn check_header(bytes: &[u8]) -> Result<SetupHeader, Flaw> {
    let header = bytes.get(SETUP_HEADER_OFFSET..).and_then(|rest| SetupHeader::read_from_prefix(rest).ok());
    let Some((header, _)) = header else {
        return Err(Flaw::new(format_args!("truncated bzImage: {} bytes end within the setup header", bytes.len())));
    };
    let (flag, version) = (header.boot_flag.get(), header.version.get());
    ensure!(flag == BOOT_FLAG, "boot_flag at offset 0x1fe is {flag:#06x}, expected {BOOT_FLAG:#06x} of a bzImage");
    ensure!(
        version >= VERSION_XLOADFLAGS,
        "boot protocol {}.{:02} at offset 0x206, expected at least 2.12 (Linux 3.8)",
        version >> 8,
        version & 0xff
    );
    ensure!(
        header.loadflags & load_flag::LOADED_HIGH != 0,
        "loadflags at offset 0x211 are {:#04x}: a zImage, expected a bzImage",
        header.loadflags
    );
    ensure!(
        header.xloadflags.get() & xload_flag::KERNEL_64 != 0,
        "xloadflags at offset 0x236 are {:#06x}: a 32-bit kernel, expected one for x86-64",
        header.xloadflags.get()
    );
    let end = header.end();
    let fields = SETUP_HEADER_OFFSET + core::mem::offset_of!(SetupHeader, handover_offset);
    ensure!(
        end >= fields && end <= header.kernel_offset() && end <= bytes.len(),
        "the setup header ends at {end:#x} by the byte at offset 0x201, expected {fields:#x} to {:#x}",
        header.kernel_offset()
    );
    Ok(header)
}

/// The protected-mode kernel; a signature after it is left out.
fn protected_mode_kernel<'a>(bytes: &'a [u8], header: &SetupHeader) -> Result<&'a [u8], Flaw> {
    let start = header.kernel_offset();
    let size = u64::from(header.syssize.get()) * PARAGRAPH;
    ensure!(
        size > ENTRY_64_OFFSET,
        "syssize at offset 0x1f4 says {size} bytes, too few to hold the 64-bit entry point"
    );
    let end = start as u64 + size;
    usize::try_from(end).ok().and_then(|end| bytes.get(start..end)).ok_or_else(|| {
        Flaw::new(format_args!(
            "truncated bzImage: has {} bytes, its header (syssize at offset 0x1f4) promises {end}",
            bytes.len()
        ))
    })
}

/// The preferred address, or one above Parados if the kernel would run into it and can be moved.
fn load_address(header: &SetupHeader, init_size: u64) -> Result<u64, Flaw> {
    let preferred = header.pref_address.get();
    ensure!(
        (LOWEST..PAYLOAD_LIMIT).contains(&preferred),
        "pref_address at offset 0x258 is {preferred:#x}, expected {LOWEST:#x} to {PAYLOAD_LIMIT:#x}"
    );
    let fits = preferred + init_size <= PARADOS.start || preferred >= PARADOS.end;
    if fits || header.relocatable_kernel == 0 {
        // If it cannot be moved, the check of its ranges says what it overlaps.
        return Ok(preferred);
    }
    let alignment = u64::from(header.kernel_alignment.get());
    ensure!(
        alignment.is_power_of_two() && alignment <= PAYLOAD_LIMIT,
        "kernel_alignment at offset 0x230 is {alignment:#x}, expected a power of two up to {PAYLOAD_LIMIT:#x}"
    );
    Ok(PARADOS.end.next_multiple_of(alignment.max(crate::PAGE)))
}
