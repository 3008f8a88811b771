// SPDX-License-Identifier: MIT OR Apache-2.0
//! What AMD puts into certificates, and its roots.

use super::certificates::{Certificate, Vendor};
use x509_cert::der::asn1::ObjectIdentifier;

/// SHA-384 of the public key structures (SubjectPublicKeyInfo, DER) of ARK-Milan, ARK-Genoa and ARK-Turin, as AMD's key
/// server hands them out: `openssl x509 -in ark.pem -pubkey -noout | openssl pkey -pubin -outform DER | sha384sum`.
const ROOTS: [&str; 3] = [
    "1249f67f15cf229a4069195e1a9ce537d1765ef706a1f4a123c36be9518786515d25ecc007f366b564d2b3f31c48082e",
    "32ab53a6ce5ec14926207396e5c475ae768a6a9831b7e860b5acf2e1c1dff222bc5a8bfc43eb5e06393189c1f246d880",
    "3475f08a9727f8ac9a1deaea5f2a2097aa59d64d05c2a678c229c873e6359d3a6926287a2a22cd5f88a385e333a2fcc5",
];

/// Who certifies processors for SEV-SNP.
pub(super) static AMD: Vendor = Vendor { name: "AMD", roots: &ROOTS };

/// VCEK, extensions.
const BOOT_LOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const CHIP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

/// The versions of a chip's firmware that a key is for, or that a report tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tcb {
    /// Turin and later.
    pub(super) fmc: Option<u8>,
    pub(super) boot_loader: u8,
    pub(super) tee: u8,
    pub(super) snp: u8,
    pub(super) microcode: u8,
}

impl Tcb {
    /// SNPABI, TCB_VERSION: from Turin on, the bytes stand elsewhere.
    pub(super) fn from_report(version: [u8; 8], has_fmc: bool) -> Self {
        let [a, b, c, d, .., y, z] = version;
        if has_fmc {
            Self { fmc: Some(a), boot_loader: b, tee: c, snp: d, microcode: z }
        } else {
            Self { fmc: None, boot_loader: a, tee: b, snp: y, microcode: z }
        }
    }

    /// What a certificate says; `None` if it says nothing of the kind.
    pub(super) fn of(certificate: &Certificate) -> Option<Self> {
        let number = |id| match certificate.extension(id) {
            // An INTEGER of one byte, or of two if the first is zero.
            Some([2, 1, value]) | Some([2, 2, 0, value]) => Some(*value),
            _ => None,
        };
        Some(Self {
            fmc: number(FMC),
            boot_loader: number(BOOT_LOADER)?,
            tee: number(TEE)?,
            snp: number(SNP)?,
            microcode: number(MICROCODE)?,
        })
    }
}

impl std::fmt::Display for Tcb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(f, "FMC {fmc}, ")?;
        }
        let Self { boot_loader, tee, snp, microcode, .. } = self;
        write!(f, "boot loader {boot_loader}, TEE {tee}, SNP {snp}, microcode {microcode}")
    }
}

/// The chip that a key belongs to. Some certificates wrap it in an OCTET STRING, some do not.
pub(super) fn chip_id(certificate: &Certificate) -> Option<&[u8]> {
    let id = certificate.extension(CHIP_ID)?;
    Some(match id {
        [4, length, id @ ..] if id.len() == usize::from(*length) => id,
        _ => id,
    })
}
