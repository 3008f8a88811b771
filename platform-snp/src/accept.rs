// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accepting memory: PVALIDATE, 2 MiB first and 4 KiB where it must, zeroing, and only then RMPADJUST, so that the guest never
//! sees what was there before.
//!
//! Hostile party: the host, which assigns pages and takes them away. A page that was valid already although nobody here has
//! accepted it is one that the host has put in another's place: the VM ends.

use core::arch::asm;

use platform::{Gpa, MemoryError, PAGE_SIZE, PageRange, PageSize};
use specs::sev::{VmplRights, result};

use crate::acceptance::{Acceptance, Claim, Treatment, stretch_of};
use crate::instructions::{Validation, pvalidate, rmpadjust};

/// The guest's VMPL.
pub(crate) const GUEST_VMPL: u8 = 2;

/// All that the guest may do with its memory.
pub(crate) const ALL_RIGHTS: VmplRights =
    VmplRights::READ.union(VmplRights::WRITE).union(VmplRights::USER_EXECUTE).union(VmplRights::SUPERVISOR_EXECUTE);

/// What follows from an answer of PVALIDATE or RMPADJUST.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Done,
    /// The host has assigned smaller pages.
    Smaller,
    /// The host has broken its contract.
    Broken,
}

const fn verdict(code: u32, unchanged: bool, size: PageSize) -> Verdict {
    match (code, size) {
        (result::SUCCESS, _) if !unchanged => Verdict::Done,
        (result::FAIL_SIZEMISMATCH, PageSize::Large) => Verdict::Smaller,
        _ => Verdict::Broken,
    }
}

/// Runs `change` on a page: at once in the size wanted, or else on each of its small pages.
fn by_size(at: Gpa, wanted: PageSize, mut change: impl FnMut(Gpa, PageSize) -> Verdict) -> Result<(), MemoryError> {
    match change(at, wanted) {
        Verdict::Done => Ok(()),
        Verdict::Broken => Err(MemoryError::Host),
        Verdict::Smaller => {
            let pages = (at.0..at.0 + wanted.bytes()).step_by(PAGE_SIZE as usize);
            let all = pages.map(Gpa).all(|page| change(page, PageSize::Small) == Verdict::Done);
            if all { Ok(()) } else { Err(MemoryError::Host) }
        }
    }
}

/// Validates a page, or rescinds it.
///
/// # Safety
/// As for [`pvalidate`].
unsafe fn validate(at: Gpa, wanted: PageSize, valid: bool) -> Result<(), MemoryError> {
    by_size(at, wanted, |page, size| {
        // SAFETY: the caller's duty.
        let Validation { code, unchanged } = unsafe { pvalidate(page.0, size == PageSize::Large, valid) };
        verdict(code, unchanged, size)
    })
}

/// Gives the guest rights to a page, and takes those away that are not named.
pub(crate) fn grant(at: Gpa, wanted: PageSize, rights: VmplRights) -> Result<(), MemoryError> {
    by_size(at, wanted, |page, size| {
        // SAFETY: the page is guest memory, whose rights are the guest's to have.
        let code = unsafe { rmpadjust(page.0, size == PageSize::Large, GUEST_VMPL, rights, false) };
        verdict(code, false, size)
    })
}

/// Zeroes guest memory that is validated.
pub(crate) fn zero(at: Gpa, bytes: u64) {
    // SAFETY: the range is guest memory, mapped at its own address, that no guest has been granted yet; the direction flag is
    // clear by the calling convention.
    unsafe {
        asm!("rep stosq", inout("rcx") bytes / 8 => _, inout("rdi") at.0 => _, in("rax") 0u64, options(nostack, preserves_flags));
    }
}

/// Validates Parados's own memory, which the loader has not filled.
///
/// # Safety
/// Nothing uses the range yet, and it is mapped private at its own address.
pub(crate) unsafe fn accept_own(range: PageRange) -> Result<(), MemoryError> {
    let large = PageSize::Large.bytes();
    let mut at = range.start();
    while at < range.end() {
        let whole = at.0.is_multiple_of(large) && range.end().0 - at.0 >= large;
        let size = if whole { PageSize::Large } else { PageSize::Small };
        // SAFETY: the caller's duty.
        unsafe { validate(at, size, true)? };
        at = Gpa(at.0 + size.bytes());
    }
    Ok(())
}

/// Takes a page of Parados's own back from the validated ones, so that it can be shared.
///
/// # Safety
/// As for [`pvalidate`]; the page's content is lost.
pub(crate) unsafe fn rescind_own(page: Gpa) -> Result<(), MemoryError> {
    // SAFETY: the caller's duty.
    unsafe { validate(page, PageSize::Small, false) }
}

/// The pages of a range in one size.
fn each(range: PageRange, size: PageSize) -> impl Iterator<Item = Gpa> {
    (range.start().0..range.end().0).step_by(size.bytes() as usize).map(Gpa)
}

/// Gives the guest rights to all pages of a range.
pub(crate) fn grant_all(range: PageRange, size: PageSize, rights: VmplRights) -> Result<(), MemoryError> {
    each(range, size).try_for_each(|page| grant(page, size, rights))
}

/// Accepts guest memory that is assigned and not validated: it was so already, or the host has just said so.
pub(crate) fn accept_again(range: PageRange) -> Result<(), MemoryError> {
    let large = range.bytes() == PageSize::Large.bytes() && range.start().0.is_multiple_of(range.bytes());
    let size = if large { PageSize::Large } else { PageSize::Small };
    // SAFETY: the range is guest memory that nobody uses, mapped at its own address; its content is lost already.
    each(range, size).try_for_each(|page| unsafe { validate(page, size, true) })?;
    zero(range.start(), range.bytes());
    grant_all(range, size, ALL_RIGHTS)
}

