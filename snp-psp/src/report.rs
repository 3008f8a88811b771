// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attestation reports: MSG_REPORT.
//!
//! 56860, "Attestation report", Table 21 and following, as virtee/sev `src/firmware/guest/types/snp.rs` and
//! google/go-sev-guest `abi/abi.go` read it.

use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ecdsa::{P384_SHA384, Signature};
use crate::guest::Guest;
use crate::platform::{Psp, Version};
use crate::rule::{Refused, Rule, Status};

/// The form of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ReportVersion {
    /// Without what came later.
    V2 = 2,
    /// With the processor's family, model and stepping.
    V3 = 3,
    /// With mitigation vectors.
    V5 = 5,
}

/// MSG_REPORT_REQ.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Request {
    report_data: [u8; 64],
    vmpl: U32,
    /// Bits 1:0: 0 what is loaded, 1 VCEK, 2 VLEK.
    flags: U32,
    reserved: [u8; 24],
}

/// An attestation report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct Report {
    pub version: U32,
    pub guest_svn: U32,
    pub policy: U64,
    pub family_id: [u8; 16],
    pub image_id: [u8; 16],
    pub vmpl: U32,
    pub signature_algorithm: U32,
    pub current_tcb: [u8; 8],
    pub platform_info: U64,
    pub flags: U32,
    reserved_4c: U32,
    pub report_data: [u8; 64],
    pub measurement: [u8; 48],
    pub host_data: [u8; 32],
    pub id_key_digest: [u8; 48],
    pub author_key_digest: [u8; 48],
    pub report_id: [u8; 32],
    pub report_id_ma: [u8; 32],
    pub reported_tcb: [u8; 8],
    pub family: u8,
    pub model: u8,
    pub stepping: u8,
    reserved_18b: [u8; 21],
    pub chip_id: [u8; 64],
    pub committed_tcb: [u8; 8],
    pub current_version: [u8; 3],
    reserved_1eb: u8,
    pub committed_version: [u8; 3],
    reserved_1ef: u8,
    pub launch_tcb: [u8; 8],
    pub launch_mitigations: U64,
    pub current_mitigations: U64,
    reserved_208: [u8; 152],
    pub signature: Signature,
}

const SIGNED_BYTES: usize = 0x2a0;

const _: () = {
    assert!(size_of::<Request>() == 96);
    assert!(size_of::<Report>() == 0x4a0);
    assert!(offset_of!(Report, vmpl) == 0x30);
    assert!(offset_of!(Report, flags) == 0x48);
    assert!(offset_of!(Report, report_data) == 0x50);
    assert!(offset_of!(Report, measurement) == 0x90);
    assert!(offset_of!(Report, host_data) == 0xc0);
    assert!(offset_of!(Report, id_key_digest) == 0xe0);
    assert!(offset_of!(Report, author_key_digest) == 0x110);
    assert!(offset_of!(Report, report_id) == 0x140);
    assert!(offset_of!(Report, reported_tcb) == 0x180);
    assert!(offset_of!(Report, chip_id) == 0x1a0);
    assert!(offset_of!(Report, committed_tcb) == 0x1e0);
    assert!(offset_of!(Report, committed_version) == 0x1ec);
    assert!(offset_of!(Report, launch_tcb) == 0x1f0);
    assert!(offset_of!(Report, current_mitigations) == 0x200);
    assert!(offset_of!(Report, signature) == SIGNED_BYTES);
    assert!(size_of::<Response>() == 0x20 + 0x4a0);
};

impl Report {
    /// What the signature is over.
    pub fn signed(&self) -> &[u8] {
        self.as_bytes().get(..SIGNED_BYTES).unwrap_or_default()
    }
}

/// MSG_REPORT_RSP.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Response {
    status: U32,
    bytes: U32,
    reserved: [u8; 24],
    report: Report,
}

impl Response {
    pub(crate) fn new(report: Report) -> Self {
        Self { status: U32::ZERO, bytes: U32::new(size_of::<Report>() as u32), reserved: [0; _], report }
    }

    pub(crate) fn failed(status: u32) -> Self {
        Self { status: U32::new(status), bytes: U32::ZERO, reserved: [0; _], report: Report::new_zeroed() }
    }
}

/// No migration agent is associated.
const NO_AGENT: [u8; 32] = [0xff; 32];

/// The report that `request` asks for, from VMPL `requester`.
pub(crate) fn make(psp: &Psp, guest: &Guest, request: &Request, requester: u8) -> Result<Report, Refused> {
    let rules = &psp.platform.rules;
    let (vmpl, flags) = (request.vmpl.get(), request.flags.get());
    let reserved = flags & !3 != 0 || request.reserved != [0; 24];
    rules.check(!reserved, Rule::RequestReserved, Status::InvalidParam)?;
    let lower = u32::from(requester) <= vmpl && vmpl <= 3;
    rules.check(lower, Rule::RequestVmpl, Status::InvalidParam)?;
    // 0: the VLEK if there is one, so the VCEK; 1: the VCEK. No VLEK is ever loaded, and 3 is no key.
    rules.check(flags & 3 <= 1, Rule::RequestKey, Status::InvalidKey)?;

    let mut report = unsigned(psp, guest);
    report.vmpl = request.vmpl;
    report.report_data = request.report_data;
    if !psp.platform.mask_chip_key {
        let signature = Signature::sign(psp.keys.vcek(), report.signed());
        report.signature = signature.ok_or(Refused { rule: Rule::RequestKey, status: Status::InvalidKey })?;
    }
    Ok(report)
}

/// All that does not come from the request.
fn unsigned(psp: &Psp, guest: &Guest) -> Report {
    let (platform, identity) = (&psp.platform, &guest.identity);
    let mut report = Report {
        version: U32::new(platform.report_version as u32),
        guest_svn: U32::new(identity.guest_svn),
        policy: U64::new(guest.policy.0),
        family_id: identity.family_id,
        image_id: identity.image_id,
        signature_algorithm: U32::new(if platform.mask_chip_key { 0 } else { P384_SHA384 }),
        current_tcb: platform.current_tcb.to_le_bytes(),
        platform_info: U64::new(platform.info()),
        flags: U32::new(flags(identity.has_author, platform.mask_chip_key)),
        measurement: guest.launch_digest,
        host_data: guest.host_data,
        id_key_digest: identity.id_key_digest,
        author_key_digest: identity.author_key_digest,
        report_id: guest.secrets.report_id,
        report_id_ma: NO_AGENT,
        reported_tcb: platform.reported_tcb.to_le_bytes(),
        chip_id: if platform.mask_chip_id { [0; 64] } else { platform.chip.id },
        committed_tcb: platform.committed_tcb.to_le_bytes(),
        current_version: version(platform.current),
        committed_version: version(platform.committed),
        launch_tcb: guest.launch_tcb.to_le_bytes(),
        ..Report::new_zeroed()
    };
    if platform.report_version != ReportVersion::V2 {
        let product = platform.chip.product;
        (report.family, report.model, report.stepping) = (product.family, product.model, product.stepping);
    }
    if platform.report_version == ReportVersion::V5 {
        report.launch_mitigations.set(guest.launch_mitigations);
        report.current_mitigations.set(platform.mitigations);
    }
    report
}

/// Bit 0: author key; bit 1: chip key masked; bits 4:2: the signing key, 0 VCEK, 7 none.
fn flags(author: bool, masked: bool) -> u32 {
    u32::from(author) | if masked { 1 << 1 | 7 << 2 } else { 0 }
}

fn version(version: Version) -> [u8; 3] {
    [version.build, version.minor, version.major]
}
