// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page-state table: the one owner of the truth about guest memory.
//!
//! Each 4 KiB page of guest-physical address space is in one [`PageState`]. A 2 MiB stretch whose pages agree is one byte;
//! one that is mixed has a table of 512. Everything that was never memory is [`PageState::Trapped`].
//!
//! The start gives the guest its memory and lays out the rest ([`PageStates::convert`]); after that the table stands still, and
//! only the guest's own wish moves a page, between private and shared ([`PageStates::exchange`]). Which side a page is on is
//! kept in [`PageViews`], because whoever reaches guest memory has to know it as well.
//!
//! A page is moved in one order, written down once: check, mark as moving, wait for accesses of Parados's own, take it from the
//! guest, flush, let the hardware convert, publish. Hardware is touched by nothing else. If the host refuses half-way, the pages
//! that were converted keep their new state, and the rest their old one. Nobody waits for the processor that moves pages: one
//! that wants to move some meanwhile tries again, and looking at a page's state takes no lock.

use alloc::boxed::Box;
use alloc::vec::Vec;

use platform::{
    Gpa, GuestPages, MemoryError, PAGE_SIZE, PageRange, PageSize, PageState, PageViews, SHARED_BIT, Visibility,
};
use vmm_interface::sync::Mutex;

const PAGES: usize = 512;

#[derive(Debug)]
enum Stretch {
    Uniform(PageState),
    Mixed(Box<[PageState; PAGES]>),
}

/// What a transition does to a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    /// Unaccepted or trapped to private: the guest gets memory.
    Accept,
    /// Private to trapped: accesses are emulated.
    Trap,
}

impl Transition {
    const fn applies_to(self, state: PageState) -> bool {
        match self {
            Self::Accept => matches!(state, PageState::Unaccepted | PageState::Trapped),
            Self::Trap => matches!(state, PageState::Private),
        }
    }

    const fn result(self) -> PageState {
        match self {
            Self::Accept => PageState::Private,
            Self::Trap => PageState::Trapped,
        }
    }
}

/// How far [`PageStates::exchange`] came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exchange {
    /// So many pages, from the range's start on, are on the other side; more may follow.
    Pages(u64),
    /// Another processor is at it, or reaches memory just now: try again.
    Busy,
    /// The host did not convert the first page, which is as it was.
    Refused,
}

/// How many pages of 4 KiB went through each transition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageCounts([u64; Self::NAMES.len()]);

impl PageCounts {
    /// The name of each count.
    pub const NAMES: [&'static str; 4] = ["accepted", "shared", "unshared", "trapped"];
    /// What each is, in the same order, for documentation.
    #[cfg(test)]
    pub(crate) const EXPLANATIONS: [&'static str; 4] = [
        " Pages that became the guest's private memory.",
        " Private pages that became shared with the host.",
        " Shared pages that became private again.",
        " Private pages that were taken away, so that accesses are emulated.",
    ];

    /// The present values, in the order of [`Self::NAMES`].
    pub const fn values(self) -> [u64; Self::NAMES.len()] {
        self.0
    }

    fn count(&mut self, transition: Transition, bytes: u64) {
        let [accepted, _, _, trapped] = &mut self.0;
        let count = match transition {
            Transition::Accept => accepted,
            Transition::Trap => trapped,
        };
        *count = count.wrapping_add(bytes / PAGE_SIZE);
    }

    fn count_exchange(&mut self, to: Visibility, bytes: u64) {
        let [_, shared, unshared, _] = &mut self.0;
        let count = match to {
            Visibility::Shared => shared,
            Visibility::Private => unshared,
        };
        *count = count.wrapping_add(bytes / PAGE_SIZE);
    }
}

/// The table, together with the hardware that it commands.
pub struct PageStates<P> {
    /// One for each 2 MiB from address 0 on; what lies beyond is trapped.
    stretches: Vec<Stretch>,
    views: Option<&'static PageViews>,
    commands: Mutex<Commands<P>>,
}

/// What one processor at a time may do.
struct Commands<P> {
    hardware: P,
    counts: PageCounts,
}

/// The most pages of 4 KiB that are moved at once: so long can it take until the guest gets an interrupt.
const AT_ONCE: u64 = 64;
/// How often is looked whether accesses of other processors have ended. Each takes less than a microsecond.
const PATIENCE: u32 = 100_000;

impl<P: GuestPages> PageStates<P> {
    /// A table for addresses below `end`, all of it trapped. With `views`, private pages can become shared and come back.
    pub fn new(end: Gpa, hardware: P, views: Option<&'static PageViews>) -> Result<Self, MemoryError> {
        let count = usize::try_from(end.0.div_ceil(PageSize::Large.bytes())).map_err(|_| MemoryError::Exhausted)?;
        let mut stretches = Vec::new();
        stretches.try_reserve_exact(count).map_err(|_| MemoryError::Exhausted)?;
        stretches.resize_with(count, || Stretch::Uniform(PageState::Trapped));
        Ok(Self { stretches, views, commands: Mutex::new(Commands { hardware, counts: PageCounts::default() }) })
    }

