// SPDX-License-Identifier: MIT OR Apache-2.0
//! The launch of a guest: SNP_LAUNCH_START, SNP_LAUNCH_UPDATE, SNP_LAUNCH_FINISH.
//!
//! 56860, as Linux `include/linux/psp-sev.h` and `arch/x86/kvm/svm/sev.c` use it. The order of the commands is in the
//! types: a [`Launch`] takes pages, and only its end is a [`Guest`] that may send messages.
//!
//! The page table side (RMP) is the caller's: a page must be assigned and immutable before it comes here, and
//! [`Placed`] says what its entry becomes.

use crate::cpuid::{self, CpuidReference};
use crate::digest::LaunchDigest;
use crate::entropy::{Entropy, NoEntropy, random};
use crate::guest::{Guest, Secrets};
use crate::id_block::{IdAuth, IdBlock, Identity};
use crate::platform::Psp;
use crate::policy::Policy;
use crate::rule::{Refused, Rule, Status};
use crate::secrets::SecretsPage;
use crate::tsc::Tsc;
use crate::{PAGE_BYTES, Page};

const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Physical addresses have at most 52 bits.
const ADDRESS_END: u64 = 1 << 52;

/// What a page is to the guest. Numbers: Linux `psp-sev.h`, `SNP_PAGE_TYPE_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageType {
    /// Contents are measured.
    Normal = 1,
    /// A vCPU's state; measured.
    Vmsa = 2,
    /// The firmware zeroes it.
    Zero = 3,
    /// Only its place and type are measured.
    Unmeasured = 4,
    /// The firmware writes secrets into it.
    Secrets = 5,
    /// The firmware checks the CPUID entries in it.
    Cpuid = 6,
}

impl PageType {
    /// The type with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Normal, Self::Vmsa, Self::Zero, Self::Unmeasured, Self::Secrets, Self::Cpuid]
            .into_iter()
            .find(|page_type| *page_type as u8 == number)
    }

    pub(crate) fn is_measured(self) -> bool {
        matches!(self, Self::Normal | Self::Vmsa)
    }

    fn is_small(self) -> bool {
        matches!(self, Self::Vmsa | Self::Secrets | Self::Cpuid)
    }
}

/// What the lower VMPLs may do with a page. Bits as RMPADJUST has them: read, write, execute in user mode, execute in
/// supervisor mode, supervisor shadow stack. VMPL0 may do everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Permissions {
    /// VMPL1's.
    pub vmpl1: u8,
    /// VMPL2's.
    pub vmpl2: u8,
    /// VMPL3's.
    pub vmpl3: u8,
}

impl Permissions {
    const RESERVED: u8 = 0b1110_0000;

    fn has_reserved(self) -> bool {
        (self.vmpl1 | self.vmpl2 | self.vmpl3) & Self::RESERVED != 0
    }
}

/// The parameters of SNP_LAUNCH_START.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LaunchStart {
    /// The guest's policy.
    pub policy: Policy,
    /// Workarounds that the host tells the guest of, uninterpreted.
    pub gosvw: [u8; 16],
    /// The TSC of a guest with Secure TSC.
    pub tsc: Option<Tsc>,
}

/// The parameters of SNP_LAUNCH_UPDATE but for the contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaunchPage {
    /// What the page is.
    pub page_type: PageType,
    /// Where the guest sees it.
    pub gpa: u64,
    /// What lower VMPLs may do with it.
    pub permissions: Permissions,
    /// It belongs to an initial migration image.
    pub imi: bool,
}

impl LaunchPage {
    /// A page for VMPL0 alone.
    pub fn new(page_type: PageType, gpa: u64) -> Self {
        Self { page_type, gpa, permissions: Permissions::default(), imi: false }
    }
}

/// What becomes of a placed page's RMP entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The page is validated.
    pub validated: bool,
    /// The page is a VMSA.
    pub vmsa: bool,
    /// What lower VMPLs may do with it.
    pub permissions: Permissions,
}

/// The parameters of SNP_LAUNCH_FINISH.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaunchFinish<'a> {
    /// The owner's expectations, signed.
    pub id_block: Option<(&'a IdBlock, &'a IdAuth)>,
    /// The author's key vouches for the ID key.
    pub author_key: bool,
    /// The host's own data, shown in reports.
    pub host_data: [u8; 32],
}

/// A guest that is being launched.
#[derive(Debug)]
pub struct Launch {
    policy: Policy,
    gosvw: [u8; 16],
    tsc: Option<Tsc>,
    digest: LaunchDigest,
    pub(crate) secrets: Secrets,
}

impl Launch {
    /// The digest of the pages so far.
    pub fn digest(&self) -> [u8; 48] {
        self.digest.value()
    }

