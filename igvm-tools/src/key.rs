// SPDX-License-Identifier: MIT OR Apache-2.0
//! P-384 keys from files, as `openssl` writes them, and fresh ones.

use crate::error::{Error, Flaw};
use crate::input;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use std::path::Path;
use x509_cert::der::asn1::{AnyRef, BitStringRef, ContextSpecific, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{Reader, SliceReader, TagNumber, pem};
use x509_cert::spki::SubjectPublicKeyInfoRef;

/// The largest file that may hold a key.
const FILE_LIMIT: u64 = 64 << 10;

/// RFC 5480, secp384r1.
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// A private key.
pub(crate) struct PrivateKey(EcdsaKeyPair);

impl PrivateKey {
    /// Reads a key, PEM or DER, in PKCS #8 or as RFC 5915 has it.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let der = read_der(path)?;
        let pkcs8 = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &der, &SystemRandom::new());
        let pair = pkcs8.ok().or_else(|| from_sec1(&der));
        let expected = "expected a P-384 private key with its public key, PEM or DER, not encrypted";
        pair.map(Self).ok_or_else(|| Error::data(path, expected))
    }

    /// A key that nobody else will ever have.
    pub(crate) fn ephemeral() -> Result<Self, Error> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random).ok().and_then(|document| {
            EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, document.as_ref(), &random).ok()
        });
        pair.map(Self).ok_or_else(|| Error::usage("the system gives no random numbers for a key"))
    }

    /// The public key's point, uncompressed.
    pub(crate) fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// A signature: `r` and `s`, big-endian.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| Error::usage("the system gives no random numbers for a signature"))?;
        Ok(signature.as_ref().to_vec())
    }
}

/// The point of a public key, PEM or DER (SubjectPublicKeyInfo).
pub(crate) fn read_public(path: &Path) -> Result<Vec<u8>, Error> {
    let der = read_der(path)?;
    let point = SubjectPublicKeyInfoRef::try_from(der.as_slice()).ok().and_then(|key| {
        let curve = key.algorithm.parameters.and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
        key.subject_public_key.as_bytes().filter(|_| curve == Some(SECP384R1)).map(<[u8]>::to_vec)
    });
    point.ok_or_else(|| Error::data(path, "expected a P-384 public key, PEM or DER (SubjectPublicKeyInfo)"))
}

/// A signature in X9.62's DER as `r` and `s`, big-endian; also takes these 96 bytes as they are.
pub(crate) fn signature_from(bytes: &[u8]) -> Result<Vec<u8>, Flaw> {
    if bytes.len() == 96 {
        return Ok(bytes.to_vec());
    }
    let bad = |_| Flaw::new("expected an ECDSA signature of P-384, in DER or as r and s of 48 bytes each, big-endian");
    let mut fixed = vec![0; 96];
    let mut reader = SliceReader::new(bytes).map_err(bad)?;
    let numbers = reader.sequence(|body| {
        let r = body.decode::<x509_cert::der::asn1::UintRef<'_>>()?;
        let s = body.decode::<x509_cert::der::asn1::UintRef<'_>>()?;
        Ok::<_, x509_cert::der::Error>([r.as_bytes().to_vec(), s.as_bytes().to_vec()])
    });
    for (half, number) in fixed.chunks_exact_mut(48).zip(numbers.map_err(bad)?) {
        let start = half.len().checked_sub(number.len());
        let place = start.and_then(|start| half.get_mut(start..));
        place.ok_or_else(|| Flaw::new("a number of the signature is too long for P-384"))?.copy_from_slice(&number);
    }
    Ok(fixed)
}

fn read_der(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = input::read_small(path, FILE_LIMIT)?;
    let bytes = bytes.ok_or_else(|| Error::data(path, "larger than 64 KiB, expected a key"))?;
    // `openssl ecparam -genkey` puts the curve's name in front.
    let text = String::from_utf8_lossy(&bytes);
    let block = text.split("-----BEGIN ").skip(1).find(|block| block.contains("KEY-----"));
    let Some(block) = block else { return Ok(bytes) };
    let (_, der) = pem::decode_vec(format!("-----BEGIN {block}").as_bytes())
        .map_err(|error| Error::data(path, format_args!("bad PEM block: {error}")))
        .map(|(label, der)| (label.to_owned(), der))?;
    Ok(der)
}

/// RFC 5915, ECPrivateKey.
fn from_sec1(der: &[u8]) -> Option<EcdsaKeyPair> {
    let mut reader = SliceReader::new(der).ok()?;
    let parts = reader.sequence(|body| {
        body.decode::<u8>()?;
        let private = body.decode::<&OctetStringRef>()?.as_bytes().to_vec();
        ContextSpecific::<AnyRef<'_>>::decode_explicit(body, TagNumber(0))?;
        let public = ContextSpecific::<BitStringRef<'_>>::decode_explicit(body, TagNumber(1))?;
        let public = public.and_then(|public| public.value.as_bytes().map(<[u8]>::to_vec));
        Ok::<_, x509_cert::der::Error>((private, public))
    });
    let (private, public) = parts.ok()?;
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &private, &public?, &random).ok()
}
