// SPDX-License-Identifier: MIT OR Apache-2.0
//! SNP attestation reports: who signed one, and whether it fits an image.
//!
//! Source: SNPABI, ATTESTATION_REPORT, versions 2 to 5.

use super::amd::{self, Tcb};
use super::certificates::{Certificate, Store};
use super::{Check, Expected, Verdict};
use crate::error::{Flaw, ensure};
use crate::file::File;
use crate::id_block;
use crate::measure::{Snp, Value, compute};
use crate::policy;
use igvm_defs::IGVM_VHS_SNP_ID_BLOCK;
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use std::time::SystemTime;

/// The length of a report.
pub(super) const REPORT_BYTES: usize = 0x4a0;

/// What the signature covers; it follows.
const SIGNED_BYTES: usize = 0x2a0;

/// ECDSA P-384 with SHA-384, the only algorithm so far.
const ECDSA_P384: u32 = 1;

/// A report of the right length, version and algorithm. Its content is an allegation until the signature is checked.
pub(super) struct Report<'a>(&'a [u8; REPORT_BYTES]);

impl<'a> Report<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let bytes = bytes
            .try_into()
            .map_err(|_| Flaw::new(format_args!("{} bytes, expected {REPORT_BYTES} of an SNP report", bytes.len())))?;
        let report = Self(bytes);
        let version = report.version();
        ensure!((2..=5).contains(&version), "version at offset 0x0 is {version}, expected 2 to 5");
        let algorithm = report.word(0x34);
        ensure!(algorithm == ECDSA_P384, "signature algorithm at offset 0x34 is {algorithm}, expected {ECDSA_P384}");
        Ok(report)
    }

    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        // All offsets are constants within the report; were one not, zeroes would match nothing.
        self.0.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    fn word(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.field(offset))
    }

    pub(super) fn version(&self) -> u32 {
        self.word(0)
    }

    fn policy(&self) -> u64 {
        u64::from_le_bytes(self.field(0x08))
    }

    fn measurement(&self) -> [u8; 48] {
        self.field(0x90)
    }

    fn chip_id(&self) -> [u8; 64] {
        self.field(0x1a0)
    }

    /// Whether the chip's firmware has an FMC; reports before version 3 do not tell the family, and come from older chips.
    fn has_fmc(&self) -> bool {
        let [family] = self.field(0x188);
        self.version() >= 3 && family >= 0x1a
    }

    fn tcb(&self, offset: usize) -> Tcb {
        Tcb::from_report(self.field(offset), self.has_fmc())
    }

    /// The signature as `r` and `s`, big-endian; `None` if one is too long for the curve.
    fn signature(&self) -> Option<[u8; 96]> {
        let (r, s) =
            (id_block::big_endian(&self.field(SIGNED_BYTES))?, id_block::big_endian(&self.field(SIGNED_BYTES + 72))?);
        let mut fixed = [0; 96];
        fixed.iter_mut().zip(r.into_iter().chain(s)).for_each(|(to, from)| *to = from);
        Some(fixed)
    }

    fn is_signed_by(&self, certificate: &Certificate) -> bool {
        let (Some(key), Some(signature)) = (certificate.p384_key(), self.signature()) else { return false };
        let (signed, _) = self.0.split_at(SIGNED_BYTES);
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(signed, &signature).is_ok()
    }

    /// The signature, its chain, and whether the key is this chip's with this firmware.
    pub(super) fn check_signature(&self, store: &Store, now: SystemTime, verdict: &mut Verdict) {
        let chain = match store.chain(now, |leaf| self.is_signed_by(leaf)) {
            Ok(chain) => chain,
            Err(flaw) => return verdict.add(Check::differs("signature", flaw, "one that a trusted chain makes")),
        };
        let names: Vec<_> = chain.iter().map(|certificate| certificate.name()).collect();
        let whose = store.whose_root();
        verdict.add(Check::agrees("signature", format_args!("by {}: {whose}", names.join(", issued by "))));
        let Some(leaf) = chain.first() else { return };
        if store.is_vendors() {
            let expected = match self.word(0x48) >> 2 & 7 {
                0 => "SEV-VCEK",
                1 => "SEV-VLEK",
                _ => "none",
            };
            verdict.add(Check::compare("signing key", leaf.name().as_str(), expected));
        }
        // SNPABI: the key is derived from the reported TCB.
        let (reported, certified) = (self.tcb(0x180), Tcb::of(leaf));
        verdict.add(match certified {
            Some(certified) => Check::compare("key's TCB", certified, reported),
            None if store.is_vendors() => Check::differs("key's TCB", "none in the certificate", reported),
            None => Check::told("key's TCB", "none in the certificate"),
        });
        let chip = self.chip_id();
        match amd::chip_id(leaf) {
            Some(_) if chip == [0; 64] => verdict.add(Check::told("key's chip", "the report has its chip ID masked")),
            Some(id) => {
                // Turin's are shorter; zeroes follow in the report.
                let (own, rest) = chip.split_at(id.len().min(chip.len()));
                let fits = !id.is_empty() && own == id && rest.iter().all(|byte| *byte == 0);
                let (id, chip) = (hex::encode(id), hex::encode(chip));
                verdict.add(if fits {
                    Check::agrees("key's chip", id)
                } else {
                    Check::differs("key's chip", id, chip)
                });
            }
            // A VLEK belongs to a cloud provider, not to a chip.
            None => verdict.add(Check::told("key's chip", "none in the certificate")),
        }
    }

    /// Every field against the image and against what the user expects.
    pub(super) fn check_fields(
        &self,
        image: &File<'_>,
        expected: &Expected,
        verdict: &mut Verdict,
    ) -> Result<(), Flaw> {
        let measured = compute(image)?;
        let found = measured.platforms.iter().find_map(|platform| match &platform.value {
            Value::Snp(snp) => Some((platform.mask, snp)),
            _ => None,
        });
        let Some((mask, snp)) = found else { return Err(Flaw::new("not an image for snp, which the report is from")) };
        verdict.add(Check::told("version", self.version()));
        self.check_measurement(snp, verdict);
        self.check_policy(snp.policy, expected.policy.map(|(_, policy)| policy), verdict);
        let vmpl = self.word(0x30);
        verdict.add(match expected.vmpl {
            Some(expected) => Check::compare("VMPL", vmpl, expected),
            None if vmpl == u32::MAX => Check::told("VMPL", "the host asked for this report"),
            None => Check::told("VMPL", vmpl),
        });
        verdict.add(Check::bytes("report data", &self.field::<64>(0x50), expected.report_data.as_deref()));
        verdict.add(Check::bytes("host data", &self.field::<32>(0xc0), expected.host_data.as_deref()));
        self.check_id_block(image.snp_id_block(mask).as_ref(), verdict);
        self.tell_rest(verdict);
        Ok(())
    }

    fn check_measurement(&self, snp: &Snp, verdict: &mut Verdict) {
        let measurement = self.measurement();
        let text = hex::encode(measurement);
        verdict.add(match snp.find(&measurement) {
            Some(digest) => Check::agrees("measurement", format_args!("{text} ({})", digest.describe())),
            None => {
                let all: Vec<_> = snp.digests.iter().map(|own| hex::encode(own.digest)).collect();
                Check::differs("measurement", text, all.join(" or "))
            }
        });
    }

    fn check_policy(&self, of_image: Option<u64>, wanted: Option<u64>, verdict: &mut Verdict) {
        let words = |value: u64| format!("{value:#x} ({})", policy::words(&policy::SNP, value).join(", "));
        verdict.add(match of_image {
            Some(of_image) => Check::compare("policy", words(self.policy()), words(of_image)),
            None => Check::told("policy", words(self.policy())),
        });
        if let Some(wanted) = wanted {
            verdict.add(Check::compare("policy wanted", words(self.policy()), words(wanted)));
        }
    }

    /// What an ID block sets. Without one in the image the host may still have launched with its own.
    fn check_id_block(&self, block: Option<&IGVM_VHS_SNP_ID_BLOCK>, verdict: &mut Verdict) {
        let svn = self.word(0x04);
        verdict.add(match block {
            Some(block) => Check::compare("guest SVN", svn, block.guest_svn),
            None => Check::told("guest SVN", svn),
        });
        let author = block.filter(|block| block.author_key_enabled != 0);
        verdict.add(Check::bytes("family ID", &self.field::<16>(0x10), block.map(|block| &block.family_id[..])));
        verdict.add(Check::bytes("image ID", &self.field::<16>(0x20), block.map(|block| &block.image_id[..])));
        let digest = block.map(|block| id_block::key_digest(&block.id_public_key));
        verdict.add(Check::bytes("ID key", &self.field::<48>(0xe0), digest.as_ref().map(|digest| &digest[..])));
        let digest = match (block, author) {
            (_, Some(author)) => Some(id_block::key_digest(&author.author_public_key)),
            // Without an author key the firmware reports zeroes.
            (Some(_), None) => Some([0; 48]),
            (None, None) => None,
        };
        verdict.add(Check::bytes("author key", &self.field::<48>(0x110), digest.as_ref().map(|digest| &digest[..])));
    }

    fn tell_rest(&self, verdict: &mut Verdict) {
        for (name, offset) in
            [("current TCB", 0x38), ("reported TCB", 0x180), ("committed TCB", 0x1e0), ("launch TCB", 0x1f0)]
        {
            verdict.add(Check::told(name, self.tcb(offset)));
        }
        let bits = u64::from_le_bytes(self.field(0x40));
        const NAMES: [(&str, u32); 6] = [
            ("SMT on", 0),
            ("TSME on", 1),
            ("ECC memory", 2),
            ("RAPL off", 3),
            ("ciphertext hiding on", 4),
            ("alias check done", 5),
        ];
        let set = NAMES.iter().filter(|(_, bit)| bits >> bit & 1 == 1).map(|(name, _)| *name);
        let set: Vec<_> = set.collect();
        verdict.add(Check::told("platform", format_args!("{bits:#x} ({})", set.join(", "))));
        verdict.add(Check::told("chip ID", hex::encode(self.chip_id())));
        verdict.add(Check::told("report ID", hex::encode(self.field::<32>(0x140))));
        verdict.add(Check::told("migration agent", hex::encode(self.field::<32>(0x160))));
    }
}
