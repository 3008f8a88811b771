// SPDX-License-Identifier: MIT OR Apache-2.0
//! The envelope of messages to the firmware (SNPABI, "Guest messages"): AES-256-GCM with VMPCK0, and numbers that both sides
//! count.
//!
//! The number is the cipher's nonce: under one key it must never be used for two messages. So a message that the host has seen
//! is sent again as it is, byte for byte, or never; and whatever goes wrong after that destroys the key, because nobody knows
//! any more which numbers the firmware has seen. All of that is denial of service.
//!
//! Hostile party: the host, which carries the messages: it can withhold, repeat, exchange or change them.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use platform::AttestError;
use specs::guest_message::{
    AES_256_GCM, AUTHENTICATED, HEADER_BYTES, HEADER_VERSION, Header, NONCE_BYTES, ReportResponse, SECRETS_VMPCK,
    TAG_BYTES, VMPCK_BYTES, VMPCKS,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};
use zeroize::Zeroize;

/// Bytes of the longest message, which is an answer with a report.
pub(crate) const MESSAGE_BYTES: usize = HEADER_BYTES + size_of::<ReportResponse>();

/// A message in Parados's own memory.
pub(crate) type Message = [u8; MESSAGE_BYTES];

/// What became of a message on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carried {
    /// There is an answer.
    Answered,
    /// The host did not carry it yet.
    Later,
    /// It will never be.
    Failed(AttestError),
}

/// Who carries messages.
pub(crate) trait Carrier {
    /// Hands `request` to the host, and copies what it leaves in place of an answer.
    fn carry(&mut self, request: &Message, answer: &mut Message) -> Carried;
    /// Waits before the same message is sent again; false if it has been tried for long enough.
    fn wait(&mut self) -> bool;
}

/// VMPCK0 and the count of its messages.
pub(crate) struct Channel {
    key: [u8; VMPCK_BYTES],
    usable: bool,
    /// The number of the last message, either way. Nobody has sent one when the VM starts.
    count: u64,
}

impl Channel {
    /// One that is over before it begins.
    pub(crate) const fn closed() -> Self {
        Self { key: [0; VMPCK_BYTES], usable: false, count: 0 }
    }

    /// Takes the key out of the secrets page, and leaves none of the four there.
    pub(crate) fn take(secrets: &mut [u8; 4096]) -> Self {
        let mut channel = Self::closed();
        let keys = secrets.get_mut(SECRETS_VMPCK..SECRETS_VMPCK + VMPCKS * VMPCK_BYTES).unwrap_or_default();
        channel.key.iter_mut().zip(keys.iter()).for_each(|(to, from)| *to = *from);
        channel.usable = true;
        keys.zeroize();
        channel
    }

    /// Destroys the key.
    pub(crate) fn close(&mut self) {
        self.usable = false;
        self.key.zeroize();
    }

    /// Asks the firmware, for an answer that fills `answer`. Any failure is the last one. Bytes instead of types, because the image
    /// is to be small.
    pub(crate) fn ask(
        &mut self,
        kind: u8,
        question: &[u8],
        answer: &mut [u8],
        carrier: &mut impl Carrier,
    ) -> Result<(), AttestError> {
        if !self.usable {
            return Err(AttestError::Over);
        }
        let mut message = [0; MESSAGE_BYTES];
        let asked = self.exchange(kind, question, answer.len(), &mut message, carrier).and_then(|()| {
            let payload = message.get(HEADER_BYTES..HEADER_BYTES + answer.len()).ok_or(AttestError::Forged)?;
            answer.copy_from_slice(payload);
            Ok(())
        });
        message.zeroize();
        if asked.is_err() {
            self.close();
        }
        asked
    }

    fn exchange(
        &mut self,
        kind: u8,
        question: &[u8],
        bytes: usize,
        answer: &mut Message,
        carrier: &mut impl Carrier,
    ) -> Result<(), AttestError> {
        // The firmware must have a number left for its answer.
        let number = self.count.checked_add(2).ok_or(AttestError::Exhausted)?;
        let cipher = Aes256Gcm::new((&self.key).into());
        let request =
            seal(&cipher, &header(kind, number - 1, question.len()), question).ok_or(AttestError::Exhausted)?;
        loop {
            match carrier.carry(&request, answer) {
                Carried::Answered => break,
                Carried::Later if carrier.wait() => {}
                Carried::Later => return Err(AttestError::Busy),
                Carried::Failed(error) => return Err(error),
            }
        }
        open(&cipher, &header(kind + 1, number, bytes), answer)?;
        self.count = number;
        Ok(())
    }
}

/// A header as the specification wants it, without a tag.
fn header(kind: u8, sequence: u64, bytes: usize) -> Header {
    let mut header = Header::new_zeroed();
    header.sequence.set(sequence);
    (header.algorithm, header.header_version) = (AES_256_GCM, HEADER_VERSION);
    header.header_bytes.set(HEADER_BYTES as u16);
    (header.kind, header.version) = (kind, 1);
    header.bytes.set(bytes as u16);
    header
}

fn nonce(header: &Header) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; NONCE_BYTES];
    nonce.iter_mut().zip(header.sequence.to_bytes()).for_each(|(to, from)| *to = from);
    nonce.into()
}

/// What the tag is over, besides the payload.
fn authenticated(header: &Header) -> &[u8] {
    header.as_bytes().get(AUTHENTICATED..).unwrap_or_default()
}

/// `None` if the payload is longer than a message takes.
fn seal(cipher: &Aes256Gcm, header: &Header, payload: &[u8]) -> Option<Message> {
    let mut message = [0; MESSAGE_BYTES];
    let (head, rest) = message.split_at_mut(HEADER_BYTES);
    let text = rest.get_mut(..payload.len())?;
    text.copy_from_slice(payload);
    let tag: [u8; TAG_BYTES] =
        cipher.encrypt_inout_detached(&nonce(header), authenticated(header), text.into()).ok()?.into();
    let mut header = *header;
    header.tag.iter_mut().zip(tag).for_each(|(to, from)| *to = from);
    head.copy_from_slice(header.as_bytes());
    Some(message)
}

/// Decrypts the answer in place, if it is the one that is expected.
fn open(cipher: &Aes256Gcm, expected: &Header, answer: &mut Message) -> Result<(), AttestError> {
    let (head, rest) = answer.split_at_mut(HEADER_BYTES);
    let header = Header::read_from_bytes(head).map_err(|_| AttestError::Forged)?;
    if header.sequence != expected.sequence {
        return Err(AttestError::OutOfSequence);
    }
    let form = |header: &Header| {
        let Header { algorithm, header_version, header_bytes, kind, version, bytes, vmpck, .. } = *header;
        (algorithm, header_version, header_bytes, kind, version, bytes, vmpck)
    };
    let text = rest.get_mut(..usize::from(expected.bytes.get())).ok_or(AttestError::Forged)?;
    let (tag, _) = header.tag.split_first_chunk::<TAG_BYTES>().ok_or(AttestError::Forged)?;
    if form(&header) != form(expected) {
        return Err(AttestError::Forged);
    }
    let opened = cipher.decrypt_inout_detached(&nonce(expected), authenticated(&header), text.into(), &Tag::from(*tag));
    opened.map_err(|_| AttestError::Forged)
}

#[cfg(test)]
mod tests;
