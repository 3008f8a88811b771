// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who speaks with the firmware: reports and keys by SNP_GUEST_REQUEST (GHCB 2.0, 4.1.7; SNPABI, "Guest messages").
//!
//! The messages go through two pages that the host sees, of the pool. Certificates are not asked for: the
//! host would hand to Parados what Parados would hand to the host.
//!
//! Hostile party: the host (`message` says what follows from that).

use image_abi::attestation::FILE;
use platform::{AttestError, Attester, REPORT_ROOM};
use platform_shared::clock::tsc;
use specs::ghcb::guest_request;
use specs::guest_message::{KeyRequest, KeyResponse, REPORT_BYTES, ReportRequest, ReportResponse, key_field, kind};
use spin::mutex::SpinMutex;
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroize;

use crate::fw_cfg;
use crate::ghcb::{self, Refusal, SharedPage};
use crate::message::{Carried, Carrier, Channel, Message};
use crate::shared_pool;

/// How long a message that the host puts off is sent again, and how often.
const PATIENCE_SECONDS: u64 = 10;
const TRIES_A_SECOND: u64 = 20;

const _: () = assert!(REPORT_BYTES <= REPORT_ROOM);

/// What the SNP platform has to vouch for it.
pub(crate) struct SnpAttester {
    state: SpinMutex<State>,
    tsc_hz: u64,
}

struct State {
    channel: Channel,
    post: Option<Post>,
}

impl SnpAttester {
    pub(crate) const fn new(channel: Channel, tsc_hz: u64) -> Self {
        Self { state: SpinMutex::new(State { channel, post: None }), tsc_hz }
    }

    fn ask(&self, kind: u8, question: &[u8], answer: &mut [u8]) -> Result<(), AttestError> {
        let mut state = self.state.lock();
        let State { channel, post } = &mut *state;
        if post.is_none() {
            *post = Some(Post::open(self.tsc_hz)?);
        }
        let Some(post) = post else { return Err(AttestError::Memory) };
        post.begun = tsc();
        channel.ask(kind, question, answer, post)
    }
}

/// The two pages that a message and its answer lie in.
struct Post {
    request: &'static SharedPage,
    answer: &'static SharedPage,
    tsc_hz: u64,
    begun: u64,
}

impl Post {
    fn open(tsc_hz: u64) -> Result<Self, AttestError> {
        let page = || shared_pool::take().map_err(|_| AttestError::Memory);
        let (request, answer) = (page()?, page()?);
        Ok(Self { request, answer, tsc_hz, begun: 0 })
    }
}

impl Carrier for Post {
    fn carry(&mut self, request: &Message, answer: &mut Message) -> Carried {
        self.answer.clear();
        self.request.fill(request);
        let carried = carried(ghcb::guest_request(self.request.address(), self.answer.address()));
        if carried == Carried::Answered {
            self.answer.copy(answer);
        }
        carried
    }

    fn wait(&mut self) -> bool {
        let now = tsc();
        while tsc().wrapping_sub(now) < self.tsc_hz / TRIES_A_SECOND {
            core::hint::spin_loop();
        }
        now.wrapping_sub(self.begun) < PATIENCE_SECONDS * self.tsc_hz
    }
}

/// What the host's answer means: SW_EXITINFO2 has the host's word in its upper half, the firmware's in the lower.
fn carried(answer: Result<u64, Refusal>) -> Carried {
    match answer {
        Ok(0) => Carried::Answered,
        Ok(guest_request::BUSY) => Carried::Later,
        Ok(status) if status >> 32 == 0 => Carried::Failed(AttestError::Firmware(status as u32)),
        Ok(status) => Carried::Failed(AttestError::Host(status >> 32)),
        Err(Refusal::Answer(_, reason)) => Carried::Failed(AttestError::Host(reason)),
        Err(Refusal::NoGhcb | Refusal::Exception | Refusal::MissingField(_)) => Carried::Failed(AttestError::Host(0)),
    }
}

impl Attester for SnpAttester {
    fn question(&self, text: &mut [u8]) -> Option<usize> {
        // A host that does not let its files be read asks for nothing.
        fw_cfg::file(FILE, text).ok().flatten()
    }

    fn report(&self, data: &[u8; 64], report: &mut [u8; REPORT_ROOM]) -> Result<usize, AttestError> {
        let mut question = ReportRequest::new_zeroed();
        question.report_data = *data;
        let mut answer = ReportResponse::new_zeroed();
        self.ask(kind::REPORT_REQUEST, question.as_bytes(), answer.as_mut_bytes())?;
        granted(answer.status.get())?;
        if answer.bytes.get() as usize != REPORT_BYTES {
            return Err(AttestError::Forged);
        }
        report.iter_mut().zip(answer.report).for_each(|(to, from)| *to = from);
        Ok(REPORT_BYTES)
    }

    fn key(&self, key: &mut [u8; 32]) -> Result<(), AttestError> {
        let mut question = KeyRequest::new_zeroed();
        question.fields.set(key_field::POLICY | key_field::MEASUREMENT);
        let mut answer = KeyResponse::new_zeroed();
        self.ask(kind::KEY_REQUEST, question.as_bytes(), answer.as_mut_bytes())?;
        *key = answer.key;
        answer.key.zeroize();
        granted(answer.status.get())
    }

    fn forget(&self) {
        self.state.lock().channel.close();
    }
}

/// The firmware's own word on a request that it has understood.
const fn granted(status: u32) -> Result<(), AttestError> {
    if status == 0 { Ok(()) } else { Err(AttestError::Refused(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_without_any_status_is_one() {
        assert_eq!(carried(Ok(0)), Carried::Answered);
        assert_eq!(carried(Ok(2 << 32)), Carried::Later);
        assert_eq!(carried(Ok(0x16)), Carried::Failed(AttestError::Firmware(0x16)));
        for status in [1 << 32, 3 << 32, 2 << 32 | 1, u64::MAX, 0xffff_ffff << 32] {
            assert_eq!(carried(Ok(status)), Carried::Failed(AttestError::Host(status >> 32)), "{status:#x}");
        }
        assert_eq!(carried(Err(Refusal::Answer(2, 5))), Carried::Failed(AttestError::Host(5)));
        assert_eq!(carried(Err(Refusal::Exception)), Carried::Failed(AttestError::Host(0)));
    }
}
