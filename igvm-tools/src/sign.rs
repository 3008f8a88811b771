// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signing an image for SNP: an ID block with the launch digest that the firmware has to come to.
//!
//! The key can stay elsewhere: [`Block::payload`] is what it has to sign, and its signature is checked before it goes into
//! an image. What is written differs from the file that was given in nothing but the ID block.

use crate::error::{Error, Flaw, ensure};
use crate::file::{self, Content, File, seal};
use crate::id_block::{self, ECDSA_P384_SHA384, VERSION};
use crate::key::{self, PrivateKey};
use crate::measure::{Measurement, Snp, Value, VmsaPlace, Zeroes, compute};
use crate::{PAGE, input};
use igvm_defs::{IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_VARIABLE_HEADER, IgvmVariableHeaderType as Type};
use std::path::Path;
use zerocopy::{FromZeros, IntoBytes};

/// Whose digest the block promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// One that does what the file says.
    File,
    /// QEMU with KVM.
    Qemu,
}

/// What an ID block says beside the digest.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Whose digest; not needed if all loaders come to the same.
    pub loader: Option<Loader>,
    /// A number that rises with each fix.
    pub svn: u32,
    /// The family that the image belongs to.
    pub family_id: [u8; 16],
    /// The image.
    pub image_id: [u8; 16],
}

/// Who signs.
#[derive(Clone, Copy, Debug)]
pub enum Signer<'a> {
    /// The key in a file.
    Key(&'a Path),
    /// A key that is made for this and forgotten.
    Ephemeral,
    /// Somebody has signed already: the signature and the public key, each in a file.
    Elsewhere {
        /// The signature, in DER or as `r` and `s`.
        signature: &'a Path,
        /// The public key.
        public_key: &'a Path,
    },
}

/// An ID block that waits for its signature.
#[derive(Clone, Debug)]
pub struct Block {
    block: IGVM_VHS_SNP_ID_BLOCK,
    policy: u64,
}

impl Block {
    /// The block for an image. `path` serves messages.
    pub fn new(path: &Path, bytes: &[u8], identity: &Identity) -> Result<Self, Error> {
        let file = file::parse(path, bytes)?;
        Self::of(&file, identity).map_err(|flaw| flaw.of(path))
    }

    fn of(file: &File<'_>, identity: &Identity) -> Result<Self, Flaw> {
        let measured = compute(file)?;
        let found = measured.platforms.iter().find_map(|Measurement { mask, value, .. }| match value {
            Value::Snp(snp) => Some((*mask, snp)),
            _ => None,
        });
        let Some((mask, snp)) = found else { return Err(Flaw::new("not an image for snp, which ID blocks are for")) };
        let policy = snp.policy.ok_or_else(|| Flaw::new("no guest policy for snp, which an ID block contains"))?;
        let mut block = IGVM_VHS_SNP_ID_BLOCK::new_zeroed();
        block.compatibility_mask = mask;
        block.ld = digest(snp, identity.loader)?;
        block.family_id = identity.family_id;
        block.image_id = identity.image_id;
        block.version = VERSION;
        block.guest_svn = identity.svn;
        block.id_key_algorithm = ECDSA_P384_SHA384;
        Ok(Self { block, policy })
    }

    /// What the ID key signs, with ECDSA P-384 and SHA-384: the firmware's ID block.
    pub fn payload(&self) -> [u8; 96] {
        id_block::block_structure(&self.block, self.policy)
    }

    /// The image with the block in it, signed, and by an author's key as well if there is one.
    pub fn sign(
        mut self,
        path: &Path,
        bytes: &[u8],
        signer: Signer<'_>,
        author: Option<&Path>,
    ) -> Result<Signed, Error> {
        let unusable = || Error::usage("a key or signature is not one of P-384");
        let payload = self.payload();
        let (point, signature) = match signer {
            Signer::Key(path) => sign_with(&PrivateKey::read(path)?, &payload)?,
            Signer::Ephemeral => sign_with(&PrivateKey::ephemeral()?, &payload)?,
            Signer::Elsewhere { signature, public_key } => {
                let bytes = input::read_small(signature, 1 << 10)?.unwrap_or_default();
                let fixed = key::signature_from(&bytes).map_err(|flaw| flaw.of(signature))?;
                (key::read_public(public_key)?, fixed)
            }
        };
        self.block.id_public_key = id_block::public_key(&point).ok_or_else(unusable)?;
        self.block.id_key_signature = id_block::signature(&signature).ok_or_else(unusable)?;
        if let Some(author) = author {
            let message = id_block::key_structure(&self.block.id_public_key);
            let (point, signature) = sign_with(&PrivateKey::read(author)?, &message)?;
            self.block.author_key_enabled = 1;
            self.block.author_key_algorithm = ECDSA_P384_SHA384;
            self.block.author_public_key = id_block::public_key(&point).ok_or_else(unusable)?;
            self.block.author_key_signature = id_block::signature(&signature).ok_or_else(unusable)?;
        }
        if !id_block::verifies(&self.block.id_public_key, &payload, &self.block.id_key_signature) {
            let whose = if let Signer::Elsewhere { signature, .. } = signer { signature } else { path };
            return Err(Error::data(whose, "the signature is not that of the public key over this image's payload"));
        }
        let file = file::parse(path, bytes)?;
        let image = insert(&file, bytes, &self.block).map_err(|flaw| flaw.of(path))?;
        let id_key_digest = id_block::key_digest(&self.block.id_public_key);
        let author_key_digest = author.map(|_| id_block::key_digest(&self.block.author_public_key));
        Ok(Signed { image, launch_digest: self.block.ld, id_key_digest, author_key_digest })
    }
}

