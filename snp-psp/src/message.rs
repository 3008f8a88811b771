// SPDX-License-Identifier: MIT OR Apache-2.0
//! The envelope of guest messages: header, AES-256-GCM, sequence numbers.
//!
//! Linux `drivers/virt/coco/sev-guest/sev-guest.h`; mushroom `common/snp-types/src/guest_message.rs`. What is read here
//! comes from a page that host and guest can write: every field is checked before it is used, and nothing but the
//! header is believed before the tag is right.

use core::mem::offset_of;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::rule::{Refused, Rule, Rules, Status};
use crate::secrets::Vmpck;
use crate::{PAGE_BYTES, Page};

const AES_256_GCM: u8 = 1;
const HEADER_BYTES: usize = 0x60;
const PAYLOAD_BYTES: usize = PAGE_BYTES - HEADER_BYTES;
const AUTHENTICATED_FROM: usize = 0x30;

/// What a message asks for. The answer's number is one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MessageType {
    /// A derived key.
    KeyRequest = 3,
    /// An attestation report.
    ReportRequest = 5,
    /// What a guest with Secure TSC must know.
    TscInfoRequest = 17,
}

impl MessageType {
    fn from_number(number: u8) -> Option<Self> {
        [Self::KeyRequest, Self::ReportRequest, Self::TscInfoRequest].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A message's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    /// The authentication tag; 16 bytes are used.
    pub(crate) tag: [u8; 16],
    pub(crate) tag_rest: [u8; 16],
    /// Counts messages of a VMPCK, both ways.
    pub(crate) sequence: U64,
    pub(crate) reserved: U64,
    /// 1: AES-256-GCM.
    pub(crate) algorithm: u8,
    /// 1.
    pub(crate) header_version: u8,
    /// 60h.
    pub(crate) header_size: U16,
    /// What the message is.
    pub(crate) message_type: u8,
    /// Version of the payload's form.
    pub(crate) message_version: u8,
    /// Bytes of payload.
    pub(crate) message_size: U16,
    pub(crate) reserved_after_size: U32,
    /// Which VMPCK encrypts it.
    pub(crate) vmpck: u8,
    pub(crate) reserved_end: [u8; 35],
}

const _: () = {
    assert!(size_of::<Header>() == HEADER_BYTES);
    assert!(offset_of!(Header, sequence) == 0x20);
    assert!(offset_of!(Header, algorithm) == AUTHENTICATED_FROM);
    assert!(offset_of!(Header, message_size) == 0x36);
    assert!(offset_of!(Header, vmpck) == 0x3c);
};

impl Header {
    /// A header without tag.
    pub(crate) fn new(sequence: u64, message_type: u8, message_version: u8, message_size: u16, vmpck: u8) -> Self {
        Self {
            tag: [0; _],
            tag_rest: [0; _],
            sequence: U64::new(sequence),
            reserved: U64::ZERO,
            algorithm: AES_256_GCM,
            header_version: 1,
            header_size: U16::new(HEADER_BYTES as u16),
            message_type,
            message_version,
            message_size: U16::new(message_size),
            reserved_after_size: U32::ZERO,
            vmpck,
            reserved_end: [0; _],
        }
    }

    fn has_reserved(&self) -> bool {
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        !(zero(&self.tag_rest) && zero(&self.reserved_end))
            || self.reserved != U64::ZERO
            || self.reserved_after_size != U32::ZERO
    }

    fn nonce(&self) -> Nonce<aes_gcm::aead::consts::U12> {
        let mut nonce = [0; 12];
        nonce.iter_mut().zip(self.sequence.to_bytes()).for_each(|(to, from)| *to = from);
        nonce.into()
    }

    fn authenticated(&self) -> &[u8] {
        self.as_bytes().get(AUTHENTICATED_FROM..).unwrap_or_default()
    }

    /// Encrypts a payload in place and sets the tag; `None` if it is longer than GCM can take.
    pub(crate) fn encrypt(&mut self, key: &Vmpck, payload: &mut [u8]) -> Option<()> {
        let cipher = Aes256Gcm::new(key.into());
        let tag = cipher.encrypt_inout_detached(&self.nonce(), self.authenticated(), payload.into()).ok()?;
        self.tag = tag.into();
        Some(())
    }

