// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table against a model of hardware that faults on any wrong order.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;

/// Pages of the model: two stretches and a half.
const MODEL_PAGES: usize = 1280;

/// What the model's hardware knows of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hardware {
    /// Not accessible to the guest; the flag says that a processor may still hold an old translation.
    Absent {
        stale: bool,
    },
    Private,
    Shared,
}

/// Hardware that panics when a rule is broken, and refuses when told to.
struct Model {
    pages: Vec<Hardware>,
    /// Commands left before one is refused.
    patience: Cell<usize>,
}

impl Model {
    fn each(&mut self, range: PageRange, change: impl Fn(Hardware) -> Hardware) -> Result<(), MemoryError> {
        if self.patience.get() == 0 {
            return Err(MemoryError::Host);
        }
        self.patience.set(self.patience.get() - 1);
        for page in range.start().0 / PAGE_SIZE..range.end().0 / PAGE_SIZE {
            let slot = &mut self.pages[page as usize];
            *slot = change(*slot);
        }
        Ok(())
    }
}

impl GuestPages for Model {
    fn accept(&mut self, range: PageRange, _: PageSize) -> Result<(), MemoryError> {
        self.each(range, |old| {
            assert_eq!(old, Hardware::Absent { stale: false }, "double acceptance, or a stale translation");
            Hardware::Private
        })
    }

    fn share(&mut self, range: PageRange, _: PageSize) -> Result<(), MemoryError> {
        self.each(range, |old| {
            assert_eq!(old, Hardware::Absent { stale: false }, "shared while the guest could still use it");
            Hardware::Shared
        })
    }

    fn unshare(&mut self, range: PageRange, _: PageSize) -> Result<(), MemoryError> {
        self.each(range, |old| {
            assert_eq!(old, Hardware::Absent { stale: false }, "unshared while the guest could still use it");
            Hardware::Private
        })
    }

    fn trap(&mut self, range: PageRange, _: PageSize) -> Result<(), MemoryError> {
        self.each(range, |old| Hardware::Absent { stale: !matches!(old, Hardware::Absent { stale: false }) })
    }

    fn flush(&mut self) {
        for page in &mut self.pages {
            if let Hardware::Absent { stale } = page {
                *stale = false;
            }
        }
    }
}

fn states(patience: usize) -> PageStates<Model> {
    let pages = vec![Hardware::Absent { stale: false }; 3 * PAGES];
    let model = Model { pages, patience: Cell::new(patience) };
    PageStates::new(Gpa(MODEL_PAGES as u64 * PAGE_SIZE), model).unwrap()
}

fn range(first: usize, count: usize) -> PageRange {
    PageRange::new(Gpa(first as u64 * PAGE_SIZE), Gpa((first + count) as u64 * PAGE_SIZE)).unwrap()
}

fn consistent(states: &PageStates<Model>) {
    for (page, hardware) in states.hardware.pages.iter().enumerate() {
        let state = states.state(Gpa(page as u64 * PAGE_SIZE));
        match hardware {
            Hardware::Private => assert_eq!(state, PageState::Private, "page {page}"),
            Hardware::Shared => assert_eq!(state, PageState::Shared, "page {page}"),
            Hardware::Absent { .. } => {}
        }
    }
}

#[test]
fn what_was_never_memory_is_trapped() {
    let states = states(usize::MAX);
    assert_eq!(states.state(Gpa(0)), PageState::Trapped);
    assert_eq!(states.state(Gpa(u64::MAX)), PageState::Trapped);
}

#[test]
fn our_own_pages_take_no_part() {
    let mut states = states(usize::MAX);
    states.claim(range(10, 5)).unwrap();
    assert_eq!(states.convert(range(8, 4), Transition::Accept), Err(MemoryError::WrongState));
    assert_eq!(states.state(Gpa(8 * PAGE_SIZE)), PageState::Trapped, "all or nothing");
    assert_eq!(states.state(Gpa(12 * PAGE_SIZE)), PageState::Own);
    assert_eq!(states.claim(range(14, 1)), Err(MemoryError::WrongState));
}

#[test]
fn pages_go_round_and_back() {
    let mut states = states(usize::MAX);
    states.convert(range(0, 700), Transition::Accept).unwrap();
    states.convert(range(510, 10), Transition::Share).unwrap();
    assert_eq!(states.state(Gpa(511 * PAGE_SIZE)), PageState::Shared);
    assert_eq!(states.state(Gpa(509 * PAGE_SIZE)), PageState::Private);
    assert_eq!(states.convert(range(509, 3), Transition::Unshare), Err(MemoryError::WrongState));
    states.convert(range(510, 10), Transition::Unshare).unwrap();
    states.convert(range(0, 700), Transition::Trap).unwrap();
    states.convert(range(0, 700), Transition::Accept).unwrap();
    consistent(&states);
}

#[test]
fn a_range_beyond_the_table_is_refused() {
    let mut states = states(usize::MAX);
    assert_eq!(states.convert(range(1530, 10), Transition::Accept), Err(MemoryError::NotMemory));
}

fn transition() -> impl Strategy<Value = Transition> {
    prop_oneof![Just(Transition::Accept), Just(Transition::Share), Just(Transition::Unshare), Just(Transition::Trap)]
}

proptest! {
    /// Whatever is asked for, in whatever order, and wherever the hardware refuses: no rule is broken, and no page counts
    /// as the guest's memory that the hardware does not hold so.
    #[test]
    fn no_order_breaks_a_rule(
        steps in prop::collection::vec((0usize..MODEL_PAGES, 1usize..600, transition()), 1..40),
        patience in 0usize..400,
    ) {
        let mut states = states(patience);
        for (first, count, transition) in steps {
            let _ = states.convert(range(first, count.min(MODEL_PAGES - first)), transition);
            consistent(&states);
        }
    }
}
