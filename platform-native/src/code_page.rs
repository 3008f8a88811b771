// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the next instruction begins: QEMU tells no next RIP.
//!
//! Walking the guest's page tables on each exit would cost more than the exit's own work, so the bytes at RIP are looked for
//! where they were last; the core finds what is not there and says so by `remember_code_page`.

use core::ptr;

use platform::{Gpa, PAGE_SIZE, RamMap};
use specs::svm::exit;
use specs::vmcb::VmcbSave;

const PAGE_MASK: u64 = 0xfff;

/// Where a page of guest code lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CodePage {
    /// The tables under which it was found, and RIP's page there. In code with another base than zero the same pair may mean
    /// another page; the bytes are compared, and an instruction's length alone is at stake.
    cr3: u64,
    rip: u64,
    gpa: u64,
}

/// The plain form of the instruction behind an exit code, without prefixes: its first bytes and their number.
#[inline(always)]
const fn plain_form(code: u64, info1: u64) -> Option<(u32, u64)> {
    Some(match code {
        exit::CPUID => (0xa20f, 2),
        exit::MSR => (if info1 == 0 { 0x320f } else { 0x300f }, 2),
        exit::HLT => (0xf4, 1),
        exit::VMMCALL => (0xd9_010f, 3),
        exit::XSETBV => (0xd1_010f, 3),
        exit::WBINVD => (0x090f, 2),
        exit::INVD => (0x080f, 2),
        exit::RDPMC => (0x330f, 2),
        _ => return None,
    })
}

impl CodePage {
    /// The page at `gpa`, which holds RIP now; `None` unless it is the guest's memory, and for page 0, to whose first byte
    /// no Rust pointer may point.
    pub(crate) fn new(save: &VmcbSave, gpa: Gpa, ram: &RamMap) -> Option<Self> {
        let page = Self { cr3: save.cr3, rip: save.rip & !PAGE_MASK, gpa: gpa.page().0 };
        (page.gpa != 0 && ram.contains(gpa.page(), PAGE_SIZE)).then_some(page)
    }

    /// RIP after the instruction that exited with `code`, if it stands here in its plain form.
    #[inline(always)]
    pub(crate) fn next_rip(&self, save: &VmcbSave, code: u64, info1: u64) -> Option<u64> {
        let (bytes, length) = plain_form(code, info1)?;
        let offset = save.rip & PAGE_MASK;
        // Four bytes are read for one look; the page's very end is left to the core.
        if self.cr3 != save.cr3 || self.rip != save.rip & !PAGE_MASK || offset > PAGE_MASK - 3 {
            return None;
        }
        let at = ptr::with_exposed_provenance::<u32>((self.gpa + offset) as usize);
        // SAFETY: the page is guest memory (`new` checked it), identity-mapped, and RAM is never unmapped; the four bytes lie
        // within it. The guest may be writing them: whatever comes is compared, nothing else.
        let found = unsafe { at.read_volatile() };
        (found & ((1 << (8 * length)) - 1) == bytes).then(|| save.rip.wrapping_add(length))
    }
}
