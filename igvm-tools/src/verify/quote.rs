// SPDX-License-Identifier: MIT OR Apache-2.0
//! The signature of a TDX quote. A key of the quoting enclave made it; the enclave's own report names that key, and a key of the
//! processor, certified by Intel, signed this report.
//!
//! Source: Intel TDX DCAP Quoting Library API, quote formats 4 and 5 (signature data structures, certification data types 5 and 6).
//!
//! Deliberately missing: what Intel's server alone has, which is revocation lists and which versions of processor, module and
//! enclave are without known flaws. The verdict says so.

use super::certificates::{Certificate, Store, Vendor};
use super::{Check, Verdict};
use crate::error::{Flaw, ensure};
use ring::digest;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use std::time::SystemTime;

/// Who certifies processors for TDX.
pub(super) static INTEL: Vendor = Vendor {
    name: "Intel",
    // SHA-384 of the public key structure of "Intel SGX Root CA", made as those of AMD's roots are.
    roots: &["3cdf1feb4e5eac629170f17625648da4a16effa22ae2bcca030b4358a8961c1bf26cf54a9598cd6a2d4a9cbb62377d22"],
};

/// The subject of the certificates of processors' keys.
const PROCESSOR_KEY: &str = "Intel SGX PCK Certificate";

/// What Intel's quoting enclave for TDX is: who signed it, and its product number.
const ENCLAVE_SIGNER: &str = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5";
const ENCLAVE_PRODUCT: u16 = 2;

/// SGX's report body, as far as it is read: ATTRIBUTES, MRSIGNER, ISVPRODID, ISVSVN, REPORTDATA.
const ENCLAVE_BYTES: usize = 384;
const ATTRIBUTES: usize = 48;
const SIGNER: usize = 128;
const PRODUCT: usize = 256;
const VERSION: usize = 258;
const REPORT_DATA: usize = 320;
/// ATTRIBUTES.DEBUG.
const DEBUG: u8 = 2;

/// The one kind of attestation key (in the header), and the kinds of certification data.
const ECDSA_P256: u64 = 2;
const CERTIFICATES: u64 = 5;
const ENCLAVE_REPORT: u64 = 6;

/// Reads fields one after the other.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], Flaw> {
        let at = self.at;
        let end = at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| {
            let bytes = self.bytes.len();
            Flaw::new(format_args!(
                "truncated: {what} at offset {at:#x} takes {length} bytes, the quote ends at {bytes:#x}"
            ))
        })?;
        self.at = end;
        Ok(self.bytes.get(at..end).unwrap_or_default())
    }

    fn integer(&mut self, width: usize, what: &str) -> Result<u64, Flaw> {
        Ok(self.take(width, what)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// A kind of certification data and its length.
    fn certification(&mut self, expected: u64) -> Result<usize, Flaw> {
        let at = self.at;
        let kind = self.integer(2, "certification data type")?;
        ensure!(kind == expected, "certification data type at offset {at:#x} is {kind}, expected {expected}");
        Ok(self.integer(4, "certification data length")? as usize)
    }
}

/// A quote's signature with all that vouches for it. Allegations, until they are checked.
pub(super) struct Signature<'a> {
    /// Header and body.
    signed: &'a [u8],
    signature: &'a [u8],
    /// The enclave's key: x and y.
    key: &'a [u8],
    enclave: &'a [u8],
    enclave_signature: &'a [u8],
    /// What else the enclave's report names.
    authentication: &'a [u8],
    /// Certificates, PEM.
    pub(super) certificates: &'a [u8],
}

