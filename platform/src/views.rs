// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages of the guest's memory it shares with the host, where a guest may say so.
//!
//! A page is private, shared, or moving from one side to the other. Whoever reaches guest memory on the guest's behalf asks
//! here first, and holds a [`Hold`] as long as it works; whoever moves a page marks it and waits until nobody reaches memory.
//! So no page changes sides under an access of Parados's own, which on hardware would be an exception in Parados.
//!
//! A guest names a shared page by its address with [`SHARED_BIT`] set, and a private one without it; a page answers to one of
//! the two at a time. The bit is the highest that a guest has, on every platform.
//!
//! Hostile party: the guest, which moves pages while its other processors use them.

use crate::sync::{AtomicU32, Ordering, ViewWord};
use crate::{Gpa, MemoryError, PAGE_SIZE, PageRange, RamMap, Visibility};

/// The bit of a guest-physical address that says "shared with the host": the highest of a guest's 40.
pub const SHARED_BIT: u64 = 1 << 39;

/// Pages in a word of bits.
const WORD: u64 = 64;

/// The sides of all pages, for all processors.
#[derive(Debug)]
pub struct PageViews {
    shared: &'static [ViewWord],
    moving: &'static [ViewWord],
    /// How many accesses are under way.
    reaching: AtomicU32,
}

/// An access to guest memory under way: until this is dropped, the pages that it was given for stay on their side.
#[derive(Debug)]
pub struct Hold<'a> {
    /// Where the bytes lie: the guest-physical address without [`SHARED_BIT`].
    pub at: Gpa,
    views: Option<&'a PageViews>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Some(views) = self.views {
            views.reaching.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Hold<'static> {
    /// An access to memory that never changes sides.
    pub const fn of_fixed(at: Gpa) -> Self {
        Self { at, views: None }
    }
}

impl<'a> Hold<'a> {
    /// Asks for `bytes` bytes at `gpa`, all of them memory of the guest's and in `view`. Without views, all memory is private.
    #[inline]
    pub fn new(
        ram: &RamMap,
        views: Option<&'a PageViews>,
        gpa: Gpa,
        bytes: u64,
        view: Visibility,
    ) -> Result<Self, MemoryError> {
        let at = match view {
            Visibility::Private => gpa,
            Visibility::Shared if gpa.0 & SHARED_BIT != 0 && views.is_some() => Gpa(gpa.0 ^ SHARED_BIT),
            Visibility::Shared => return Err(MemoryError::NotMemory),
        };
        if !ram.contains(at, bytes) {
            return Err(MemoryError::NotMemory);
        }
        match views {
            None => Ok(Self { at, views: None }),
            Some(views) => Self::held(views, at, bytes, view),
        }
    }

    /// Out of the way: most images have no views.
    #[cold]
    #[inline(never)]
    fn held(views: &'a PageViews, at: Gpa, bytes: u64, view: Visibility) -> Result<Self, MemoryError> {
        // Before the look. Of this and the other's change of the same word in `is_quiet`, one comes first: either the other sees
        // this access, or this one sees the other's marks.
        views.reaching.fetch_add(1, Ordering::Acquire);
        let reach = Self { at, views: Some(views) };
        views.check(at, bytes, view).map(|()| reach)
    }
}

impl PageViews {
    /// How many zeroed words [`Self::new`] wants for all memory below `end`; `None` if so much cannot be shared.
    pub fn words(end: Gpa) -> Option<usize> {
        let half = usize::try_from(end.0.div_ceil(PAGE_SIZE * WORD)).ok()?;
        if end.0 <= SHARED_BIT { half.checked_mul(2) } else { None }
    }

    /// All memory is private. Pages for which there are no bits never move.
    pub fn new(words: &'static [ViewWord]) -> Self {
        let (shared, moving) = words.split_at_checked(words.len() / 2).unwrap_or((words, words));
        Self { shared, moving, reaching: AtomicU32::new(0) }
    }

    /// The side of the page that holds `at`, an address without [`SHARED_BIT`]; `None` while it moves.
    pub fn side(&self, at: Gpa) -> Option<Visibility> {
        let (word, bit) = position(at);
        let is_set = |bits: &[ViewWord]| bits.get(word).is_some_and(|word| word.load(Ordering::Acquire) & bit != 0);
        match (is_set(self.moving), is_set(self.shared)) {
            (true, _) => None,
            (false, true) => Some(Visibility::Shared),
            (false, false) => Some(Visibility::Private),
        }
    }

    fn check(&self, at: Gpa, bytes: u64, view: Visibility) -> Result<(), MemoryError> {
        let last = at.0.saturating_add(bytes.saturating_sub(1));
        let mut page = at.page();
        while page.0 <= last {
            match self.side(page) {
                Some(side) if side == view => {}
                Some(_) => return Err(MemoryError::NotMemory),
                None => return Err(MemoryError::WrongState),
            }
            page = Gpa(page.0 + PAGE_SIZE);
        }
        Ok(())
    }

    /// Marks pages as moving: new accesses are put off. One processor moves pages at a time.
    pub fn begin(&self, range: PageRange) {
        change(self.moving, range, true);
    }

    /// Whether no access is under way that may have begun before [`Self::begin`].
    pub fn is_quiet(&self) -> bool {
        // No load, which could be older than an access that has not seen the marks. Acquires what accesses did, releases the marks.
        self.reaching.fetch_add(0, Ordering::AcqRel) == 0
    }

    /// Pages that were moving are on this side from now on.
    pub fn finish(&self, range: PageRange, side: Visibility) {
        change(self.shared, range, side == Visibility::Shared);
        change(self.moving, range, false);
    }

