// SPDX-License-Identifier: MIT OR Apache-2.0
//! A launched guest, and SNP_GUEST_REQUEST: the messages between it and the firmware.
//!
//! Linux `drivers/virt/coco/sev-guest`, mushroom `common/snp-types`. A message that is refused leaves its VMPCK's
//! counter as it was, and the response page too: "firmware 1.51 only increments on a successful round trip" (Linux,
//! `snp_disable_vmpck`). A request that is understood but not granted gets an answer with a status in it, and counts.

use zerocopy::{FromBytes, IntoBytes};

use crate::id_block::Identity;
use crate::message::{Incoming, MessageType};
use crate::platform::{Psp, Tcb};
use crate::policy::Policy;
use crate::rule::{Refused, Rule, Status};
use crate::secrets::Vmpck;
use crate::tsc::{self, Tsc};
use crate::{Page, key, report};

/// What only the guest and the firmware know.
#[derive(Clone)]
pub(crate) struct Secrets {
    pub(crate) vmpck: [Vmpck; 4],
    /// Names this guest in reports.
    pub(crate) report_id: [u8; 32],
    /// Root of derived keys that end with this guest.
    pub(crate) vmrk: [u8; 48],
}

impl core::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// A launched guest's context.
#[derive(Debug)]
pub struct Guest {
    pub(crate) policy: Policy,
    pub(crate) tsc: Option<Tsc>,
    pub(crate) launch_digest: [u8; 48],
    pub(crate) identity: Identity,
    pub(crate) host_data: [u8; 32],
    pub(crate) launch_tcb: Tcb,
    pub(crate) launch_mitigations: u64,
    pub(crate) secrets: Secrets,
    /// Number of the last message, either way, for each VMPCK.
    pub(crate) message_counts: [u64; 4],
}

impl Guest {
    /// The launch digest.
    pub fn launch_digest(&self) -> [u8; 48] {
        self.launch_digest
    }

    /// The policy.
    pub fn policy(&self) -> Policy {
        self.policy
    }
}

/// A message that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What was asked.
    pub request: MessageType,
    /// Who asked.
    pub vmpl: u8,
    /// Why the answer says no, if it does.
    pub refused: Option<Refused>,
}

impl Psp {
    /// SNP_GUEST_REQUEST: answers the message in `request`.
    ///
    /// Both are private copies of what the guest shares with the host: the caller copies the request in once, and the
    /// response out. On `Err` the response is untouched, and the status goes to the guest through the host.
    pub fn guest_request(&self, guest: &mut Guest, request: &Page, response: &mut Page) -> Result<Answer, Refused> {
        let mut message = Incoming::open(request, &guest.secrets.vmpck, &guest.message_counts, &self.platform.rules)?;
        let vmpl = message.vmpck();
        let asked = message.request_type();
        let refused = match asked {
            MessageType::ReportRequest => self.report(guest, &mut message)?,
            MessageType::KeyRequest => self.key(guest, &mut message)?,
            MessageType::TscInfoRequest => self.tsc(guest, &mut message)?,
        };
        message.seal(response)?;
        if let Some(count) = guest.message_counts.get_mut(usize::from(vmpl)) {
            *count += 2;
        }
        Ok(Answer { request: asked, vmpl, refused })
    }

    fn report(&self, guest: &Guest, message: &mut Incoming<'_>) -> Result<Option<Refused>, Refused> {
        let request: report::Request = self.payload(message, 1, size_of::<report::Request>())?;
        let (response, refused) = match report::make(self, guest, &request, message.vmpck()) {
            Ok(report) => (report::Response::new(report), None),
            Err(refused) => (report::Response::failed(refused.status as u32), Some(refused)),
        };
        message.answer(&response);
        Ok(refused)
    }

    fn key(&self, guest: &Guest, message: &mut Incoming<'_>) -> Result<Option<Refused>, Refused> {
        let (version, bytes) =
            if message.version() == 2 { (2, key::REQUEST_2_BYTES) } else { (1, key::REQUEST_1_BYTES) };
        let request: key::Request = self.payload(message, version, bytes)?;
        let (response, refused) = match key::derive(self, guest, &request, message.vmpck()) {
            Ok(key) => (key::Response::new(key), None),
            Err(refused) => (key::Response::failed(refused.status as u32), Some(refused)),
        };
        message.answer(&response);
        Ok(refused)
    }

    fn tsc(&self, guest: &Guest, message: &mut Incoming<'_>) -> Result<Option<Refused>, Refused> {
        let request: [u8; tsc::REQUEST_BYTES] = self.payload(message, 1, tsc::REQUEST_BYTES)?;
        let rules = &self.platform.rules;
        let granted = rules
            .check(request.iter().all(|byte| *byte == 0), Rule::RequestReserved, Status::InvalidParam)
            .and_then(|()| rules.check(guest.tsc.is_some(), Rule::TscConfigured, Status::InvalidParam));
        // With the rule switched off, a guest without Secure TSC learns zeros.
        let tsc = guest.tsc.unwrap_or(Tsc { scale: 0, offset: 0, factor: 0 });
        message.answer(&match granted {
            Ok(()) => tsc::Response::new(tsc),
            Err(refused) => tsc::Response::failed(refused.status as u32),
        });
        Ok(granted.err())
    }

    /// The request's fields. A short request ends in zeros, should the rule on sizes be switched off.
    fn payload<T: FromBytes + IntoBytes>(
        &self,
        message: &Incoming<'_>,
        version: u8,
        bytes: usize,
    ) -> Result<T, Refused> {
        let (rules, payload) = (&self.platform.rules, message.payload());
        rules.check(message.version() == version, Rule::MessageVersion, Status::InvalidParam)?;
        rules.check(payload.len() == bytes, Rule::PayloadSize, Status::InvalidParam)?;
        let mut request = T::new_zeroed();
        request.as_mut_bytes().iter_mut().zip(payload).for_each(|(to, from)| *to = *from);
        Ok(request)
    }
}

#[cfg(test)]
mod tests;
