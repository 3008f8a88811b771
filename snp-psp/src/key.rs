// SPDX-License-Identifier: MIT OR Apache-2.0
//! Derived keys: MSG_KEY.
//!
//! Requests as in virtee/sev `DerivedKey` and Linux `include/uapi/linux/sev-guest.h`. How the firmware mixes is not
//! public: here HMAC-SHA-384 over all that was selected. So a key is never a real chip's, but it is the same key again
//! whenever the selected fields are the same.

use hmac::Mac;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned};

use crate::guest::Guest;
use crate::platform::{self, Psp, Tcb};
use crate::rule::{Refused, Rule, Status};

/// Bytes of version 1 of the request, which ends before the mitigations.
pub(crate) const REQUEST_1_BYTES: usize = 0x20;
/// Bytes of version 2.
pub(crate) const REQUEST_2_BYTES: usize = size_of::<Request>();

/// MSG_KEY_REQ.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Request {
    /// Bit 0: 0 VCEK, 1 VMRK. Bits 2:1: which endorsement key, as in a report's request.
    root: U32,
    reserved: U32,
    fields: U64,
    vmpl: U32,
    guest_svn: U32,
    tcb: [u8; 8],
    mitigations: U64,
}

const _: () = assert!(size_of::<Request>() == 0x28);

/// What can be mixed into a key.
mod field {
    pub(super) const POLICY: u64 = 1 << 0;
    pub(super) const IMAGE_ID: u64 = 1 << 1;
    pub(super) const FAMILY_ID: u64 = 1 << 2;
    pub(super) const MEASUREMENT: u64 = 1 << 3;
    pub(super) const GUEST_SVN: u64 = 1 << 4;
    pub(super) const TCB: u64 = 1 << 5;
    pub(super) const MITIGATIONS: u64 = 1 << 6;
    pub(super) const ALL: u64 = (1 << 7) - 1;
}

/// MSG_KEY_RSP.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Response {
    status: U32,
    reserved: [u8; 28],
    key: [u8; 32],
}

impl Response {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { status: U32::ZERO, reserved: [0; _], key }
    }

    pub(crate) fn failed(status: u32) -> Self {
        Self { status: U32::new(status), reserved: [0; _], key: [0; _] }
    }
}

/// The key that `request` asks for, from VMPL `requester`.
pub(crate) fn derive(psp: &Psp, guest: &Guest, request: &Request, requester: u8) -> Result<[u8; 32], Refused> {
    check(psp, guest, request, requester)?;
    let mut mac = platform::mac(if request.root.get() & 1 == 0 { psp.keys.secret() } else { &guest.secrets.vmrk });
    mac.update(b"Parados test PSP: derived key");
    for part in [request.root.get().as_bytes(), request.fields.as_bytes(), request.vmpl.as_bytes()] {
        mac.update(part);
    }
    let identity = &guest.identity;
    let mixed: [(u64, &[u8]); 7] = [
        (field::POLICY, guest.policy.0.as_bytes()),
        (field::IMAGE_ID, &identity.image_id),
        (field::FAMILY_ID, &identity.family_id),
        (field::MEASUREMENT, &guest.launch_digest),
        (field::GUEST_SVN, request.guest_svn.as_bytes()),
        (field::TCB, &request.tcb),
        (field::MITIGATIONS, request.mitigations.as_bytes()),
    ];
    // The selection is mixed in above, so parts cannot be mistaken for each other.
    mixed.iter().filter(|(bit, _)| request.fields.get() & bit != 0).for_each(|(_, bytes)| mac.update(bytes));
    let digest = mac.finalize().into_bytes();
    Ok(core::array::from_fn(|index| digest.get(index).copied().unwrap_or_default()))
}

fn check(psp: &Psp, guest: &Guest, request: &Request, requester: u8) -> Result<(), Refused> {
    let (platform, rules) = (&psp.platform, &psp.platform.rules);
    let (root, vmpl, fields) = (request.root.get(), request.vmpl.get(), request.fields.get());
    let valid = |held: bool, rule| rules.check(held, rule, Status::InvalidParam);
    valid(root & !7 == 0 && request.reserved == U32::ZERO, Rule::RequestReserved)?;
    rules.check((root >> 1) & 3 <= 1, Rule::RequestKey, Status::InvalidKey)?;
    valid(fields & !field::ALL == 0, Rule::KeyFields)?;
    valid(u32::from(requester) <= vmpl && vmpl <= 3, Rule::RequestVmpl)?;
    valid(request.guest_svn.get() <= guest.identity.guest_svn, Rule::KeySvn)?;
    let tcb = Tcb::from_le_bytes(request.tcb);
    valid(tcb.is_some_and(|tcb| tcb.is_within(platform.committed_tcb)), Rule::KeyTcb)?;
    valid(request.mitigations.get() & !guest.launch_mitigations == 0, Rule::KeyMitigations)
}