/// Rescinds the validation of guest memory, which the guest has no rights to any more.
pub(crate) fn rescind(range: PageRange, size: PageSize) -> Result<(), MemoryError> {
    // SAFETY: the range is guest memory that nobody uses, mapped at its own address, and is to lose its content.
    each(range, size).try_for_each(|page| unsafe { validate(page, size, false) })
}

/// Sees to it that guest memory is accepted. `NotMemory` if a part of it is not the guest's.
#[inline]
pub(crate) fn ensure(acceptance: &Acceptance, gpa: Gpa, bytes: u64) -> Result<(), MemoryError> {
    let last = gpa.checked_add(bytes.saturating_sub(1)).ok_or(MemoryError::NotMemory)?;
    (stretch_of(gpa)..=stretch_of(last)).try_for_each(|stretch| ensure_stretch(acceptance, stretch))
}

/// The same for one stretch.
#[inline]
pub(crate) fn ensure_stretch(acceptance: &Acceptance, stretch: usize) -> Result<(), MemoryError> {
    loop {
        match acceptance.claim(stretch) {
            Claim::Accepted => return Ok(()),
            Claim::Absent => return Err(MemoryError::NotMemory),
            Claim::Yours => return accept(acceptance, stretch),
            // Whoever is at work finishes, or ends the VM.
            Claim::Busy => core::hint::spin_loop(),
        }
    }
}

#[cold]
#[inline(never)]
fn accept(acceptance: &Acceptance, stretch: usize) -> Result<(), MemoryError> {
    let large = PageSize::Large.bytes();
    let start = Gpa(stretch as u64 * large);
    if acceptance.is_plain(stretch) {
        // SAFETY: the stretch is guest memory that nobody has touched, mapped at its own address.
        unsafe { validate(start, PageSize::Large, true)? };
        zero(start, large);
        grant(start, PageSize::Large, ALL_RIGHTS)?;
    } else {
        let end = Gpa(start.0 + large);
        let mut at = start;
        while at < end {
            let treatment = acceptance.treatment(at);
            let others = (at.0..end.0).step_by(PAGE_SIZE as usize).map(Gpa);
            let next = others.skip(1).find(|page| acceptance.treatment(*page) != treatment).unwrap_or(end);
            accept_run(at, next, treatment)?;
            at = next;
        }
    }
    acceptance.finish(stretch);
    Ok(())
}

/// Accepts small pages that are all to be treated alike, one step for all of them before the next one. Loops as short as these
/// the reference host goes through without a world switch for each page.
fn accept_run(start: Gpa, end: Gpa, treatment: Treatment) -> Result<(), MemoryError> {
    let mut pages = (start.0..end.0).step_by(PAGE_SIZE as usize);
    let done = |code, unchanged| verdict(code, unchanged, PageSize::Small) == Verdict::Done;
    let validated = match treatment {
        Treatment::Leave => return Ok(()),
        Treatment::Grant => true,
        Treatment::Accept => pages.clone().all(|page| {
            // SAFETY: the page is guest memory that nobody has touched, mapped at its own address.
            let Validation { code, unchanged } = unsafe { pvalidate(page, false, true) };
            done(code, unchanged)
        }),
    };
    if !validated {
        return Err(MemoryError::Host);
    }
    if treatment == Treatment::Accept {
        zero(start, end.0 - start.0);
    }
    // SAFETY: the page is guest memory, whose rights are the guest's to have.
    let granted = pages.all(|page| done(unsafe { rmpadjust(page, false, GUEST_VMPL, ALL_RIGHTS, false) }, false));
    if granted { Ok(()) } else { Err(MemoryError::Host) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_was_valid_before_is_the_hosts_lie() {
        for size in [PageSize::Small, PageSize::Large] {
            assert_eq!(verdict(result::SUCCESS, false, size), Verdict::Done);
            assert_eq!(verdict(result::SUCCESS, true, size), Verdict::Broken);
        }
    }

    #[test]
    fn only_a_large_page_may_be_smaller() {
        assert_eq!(verdict(result::FAIL_SIZEMISMATCH, false, PageSize::Large), Verdict::Smaller);
        assert_eq!(verdict(result::FAIL_SIZEMISMATCH, false, PageSize::Small), Verdict::Broken);
        for code in [result::FAIL_INPUT, result::FAIL_PERMISSION, result::FAIL_INUSE, 17] {
            assert_eq!(verdict(code, false, PageSize::Large), Verdict::Broken, "{code}");
        }
    }

    #[test]
    fn the_fallback_visits_every_small_page_once() {
        let mut seen = Vec::new();
        let outcome = by_size(Gpa(0x40_0000), PageSize::Large, |page, size| {
            seen.push((page.0, size));
            if size == PageSize::Large { Verdict::Smaller } else { Verdict::Done }
        });
        assert_eq!((outcome, seen.len()), (Ok(()), 513));
        assert_eq!(seen[1], (0x40_0000, PageSize::Small));
        assert_eq!(seen[512], (0x5f_f000, PageSize::Small));
        let broken = by_size(Gpa(0), PageSize::Large, |page, size| match (page.0, size) {
            (_, PageSize::Large) => Verdict::Smaller,
            (0x7000, _) => Verdict::Broken,
            _ => Verdict::Done,
        });
        assert_eq!(broken, Err(MemoryError::Host));
    }
}
