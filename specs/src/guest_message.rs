// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages between an SNP guest and the firmware, and the secrets page that holds their keys (SNPABI, "Guest messages" and
//! "Secrets page"; as Linux, drivers/virt/coco/sev-guest/sev-guest.h and arch/x86/include/asm/sev.h, has them).

#![allow(missing_docs, reason = "most names are the specification's own")]

use core::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the secrets page has its four VMPCKs, and how long one is.
pub const SECRETS_VMPCK: usize = 0x20;
pub const VMPCK_BYTES: usize = 32;
pub const VMPCKS: usize = 4;

/// AES-256-GCM, the only algorithm.
pub const AES_256_GCM: u8 = 1;
/// The version of the header.
pub const HEADER_VERSION: u8 = 1;
pub const HEADER_BYTES: usize = size_of::<Header>();
/// What the tag is over, besides the payload, begins here.
pub const AUTHENTICATED: usize = 0x30;
pub const TAG_BYTES: usize = 16;
/// AES-256-GCM's nonce: the sequence number and zeros.
pub const NONCE_BYTES: usize = 12;

/// What a message is. An answer's number is one more than its request's.
pub mod kind {
    pub const KEY_REQUEST: u8 = 3;
    pub const REPORT_REQUEST: u8 = 5;
}

/// A message's header; the payload follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// 16 bytes are used.
    pub tag: [u8; 32],
    /// Counts the messages of a VMPCK, both ways, from 1 on.
    pub sequence: U64,
    pub reserved_28: U64,
    pub algorithm: u8,
    pub header_version: u8,
    pub header_bytes: U16,
    /// One of [`kind`].
    pub kind: u8,
    /// The version of the payload's form.
    pub version: u8,
    /// Bytes of payload.
    pub bytes: U16,
    pub reserved_38: U32,
    pub vmpck: u8,
    pub reserved_3d: [u8; 35],
}

/// MSG_REPORT_REQ.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReportRequest {
    pub report_data: [u8; 64],
    pub vmpl: U32,
    /// Which key signs; 0: what the host has configured.
    pub key: U32,
    pub reserved: [u8; 24],
}

/// Bytes of an attestation report.
pub const REPORT_BYTES: usize = 0x4a0;

/// MSG_REPORT_RSP.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReportResponse {
    /// Zero for success.
    pub status: U32,
    pub bytes: U32,
    pub reserved: [u8; 24],
    pub report: [u8; REPORT_BYTES],
}

/// MSG_KEY_REQ, version 1.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeyRequest {
    /// 0: the chip's endorsement key is the root.
    pub root: U32,
    pub reserved: U32,
    /// Bits of [`key_field`].
    pub fields: U64,
    pub vmpl: U32,
    pub guest_svn: U32,
    pub tcb: U64,
}

/// What is mixed into a key.
pub mod key_field {
    pub const POLICY: u64 = 1 << 0;
    pub const MEASUREMENT: u64 = 1 << 3;
}

/// MSG_KEY_RSP.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeyResponse {
    /// Zero for success.
    pub status: U32,
    pub reserved: [u8; 28],
    pub key: [u8; 32],
}

const _: () = {
    assert!(HEADER_BYTES == 0x60);
    assert!(offset_of!(Header, sequence) == 0x20);
    assert!(offset_of!(Header, algorithm) == AUTHENTICATED);
    assert!(offset_of!(Header, bytes) == 0x36);
    assert!(offset_of!(Header, vmpck) == 0x3c);
    assert!(size_of::<ReportRequest>() == 0x60);
    assert!(size_of::<ReportResponse>() == 0x20 + REPORT_BYTES);
    assert!(size_of::<KeyRequest>() == 0x20);
    assert!(size_of::<KeyResponse>() == 0x40);
};
