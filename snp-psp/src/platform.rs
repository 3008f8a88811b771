// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine as the firmware knows it: chip, versions, settings, keys.
//!
//! Field meanings: 56860, "Attestation report" and "Platform info", as in virtee/sev and google/go-sev-guest.

use hmac::{Hmac, KeyInit};
use p384::ecdsa::SigningKey;
use sha2::Sha384;

use crate::digest::PermissionOrder;
use crate::report::ReportVersion;
use crate::rule::Rules;

/// The security patch levels of what is loaded into the chip.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tcb {
    /// Boot loader.
    pub boot_loader: u8,
    /// Trusted execution environment, the secure processor's own system.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl Tcb {
    /// As Milan and Genoa write it in eight bytes; bytes 2 to 5 are reserved.
    pub fn to_le_bytes(self) -> [u8; 8] {
        [self.boot_loader, self.tee, 0, 0, 0, 0, self.snp, self.microcode]
    }

    /// The levels in eight bytes; `None` if a reserved byte is not zero.
    pub fn from_le_bytes(bytes: [u8; 8]) -> Option<Self> {
        let [boot_loader, tee, 0, 0, 0, 0, snp, microcode] = bytes else { return None };
        Some(Self { boot_loader, tee, snp, microcode })
    }

    /// Whether no level is above the other's.
    pub fn is_within(self, other: Self) -> bool {
        self.to_le_bytes().iter().zip(other.to_le_bytes()).all(|(mine, theirs)| *mine <= theirs)
    }
}

/// A firmware version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// ABI major.
    pub major: u8,
    /// ABI minor.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

/// Which processor it is: CPUID Fn0000_0001_EAX, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Product {
    /// Family, extended family added.
    pub family: u8,
    /// Model, extended model before it.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

impl Product {
    /// The third EPYC generation, stepping 1: "Milan-B1".
    pub const MILAN: Self = Self { family: 0x19, model: 0x01, stepping: 0x01 };

    /// CPUID Fn0000_0001_EAX.
    pub fn signature(self) -> u32 {
        let base = self.family.min(0xf);
        let (family, model) = (u32::from(self.family - base), u32::from(self.model));
        family << 20 | (model >> 4) << 16 | u32::from(base) << 8 | (model & 0xf) << 4 | u32::from(self.stepping & 0xf)
    }
}

/// What tells one chip from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chip {
    /// The identifier in reports and in the VCEK's certificate.
    pub id: [u8; 64],
    /// Which processor it is.
    pub product: Product,
}

/// The machine and its settings. The default is what [`crate::test_chain`] has certificates for.
#[derive(Clone, Debug)]
pub struct Platform {
    /// The chip.
    pub chip: Chip,
    /// The firmware that runs.
    pub current: Version,
    /// The firmware that can no longer be rolled back.
    pub committed: Version,
    /// Patch levels of what runs.
    pub current_tcb: Tcb,
    /// Patch levels that can no longer be rolled back.
    pub committed_tcb: Tcb,
    /// Patch levels that reports claim; the VCEK is derived from them.
    pub reported_tcb: Tcb,
    /// Verified mitigations (report version 5).
    pub mitigations: u64,
    /// The report's version.
    pub report_version: ReportVersion,
    /// Reports hide the chip's identifier.
    pub mask_chip_id: bool,
    /// Reports are not signed.
    pub mask_chip_key: bool,
    /// Simultaneous multithreading is on.
    pub smt: bool,
    /// CXL devices or memory are present.
    pub cxl: bool,
    /// Populated sockets.
    pub sockets: u8,
    /// Transparent memory encryption is on.
    pub tsme: bool,
    /// Memory has ECC.
    pub ecc: bool,
    /// Power metering is off.
    pub rapl_off: bool,
    /// Ciphertext is hidden from the host.
    pub ciphertext_hiding: bool,
    /// Memory is encrypted with AES-256-XTS.
    pub aes_256_xts: bool,
    /// The firmware has looked for memory that answers at two addresses.
    pub alias_check_done: bool,
    /// The secrets page's version.
    pub secrets_version: u32,
    /// Which eight-byte words of a VMSA the hardware protects, a bit each (VMSA register protection).
    pub vmsa_tweak_bitmap: [u8; 64],
    /// Where the three permissions lie in what the launch digest hashes.
    pub permission_order: PermissionOrder,
    /// The rules in force.
    pub rules: Rules,
}

