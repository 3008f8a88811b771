// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a platform would measure when it launches a file: SNP's launch digest, TDX's MRTD.
//!
//! A cloud publishes such a number and a verifier recomputes it from the file. The digests are written here from the
//! platforms' documents; tests compare them with other people's programs. The hash function itself comes from `ring`.
//!
//! Whoever made the file may be hostile. It cannot bring about more work than its pages warrant, within a fixed limit.

use crate::error::{Error, Flaw};
use crate::file::{self, File};
use crate::inspect::platform_name;
use igvm_defs::IgvmPlatformType;
use std::path::Path;

mod show;
pub(crate) mod snp;
pub(crate) mod tdx;

/// SHA-384, of which both platforms' measurements are made.
pub type Digest = [u8; 48];

/// What the platforms of a file would measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurements {
    /// In the order of the platform headers.
    pub platforms: Vec<Measurement>,
}

/// What one platform would measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// The platform's name, as `inspect` says it.
    pub platform: String,
    /// The bit by which headers refer to it.
    pub mask: u32,
    /// The numbers.
    pub value: Value,
}

/// The numbers that a platform measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// AMD SEV-SNP.
    Snp(Snp),
    /// Intel TDX.
    Tdx(Tdx),
    /// Nobody measures it, or this program does not know how.
    None,
}

/// Launch digests of SEV-SNP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snp {
    /// All that loaders make of the file; the first one is what the file itself says.
    pub digests: Vec<LaunchDigest>,
    /// The policy that the file asks for. It stands in the report beside the digest and does not enter it.
    pub policy: Option<u64>,
    /// The digest that an ID block in the file promises.
    pub promised: Option<Digest>,
}

/// A launch digest and the loader's habits that lead to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchDigest {
    /// Where the loader puts VMSAs.
    pub vmsa: VmsaPlace,
    /// What it makes of pages that have no data in the file.
    pub zeroes: Zeroes,
    /// The digest.
    pub digest: Digest,
}

/// Where a loader puts VMSAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmsaPlace {
    /// At the address and at the time that the file says.
    File,
    /// At KVM's one address for all, after everything else.
    Kvm,
}

/// What a loader makes of pages that have no data in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroes {
    /// Ordinary pages of zeroes.
    Data,
    /// Pages of the firmware's type ZERO, as QEMU does.
    Type,
}

/// Measurements of TDX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tdx {
    /// The measurement of the initial pages.
    pub mrtd: Digest,
    /// The runtime registers before the first instruction. Nothing but the image itself extends them.
    pub rtmr: [Digest; 4],
    /// The image is Parados's, which extends none: a TD that runs it has them as they were at launch.
    pub extends_none: bool,
    /// The policy that the file asks for, in IGVM's bits.
    pub policy: Option<u64>,
}

/// Measures a file. `path` serves messages only.
pub fn measure(path: &Path, bytes: &[u8]) -> Result<Measurements, Error> {
    let file = file::parse(path, bytes)?;
    compute(&file).map_err(|flaw| flaw.of(path))
}

/// Reads and measures a file.
pub fn measure_file(path: &Path) -> Result<Measurements, Error> {
    measure(path, &crate::input::read_image(path)?)
}

pub(crate) fn compute(file: &File<'_>) -> Result<Measurements, Flaw> {
    let platform = |header: igvm_defs::IGVM_VHS_SUPPORTED_PLATFORM| {
        let mask = header.compatibility_mask;
        let value = match header.platform_type {
            IgvmPlatformType::SEV_SNP => Value::Snp(snp::measure(file, mask)?),
            IgvmPlatformType::TDX => Value::Tdx(tdx::measure(file, mask)?),
            _ => Value::None,
        };
        Ok(Measurement { platform: platform_name(header.platform_type), mask, value })
    };
    Ok(Measurements { platforms: file.platforms().map(platform).collect::<Result<_, _>>()? })
}

impl Measurements {
    /// SNP's numbers, if the file is for SNP.
    pub fn snp(&self) -> Option<&Snp> {
        self.platforms.iter().find_map(|platform| match &platform.value {
            Value::Snp(snp) => Some(snp),
            _ => None,
        })
    }

    /// TDX's numbers, if the file is for TDX.
    pub fn tdx(&self) -> Option<&Tdx> {
        self.platforms.iter().find_map(|platform| match &platform.value {
            Value::Tdx(tdx) => Some(tdx),
            _ => None,
        })
    }
}

impl Snp {
    /// The digest for given habits of a loader.
    pub fn digest(&self, vmsa: VmsaPlace, zeroes: Zeroes) -> Option<&Digest> {
        let fits = |digest: &&LaunchDigest| digest.vmsa == vmsa && digest.zeroes == zeroes;
        // Without such pages the two are the same and listed once.
        let any = |digest: &&LaunchDigest| digest.vmsa == vmsa;
        let found = self.digests.iter().find(fits).or_else(|| self.digests.iter().find(any));
        found.map(|found| &found.digest)
    }

    /// Which loaders come to a digest.
    pub fn find(&self, digest: &[u8]) -> Option<&LaunchDigest> {
        self.digests.iter().find(|own| own.digest == digest)
    }
}

/// SHA-384, by the library that measurements use.
pub fn sha384(bytes: &[u8]) -> Digest {
    to_array(&ring::digest::digest(&ring::digest::SHA384, bytes))
}

fn to_array(digest: &ring::digest::Digest) -> Digest {
    let mut array = [0; 48];
    // SHA-384 has 48 bytes; a digest of another length would leave zeroes, which no image measures to.
    if digest.as_ref().len() == array.len() {
        array.copy_from_slice(digest.as_ref());
    }
    array
}

#[cfg(test)]
mod tests;
