// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page-state table: the one owner of the truth about guest memory.
//!
//! Each 4 KiB page of guest-physical address space is in one [`PageState`]. A 2 MiB stretch whose pages agree is one byte;
//! one that is mixed has a table of 512. Everything that was never memory is [`PageState::Trapped`].
//!
//! A transition runs in one order, written down once in [`PageStates::convert`]: check, mark as in transit, take the old
//! mapping away, flush, let the hardware convert, publish. Hardware is touched by nothing else. If the hardware refuses
//! half-way, the pages that were converted keep their new state, and the rest their old one.

use alloc::boxed::Box;
use alloc::vec::Vec;

use platform::{Gpa, GuestPages, MemoryError, PAGE_SIZE, PageRange, PageSize, PageState};

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
    /// Private to shared.
    Share,
    /// Shared to private.
    Unshare,
    /// Private to trapped: accesses are emulated.
    Trap,
}

impl Transition {
    const fn applies_to(self, state: PageState) -> bool {
        match self {
            Self::Accept => matches!(state, PageState::Unaccepted | PageState::Trapped),
            Self::Share | Self::Trap => matches!(state, PageState::Private),
            Self::Unshare => matches!(state, PageState::Shared),
        }
    }

    const fn result(self) -> PageState {
        match self {
            Self::Accept | Self::Unshare => PageState::Private,
            Self::Share => PageState::Shared,
            Self::Trap => PageState::Trapped,
        }
    }

    /// Whether the guest, or the host, could hold a translation of the old state.
    const fn was_mapped(self) -> bool {
        !matches!(self, Self::Accept)
    }
}

/// How many pages of 4 KiB went through each transition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageCounts([u64; Self::NAMES.len()]);

impl PageCounts {
    /// Name and explanation of each count.
    pub const NAMES: [(&'static str, &'static str); 4] = [
        ("accepted", " Pages that became the guest's private memory."),
        ("shared", " Private pages that became shared with the host."),
        ("unshared", " Shared pages that became private again."),
        ("trapped", " Private pages that were taken away, so that accesses are emulated."),
    ];

    /// The present values, in the order of [`Self::NAMES`].
    pub const fn values(self) -> [u64; Self::NAMES.len()] {
        self.0
    }

    fn count(&mut self, transition: Transition, range: PageRange) {
        let [accepted, shared, unshared, trapped] = &mut self.0;
        let count = match transition {
            Transition::Accept => accepted,
            Transition::Share => shared,
            Transition::Unshare => unshared,
            Transition::Trap => trapped,
        };
        *count = count.wrapping_add(range.bytes() / PAGE_SIZE);
    }
}

/// The table, together with the hardware that it commands.
#[derive(Debug)]
pub struct PageStates<P> {
    /// One for each 2 MiB from address 0 on; what lies beyond is trapped.
    stretches: Vec<Stretch>,
    hardware: P,
    counts: PageCounts,
}

impl<P: GuestPages> PageStates<P> {
    /// A table for addresses below `end`, all of it trapped.
    pub fn new(end: Gpa, hardware: P) -> Result<Self, MemoryError> {
        let count = usize::try_from(end.0.div_ceil(PageSize::Large.bytes())).map_err(|_| MemoryError::Exhausted)?;
        let mut stretches = Vec::new();
        stretches.try_reserve_exact(count).map_err(|_| MemoryError::Exhausted)?;
        stretches.resize_with(count, || Stretch::Uniform(PageState::Trapped));
        Ok(Self { stretches, hardware, counts: PageCounts::default() })
    }

    /// The state of the page that holds `gpa`.
    pub fn state(&self, gpa: Gpa) -> PageState {
        let (stretch, page) = position(gpa);
        match self.stretches.get(stretch) {
            Some(Stretch::Uniform(state)) => *state,
            Some(Stretch::Mixed(pages)) => pages.get(page).copied().unwrap_or(PageState::Trapped),
            None => PageState::Trapped,
        }
    }

    /// What became of the pages so far.
    pub const fn counts(&self) -> PageCounts {
        self.counts
    }

    /// Marks `range` as Parados's own: no transition touches it any more.
    pub fn claim(&mut self, range: PageRange) -> Result<(), MemoryError> {
        self.check(range, |state| state == PageState::Trapped)?;
        self.record(range, PageState::Own)
    }

    /// Takes `range` through a transition. All of it must be in a state that the transition starts from.
    pub fn convert(&mut self, range: PageRange, transition: Transition) -> Result<(), MemoryError> {
        self.check(range, |state| transition.applies_to(state))?;
        // The tables are made before the hardware is touched, so that recording cannot fail afterwards.
        self.split_ends(range)?;
        if transition.was_mapped() && transition != Transition::Trap {
            self.take_away(range)?;
        }
        let outcome = pieces(range).try_for_each(|(piece, size)| {
            self.command(piece, size, transition)?;
            self.record(piece, transition.result())?;
            self.counts.count(transition, piece);
            Ok(())
        });
        if transition == Transition::Trap {
            self.hardware.flush();
        }
        outcome
    }

    /// Unmaps what the guest may be using, and waits until no processor can use it any more.
    fn take_away(&mut self, range: PageRange) -> Result<(), MemoryError> {
        for (piece, size) in pieces(range) {
            self.hardware.trap(piece, size)?;
        }
        self.hardware.flush();
        Ok(())
    }

    fn command(&mut self, piece: PageRange, size: PageSize, transition: Transition) -> Result<(), MemoryError> {
        match transition {
            Transition::Accept => self.hardware.accept(piece, size),
            Transition::Share => self.hardware.share(piece, size),
            Transition::Unshare => self.hardware.unshare(piece, size),
            Transition::Trap => self.hardware.trap(piece, size),
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
                _ => allowed(self.state(piece.start())),
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
