// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report for a nonce, which the host's operator may ask for when the VM starts.
//!
//! The host chooses the nonce, so what goes into the report is a digest in which the nonce cannot pass for anything else
//! (`image_abi::attestation`). A host that lets no report come about has refused a service: the guest starts without. After
//! this nobody can ask any more: what speaks for the VM is destroyed before the guest's first instruction.
//!
//! Hostile party: the host, which asks, carries the messages, and reads what comes of them.

use core::fmt;

use image_abi::attestation::{DOMAIN, NONCE_BYTES};
use platform::{AttestError, Attester, Outbound, Platform, REPORT_ROOM, Releasable};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroize;

/// What precedes a key whose digest is told.
const KEY_CHECK: &[u8] = b"parados-key-check-1:";
/// How much of that digest is told.
const KEY_CHECK_BYTES: usize = 8;
/// Two digits for each byte.
const DIGITS: usize = 2 * *NONCE_BYTES.end();

/// Answers the operator's question, if there is one. Once, before the guest and before other processors.
#[inline(never)]
pub fn attest(platform: &impl Platform) {
    let Some(attester) = platform.attester() else { return };
    let mut text = [0; DIGITS];
    if let Some(length) = attester.question(&mut text) {
        match evidence(attester, text.get(..length)) {
            Ok(evidence) => platform.record(Outbound::released(&evidence)),
            Err(failure) => platform.record(Outbound::released(&failure)),
        }
    }
    attester.forget();
}

/// Why there is no evidence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failure {
    /// The nonce is too short, too long, or not in hexadecimal digits.
    Nonce,
    Report(AttestError),
}

impl From<AttestError> for Failure {
    fn from(error: AttestError) -> Self {
        Self::Report(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{\"attestation\":{\"error\":\"")?;
        match self {
            Self::Nonce => {
                let (least, most) = (NONCE_BYTES.start(), NONCE_BYTES.end());
                write!(f, "the nonce is not {least} to {most} bytes in hexadecimal digits")?;
            }
            Self::Report(error) => error.fmt(f)?,
        }
        f.write_str("\"}}")
    }
}

/// What the host did wrong it may be told.
impl Releasable for Failure {}

struct Evidence {
    report: [u8; REPORT_ROOM],
    bytes: usize,
    /// A digest of the key that this image gets here, by which somebody can tell that it is the same as last time.
    key_check: Result<[u8; KEY_CHECK_BYTES], AttestError>,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = Hex(self.report.get(..self.bytes).unwrap_or_default());
        write!(f, "{{\"attestation\":{{\"report\":\"{report}\"")?;
        match &self.key_check {
            Ok(check) => write!(f, ",\"key_check\":\"{}\"}}}}", Hex(check)),
            Err(error) => write!(f, ",\"key_error\":\"{error}\"}}}}"),
        }
    }
}

/// A report is made to be shown to strangers, and eight bytes of a digest tell nothing of a key of 32.
impl Releasable for Evidence {}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn evidence(attester: &dyn Attester, text: Option<&[u8]>) -> Result<Evidence, Failure> {
    let mut nonce = [0; *NONCE_BYTES.end()];
    let nonce = text.and_then(|text| decode(text, &mut nonce)).ok_or(Failure::Nonce)?;
    let data = digest(DOMAIN, nonce);
    let mut evidence = Evidence { report: [0; REPORT_ROOM], bytes: 0, key_check: Err(AttestError::Over) };
    evidence.bytes = attester.report(&data, &mut evidence.report)?;
    evidence.key_check = key_check(attester);
    Ok(evidence)
}

/// Out of line, because the function is long and used twice.
#[inline(never)]
fn digest(prefix: &[u8], bytes: &[u8]) -> [u8; 64] {
    Sha512::new().chain_update(prefix).chain_update(bytes).finalize().into()
}

fn key_check(attester: &dyn Attester) -> Result<[u8; KEY_CHECK_BYTES], AttestError> {
    let mut key = [0; 32];
    attester.key(&mut key)?;
    let digest = digest(KEY_CHECK, &key);
    key.zeroize();
    let (check, _) = digest.split_first_chunk().ok_or(AttestError::Over)?;
    Ok(*check)
}

