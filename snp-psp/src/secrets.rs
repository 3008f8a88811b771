// SPDX-License-Identifier: MIT OR Apache-2.0
//! The secrets page, which the firmware writes and only the guest can read.
//!
//! 56860, "Secrets page", as in Linux `arch/x86/include/asm/sev.h` (`snp_secrets_page`) and COCONUT-SVSM
//! `kernel/src/sev/secrets_page.rs`.

use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{PAGE_BYTES, Page};

/// A key that encrypts messages between a VMPL and the firmware.
pub(crate) type Vmpck = [u8; 32];

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SecretsPage {
    pub(crate) version: U32,
    /// Bit 0: the launch has an IMI. Never here.
    pub(crate) flags: U32,
    /// CPUID Fn0000_0001_EAX.
    pub(crate) processor: U32,
    reserved: U32,
    pub(crate) gosvw: [u8; 16],
    pub(crate) vmpck: [Vmpck; 4],
    /// The guest's to use.
    os_area: [u8; 0x60],
    pub(crate) vmsa_tweak_bitmap: [u8; 64],
    /// An SVSM fills these in for the guest above it.
    svsm_base: U64,
    svsm_size: U64,
    svsm_calling_area: U64,
    svsm_version: U32,
    svsm_guest_vmpl: u8,
    reserved_after_svsm: [u8; 3],
    /// How far the guest's TSC is off its nominal rate, in 1/100000.
    pub(crate) tsc_factor: U32,
    rest: [u8; PAGE_BYTES - 0x164],
}

const _: () = {
    assert!(size_of::<SecretsPage>() == PAGE_BYTES);
    assert!(offset_of!(SecretsPage, gosvw) == 0x10);
    assert!(offset_of!(SecretsPage, vmpck) == 0x20);
    assert!(offset_of!(SecretsPage, os_area) == 0xa0);
    assert!(offset_of!(SecretsPage, vmsa_tweak_bitmap) == 0x100);
    assert!(offset_of!(SecretsPage, svsm_base) == 0x140);
    assert!(offset_of!(SecretsPage, svsm_guest_vmpl) == 0x15c);
    assert!(offset_of!(SecretsPage, tsc_factor) == 0x160);
};

impl SecretsPage {
    /// Writes a page whose fields the closure sets; all others are zero, whatever was there.
    pub(crate) fn write(page: &mut Page, set: impl FnOnce(&mut Self)) {
        page.fill(0);
        let secrets: &mut Self = zerocopy::transmute_mut!(page);
        set(secrets);
    }
}