impl Default for Platform {
    fn default() -> Self {
        let version = Version { major: 1, minor: 58, build: 1 };
        let tcb = crate::test_chain::TCB;
        Self {
            chip: crate::test_chain::CHIP,
            current: version,
            committed: version,
            current_tcb: tcb,
            committed_tcb: tcb,
            reported_tcb: tcb,
            mitigations: 0,
            report_version: ReportVersion::V3,
            mask_chip_id: false,
            mask_chip_key: false,
            smt: false,
            cxl: false,
            sockets: 1,
            tsme: false,
            ecc: true,
            rapl_off: false,
            ciphertext_hiding: false,
            aes_256_xts: false,
            alias_check_done: true,
            secrets_version: 3,
            vmsa_tweak_bitmap: [0; _],
            permission_order: PermissionOrder::Ascending,
            rules: Rules::all(),
        }
    }
}

impl Platform {
    /// PLATFORM_INFO of a report.
    pub(crate) fn info(&self) -> u64 {
        let bits = [
            (self.smt, 0),
            (self.tsme, 1),
            (self.ecc, 2),
            (self.rapl_off, 3),
            (self.ciphertext_hiding, 4),
            (self.alias_check_done && self.report_version != ReportVersion::V2, 5),
        ];
        bits.iter().filter(|(set, _)| *set).fold(0, |info, (_, bit)| info | 1 << bit)
    }
}

/// The chip's secrets.
#[derive(Clone)]
pub struct ChipKeys {
    /// Signs reports.
    vcek: SigningKey,
    /// Root of derived keys.
    secret: [u8; 48],
}

impl core::fmt::Debug for ChipKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ChipKeys").finish_non_exhaustive()
    }
}

impl ChipKeys {
    /// Keys from the scalar of the VCEK, big endian, and from a secret; `None` if it is no scalar of P-384.
    pub fn new(vcek: &[u8; 48], secret: [u8; 48]) -> Option<Self> {
        Some(Self { vcek: SigningKey::from_slice(vcek).ok()?, secret })
    }

    /// The VCEK.
    pub fn vcek(&self) -> &SigningKey {
        &self.vcek
    }

    pub(crate) fn secret(&self) -> &[u8; 48] {
        &self.secret
    }
}

/// A pseudorandom function of a secret.
pub(crate) fn mac(secret: &[u8; 48]) -> Hmac<Sha384> {
    // A key shorter than a block is padded with zeros (RFC 2104).
    let mut block = hmac::digest::Key::<Hmac<Sha384>>::default();
    block.iter_mut().zip(secret).for_each(|(to, from)| *to = *from);
    Hmac::new(&block)
}

/// The secure processor: one machine's firmware. Guests live in [`crate::Guest`], as on hardware in their context pages.
#[derive(Clone, Debug)]
pub struct Psp {
    /// The machine.
    pub platform: Platform,
    pub(crate) keys: ChipKeys,
}

impl Psp {
    /// The firmware of a machine.
    pub fn new(platform: Platform, keys: ChipKeys) -> Self {
        Self { platform, keys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_cpuids() {
        // G kds.go, ProductLineCpuid, plus the stepping.
        assert_eq!(Product::MILAN.signature(), 0x00a0_0f11);
        assert_eq!(Product { family: 0x19, model: 0x11, stepping: 0 }.signature(), 0x00a1_0f10);
        assert_eq!(Product { family: 0x1a, model: 0x02, stepping: 0 }.signature(), 0x00b0_0f20);
    }

    #[test]
    fn patch_levels_compare_one_by_one() {
        let tcb = Tcb { boot_loader: 3, tee: 1, snp: 20, microcode: 200 };
        assert_eq!(Tcb::from_le_bytes(tcb.to_le_bytes()), Some(tcb));
        assert_eq!(Tcb::from_le_bytes([0, 0, 0, 0, 1, 0, 0, 0]), None);
        assert!(tcb.is_within(tcb));
        assert!(Tcb { snp: 19, ..tcb }.is_within(tcb));
        assert!(!Tcb { snp: 19, tee: 2, ..tcb }.is_within(tcb));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", crate::test_chain::keys()), "ChipKeys { .. }");
    }
}