/// The bytes behind hexadecimal digits; `None` if it is no nonce.
fn decode<'a>(text: &[u8], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let bytes = text.len() / 2;
    if !text.len().is_multiple_of(2) || !NONCE_BYTES.contains(&bytes) {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16);
    for (byte, digits) in room.iter_mut().zip(text.chunks(2)) {
        let &[high, low] = digits else { return None };
        *byte = (digit(high)? << 4 | digit(low)?) as u8;
    }
    room.get(..bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// A platform's, that reports what it was asked to.
    #[derive(Default)]
    struct Fake {
        fails: Option<AttestError>,
        no_key: Option<AttestError>,
        asked: Cell<Option<[u8; 64]>>,
    }

    impl Attester for Fake {
        fn question(&self, _: &mut [u8]) -> Option<usize> {
            None
        }

        fn report(&self, data: &[u8; 64], report: &mut [u8; REPORT_ROOM]) -> Result<usize, AttestError> {
            self.asked.set(Some(*data));
            report[..3].copy_from_slice(&[0x0a, 0xff, 0]);
            self.fails.map_or(Ok(3), Err)
        }

        fn key(&self, key: &mut [u8; 32]) -> Result<(), AttestError> {
            *key = [7; 32];
            self.no_key.map_or(Ok(()), Err)
        }

        fn forget(&self) {}
    }

    fn said(fake: &Fake, text: &str) -> String {
        match evidence(fake, Some(text.as_bytes())) {
            Ok(evidence) => evidence.to_string(),
            Err(failure) => failure.to_string(),
        }
    }

    const NONCE: &str = "000102030405060708090a0b0c0d0e0F";

    /// `(printf parados-nonce-1:; printf %s $NONCE | xxd -r -p) | sha512sum`
    #[test]
    fn the_report_holds_a_digest_that_anybody_can_make_again() {
        let fake = Fake::default();
        said(&fake, NONCE);
        let expected = "6b41bd10564b48979c38d780cf2b904b78969b79c8561b732796517f64a21369\
                        360250a2e823efac81192d76123212cfa95cd056b60a173f15ab9ba662142e55";
        assert_eq!(Hex(&fake.asked.get().unwrap()).to_string(), expected);
    }

    #[test]
    fn evidence_is_one_object_in_one_line() {
        let text = said(&Fake::default(), NONCE);
        assert_eq!(text, "{\"attestation\":{\"report\":\"0aff00\",\"key_check\":\"047ea798cf2f735d\"}}");
    }

    #[test]
    fn what_is_no_nonce_asks_for_nothing() {
        let long = "00".repeat(65);
        for text in [
            "",
            "00",
            &NONCE[..31],
            &NONCE[..30],
            &long,
            "g00102030405060708090a0b0c0d0e0f",
            "+1020304050607080910111213141516",
        ] {
            let fake = Fake::default();
            let expected = "{\"attestation\":{\"error\":\"the nonce is not 16 to 64 bytes in hexadecimal digits\"}}";
            assert_eq!(said(&fake, text), expected, "{text}");
            assert_eq!(fake.asked.get(), None);
        }
        assert_eq!(evidence(&Fake::default(), None).err(), Some(Failure::Nonce), "longer than the room for it");
        assert!(evidence(&Fake::default(), Some("ab".repeat(64).as_bytes())).is_ok());
    }

    #[test]
    fn a_refusal_is_told_and_a_report_stands_without_a_key() {
        let fake = Fake { fails: Some(AttestError::OutOfSequence), ..Fake::default() };
        assert_eq!(said(&fake, NONCE), "{\"attestation\":{\"error\":\"the answer is out of sequence\"}}");
        let fake = Fake { no_key: Some(AttestError::Firmware(0x16)), ..Fake::default() };
        let text = said(&fake, NONCE);
        assert!(text.ends_with("\"key_error\":\"the firmware did not take the message, status 0x16\"}}"), "{text}");
    }
}