impl<'a> Signature<'a> {
    /// Takes the signature of a quote apart, whose header was looked at.
    pub(super) fn parse(quote: &'a [u8]) -> Result<Self, Flaw> {
        const HEADER: usize = 48;
        let mut cursor = Cursor { bytes: quote, at: 0 };
        let version = cursor.integer(2, "version")?;
        let kind = cursor.integer(2, "attestation key type")?;
        ensure!(
            kind == ECDSA_P256,
            "attestation key type at offset 0x2 is {kind}, expected {ECDSA_P256} (ECDSA, P-256)"
        );
        cursor.take(HEADER - 4, "header")?;
        // Version 4 has one kind of body, without saying so.
        let kind = if version == 5 { cursor.integer(2, "body type")? } else { 2 };
        let body = if kind == 2 { 584 } else { 648 };
        if version == 5 {
            let at = cursor.at;
            let length = cursor.integer(4, "body length")?;
            ensure!(length == body, "body length at offset {at:#x} is {length}, expected {body} for type {kind}");
        }
        cursor.take(body as usize, "body")?;
        let signed = quote.get(..cursor.at).unwrap_or_default();
        let length = cursor.integer(4, "signature data length")? as usize;
        let start = cursor.at;
        cursor.take(length, "signature data")?;
        // Quotes are padded; what follows the signature data is nobody's.
        let mut cursor = Cursor { bytes: quote.get(..start + length).unwrap_or_default(), at: start };
        let (signature, key) = (cursor.take(64, "signature")?, cursor.take(64, "attestation key")?);
        cursor.certification(ENCLAVE_REPORT)?;
        let enclave = cursor.take(ENCLAVE_BYTES, "quoting enclave's report")?;
        let enclave_signature = cursor.take(64, "its signature")?;
        let length = cursor.integer(2, "authentication data length")? as usize;
        let authentication = cursor.take(length, "authentication data")?;
        let length = cursor.certification(CERTIFICATES)?;
        let certificates = cursor.take(length, "certificates")?;
        Ok(Self { signed, signature, key, enclave, enclave_signature, authentication, certificates })
    }

    /// Whether a certificate's key signed the enclave's report.
    fn enclave_is_vouched_for_by(&self, certificate: &Certificate) -> bool {
        let Some(key) = certificate.p256_key() else { return false };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(self.enclave, self.enclave_signature).is_ok()
    }

    /// Whether the enclave's report names the key.
    fn key_is_the_enclaves(&self) -> bool {
        let digest = digest::digest(&digest::SHA256, &[self.key, self.authentication].concat());
        let named = self.enclave.get(REPORT_DATA..).unwrap_or_default();
        named.strip_prefix(digest.as_ref()).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
    }

    fn quote_is_signed(&self) -> bool {
        // Uncompressed, SEC 1.
        let key = [&[4], self.key].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key).verify(self.signed, self.signature).is_ok()
    }

    /// The signature, all that vouches for it, and whose enclave made it.
    pub(super) fn check(&self, store: &Store, now: SystemTime, verdict: &mut Verdict) {
        let refused = |why: &dyn std::fmt::Display| Check::differs("signature", why, "one that a trusted chain makes");
        let chain = match store.chain(now, |leaf| self.enclave_is_vouched_for_by(leaf)) {
            Ok(chain) => chain,
            Err(flaw) => return verdict.add(refused(&flaw)),
        };
        if !self.key_is_the_enclaves() {
            return verdict.add(refused(&"the quoting enclave vouches for another key"));
        }
        if !self.quote_is_signed() {
            return verdict.add(refused(&"the quoting enclave's key did not make it"));
        }
        let names: Vec<_> = chain.iter().map(|certificate| certificate.name()).collect();
        let (names, whose) = (names.join(", issued by "), store.whose_root());
        verdict.add(Check::agrees("signature", format_args!("by a quoting enclave, vouched for by {names}: {whose}")));
        // Intel's root has other keys certified, too.
        if let Some(leaf) = chain.first().filter(|_| store.is_vendors()) {
            verdict.add(Check::compare("signing key", leaf.name().as_str(), PROCESSOR_KEY));
        }
        self.check_enclave(store, verdict);
        verdict.add(Check::told("TCB level", "not judged: revocations and current versions are not known here"));
    }

    /// The certified key signs reports of any enclave that asks as a quoting enclave does; this has to be Intel's.
    pub(super) fn check_enclave(&self, store: &Store, verdict: &mut Verdict) {
        let bytes = |at: usize, length: usize| self.enclave.get(at..at + length).unwrap_or_default();
        let number = |at| bytes(at, 2).iter().rev().fold(0u16, |value, byte| value << 8 | u16::from(*byte));
        let debug = bytes(ATTRIBUTES, 1).first().is_none_or(|byte| byte & DEBUG != 0);
        let say = |signer: &str, product, debug| format!("signer {signer}, product {product}, debug = {debug}");
        let own = say(&hex::encode(bytes(SIGNER, 32)), number(PRODUCT), debug);
        verdict.add(if store.is_vendors() {
            Check::compare("quoting enclave", own, say(ENCLAVE_SIGNER, ENCLAVE_PRODUCT, false))
        } else {
            Check::told("quoting enclave", own)
        });
        verdict.add(Check::told("enclave version", number(VERSION)));
    }
}