    fn write_secrets(&self, psp: &Psp, page: &mut Page) {
        let platform = &psp.platform;
        SecretsPage::write(page, |secrets| {
            secrets.version.set(platform.secrets_version);
            secrets.processor.set(platform.chip.product.signature());
            secrets.gosvw = self.gosvw;
            secrets.vmpck = self.secrets.vmpck;
            secrets.vmsa_tweak_bitmap = platform.vmsa_tweak_bitmap;
            secrets.tsc_factor.set(self.tsc.map_or(0, |tsc| tsc.factor));
        });
    }
}

impl Psp {
    /// SNP_LAUNCH_START: makes a guest's context, with new keys.
    pub fn launch_start(&self, start: &LaunchStart, entropy: &mut impl Entropy) -> Result<Launch, Refused> {
        start.policy.check(&self.platform)?;
        let no_entropy = |NoEntropy| Refused { status: Status::HardwarePlatform, rule: Rule::Entropy };
        let mut vmpck = [[0; 32]; 4];
        for key in &mut vmpck {
            *key = random(entropy).map_err(no_entropy)?;
        }
        let report_id = random(entropy).map_err(no_entropy)?;
        let vmrk = random(entropy).map_err(no_entropy)?;
        Ok(Launch {
            policy: start.policy,
            gosvw: start.gosvw,
            tsc: start.tsc,
            digest: LaunchDigest::new(),
            secrets: Secrets { vmpck, report_id, vmrk },
        })
    }

    /// SNP_LAUNCH_UPDATE: measures one page of 4 KiB or 2 MiB, as it lies in memory, and writes what the firmware writes.
    ///
    /// If a CPUID page is refused for its values, it holds acceptable ones afterwards, so that the host can try again.
    pub fn launch_update(
        &self,
        launch: &mut Launch,
        page: &LaunchPage,
        contents: &mut [u8],
        processor: &impl CpuidReference,
    ) -> Result<Placed, Refused> {
        let LaunchPage { page_type, gpa, permissions, imi } = *page;
        let (rules, bytes) = (&self.platform.rules, contents.len());
        let sized = bytes == PAGE_BYTES || bytes == LARGE_PAGE_BYTES;
        rules.check(sized, Rule::PageSize, Status::InvalidPageSize)?;
        rules.check(!page_type.is_small() || bytes == PAGE_BYTES, Rule::SmallPage, Status::InvalidPageSize)?;
        let placed = gpa.is_multiple_of(bytes as u64) && gpa < ADDRESS_END;
        rules.check(placed, Rule::PageAddress, Status::InvalidAddress)?;
        rules.check(!imi, Rule::ImiPage, Status::InvalidParam)?;
        rules.check(!permissions.has_reserved(), Rule::PermissionBits, Status::InvalidParam)?;

        for (page, gpa) in contents.as_chunks_mut::<PAGE_BYTES>().0.iter_mut().zip((gpa..).step_by(PAGE_BYTES)) {
            match page_type {
                PageType::Zero => page.fill(0),
                PageType::Secrets => launch.write_secrets(self, page),
                PageType::Cpuid => cpuid::check(page, processor, rules)?,
                PageType::Normal | PageType::Vmsa | PageType::Unmeasured => {}
            }
            launch.digest.extend(page_type, gpa, permissions, self.platform.permission_order, page);
        }
        Ok(Placed { validated: true, vmsa: page_type == PageType::Vmsa, permissions })
    }

    /// SNP_LAUNCH_FINISH: fixes the digest and what the owner demanded. A launch that is refused can be tried again.
    #[expect(clippy::result_large_err, reason = "a refused launch goes back to its owner")]
    pub fn launch_finish(&self, launch: Launch, finish: &LaunchFinish<'_>) -> Result<Guest, (Launch, Refused)> {
        let identity = match self.identity(&launch, finish) {
            Ok(identity) => identity,
            Err(refused) => return Err((launch, refused)),
        };
        let Launch { policy, tsc, digest, secrets, .. } = launch;
        let platform = &self.platform;
        Ok(Guest {
            policy,
            tsc,
            launch_digest: digest.value(),
            identity,
            host_data: finish.host_data,
            launch_tcb: platform.current_tcb,
            launch_mitigations: platform.mitigations,
            secrets,
            message_counts: [0; 4],
        })
    }

    fn identity(&self, launch: &Launch, finish: &LaunchFinish<'_>) -> Result<Identity, Refused> {
        let rules = &self.platform.rules;
        let Some((block, auth)) = finish.id_block else {
            rules.check(!finish.author_key, Rule::AuthorWithoutIdBlock, Status::InvalidParam)?;
            return Ok(Identity::NONE);
        };
        Identity::check(block, auth, finish.author_key, &launch.digest(), launch.policy, rules)
    }
}

#[cfg(test)]
mod tests;