/// A signed image, and what a report of it will say.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The IGVM file.
    pub image: Vec<u8>,
    /// The digest that it promises.
    pub launch_digest: [u8; 48],
    /// The ID key's digest.
    pub id_key_digest: [u8; 48],
    /// The author key's.
    pub author_key_digest: Option<[u8; 48]>,
}

fn sign_with(key: &PrivateKey, message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    Ok((key.point().to_vec(), key.sign(message)?))
}

fn digest(snp: &Snp, loader: Option<Loader>) -> Result<[u8; 48], Flaw> {
    let found = match loader {
        Some(Loader::File) => snp.digest(VmsaPlace::File, Zeroes::Data),
        Some(Loader::Qemu) => snp.digest(VmsaPlace::Kvm, Zeroes::Type),
        None => {
            let first = snp.digests.first().map(|digest| &digest.digest);
            let same = snp.digests.iter().all(|digest| Some(&digest.digest) == first);
            ensure!(same, "loaders come to different digests of it, expected --loader file or qemu");
            first
        }
    };
    found.copied().ok_or_else(|| Flaw::new("it has no launch digest"))
}

/// Puts an ID block in place of the one that the file has, or after all other headers.
fn insert(file: &File<'_>, bytes: &[u8], block: &IGVM_VHS_SNP_ID_BLOCK) -> Result<Vec<u8>, Flaw> {
    let header = IGVM_VHS_VARIABLE_HEADER {
        typ: Type::IGVM_VHT_SNP_ID_BLOCK,
        length: size_of::<IGVM_VHS_SNP_ID_BLOCK>() as u32,
    };
    let header = [header.as_bytes(), block.as_bytes()].concat();
    let old = file.headers.iter().find(|old| {
        let mask = file.body(old).first_chunk().copied().map_or(0, u32::from_le_bytes);
        matches!(old.content, Content::SnpIdBlock) && mask & block.compatibility_mask != 0
    });
    let mut image = match old {
        Some(old) => {
            let mut image = bytes.to_vec();
            let place = image.get_mut(old.offset..old.offset + old.bytes);
            if let Some(place) = place.filter(|place| place.len() == header.len()) {
                place.copy_from_slice(&header);
            }
            image
        }
        None => append(file, bytes, &header)?,
    };
    seal(&mut image);
    let (before, after) = (compute(file)?, file::read(&image)?);
    let unchanged = compute(&after)?.snp().map(|snp| &snp.digests) == before.snp().map(|snp| &snp.digests);
    let inserted = after.snp_id_block(block.compatibility_mask).is_some_and(|own| own.as_bytes() == block.as_bytes());
    ensure!(unchanged && inserted, "the ID block does not fit into it");
    Ok(image)
}

/// Adds a header; what the file has behind its headers moves by whole pages, and all that points there with it.
fn append(file: &File<'_>, bytes: &[u8], header: &[u8]) -> Result<Vec<u8>, Flaw> {
    let shift = (header.len() as u64).next_multiple_of(PAGE) as usize;
    let total = u32::try_from(bytes.len() + shift).map_err(|_| Flaw::new("too long for one more header"))?;
    let (head, data) = bytes.split_at(file.data_start);
    let mut image = head.to_vec();
    for old in &file.headers {
        if let Some(at) = offset_field(old)? {
            let field = image.get_mut(at..at + 4).and_then(|field| <&mut [u8; 4]>::try_from(field).ok());
            if let Some(field) = field.filter(|field| **field != [0; 4]) {
                // The file's end lies beyond, and that fits.
                *field = u32::from_le_bytes(*field).saturating_add(shift as u32).to_le_bytes();
            }
        }
    }
    image.extend(header);
    image.resize(head.len() + shift, 0);
    image.extend(data);
    let size = (file.data_start - file.headers_start + header.len()) as u32;
    for (at, value) in [(12, size), (16, total)] {
        if let Some(field) = image.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(image)
}

/// Where in the file a header's file offset stands.
fn offset_field(header: &file::Header) -> Result<Option<usize>, Flaw> {
    let body = header.offset + size_of::<IGVM_VHS_VARIABLE_HEADER>();
    Ok(match header.content {
        Content::Page(_) | Content::Context(_) | Content::ParameterArea(_) => Some(body + 12),
        Content::Other if matches!(header.kind, 0x104 | 0x105) => Some(body + 4),
        Content::Other if file::name(header.kind).is_none() => {
            return Err(Flaw::new(format_args!(
                "header at offset {:#x}: of unknown type {:#x}, which may point at what would have to move",
                header.offset, header.kind
            )));
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
