// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ID block, in which a guest's owner signs what the launch must come to.
//!
//! virtee/sev-snp-measure `id_block.py`; Linux `include/linux/psp-sev.h` (`snp_launch_finish`).

use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::PAGE_BYTES;
use crate::ecdsa::{CURVE_P384, P384_SHA384, PublicKey, Signature};
use crate::policy::Policy;
use crate::rule::{Refused, Rule, Rules, Status};

/// What the owner signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdBlock {
    /// The launch digest that is expected.
    pub launch_digest: [u8; 48],
    /// The owner's name for a family of images.
    pub family_id: [u8; 16],
    /// The owner's name for this image.
    pub image_id: [u8; 16],
    /// 1.
    pub version: U32,
    /// The image's security version.
    pub guest_svn: U32,
    /// The policy that is expected.
    pub policy: U64,
}

/// Signatures and keys that go with an ID block: one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdAuth {
    /// 1: ECDSA P-384 with SHA-384.
    pub id_key_algorithm: U32,
    /// 1: ECDSA P-384 with SHA-384.
    pub author_key_algorithm: U32,
    reserved: [u8; 0x38],
    /// The ID key's signature over the ID block.
    pub id_block_signature: Signature,
    /// The ID key.
    pub id_key: PublicKey,
    reserved_after_id_key: [u8; 0x3c],
    /// The author key's signature over the ID key.
    pub id_key_signature: Signature,
    /// The author key.
    pub author_key: PublicKey,
    rest: [u8; 0x37c],
}

const _: () = {
    assert!(size_of::<IdBlock>() == 0x60);
    assert!(size_of::<IdAuth>() == PAGE_BYTES);
    assert!(offset_of!(IdAuth, id_block_signature) == 0x40);
    assert!(offset_of!(IdAuth, id_key) == 0x240);
    assert!(offset_of!(IdAuth, id_key_signature) == 0x680);
    assert!(offset_of!(IdAuth, author_key) == 0x880);
};

/// What an ID block leaves behind in the guest's context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) family_id: [u8; 16],
    pub(crate) image_id: [u8; 16],
    pub(crate) guest_svn: u32,
    pub(crate) id_key_digest: [u8; 48],
    pub(crate) author_key_digest: [u8; 48],
    pub(crate) has_author: bool,
}

impl Identity {
    /// A guest without ID block.
    pub(crate) const NONE: Self = Self {
        family_id: [0; 16],
        image_id: [0; 16],
        guest_svn: 0,
        id_key_digest: [0; 48],
        author_key_digest: [0; 48],
        has_author: false,
    };

    /// Checks an ID block against a launch.
    pub(crate) fn check(
        block: &IdBlock,
        auth: &IdAuth,
        has_author: bool,
        launch_digest: &[u8; 48],
        policy: Policy,
        rules: &Rules,
    ) -> Result<Self, Refused> {
        let valid = |held: bool, rule| rules.check(held, rule, Status::InvalidParam);
        valid(block.version.get() == 1, Rule::IdBlockVersion)?;
        valid(auth.id_key_algorithm.get() == P384_SHA384, Rule::IdKeyAlgorithm)?;
        valid(auth.id_key.curve() == CURVE_P384, Rule::KeyCurve)?;
        let signed = auth.id_block_signature.verifies(&auth.id_key, block.as_bytes());
        rules.check(signed, Rule::IdBlockSignature, Status::BadSignature)?;
        if has_author {
            valid(auth.author_key_algorithm.get() == P384_SHA384, Rule::AuthorKeyAlgorithm)?;
            valid(auth.author_key.curve() == CURVE_P384, Rule::KeyCurve)?;
            let signed = auth.id_key_signature.verifies(&auth.author_key, auth.id_key.as_bytes());
            rules.check(signed, Rule::AuthorSignature, Status::BadSignature)?;
        }
        rules.check(block.launch_digest == *launch_digest, Rule::IdBlockDigest, Status::BadMeasurement)?;
        rules.check(block.policy.get() == policy.0, Rule::IdBlockPolicy, Status::PolicyFailure)?;
        Ok(Self {
            family_id: block.family_id,
            image_id: block.image_id,
            guest_svn: block.guest_svn.get(),
            id_key_digest: auth.id_key.digest(),
            author_key_digest: if has_author { auth.author_key.digest() } else { [0; 48] },
            has_author,
        })
    }
}