    /// The state of the page that holds `gpa`, an address without [`SHARED_BIT`]; `None` while it moves.
    pub fn state(&self, gpa: Gpa) -> Option<PageState> {
        match (self.laid_out(gpa), self.views) {
            (PageState::Private, Some(views)) => views.side(gpa).map(|side| match side {
                Visibility::Private => PageState::Private,
                Visibility::Shared => PageState::Shared,
            }),
            (state, _) => Some(state),
        }
    }

    /// Whether memory of the guest's answers at `gpa`, which has [`SHARED_BIT`] set if that is how the guest named it. A page
    /// that is moving is memory: whoever wants it tries again.
    pub fn is_memory(&self, gpa: Gpa) -> bool {
        let (at, wanted) = match self.views {
            Some(_) if gpa.0 & SHARED_BIT != 0 => (Gpa(gpa.0 ^ SHARED_BIT), PageState::Shared),
            _ => (gpa, PageState::Private),
        };
        match self.state(at) {
            None | Some(PageState::Unaccepted) => true,
            Some(state) => state == wanted,
        }
    }

    /// Whether memory of the guest's answers at `gpa` now, or can do so after pages have moved.
    pub fn may_become_memory(&self, gpa: Gpa) -> bool {
        let shared = self.views.is_some() && self.laid_out(Gpa(gpa.0 ^ SHARED_BIT)) == PageState::Private;
        self.is_memory(gpa) || self.laid_out(gpa) == PageState::Private || shared
    }

    /// What the start made of the page.
    fn laid_out(&self, gpa: Gpa) -> PageState {
        let (stretch, page) = position(gpa);
        match self.stretches.get(stretch) {
            Some(Stretch::Uniform(state)) => *state,
            Some(Stretch::Mixed(pages)) => pages.get(page).copied().unwrap_or(PageState::Trapped),
            None => PageState::Trapped,
        }
    }

    /// What became of the pages so far. Does not wait: a processor may have died with the lock.
    pub fn counts(&self) -> Option<PageCounts> {
        self.commands.try_lock().map(|commands| commands.counts)
    }

    /// Marks `range` as Parados's own: no transition touches it any more.
    pub fn claim(&mut self, range: PageRange) -> Result<(), MemoryError> {
        self.check(range, |state| state == PageState::Trapped)?;
        self.record(range, PageState::Own)
    }

    /// Takes `range` through a transition. All of it must be in a state that the transition starts from. For the start.
    pub fn convert(&mut self, range: PageRange, transition: Transition) -> Result<(), MemoryError> {
        self.check(range, |state| transition.applies_to(state))?;
        let mut pages = (range.start().0..range.end().0).step_by(PAGE_SIZE as usize);
        if transition == Transition::Trap && pages.any(|page| self.state(Gpa(page)) != Some(PageState::Private)) {
            return Err(MemoryError::WrongState);
        }
        // The tables are made before the hardware is touched, so that recording cannot fail afterwards.
        self.split_ends(range)?;
        let outcome = pieces(range).try_for_each(|(piece, size)| {
            let mut commands = self.commands.lock();
            match transition {
                Transition::Accept => commands.hardware.accept(piece, size)?,
                Transition::Trap => commands.hardware.trap(piece, size)?,
            }
            commands.counts.count(transition, piece.bytes());
            drop(commands);
            self.record(piece, transition.result())
        });
        if transition == Transition::Trap {
            self.commands.lock().hardware.flush();
        }
        outcome
    }

    /// Moves pages at the start of `range` to the other side: a stretch of 2 MiB, or some pages of 4 KiB. `NotMemory` if the
    /// first page is no memory of the guest's, `WrongState` if it is on that side already; other errors are the hardware's, and
    /// then no page has moved.
    #[cold]
    #[inline(never)]
    pub fn exchange(&self, range: PageRange, to: Visibility) -> Result<Exchange, MemoryError> {
        let views = self.views.ok_or(MemoryError::NotMemory)?;
        if range.end().0 > SHARED_BIT {
            return Err(MemoryError::NotMemory);
        }
        let Some(mut commands) = self.commands.try_lock() else { return Ok(Exchange::Busy) };
        let (piece, size) = self.movable(range, to)?;
        views.begin(piece);
        if !(0..PATIENCE).any(|_| views.is_quiet() || pause()) {
            views.abandon(piece);
            return Ok(Exchange::Busy);
        }
        let outcome = match to {
            Visibility::Shared => {
                take_away(&mut commands.hardware, piece, size).and_then(|()| commands.hardware.share(piece, size))
            }
            Visibility::Private => commands.hardware.unshare(piece, size),
        };
        let done = outcome.as_ref().map_or(0, |bytes| (*bytes).min(piece.bytes()) & !(PAGE_SIZE - 1));
        let moved = PageRange::new(piece.start(), Gpa(piece.start().0 + done)).ok_or(MemoryError::NotMemory)?;
        views.finish(moved, to);
        views.abandon(piece);
        commands.counts.count_exchange(to, done);
        outcome.map(|_| if done == 0 { Exchange::Refused } else { Exchange::Pages(done / PAGE_SIZE) })
    }

