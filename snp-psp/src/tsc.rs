// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the firmware tells a guest with Secure TSC: MSG_TSC_INFO.
//!
//! Linux `arch/x86/include/asm/sev.h` (`snp_tsc_info_resp`).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

/// The TSC that the host wants the guest to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tsc {
    /// GUEST_TSC_SCALE for every VMSA: 8.32 fixed point.
    pub scale: u64,
    /// GUEST_TSC_OFFSET for every VMSA.
    pub offset: u64,
    /// How far the rate is off the nominal one, in 1/100000.
    pub factor: u32,
}

/// Bytes of the request, all zero.
pub(crate) const REQUEST_BYTES: usize = 128;

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Response {
    status: U32,
    reserved: U32,
    scale: U64,
    offset: U64,
    factor: U32,
    reserved_end: [u8; 100],
}

const _: () = assert!(size_of::<Response>() == 128);

impl Response {
    pub(crate) fn new(tsc: Tsc) -> Self {
        Self {
            scale: U64::new(tsc.scale),
            offset: U64::new(tsc.offset),
            factor: U32::new(tsc.factor),
            ..Self::failed(0)
        }
    }

    pub(crate) fn failed(status: u32) -> Self {
        Self {
            status: U32::new(status),
            reserved: U32::ZERO,
            scale: U64::ZERO,
            offset: U64::ZERO,
            factor: U32::ZERO,
            reserved_end: [0; _],
        }
    }
}
