// SPDX-License-Identifier: MIT OR Apache-2.0
//! ECDSA on P-384 with SHA-384, in the firmware's own formats.
//!
//! 56860, "Signature format" and "Public key format", as virtee/sev `src/certs/snp/ecdsa` and google/go-sev-guest
//! `abi/abi.go` write them: numbers are 72 bytes, little endian, of which P-384 uses 48.

use p384::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use sha2::{Digest, Sha384};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// ECDSA on P-384 with SHA-384, as ID blocks and reports name it.
pub(crate) const P384_SHA384: u32 = 1;

/// P-384 in [`PublicKey::curve`].
pub(crate) const CURVE_P384: u32 = 2;

const NUMBER_BYTES: usize = 72;
const P384_BYTES: usize = 48;

/// SHA-384 of some bytes.
pub(crate) fn sha384(bytes: &[u8]) -> [u8; 48] {
    Sha384::digest(bytes).into()
}

/// A signature of 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Signature {
    r: [u8; NUMBER_BYTES],
    s: [u8; NUMBER_BYTES],
    reserved: [u8; 0x200 - 2 * NUMBER_BYTES],
}

/// A public key of 404h bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PublicKey {
    curve: U32,
    x: [u8; NUMBER_BYTES],
    y: [u8; NUMBER_BYTES],
    reserved: [u8; 0x404 - 4 - 2 * NUMBER_BYTES],
}

const _: () = assert!(size_of::<Signature>() == 0x200 && size_of::<PublicKey>() == 0x404);

impl Signature {
    /// A signature from its two numbers.
    pub fn new(r: [u8; NUMBER_BYTES], s: [u8; NUMBER_BYTES]) -> Self {
        Self { r, s, reserved: [0; _] }
    }

    /// Signs bytes. The nonce is RFC 6979's, so that equal reports have equal signatures.
    pub fn sign(key: &p384::ecdsa::SigningKey, bytes: &[u8]) -> Option<Self> {
        let signature: p384::ecdsa::Signature = key.sign_prehash(&sha384(bytes)).ok()?;
        let (r, s) = signature.split_bytes();
        Some(Self::new(little_endian(r.as_ref())?, little_endian(s.as_ref())?))
    }

    /// Whether `key` made this signature over `bytes`.
    pub fn verifies(&self, key: &PublicKey, bytes: &[u8]) -> bool {
        self.parse()
            .zip(key.parse())
            .is_some_and(|(signature, key)| key.verify_prehash(&sha384(bytes), &signature).is_ok())
    }

    fn parse(&self) -> Option<p384::ecdsa::Signature> {
        p384::ecdsa::Signature::from_scalars(big_endian(&self.r)?, big_endian(&self.s)?).ok()
    }
}

impl PublicKey {
    /// A key from its curve's number and its coordinates.
    pub fn new(curve: u32, x: [u8; NUMBER_BYTES], y: [u8; NUMBER_BYTES]) -> Self {
        Self { curve: U32::new(curve), x, y, reserved: [0; _] }
    }

    /// The public half of a key.
    pub fn of(key: &p384::ecdsa::SigningKey) -> Option<Self> {
        let point = key.verifying_key().to_sec1_point(false);
        let x = little_endian(point.x()?.as_ref())?;
        let y = little_endian(point.y()?.as_ref())?;
        Some(Self::new(CURVE_P384, x, y))
    }

    /// The curve's number; 2 is P-384.
    pub fn curve(&self) -> u32 {
        self.curve.get()
    }

    /// What reports show of a key: SHA-384 over the whole structure.
    pub fn digest(&self) -> [u8; 48] {
        sha384(self.as_bytes())
    }

    fn parse(&self) -> Option<p384::ecdsa::VerifyingKey> {
        let mut point = [0; 1 + 2 * P384_BYTES];
        let (tag, coordinates) = point.split_first_mut()?;
        let (x, y) = coordinates.split_at_mut_checked(P384_BYTES)?;
        // SEC 1, 2.3.3: an uncompressed point.
        *tag = 4;
        x.copy_from_slice(&big_endian(&self.x)?);
        y.copy_from_slice(&big_endian(&self.y)?);
        p384::ecdsa::VerifyingKey::from_sec1_bytes(&point).ok()
    }
}

fn little_endian(number: &[u8]) -> Option<[u8; NUMBER_BYTES]> {
    let mut bytes = [0; NUMBER_BYTES];
    bytes.get_mut(..number.len())?.iter_mut().zip(number.iter().rev()).for_each(|(to, from)| *to = *from);
    Some(bytes)
}

/// `None` if the number does not fit P-384.
fn big_endian(number: &[u8; NUMBER_BYTES]) -> Option<[u8; P384_BYTES]> {
    let (low, high) = number.split_first_chunk::<P384_BYTES>()?;
    let mut bytes = *low;
    bytes.reverse();
    high.iter().all(|byte| *byte == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p384::ecdsa::SigningKey;

    fn key(last: u8) -> SigningKey {
        let mut scalar = [7; 48];
        scalar[47] = last;
        SigningKey::from_slice(&scalar).unwrap()
    }

    #[test]
    fn a_signature_verifies_with_its_own_key_and_bytes_only() {
        let signature = Signature::sign(&key(1), b"bytes").unwrap();
        let public = PublicKey::of(&key(1)).unwrap();
        assert!(signature.verifies(&public, b"bytes"));
        assert!(!signature.verifies(&public, b"bytez"));
        assert!(!signature.verifies(&PublicKey::of(&key(2)).unwrap(), b"bytes"));
    }

    #[test]
    fn numbers_are_little_endian_and_padded() {
        let signature = Signature::sign(&key(1), b"bytes").unwrap();
        let plain: p384::ecdsa::Signature = key(1).sign_prehash(&sha384(b"bytes")).unwrap();
        let mut r = plain.split_bytes().0.to_vec();
        r.reverse();
        assert_eq!(signature.r[..48], r);
        assert_eq!(signature.r[48..], [0; 24]);
    }

    #[test]
    fn malformed_keys_and_signatures_verify_nothing() {
        let (good, public) = (Signature::sign(&key(1), b"x").unwrap(), PublicKey::of(&key(1)).unwrap());
        let mut too_big = good;
        too_big.r[48] = 1;
        assert!(!too_big.verifies(&public, b"x"));
        assert!(!Signature { r: [0; _], ..good }.verifies(&public, b"x"));
        assert!(!Signature { s: [0xff; _], ..good }.verifies(&public, b"x"));
        let mut off_the_curve = public;
        off_the_curve.y[0] ^= 1;
        assert!(!good.verifies(&off_the_curve, b"x"));
        assert!(!good.verifies(&PublicKey { x: [0; _], y: [0; _], ..public }, b"x"));
    }
}
