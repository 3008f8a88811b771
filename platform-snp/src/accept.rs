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

/// What accepting the guest's memory needs of the processor, which tests play. Addresses are those of guest memory, mapped at its
/// own address, that no guest has been granted yet.
trait Pages {
    /// PVALIDATE, to validate.
    fn validate(&mut self, page: Gpa, size: PageSize) -> Validation;
    /// Zeroes what is validated.
    fn zero(&mut self, at: Gpa, bytes: u64);
    /// RMPADJUST, to give the guest all rights.
    fn grant(&mut self, page: Gpa, size: PageSize) -> u32;
}

/// The processor that runs this.
struct Processor;

impl Pages for Processor {
    #[inline(always)]
    fn validate(&mut self, page: Gpa, size: PageSize) -> Validation {
        // SAFETY: by the trait's contract the page is guest memory that nobody uses, mapped at its own address.
        unsafe { pvalidate(page.0, size == PageSize::Large, true) }
    }

    #[inline(always)]
    fn zero(&mut self, at: Gpa, bytes: u64) {
        zero(at, bytes);
    }

    #[inline(always)]
    fn grant(&mut self, page: Gpa, size: PageSize) -> u32 {
        // SAFETY: the page is guest memory, whose rights are the guest's to have.
        unsafe { rmpadjust(page.0, size == PageSize::Large, GUEST_VMPL, ALL_RIGHTS, false) }
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

/// Accepts guest memory that is assigned and not validated: it was so already, or the host has just said so. All of it is
/// validated and zeroed before the guest has any of it.
fn take_in(pages: &mut impl Pages, range: PageRange, size: PageSize) -> Result<(), MemoryError> {
    let validate = |page| {
        by_size(page, size, |page, size| {
            let Validation { code, unchanged } = pages.validate(page, size);
            verdict(code, unchanged, size)
        })
    };
    each(range, size).try_for_each(validate)?;
    pages.zero(range.start(), range.bytes());
    if size == PageSize::Small {
        return grant_small(pages, range);
    }
    each(range, size)
        .try_for_each(|page| by_size(page, size, |page, size| verdict(pages.grant(page, size), false, size)))
}

/// [`take_in`] for what was the guest's before and lost its content.
pub(crate) fn accept_again(range: PageRange) -> Result<(), MemoryError> {
    let large = range.bytes() == PageSize::Large.bytes() && range.start().0.is_multiple_of(range.bytes());
    take_in(&mut Processor, range, if large { PageSize::Large } else { PageSize::Small })
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
    accept_by(&mut Processor, acceptance, stretch)
}

/// Accepts a stretch that the caller has claimed. One that fails stays claimed: the VM is about to end.
#[inline(always)]
fn accept_by(pages: &mut impl Pages, acceptance: &Acceptance, stretch: usize) -> Result<(), MemoryError> {
    let large = PageSize::Large.bytes();
    let start = Gpa(stretch as u64 * large);
    let end = Gpa(start.0 + large);
    if acceptance.is_plain(stretch) {
        take_in(pages, PageRange::new(start, end).ok_or(MemoryError::NotMemory)?, PageSize::Large)?;
    } else {
        let mut at = start;
        while at < end {
            let treatment = acceptance.treatment(at);
            let others = (at.0..end.0).step_by(PAGE_SIZE as usize).map(Gpa);
            let next = others.skip(1).find(|page| acceptance.treatment(*page) != treatment).unwrap_or(end);
            accept_run(pages, PageRange::new(at, next).ok_or(MemoryError::NotMemory)?, treatment)?;
            at = next;
        }
    }
    acceptance.finish(stretch);
    Ok(())
}

/// Accepts small pages that are all to be treated alike.
fn accept_run(pages: &mut impl Pages, run: PageRange, treatment: Treatment) -> Result<(), MemoryError> {
    match treatment {
        Treatment::Leave => Ok(()),
        Treatment::Accept => take_in(pages, run, PageSize::Small),
        Treatment::Grant => grant_small(pages, run),
    }
}

/// Grants small pages. Through a loop as short as this the reference host goes without a world switch for each page.
fn grant_small(pages: &mut impl Pages, run: PageRange) -> Result<(), MemoryError> {
    let granted = each(run, PageSize::Small).all(|page| pages.grant(page, PageSize::Small) == result::SUCCESS);
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

    const MIB: u64 = 1 << 20;
    const LARGE: u64 = PageSize::Large.bytes();

    /// Guest memory up to 8 MiB with a hole for video memory, of which the loader has filled two pages of the third stretch.
    fn acceptance() -> Acceptance {
        let mut ram = platform::RamMap::default();
        for (start, end) in [(0, 0xa_0000), (0xc_0000, 8 * MIB)] {
            ram.push(PageRange::new(Gpa(start), Gpa(end)).unwrap()).unwrap();
        }
        let mut placed = [image_abi::Range::default(); image_abi::PLACED_RANGES];
        placed[0] = image_abi::Range { start: FILLED.start, bytes: FILLED.end - FILLED.start };
        let acceptance = Acceptance::new(ram, &placed, None).unwrap();
        (0..4).for_each(|stretch| assert!(!acceptance.announce(stretch)));
        acceptance
    }

    const FILLED: core::ops::Range<u64> = 4 * MIB + 0x3000..4 * MIB + 0x5000;

    /// What has happened to a page of 4 KiB.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    struct Page {
        validated: bool,
        zeroed: bool,
        granted: bool,
    }

    const ACCEPTED: Page = Page { validated: true, zeroed: true, granted: true };

    /// A processor and a host that has assigned all memory; it insists on the order.
    struct Played {
        pages: Vec<Page>,
        /// The host has assigned pages of 4 KiB: since before validation, or since after it.
        small: bool,
        split_later: bool,
        /// A page that the host has had validated in another one's place.
        valid_before: Option<u64>,
    }

    impl Played {
        fn new() -> Self {
            let mut pages = vec![Page::default(); (8 * MIB / PAGE_SIZE) as usize];
            for page in FILLED.step_by(PAGE_SIZE as usize) {
                pages[(page / PAGE_SIZE) as usize].validated = true;
            }
            Self { pages, small: false, split_later: false, valid_before: None }
        }

        fn of(&mut self, at: Gpa, bytes: u64) -> &mut [Page] {
            &mut self.pages[(at.0 / PAGE_SIZE) as usize..((at.0 + bytes) / PAGE_SIZE) as usize]
        }
    }

    impl Pages for Played {
        fn validate(&mut self, page: Gpa, size: PageSize) -> Validation {
            if self.small && size == PageSize::Large {
                // CF means nothing then.
                return Validation { code: result::FAIL_SIZEMISMATCH, unchanged: true };
            }
            let mine = page.0..page.0 + size.bytes();
            let unchanged = self.valid_before.is_some_and(|before| mine.contains(&before));
            for it in self.of(page, size.bytes()) {
                assert!(!it.validated, "{page:x?} is validated twice");
                it.validated = true;
            }
            Validation { code: result::SUCCESS, unchanged }
        }

        fn zero(&mut self, at: Gpa, bytes: u64) {
            for it in self.of(at, bytes) {
                assert!(it.validated && !it.zeroed && !it.granted, "{at:x?} {it:?}");
                it.zeroed = true;
            }
        }

        fn grant(&mut self, page: Gpa, size: PageSize) -> u32 {
            if (self.small || self.split_later) && size == PageSize::Large {
                return result::FAIL_SIZEMISMATCH;
            }
            let filled = FILLED.contains(&page.0);
            for it in self.of(page, size.bytes()) {
                assert!(it.validated && !it.granted && it.zeroed != filled, "{page:x?} {it:?}");
                it.granted = true;
            }
            result::SUCCESS
        }
    }

    fn play(played: &mut Played, acceptance: &Acceptance, stretch: usize) -> Result<(), MemoryError> {
        assert_eq!(acceptance.claim(stretch), Claim::Yours);
        accept_by(played, acceptance, stretch)
    }

    /// The order is the player's to judge.
    #[test]
    fn the_guest_has_no_page_that_is_not_validated_and_zeroed() {
        for (small, split_later) in [(false, false), (true, false), (false, true)] {
            let (acceptance, mut played) = (acceptance(), Played { small, split_later, ..Played::new() });
            for stretch in 0..4 {
                assert_eq!(play(&mut played, &acceptance, stretch), Ok(()));
                assert_eq!(acceptance.claim(stretch), Claim::Accepted);
            }
            for (page, at) in played.pages.iter().zip((0u64..).step_by(PAGE_SIZE as usize)) {
                let expected = match at {
                    0xa_0000..0xc_0000 => Page::default(),
                    filled if FILLED.contains(&filled) => Page { zeroed: false, ..ACCEPTED },
                    _ => ACCEPTED,
                };
                assert_eq!(*page, expected, "{at:#x}");
            }
        }
    }

    #[test]
    fn a_page_that_was_valid_before_keeps_its_neighbours_from_the_guest_too() {
        // Where the host lies, and from where on nothing may be granted.
        let lies = [
            (false, 3 * MIB, 2 * MIB),
            (true, 2 * MIB, 2 * MIB),
            (true, 4 * MIB - 1, 2 * MIB),
            (true, 6 * MIB - 1, FILLED.end),
            (false, 0x9_f000, 0),
        ];
        for (small, before, from) in lies {
            let mut played = Played { small, valid_before: Some(before), ..Played::new() };
            let (acceptance, stretch) = (acceptance(), stretch_of(Gpa(before)));
            assert_eq!(play(&mut played, &acceptance, stretch), Err(MemoryError::Host));
            let kept = played.of(Gpa(from), 8 * MIB - from);
            assert!(kept.iter().all(|page| !page.granted && !page.zeroed), "{before:#x}");
            assert_eq!(acceptance.claim(stretch), Claim::Busy, "nobody gets it now");
        }
    }

    #[test]
    fn memory_that_comes_back_is_zeroed_before_the_guest_has_it() {
        for (bytes, size) in [(LARGE, PageSize::Large), (3 * PAGE_SIZE, PageSize::Small)] {
            let range = PageRange::new(Gpa(6 * MIB), Gpa(6 * MIB + bytes)).unwrap();
            let mut played = Played::new();
            assert_eq!(take_in(&mut played, range, size), Ok(()));
            assert!(played.of(range.start(), bytes).iter().all(|page| *page == ACCEPTED));
            let mut lying = Played { valid_before: Some(6 * MIB + bytes - 1), ..Played::new() };
            assert_eq!(take_in(&mut lying, range, size), Err(MemoryError::Host));
            assert!(lying.pages.iter().all(|page| !page.granted));
        }
    }
}