    /// Pages that were to move stay where they are.
    pub fn abandon(&self, range: PageRange) {
        change(self.moving, range, false);
    }
}

/// Index of the word, and the bit in it.
const fn position(at: Gpa) -> (usize, u64) {
    let page = at.0 / PAGE_SIZE;
    ((page / WORD) as usize, 1 << (page % WORD))
}

/// Sets or clears the bits of pages.
fn change(bits: &[ViewWord], range: PageRange, value: bool) {
    let (mut page, end) = (range.start().0 / PAGE_SIZE, range.end().0 / PAGE_SIZE);
    while page < end {
        let next = end.min((page / WORD + 1) * WORD);
        let mask = (u64::MAX >> (WORD - (next - page))) << (page % WORD);
        if let Some(word) = bits.get((page / WORD) as usize) {
            if value {
                word.fetch_or(mask, Ordering::Release);
            } else {
                word.fetch_and(!mask, Ordering::Release);
            }
        }
        page = next;
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    const PAGES: u64 = 300;

    fn range(first: u64, count: u64) -> PageRange {
        PageRange::new(Gpa(first * PAGE_SIZE), Gpa((first + count) * PAGE_SIZE)).unwrap()
    }

    fn words(count: usize) -> &'static [ViewWord] {
        Vec::leak((0..count).map(|_| ViewWord::new(0)).collect())
    }

    fn machine() -> (RamMap, PageViews) {
        let mut ram = RamMap::default();
        ram.push(range(0, 100)).unwrap();
        ram.push(range(110, PAGES - 110)).unwrap();
        (ram, PageViews::new(words(PageViews::words(Gpa(PAGES * PAGE_SIZE)).unwrap())))
    }

    #[test]
    fn each_page_has_its_own_side_across_words() {
        let (_, views) = machine();
        for (first, count) in [(0, 1), (63, 2), (64, 64), (10, 200), (127, 66), (299, 1)] {
            views.begin(range(first, count));
            let moving = |page| views.side(Gpa(page * PAGE_SIZE + 5)).is_none();
            assert!((0..PAGES).all(|page| moving(page) == (first..first + count).contains(&page)), "{first} {count}");
            views.finish(range(first, count), Visibility::Shared);
            let shared = |page| views.side(Gpa(page * PAGE_SIZE)) == Some(Visibility::Shared);
            assert!((0..PAGES).all(|page| shared(page) == (first..first + count).contains(&page)), "{first} {count}");
            views.begin(range(first, count));
            views.abandon(range(first, count));
            assert!(shared(first));
            views.begin(range(first, count));
            views.finish(range(first, count), Visibility::Private);
            assert!(!(0..PAGES).any(shared));
        }
    }

    /// A buffer for the host in a private page, or the guest's secret in a shared one.
    #[test]
    fn a_page_answers_to_one_name_at_a_time() {
        let (ram, views) = machine();
        views.begin(range(5, 1));
        views.finish(range(5, 1), Visibility::Shared);
        let ask = |gpa: u64, bytes, view| Hold::new(&ram, Some(&views), Gpa(gpa), bytes, view).map(|reach| reach.at);
        assert_eq!(ask(0x5000 | SHARED_BIT, 4096, Visibility::Shared), Ok(Gpa(0x5000)));
        assert_eq!(ask(0x4000, 4096, Visibility::Private), Ok(Gpa(0x4000)));
        for (gpa, bytes, view) in [
            (0x5000, 1, Visibility::Private),
            (0x4fff, 2, Visibility::Private),
            (0x5fff, 2, Visibility::Private),
            (0x5000, 1, Visibility::Shared),
            (0x4000 | SHARED_BIT, 1, Visibility::Shared),
            (0x5fff | SHARED_BIT, 2, Visibility::Shared),
            (0x5000 | SHARED_BIT, 1, Visibility::Private),
            (105 * PAGE_SIZE, 1, Visibility::Private),
            ((105 * PAGE_SIZE) | SHARED_BIT, 1, Visibility::Shared),
            (u64::MAX, 2, Visibility::Shared),
        ] {
            assert_eq!(ask(gpa, bytes, view), Err(MemoryError::NotMemory), "{gpa:#x} {bytes} {view:?}");
        }
        assert!(views.is_quiet(), "what was refused reaches nothing");
    }

    #[test]
    fn without_views_all_memory_is_private() {
        let (ram, _) = machine();
        assert!(Hold::new(&ram, None, Gpa(0x5000), 8, Visibility::Private).is_ok());
        assert!(Hold::new(&ram, None, Gpa(0x5000 | SHARED_BIT), 8, Visibility::Shared).is_err());
        assert_eq!(PageViews::words(Gpa(SHARED_BIT + PAGE_SIZE)), None);
    }

    #[test]
    fn an_access_holds_a_move_up_and_a_move_an_access() {
        let (ram, views) = machine();
        let held = Hold::new(&ram, Some(&views), Gpa(0x7000), 8, Visibility::Private).unwrap();
        views.begin(range(7, 1));
        assert!(!views.is_quiet());
        let late = Hold::new(&ram, Some(&views), Gpa(0x7000), 8, Visibility::Private);
        assert_eq!(late.err(), Some(MemoryError::WrongState));
        drop(held);
        assert!(views.is_quiet());
        views.abandon(range(7, 1));
        assert!(Hold::new(&ram, Some(&views), Gpa(0x7000), 8, Visibility::Private).is_ok());
    }
}
