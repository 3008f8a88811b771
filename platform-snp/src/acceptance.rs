// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of the guest's memory has been accepted: one state for each 2 MiB, from nothing over waiting to accepted.
//!
//! A stretch is accepted as a whole, once, when it is first touched: by the guest, whose access is a #VC, or by Parados. So the
//! start costs no time for memory that nobody uses, several processors share the work, and no page is validated twice: a
//! second validation of a page that the host has exchanged meanwhile is how a host would map one address twice.
//!
//! Within a stretch, pages that are no memory of the guest's are left alone, and pages that the loader has filled are
//! accepted already and keep their content.

use core::sync::atomic::{AtomicU8, Ordering};

use alloc::vec::Vec;

use image_abi::{PLACED_RANGES, Range};
use platform::{Gpa, MemoryError, PAGE_SIZE, PageSize, PageViews, RamMap};

/// Nothing of the guest's, as far as is known.
const ABSENT: u8 = 0;
/// Memory that nobody has touched.
const WAITING: u8 = 1;
/// A processor is at work on it.
const BUSY: u8 = 2;
const ACCEPTED: u8 = 3;

/// What is to be done with a page when its stretch is accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Treatment {
    /// It is not the guest's.
    Leave,
    /// It was filled and accepted at launch: the guest gets its rights.
    Grant,
    /// It is validated, zeroed and granted.
    Accept,
}

/// What a caller may do with a stretch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// It is usable.
    Accepted,
    /// The caller, and nobody else, has to accept it, and say so.
    Yours,
    /// Another processor does that just now.
    Busy,
    /// It is not the guest's.
    Absent,
}

/// The states, and what the stretches are made of.
pub struct Acceptance {
    stretches: Vec<AtomicU8>,
    ram: RamMap,
    placed: [Range; PLACED_RANGES],
    /// Which pages the guest has shared. Its stretch stays accepted.
    views: Option<PageViews>,
}

/// The stretch that holds an address.
pub(crate) const fn stretch_of(gpa: Gpa) -> usize {
    (gpa.0 / PageSize::Large.bytes()) as usize
}

impl Acceptance {
    /// Nothing waits yet.
    pub(crate) fn new(
        ram: RamMap,
        placed: &[Range; PLACED_RANGES],
        views: Option<PageViews>,
    ) -> Result<Self, MemoryError> {
        let end = ram.iter().last().map_or(0, |range| range.end().0);
        let count = usize::try_from(end.div_ceil(PageSize::Large.bytes())).map_err(|_| MemoryError::Exhausted)?;
        let mut stretches = Vec::new();
        stretches.try_reserve_exact(count).map_err(|_| MemoryError::Exhausted)?;
        stretches.resize_with(count, || AtomicU8::new(ABSENT));
        Ok(Self { stretches, ram, placed: *placed, views })
    }

    /// The guest's memory.
    pub(crate) const fn ram(&self) -> &RamMap {
        &self.ram
    }

    /// Which pages the guest has shared, if it may share any.
    pub(crate) const fn views(&self) -> Option<&PageViews> {
        self.views.as_ref()
    }

    /// The stretch is the guest's from now on; whether it was so before.
    pub(crate) fn announce(&self, stretch: usize) -> bool {
        let slot = self.stretches.get(stretch);
        slot.is_some_and(|slot| slot.compare_exchange(ABSENT, WAITING, Ordering::AcqRel, Ordering::Acquire).is_err())
    }

    /// Whether a stretch has been accepted.
    pub(crate) fn is_accepted(&self, stretch: usize) -> bool {
        self.stretches.get(stretch).is_some_and(|slot| slot.load(Ordering::Acquire) == ACCEPTED)
    }

    /// Claims a stretch.
    #[inline]
    pub(crate) fn claim(&self, stretch: usize) -> Claim {
        let Some(slot) = self.stretches.get(stretch) else { return Claim::Absent };
        if slot.load(Ordering::Acquire) == ACCEPTED {
            return Claim::Accepted;
        }
        match slot.compare_exchange(WAITING, BUSY, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Claim::Yours,
            Err(ACCEPTED) => Claim::Accepted,
            Err(BUSY) => Claim::Busy,
            Err(_) => Claim::Absent,
        }
    }

    /// A stretch that was claimed has been accepted.
    pub(crate) fn finish(&self, stretch: usize) {
        if let Some(slot) = self.stretches.get(stretch) {
            slot.store(ACCEPTED, Ordering::Release);
        }
    }