    /// Decrypts a payload in place; `None`, and the payload as it was, if the tag is wrong.
    pub(crate) fn decrypt(&self, key: &Vmpck, payload: &mut [u8]) -> Option<()> {
        let cipher = Aes256Gcm::new(key.into());
        let tag = Tag::from(self.tag);
        cipher.decrypt_inout_detached(&self.nonce(), self.authenticated(), payload.into(), &tag).ok()
    }
}

/// A page that holds a message.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Message {
    header: Header,
    payload: [u8; PAYLOAD_BYTES],
}

const _: () = assert!(size_of::<Message>() == PAGE_BYTES);

/// A request that was decrypted and found authentic; later its answer.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    header: Header,
    request_type: MessageType,
    key: &'a Vmpck,
    payload: [u8; PAYLOAD_BYTES],
    /// Bytes of payload in use.
    bytes: usize,
}

impl<'a> Incoming<'a> {
    pub(crate) fn open(page: &Page, keys: &'a [Vmpck; 4], counts: &[u64; 4], rules: &Rules) -> Result<Self, Refused> {
        let Message { header, payload } = zerocopy::transmute!(*page);
        let valid = |held: bool, rule| rules.check(held, rule, Status::InvalidParam);
        let refuse = |rule, status| Refused { rule, status };
        valid(header.algorithm == AES_256_GCM, Rule::MessageAlgorithm)?;
        let known = header.header_version == 1 && usize::from(header.header_size.get()) == HEADER_BYTES;
        valid(known, Rule::MessageHeader)?;
        valid(!header.has_reserved(), Rule::MessageReserved)?;
        let index = usize::from(header.vmpck);
        let key = keys.get(index).ok_or(refuse(Rule::MessageKey, Status::InvalidParam))?;
        let count = *counts.get(index).ok_or(refuse(Rule::MessageKey, Status::InvalidParam))?;
        let room = count.checked_add(2).is_some();
        rules.check(room, Rule::MessageOverflow, Status::AeadOverflow)?;
        valid(header.sequence.get() == count.saturating_add(1), Rule::MessageSequence)?;
        let bytes = usize::from(header.message_size.get());

        let mut message = Self { header, request_type: MessageType::KeyRequest, key, payload, bytes };
        let text = message.payload.get_mut(..bytes).ok_or(refuse(Rule::MessageSize, Status::InvalidParam))?;
        header.decrypt(key, text).ok_or(refuse(Rule::MessageTag, Status::BadMeasurement))?;
        message.request_type =
            MessageType::from_number(header.message_type).ok_or(refuse(Rule::MessageType, Status::InvalidParam))?;
        Ok(message)
    }

    pub(crate) fn request_type(&self) -> MessageType {
        self.request_type
    }

    pub(crate) fn version(&self) -> u8 {
        self.header.message_version
    }

    /// The key it was encrypted with, which is the VMPL that sent it.
    pub(crate) fn vmpck(&self) -> u8 {
        self.header.vmpck
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.payload.get(..self.bytes).unwrap_or_default()
    }

    /// Replaces the request by its answer.
    pub(crate) fn answer<T: IntoBytes + Immutable>(&mut self, response: &T) {
        const { assert!(size_of::<T>() <= PAYLOAD_BYTES) };
        self.payload.fill(0);
        self.payload.iter_mut().zip(response.as_bytes()).for_each(|(to, from)| *to = *from);
        self.bytes = size_of::<T>();
    }

    /// Encrypts the answer into the response page.
    pub(crate) fn seal(mut self, page: &mut Page) -> Result<(), Refused> {
        let Header { sequence, message_version, vmpck, .. } = self.header;
        // At most a page, as `answer` asserts; and `open` left room for one more number.
        let (bytes, number) = (self.bytes as u16, sequence.get().wrapping_add(1));
        let mut header = Header::new(number, self.request_type as u8 + 1, message_version, bytes, vmpck);
        let text = self.payload.get_mut(..self.bytes).unwrap_or_default();
        let sealed = header.encrypt(self.key, text);
        sealed.ok_or(Refused { rule: Rule::MessageSize, status: Status::InvalidParam })?;
        *page = zerocopy::transmute!(Message { header, payload: self.payload });
        Ok(())
    }
}