    /// What can move at once of `range`, from its start on.
    fn movable(&self, range: PageRange, to: Visibility) -> Result<(PageRange, PageSize), MemoryError> {
        let (start, large) = (range.start().0, PageSize::Large.bytes());
        let from = match to {
            Visibility::Shared => PageState::Private,
            Visibility::Private => PageState::Shared,
        };
        let end = range.end().0.min(start - start % large + large);
        let fits = |page: &u64| self.state(Gpa(*page)) == Some(from);
        let bytes = (start..end).step_by(PAGE_SIZE as usize).take_while(fits).count() as u64 * PAGE_SIZE;
        let (bytes, size) =
            if bytes == large { (large, PageSize::Large) } else { (bytes.min(AT_ONCE * PAGE_SIZE), PageSize::Small) };
        match PageRange::new(range.start(), Gpa(start + bytes)) {
            Some(piece) if bytes != 0 => Ok((piece, size)),
            _ => Err(match self.state(range.start()) {
                Some(PageState::Private | PageState::Shared) => MemoryError::WrongState,
                _ => MemoryError::NotMemory,
            }),
        }
    }

    fn check(&self, range: PageRange, allowed: impl Fn(PageState) -> bool) -> Result<(), MemoryError> {
        let end = self.stretches.len() as u64 * PageSize::Large.bytes();
        if range.end().0 > end {
            return Err(MemoryError::NotMemory);
        }
        for (piece, size) in pieces(range) {
            let (stretch, _) = position(piece.start());
            let fits = match (self.stretches.get(stretch), size) {
                (Some(Stretch::Mixed(pages)), PageSize::Large) => pages.iter().all(|&state| allowed(state)),
                _ => allowed(self.laid_out(piece.start())),
            };
            if !fits {
                return Err(MemoryError::WrongState);
            }
        }
        Ok(())
    }

    /// Gives the stretches that `range` covers only in part a table of their own.
    fn split_ends(&mut self, range: PageRange) -> Result<(), MemoryError> {
        for (piece, size) in pieces(range) {
            if size == PageSize::Small {
                self.split(position(piece.start()).0)?;
            }
        }
        Ok(())
    }

    fn split(&mut self, stretch: usize) -> Result<(), MemoryError> {
        let slot = self.stretches.get_mut(stretch).ok_or(MemoryError::NotMemory)?;
        if let Stretch::Uniform(state) = *slot {
            let mut pages = Vec::new();
            pages.try_reserve_exact(PAGES).map_err(|_| MemoryError::Exhausted)?;
            pages.resize(PAGES, state);
            let pages = pages.into_boxed_slice().try_into().map_err(|_| MemoryError::Exhausted)?;
            *slot = Stretch::Mixed(pages);
        }
        Ok(())
    }

    fn record(&mut self, range: PageRange, state: PageState) -> Result<(), MemoryError> {
        for (piece, size) in pieces(range) {
            let (stretch, page) = position(piece.start());
            if size == PageSize::Small {
                self.split(stretch)?;
            }
            match (self.stretches.get_mut(stretch), size) {
                (Some(slot), PageSize::Large) => *slot = Stretch::Uniform(state),
                (Some(Stretch::Mixed(pages)), PageSize::Small) => {
                    if let Some(slot) = pages.get_mut(page) {
                        *slot = state;
                    }
                }
                _ => return Err(MemoryError::NotMemory),
            }
        }
        Ok(())
    }
}

/// Unmaps what the guest may be using, and waits until no processor can use it any more. On an error the guest has it again.
fn take_away(hardware: &mut impl GuestPages, piece: PageRange, size: PageSize) -> Result<(), MemoryError> {
    let trapped = hardware.trap(piece, size);
    if trapped.is_err() {
        hardware.accept(piece, size)?;
    }
    hardware.flush();
    trapped
}

/// Lets other processors get on; false.
fn pause() -> bool {
    core::hint::spin_loop();
    false
}

/// Index of the 2 MiB stretch, and of the page in it.
fn position(gpa: Gpa) -> (usize, usize) {
    let page = gpa.0 / PAGE_SIZE;
    (usize::try_from(page / PAGES as u64).unwrap_or(usize::MAX), (page % PAGES as u64) as usize)
}

/// `range` as whole 2 MiB stretches where they fit and 4 KiB pages where they do not.
fn pieces(range: PageRange) -> impl Iterator<Item = (PageRange, PageSize)> {
    let mut at = range.start();
    core::iter::from_fn(move || {
        let left = range.end().0.checked_sub(at.0).filter(|&left| left > 0)?;
        let large = PageSize::Large.bytes();
        let size = if at.0.is_multiple_of(large) && left >= large { PageSize::Large } else { PageSize::Small };
        let piece = PageRange::new(at, at.checked_add(size.bytes())?)?;
        at = piece.end();
        Some((piece, size))
    })
}

#[cfg(test)]
mod tests;