    /// Whether a stretch is memory as a whole, of which the loader has filled nothing.
    pub(crate) fn is_plain(&self, stretch: usize) -> bool {
        let (start, bytes) = (stretch as u64 * PageSize::Large.bytes(), PageSize::Large.bytes());
        let touches = |range: &Range| range.start < start + bytes && start < range.end();
        self.ram.contains(Gpa(start), bytes) && !self.placed.iter().any(touches)
    }

    /// What becomes of a 4 KiB page.
    pub(crate) fn treatment(&self, page: Gpa) -> Treatment {
        if !self.ram.contains(page, PAGE_SIZE) {
            return Treatment::Leave;
        }
        let inside = |range: &Range| range.start <= page.0 && page.0 < range.end();
        if self.placed.iter().any(inside) { Treatment::Grant } else { Treatment::Accept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use platform::PageRange;

    const MIB: u64 = 1 << 20;

    fn acceptance() -> Acceptance {
        let mut ram = RamMap::default();
        for (start, end) in [(0, 0xa_0000), (0xc_0000, 8 * MIB), (10 * MIB, 16 * MIB)] {
            ram.push(PageRange::new(Gpa(start), Gpa(end)).unwrap()).unwrap();
        }
        let mut placed = [Range::default(); PLACED_RANGES];
        placed[0] = Range { start: 4 * MIB + 0x3000, bytes: 0x2000 };
        Acceptance::new(ram, &placed, None).unwrap()
    }

    #[test]
    fn a_stretch_is_accepted_by_one_processor_and_once() {
        let acceptance = acceptance();
        assert_eq!(acceptance.claim(1), Claim::Absent, "nobody has announced it");
        assert!(!acceptance.announce(1));
        assert!(acceptance.announce(1), "a second time");
        assert_eq!(acceptance.claim(1), Claim::Yours);
        assert_eq!(acceptance.claim(1), Claim::Busy);
        acceptance.finish(1);
        assert_eq!(acceptance.claim(1), Claim::Accepted);
        assert!(acceptance.announce(1), "accepted memory does not wait again");
        assert_eq!(acceptance.claim(1), Claim::Accepted);
    }

    #[test]
    fn each_stretch_has_one_owner_when_processors_race() {
        const STRETCHES: usize = 4096;
        const RACERS: usize = 4;
        let mut ram = RamMap::default();
        ram.push(PageRange::new(Gpa(0), Gpa(2 * STRETCHES as u64 * MIB)).unwrap()).unwrap();
        for _ in 0..20 {
            let acceptance = Acceptance::new(ram, &[Range::default(); PLACED_RANGES], None).unwrap();
            (0..STRETCHES).for_each(|stretch| assert!(!acceptance.announce(stretch)));
            let start = std::sync::Barrier::new(RACERS);
            let race = || {
                start.wait();
                let mine = (0..STRETCHES).filter(|&stretch| acceptance.claim(stretch) == Claim::Yours);
                mine.inspect(|&stretch| acceptance.finish(stretch)).count()
            };
            let owned: usize = std::thread::scope(|scope| {
                let racers = [(); RACERS].map(|()| scope.spawn(race));
                racers.into_iter().map(|racer| racer.join().unwrap()).sum()
            });
            assert_eq!(owned, STRETCHES);
        }
    }

    #[test]
    fn addresses_beyond_all_memory_are_nobodys() {
        let acceptance = acceptance();
        for stretch in [8, usize::MAX] {
            assert!(!acceptance.announce(stretch));
            assert_eq!(acceptance.claim(stretch), Claim::Absent);
        }
    }

    #[test]
    fn only_whole_untouched_memory_is_plain() {
        let acceptance = acceptance();
        let plain: Vec<usize> = (0..10).filter(|&stretch| acceptance.is_plain(stretch)).collect();
        // 0 has the video area, 2 the loader's pages, 4 is a hole.
        assert_eq!(plain, [1, 3, 5, 6, 7]);
    }

    #[test]
    fn each_page_is_treated_by_what_it_is() {
        let acceptance = acceptance();
        let treatment = |gpa| acceptance.treatment(Gpa(gpa));
        assert_eq!(treatment(0x9_f000), Treatment::Accept);
        assert_eq!(treatment(0xa_0000), Treatment::Leave);
        assert_eq!(treatment(4 * MIB + 0x2000), Treatment::Accept);
        assert_eq!(treatment(4 * MIB + 0x3000), Treatment::Grant);
        assert_eq!(treatment(4 * MIB + 0x4000), Treatment::Grant);
        assert_eq!(treatment(4 * MIB + 0x5000), Treatment::Accept);
        assert_eq!(treatment(9 * MIB), Treatment::Leave);
        assert_eq!(treatment(16 * MIB), Treatment::Leave);
    }
}
