// SPDX-License-Identifier: MIT OR Apache-2.0
//! The note that says which platform this image is for, so that `igvm-tools` builds none for another one from it (System V ABI,
//! chapter 5). It stays in the ELF.
//!
//! Hostile party: none.

use core::arch::global_asm;

use image_abi::{NOTE_NAME, NOTE_PLATFORM};

#[cfg(not(any(feature = "snp", feature = "tdx")))]
const PLATFORM: [u8; 8] = *b"native\0\0";
#[cfg(feature = "snp")]
const PLATFORM: [u8; 8] = *b"snp\0\0\0\0\0";
#[cfg(feature = "tdx")]
const PLATFORM: [u8; 8] = *b"tdx\0\0\0\0\0";

global_asm!(
    ".section .note.parados, \"a\", @note",
    ".balign 4",
    "    .long {name_bytes}, {platform_bytes}, {kind}",
    "    .quad {name}, {platform}",
    ".text",
    name_bytes = const NOTE_NAME.len(),
    platform_bytes = const PLATFORM.len(),
    kind = const NOTE_PLATFORM,
    name = const u64::from_le_bytes(NOTE_NAME),
    platform = const u64::from_le_bytes(PLATFORM),
);
