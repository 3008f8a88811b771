// SPDX-License-Identifier: MIT OR Apache-2.0
//! SNP's ID block: what the firmware checks a launch against, and the keys that sign it.
//!
//! Source: SNPABI, ID block and ID authentication information. IGVM has the same fields in another arrangement.

use crate::measure::{Digest, sha384};
use igvm_defs::{IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY, IGVM_VHS_SNP_ID_BLOCK_SIGNATURE};
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

/// SNPABI, ID block.
pub(crate) const BLOCK_BYTES: usize = 96;

/// SNPABI, the public key structure: curve, x and y of 72 bytes each, zeroes.
pub(crate) const KEY_BYTES: usize = 0x404;

/// SNPABI, the version of the ID block; ECDSA P-384 with SHA-384; the curve P-384.
pub(crate) const VERSION: u32 = 1;
pub(crate) const ECDSA_P384_SHA384: u32 = 1;
pub(crate) const CURVE_P384: u32 = 2;

/// The length of a P-384 number.
const NUMBER: usize = 48;

/// The ID block as the firmware gets it: what the ID key signs.
pub(crate) fn block_structure(block: &IGVM_VHS_SNP_ID_BLOCK, policy: u64) -> [u8; BLOCK_BYTES] {
    let mut structure = [0; BLOCK_BYTES];
    let ids = block.ld.into_iter().chain(block.family_id).chain(block.image_id);
    let numbers = block.version.to_le_bytes().into_iter().chain(block.guest_svn.to_le_bytes());
    fill(&mut structure, ids.chain(numbers).chain(policy.to_le_bytes()));
    structure
}

/// A public key as the firmware gets it: what the author's key signs.
pub(crate) fn key_structure(key: &IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY) -> [u8; KEY_BYTES] {
    let mut structure = [0; KEY_BYTES];
    fill(&mut structure, key.curve.to_le_bytes().into_iter().chain(key.qx).chain(key.qy));
    structure
}

/// What a report says of a public key.
pub(crate) fn key_digest(key: &IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY) -> Digest {
    sha384(&key_structure(key))
}

/// A point, uncompressed, in IGVM's form; `None` if it is none of P-384.
pub(crate) fn public_key(point: &[u8]) -> Option<IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY> {
    let (4, coordinates) = point.split_first().map(|(kind, rest)| (*kind, rest))? else { return None };
    let (qx, qy) = halves(coordinates)?;
    Some(IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY { curve: CURVE_P384, reserved: 0, qx, qy })
}

/// A signature, `r` and `s` big-endian, in IGVM's form.
pub(crate) fn signature(fixed: &[u8]) -> Option<IGVM_VHS_SNP_ID_BLOCK_SIGNATURE> {
    let (r_comp, s_comp) = halves(fixed)?;
    Some(IGVM_VHS_SNP_ID_BLOCK_SIGNATURE { r_comp, s_comp })
}

/// Whether a key made a signature.
pub(crate) fn verifies(
    key: &IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY,
    message: &[u8],
    signature: &IGVM_VHS_SNP_ID_BLOCK_SIGNATURE,
) -> bool {
    let mut point = vec![4];
    let (Some(x), Some(y)) = (big_endian(&key.qx), big_endian(&key.qy)) else { return false };
    point.extend(x.into_iter().chain(y));
    let (Some(r), Some(s)) = (big_endian(&signature.r_comp), big_endian(&signature.s_comp)) else { return false };
    let fixed: Vec<u8> = r.into_iter().chain(s).collect();
    key.curve == CURVE_P384 && UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, &fixed).is_ok()
}

/// A number of the firmware's, little-endian in 72 bytes; `None` if it is too long for the curve.
pub(crate) fn big_endian(number: &[u8; 72]) -> Option<[u8; NUMBER]> {
    let (low, high) = number.split_at(NUMBER);
    let mut turned: [u8; NUMBER] = low.try_into().ok()?;
    turned.reverse();
    high.iter().all(|byte| *byte == 0).then_some(turned)
}

/// Two big-endian numbers, the firmware's way.
fn halves(numbers: &[u8]) -> Option<([u8; 72], [u8; 72])> {
    if numbers.len() != 2 * NUMBER {
        return None;
    }
    let (first, second) = numbers.split_at(NUMBER);
    let turned = |number: &[u8]| {
        let mut field = [0; 72];
        fill(&mut field, number.iter().rev().copied());
        field
    };
    Some((turned(first), turned(second)))
}

fn fill(target: &mut [u8], source: impl Iterator<Item = u8>) {
    target.iter_mut().zip(source).for_each(|(to, from)| *to = from);
}
