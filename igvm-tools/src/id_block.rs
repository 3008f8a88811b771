// SPDX-License-Identifier: MIT OR Apache-2.0
//! SNP's ID block: what the firmware checks a launch against, and the key that signs it.
//!
//! Source: SNPABI, ID block and ID authentication information. IGVM has the same fields in another arrangement.

use crate::measure::{Digest, sha384};
use igvm_defs::IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY;

/// SNPABI, the public key structure: curve, x and y of 72 bytes each, zeroes.
const KEY_BYTES: usize = 0x404;

/// A public key as the firmware has it.
pub(crate) fn key_structure(key: &IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY) -> [u8; KEY_BYTES] {
    let mut structure = [0; KEY_BYTES];
    let source = key.curve.to_le_bytes().into_iter().chain(key.qx).chain(key.qy);
    structure.iter_mut().zip(source).for_each(|(to, from)| *to = from);
    structure
}

/// What a report says of a public key.
pub(crate) fn key_digest(key: &IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY) -> Digest {
    sha384(&key_structure(key))
}
