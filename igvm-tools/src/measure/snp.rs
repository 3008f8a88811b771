// SPDX-License-Identifier: MIT OR Apache-2.0
//! SEV-SNP's launch digest: a chain of SHA-384 over one PAGE_INFO structure for each page (SNPABI, SNP_LAUNCH_UPDATE).
//!
//! The numbers of this file are not shared with anything that runs in a guest or models the firmware: a mistake would
//! agree with itself. Deliberately missing: SEV and SEV-ES, which hash pages without their addresses.

use super::{Digest, LaunchDigest, Snp, VmsaPlace, Zeroes, sha384};
use crate::PAGE;
use crate::error::Flaw;
use crate::file::File;
use crate::launch::{self, PageKind, Step};
use platform::Slip;

/// SNPABI, PAGE_INFO: its length, which it contains.
const PAGE_INFO_BYTES: usize = 0x70;

/// SNPABI, SNP_LAUNCH_UPDATE, page types.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Unmeasured = 4,
    Secrets = 5,
    Cpuid = 6,
}

/// What stands in for the digest of a page whose content is not measured.
const NO_CONTENT: Digest = [0; 48];

/// Where KVM has the firmware put every VMSA: the highest page of a 48-bit address space (Linux,
/// arch/x86/kvm/svm/sev.c).
pub(crate) const KVM_VMSA_GPA: u64 = 0xffff_ffff_f000;

/// A launch digest in the making.
#[derive(Clone, Copy)]
struct Chain(Digest);

impl Chain {
    const START: Self = Self([0; 48]);

    /// The next page. Its permissions for lower VMPLs and the migration bit are zero.
    fn extend(&mut self, kind: PageType, gpa: u64, content: &Digest) {
        let mut info = [0; PAGE_INFO_BYTES];
        let (digests, rest) = info.split_at_mut(0x60);
        let (current, contents) = digests.split_at_mut(0x30);
        current.copy_from_slice(&self.0);
        contents.copy_from_slice(content);
        let (words, address) = rest.split_at_mut(8);
        words.copy_from_slice(&[PAGE_INFO_BYTES as u8, 0, kind as u8, 0, 0, 0, 0, 0]);
        address.copy_from_slice(&gpa.to_le_bytes());
        self.0 = sha384(&info);
    }
}

/// The chains of all loaders at once: hashing the pages is what takes time.
struct Chains {
    list: Vec<(VmsaPlace, Zeroes, Chain)>,
}

impl Chains {
    fn extend(&mut self, kind: PageType, gpa: u64, content: &Digest) {
        self.list.iter_mut().for_each(|(_, _, chain)| chain.extend(kind, gpa, content));
    }

    fn page(&mut self, gpa: u64, kind: PageKind, measured: bool, content: Option<&[u8]>, zero_page: &Digest) {
        match (kind, content) {
            (PageKind::Normal, _) if !measured => self.extend(PageType::Unmeasured, gpa, &NO_CONTENT),
            (PageKind::Normal, Some(content)) => self.extend(PageType::Normal, gpa, &sha384(content)),
            (PageKind::Normal, None) => {
                for (_, zeroes, chain) in &mut self.list {
                    match zeroes {
                        Zeroes::Data => chain.extend(PageType::Normal, gpa, zero_page),
                        Zeroes::Type => chain.extend(PageType::Zero, gpa, &NO_CONTENT),
                    }
                }
            }
            (PageKind::Secrets, _) => self.extend(PageType::Secrets, gpa, &NO_CONTENT),
            (PageKind::Cpuid, _) => self.extend(PageType::Cpuid, gpa, &NO_CONTENT),
        }
    }

    fn vmsa(&mut self, place: VmsaPlace, gpa: u64, content: &Digest) {
        let own = self.list.iter_mut().filter(|(own, ..)| *own == place);
        let kind = if Slip::PlainVmsa.is_planted() { PageType::Normal } else { PageType::Vmsa };
        own.for_each(|(_, _, chain)| chain.extend(kind, gpa, content));
    }
}

/// The launch digests of a file for the platform of a mask.
pub(super) fn measure(file: &File<'_>, mask: u32) -> Result<Snp, Flaw> {
    let mut has_zeroes = false;
    launch::walk(file, mask, |step| {
        has_zeroes |= matches!(step, Step::Page { kind: PageKind::Normal, measured: true, content: None, .. });
    })?;
    let zeroes = if has_zeroes { &[Zeroes::Data, Zeroes::Type][..] } else { &[Zeroes::Data] };
    let places = [VmsaPlace::File, VmsaPlace::Kvm];
    let combinations = places.iter().flat_map(|place| zeroes.iter().map(|zeroes| (*place, *zeroes, Chain::START)));
    let mut chains = Chains { list: combinations.collect() };
    let zero_page = sha384(&[0; PAGE as usize]);
    // (processor, digest): KVM measures them when the launch ends, the boot processor first.
    let mut vmsas = Vec::new();
    launch::walk(file, mask, |step| match step {
        Step::Page { gpa, kind, measured, content } => chains.page(gpa, kind, measured, content, &zero_page),
        Step::Parameter { gpa } => chains.extend(PageType::Unmeasured, gpa, &NO_CONTENT),
        Step::Context { gpa, processor, page } => {
            let digest = sha384(page);
            chains.vmsa(VmsaPlace::File, gpa, &digest);
            vmsas.push((processor, digest));
        }
    })?;
    if !Slip::FileOrder.is_planted() {
        vmsas.sort_by_key(|(processor, _)| *processor);
    }
    vmsas.iter().for_each(|(_, digest)| chains.vmsa(VmsaPlace::Kvm, KVM_VMSA_GPA, digest));
    let digests =
        chains.list.iter().map(|(vmsa, zeroes, chain)| LaunchDigest { vmsa: *vmsa, zeroes: *zeroes, digest: chain.0 });
    Ok(Snp {
        digests: digests.collect(),
        policy: file.guest_policy(mask),
        promised: file.snp_id_block(mask).map(|block| block.ld),
    })
}
