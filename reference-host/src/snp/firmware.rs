// SPDX-License-Identifier: MIT OR Apache-2.0
//! The secure processor of this machine: takes an image's pages through the launch as they lie in memory, then answers the
//! guest's messages.
//!
//! What the firmware demands is in `snp-psp`; here is what stands between it, the IGVM file and the host. The image and
//! the guest are hostile. The chip is the TEST chip, whose keys are public.

use crate::loader::PageKind;
use crate::memory::PAGE;
use igvm_defs::{IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY, IGVM_VHS_SNP_ID_BLOCK_SIGNATURE};
use snp_psp::certificates::{self, Kind};
use snp_psp::{
    CpuidReference, Entropy, Guest, IdAuth, IdBlock, Launch, LaunchFinish, LaunchPage, LaunchStart, PageType, Platform,
    Policy, Psp, PublicKey, Refused, Rules, Signature, test_chain,
};
use zerocopy::FromZeros;

/// A page of memory.
pub type Page = [u8; PAGE as usize];

/// Room for the table of certificates, which takes 4687 bytes.
const CERTIFICATES: usize = 2 * PAGE as usize;

/// What is known of the guest's launch.
enum State {
    /// Nothing has been launched.
    Idle,
    /// Pages are being placed.
    Launching(Launch),
    /// The guest runs.
    Running(Guest),
}

/// The ID block that the image brings.
struct Owner {
    block: IdBlock,
    auth: IdAuth,
    author: bool,
}

/// The secure processor, and the certificates that the host has for it.
pub struct Firmware {
    psp: Psp,
    state: State,
    policy: Policy,
    owner: Option<Owner>,
    certificates: [u8; CERTIFICATES],
    certificate_bytes: usize,
}

impl Default for Firmware {
    fn default() -> Self {
        let chain = [(Kind::Vcek, test_chain::VCEK), (Kind::Ask, test_chain::ASK), (Kind::Ark, test_chain::ARK)];
        let mut table = [0; CERTIFICATES];
        let certificate_bytes = certificates::write(&chain, &mut table).unwrap_or(0);
        Self {
            psp: Psp::new(Platform::default(), test_chain::keys()),
            state: State::Idle,
            policy: Policy(0),
            owner: None,
            certificates: table,
            certificate_bytes,
        }
    }
}

impl Firmware {
    /// Switches off the rules that are only assumed.
    pub fn enforce_only_what_has_a_source(&mut self) {
        self.psp.platform.rules = Rules::sourced();
    }

    /// SNP_LAUNCH_START.
    pub fn start(&mut self, policy: u64, entropy: &mut impl Entropy) -> Result<(), Refused> {
        self.policy = Policy(policy);
        let start = LaunchStart { policy: self.policy, ..LaunchStart::default() };
        self.state = State::Launching(self.psp.launch_start(&start, entropy)?);
        Ok(())
    }

    /// Whether pages can be placed.
    pub const fn is_launching(&self) -> bool {
        matches!(self.state, State::Launching(_))
    }

    /// SNP_LAUNCH_UPDATE of 4 KiB, as they lie in memory; what the firmware writes is in `page` afterwards. Shared pages
    /// are none of its business.
    pub fn place(
        &mut self,
        kind: PageKind,
        gpa: u64,
        page: &mut Page,
        processor: &impl CpuidReference,
    ) -> Result<(), Refused> {
        let page_type = match kind {
            PageKind::Normal => PageType::Normal,
            PageKind::Unmeasured => PageType::Unmeasured,
            PageKind::Secrets => PageType::Secrets,
            PageKind::Cpuid => PageType::Cpuid,
            PageKind::Shared => return Ok(()),
        };
        self.update(page_type, gpa, page, processor)
    }

    /// SNP_LAUNCH_UPDATE of a processor's state.
    pub fn context(&mut self, gpa: u64, vmsa: &Page, processor: &impl CpuidReference) -> Result<(), Refused> {
        self.update(PageType::Vmsa, gpa, &mut vmsa.clone(), processor)
    }

    fn update(
        &mut self,
        page_type: PageType,
        gpa: u64,
        page: &mut Page,
        processor: &impl CpuidReference,
    ) -> Result<(), Refused> {
        let State::Launching(launch) = &mut self.state else { return Ok(()) };
        self.psp.launch_update(launch, &LaunchPage::new(page_type, gpa), page, processor).map(|_| ())
    }

    /// Keeps the image's ID block for the end of the launch.
    pub fn id_block(&mut self, header: &IGVM_VHS_SNP_ID_BLOCK) {
        let block = IdBlock {
            launch_digest: header.ld,
            family_id: header.family_id,
            image_id: header.image_id,
            version: header.version.into(),
            guest_svn: header.guest_svn.into(),
            // The file has no second policy.
            policy: self.policy.0.into(),
        };
        let mut auth = IdAuth::new_zeroed();
        auth.id_key_algorithm = header.id_key_algorithm.into();
        auth.author_key_algorithm = header.author_key_algorithm.into();
        auth.id_block_signature = signature(&header.id_key_signature);
        auth.id_key = public_key(&header.id_public_key);
        auth.id_key_signature = signature(&header.author_key_signature);
        auth.author_key = public_key(&header.author_public_key);
        self.owner = Some(Owner { block, auth, author: header.author_key_enabled != 0 });
    }

    /// SNP_LAUNCH_FINISH; the launch digest.
    pub fn finish(&mut self) -> Result<[u8; 48], Refused> {
        let State::Launching(launch) = core::mem::replace(&mut self.state, State::Idle) else { return Ok([0; 48]) };
        let id_block = self.owner.as_ref().map(|owner| (&owner.block, &owner.auth));
        let author_key = self.owner.as_ref().is_some_and(|owner| owner.author);
        let finish = LaunchFinish { id_block, author_key, ..LaunchFinish::default() };
        let guest = self.psp.launch_finish(launch, &finish).map_err(|(_, refused)| refused)?;
        let digest = guest.launch_digest();
        self.state = State::Running(guest);
        Ok(digest)
    }

    /// SNP_GUEST_REQUEST; `None` if there is no guest.
    pub fn request(&mut self, request: &Page, response: &mut Page) -> Option<Result<(), Refused>> {
        let State::Running(guest) = &mut self.state else { return None };
        Some(self.psp.guest_request(guest, request, response).map(|_| ()))
    }

    /// The table of certificates that goes with reports.
    pub fn certificates(&self) -> &[u8] {
        self.certificates.get(..self.certificate_bytes).unwrap_or_default()
    }
}

fn signature(from: &IGVM_VHS_SNP_ID_BLOCK_SIGNATURE) -> Signature {
    Signature::new(from.r_comp, from.s_comp)
}

fn public_key(from: &IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY) -> PublicKey {
    PublicKey::new(from.curve, from.qx, from.qy)
}

#[cfg(test)]
mod tests;
