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
    /// How many pages a host converts at once before it stops.
    generosity: Cell<u64>,
    views: &'static PageViews,
}

impl Model {
    /// One page of 2 MiB, or some of 4 KiB within one; and nobody reaches them.
    fn fits(&self, range: PageRange, size: PageSize) {
        let large = PageSize::Large.bytes();
        let within = range.start().0 / large == (range.end().0 - 1) / large;
        assert!(within && (size == PageSize::Small || range.bytes() == large), "{range:?} {size:?}");
        for page in (range.start().0..range.end().0).step_by(PAGE_SIZE as usize) {
            assert_eq!(self.views.side(Gpa(page)), None, "not marked as moving");
        }
        assert!(self.views.is_quiet(), "an access is under way");
    }

    fn part(&self, range: PageRange) -> (PageRange, PageRange) {
        let middle = Gpa(range.start().0 + (self.generosity.get() * PAGE_SIZE).min(range.bytes()));
        (PageRange::new(range.start(), middle).unwrap(), PageRange::new(middle, range.end()).unwrap())
    }

    fn set(&mut self, range: PageRange, change: impl Fn(Hardware) -> Hardware) {
        for page in range.start().0 / PAGE_SIZE..range.end().0 / PAGE_SIZE {
            let slot = &mut self.pages[page as usize];
            *slot = change(*slot);
        }
    }

    fn each(&mut self, range: PageRange, change: impl Fn(Hardware) -> Hardware) -> Result<(), MemoryError> {
        if self.patience.get() == 0 {
            return Err(MemoryError::Host);
        }
        self.patience.set(self.patience.get() - 1);
        self.set(range, change);
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

    /// A host that goes along with a part leaves the rest as it was.
    fn share(&mut self, range: PageRange, size: PageSize) -> Result<u64, MemoryError> {
        self.fits(range, size);
        let (done, rest) = self.part(range);
        self.set(done, |old| {
            assert_eq!(old, Hardware::Absent { stale: false }, "shared while the guest could still use it");
            Hardware::Shared
        });
        self.set(rest, |old| {
            assert_eq!(old, Hardware::Absent { stale: false }, "given back");
            Hardware::Private
        });
        Ok(done.bytes())
    }

    fn unshare(&mut self, range: PageRange, size: PageSize) -> Result<u64, MemoryError> {
        self.fits(range, size);
        let (done, _) = self.part(range);
        self.set(done, |old| {
            assert_eq!(old, Hardware::Shared, "what is not shared does not come back");
            Hardware::Private
        });
        Ok(done.bytes())
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

fn model(patience: usize) -> (Model, &'static PageViews) {
    let pages = vec![Hardware::Absent { stale: false }; 3 * PAGES];
    let words = PageViews::words(Gpa(MODEL_PAGES as u64 * PAGE_SIZE)).unwrap();
    let words = Vec::leak((0..words).map(|_| platform::ViewWord::new(0)).collect());
    let views: &'static PageViews = Box::leak(Box::new(PageViews::new(words)));
    (Model { pages, patience: Cell::new(patience), generosity: Cell::new(u64::MAX >> 12), views }, views)
}

fn states(patience: usize) -> PageStates<Model> {
    let (model, views) = model(patience);
    PageStates::new(Gpa(MODEL_PAGES as u64 * PAGE_SIZE), model, Some(views)).unwrap()
}

/// Moves all of a range, turn by turn, as a guest's call does; how many pages it took.
fn exchange(states: &PageStates<Model>, mut range: PageRange, to: Visibility) -> (u64, Result<Exchange, MemoryError>) {
    let mut moved = 0;
    while range.bytes() != 0 {
        match states.exchange(range, to) {
            Ok(Exchange::Pages(pages)) => {
                assert_ne!(pages, 0);
                moved += pages;
                range = PageRange::new(Gpa(range.start().0 + pages * PAGE_SIZE), range.end()).unwrap();
            }
            other => return (moved, other),
        }
    }
    (moved, Ok(Exchange::Pages(0)))
}

fn range(first: usize, count: usize) -> PageRange {
    PageRange::new(Gpa(first as u64 * PAGE_SIZE), Gpa((first + count) as u64 * PAGE_SIZE)).unwrap()
}

fn consistent(states: &PageStates<Model>) {
    for (page, hardware) in states.commands.lock().hardware.pages.iter().take(MODEL_PAGES).enumerate() {
        let state = states.state(Gpa(page as u64 * PAGE_SIZE)).expect("nothing moves between two calls");
        match hardware {
            Hardware::Private => assert_eq!(state, PageState::Private, "page {page}"),
            Hardware::Shared => assert_eq!(state, PageState::Shared, "page {page}"),
            Hardware::Absent { .. } => {}
        }
        // What counts as the guest's, the guest has.
        match state {
            PageState::Private => assert_eq!(*hardware, Hardware::Private, "page {page}"),
            PageState::Shared => assert_eq!(*hardware, Hardware::Shared, "page {page}"),
            _ => {}
        }
        for (bit, wanted) in [(0, PageState::Private), (SHARED_BIT, PageState::Shared)] {
            assert_eq!(states.is_memory(Gpa((page as u64 * PAGE_SIZE) | bit)), state == wanted, "page {page}");
        }
    }
}

#[test]
fn what_was_never_memory_is_trapped() {
    let states = states(usize::MAX);
    assert_eq!(states.state(Gpa(0)), Some(PageState::Trapped));
    assert_eq!(states.state(Gpa(u64::MAX)), Some(PageState::Trapped));
    assert!(!states.is_memory(Gpa(0)) && !states.is_memory(Gpa(u64::MAX)));
}

#[test]
fn our_own_pages_take_no_part() {
    let mut states = states(usize::MAX);
    states.claim(range(10, 5)).unwrap();
    assert_eq!(states.convert(range(8, 4), Transition::Accept), Err(MemoryError::WrongState));
    assert_eq!(states.state(Gpa(8 * PAGE_SIZE)), Some(PageState::Trapped), "all or nothing");
    assert_eq!(states.state(Gpa(12 * PAGE_SIZE)), Some(PageState::Own));
    assert_eq!(states.claim(range(14, 1)), Err(MemoryError::WrongState));
    for to in [Visibility::Shared, Visibility::Private] {
        assert_eq!(states.exchange(range(12, 1), to), Err(MemoryError::NotMemory), "nobody's to move");
        assert_eq!(states.exchange(range(2, 1), to), Err(MemoryError::NotMemory), "no memory");
    }
}

#[test]
fn pages_go_round_and_back() {
    let mut states = states(usize::MAX);
    states.convert(range(0, 700), Transition::Accept).unwrap();
    assert_eq!(exchange(&states, range(510, 10), Visibility::Shared), (10, Ok(Exchange::Pages(0))));
    consistent(&states);
    assert_eq!(states.state(Gpa(511 * PAGE_SIZE)), Some(PageState::Shared));
    assert_eq!(states.state(Gpa(509 * PAGE_SIZE)), Some(PageState::Private));
    assert_eq!(exchange(&states, range(509, 3), Visibility::Private), (0, Err(MemoryError::WrongState)));
    assert_eq!(exchange(&states, range(500, 20), Visibility::Shared), (10, Err(MemoryError::WrongState)));
    assert_eq!(exchange(&states, range(500, 20), Visibility::Private), (20, Ok(Exchange::Pages(0))));
    consistent(&states);
    states.convert(range(0, 700), Transition::Trap).unwrap();
    states.convert(range(0, 700), Transition::Accept).unwrap();
    consistent(&states);
}

#[test]
fn large_pages_move_whole_and_small_ones_a_few_at_a_time() {
    let mut states = states(usize::MAX);
    states.convert(range(0, 1024), Transition::Accept).unwrap();
    assert_eq!(states.exchange(range(0, 1024), Visibility::Shared), Ok(Exchange::Pages(512)));
    assert_eq!(states.exchange(range(1, 600), Visibility::Private), Ok(Exchange::Pages(AT_ONCE)));
    assert_eq!(states.exchange(range(500, 600), Visibility::Private), Ok(Exchange::Pages(12)), "not beyond 2 MiB");
    consistent(&states);
}

/// A guest that asks for more than the host gives keeps what it got and finds the rest as it was.
#[test]
fn a_host_that_stops_half_way_is_told_apart_from_one_that_is_done() {
    for to in [Visibility::Shared, Visibility::Private] {
        let mut states = states(usize::MAX);
        states.convert(range(0, 1024), Transition::Accept).unwrap();
        if to == Visibility::Private {
            exchange(&states, range(0, 1024), Visibility::Shared).1.unwrap();
        }
        states.commands.lock().hardware.generosity.set(100);
        assert_eq!(states.exchange(range(0, 1024), to), Ok(Exchange::Pages(100)));
        states.commands.lock().hardware.generosity.set(0);
        assert_eq!(exchange(&states, range(100, 300), to), (0, Ok(Exchange::Refused)));
        consistent(&states);
        let counts = states.counts().unwrap().values();
        assert_eq!(counts[if to == Visibility::Shared { 1 } else { 2 }], 100, "what was refused does not count");
    }
}

#[test]
fn nobody_waits_for_who_moves_pages_or_moves_them_under_an_access() {
    let mut states = states(usize::MAX);
    states.convert(range(0, 64), Transition::Accept).unwrap();
    let held = states.commands.lock();
    assert_eq!(states.exchange(range(0, 1), Visibility::Shared), Ok(Exchange::Busy));
    assert_eq!((states.counts(), states.is_memory(Gpa(0))), (None, true));
    drop(held);
    let mut ram = platform::RamMap::default();
    ram.push(range(0, 64)).unwrap();
    let reach = platform::Hold::new(&ram, states.views, Gpa(0), 8, Visibility::Private).unwrap();
    assert_eq!(states.exchange(range(0, 1), Visibility::Shared), Ok(Exchange::Busy));
    drop(reach);
    assert_eq!(states.exchange(range(0, 1), Visibility::Shared), Ok(Exchange::Pages(1)));
    consistent(&states);
}

#[test]
fn without_views_no_page_moves() {
    let (hardware, _) = model(usize::MAX);
    let mut states = PageStates::new(Gpa(64 * PAGE_SIZE), hardware, None).unwrap();
    states.convert(range(0, 64), Transition::Accept).unwrap();
    assert_eq!(states.exchange(range(0, 1), Visibility::Shared), Err(MemoryError::NotMemory));
    assert!(!states.is_memory(Gpa(SHARED_BIT)) && !states.may_become_memory(Gpa(SHARED_BIT)));
}

#[test]
fn what_may_become_memory_is_memory_by_either_name() {
    let mut states = states(usize::MAX);
    states.convert(range(0, 1), Transition::Accept).unwrap();
    for gpa in [0, SHARED_BIT] {
        assert!(states.may_become_memory(Gpa(gpa)), "{gpa:#x}");
        assert!(!states.may_become_memory(Gpa(gpa + PAGE_SIZE)), "{gpa:#x}");
    }
    assert!(!states.is_memory(Gpa(SHARED_BIT)));
}

#[test]
fn a_range_beyond_the_table_is_refused() {
    let mut states = states(usize::MAX);
    assert_eq!(states.convert(range(1530, 10), Transition::Accept), Err(MemoryError::NotMemory));
    let beyond = PageRange::new(Gpa(SHARED_BIT), Gpa(SHARED_BIT + PAGE_SIZE)).unwrap();
    assert_eq!(states.exchange(beyond, Visibility::Shared), Err(MemoryError::NotMemory));
    assert_eq!(states.exchange(range(1530, 10), Visibility::Shared), Err(MemoryError::NotMemory));
}

/// What may be asked for.
#[derive(Clone, Copy, Debug)]
enum Step {
    Convert(Transition),
    Exchange(Visibility),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Convert(Transition::Accept)),
        Just(Step::Convert(Transition::Trap)),
        Just(Step::Exchange(Visibility::Shared)),
        Just(Step::Exchange(Visibility::Private)),
    ]
}

proptest! {
    /// Whatever is asked for, in whatever order, and wherever the host stops: no rule is broken, and no page counts as the
    /// guest's memory that the hardware does not hold so.
    #[test]
    fn no_order_breaks_a_rule(
        steps in prop::collection::vec((0usize..MODEL_PAGES, 1usize..600, step(), 0u64..600), 1..40),
    ) {
        let mut states = states(usize::MAX);
        states.convert(range(0, 700), Transition::Accept).unwrap();
        for (first, count, step, generosity) in steps {
            let range = range(first, count.min(MODEL_PAGES - first));
            states.commands.lock().hardware.generosity.set(generosity);
            match step {
                Step::Convert(transition) => drop(states.convert(range, transition)),
                Step::Exchange(to) => drop(exchange(&states, range, to)),
            }
            consistent(&states);
        }
    }

    /// The same at the start, where the hardware may refuse as well.
    #[test]
    fn no_refusal_at_the_start_breaks_a_rule(
        steps in prop::collection::vec((0usize..MODEL_PAGES, 1usize..600, any::<bool>()), 1..40),
        patience in 0usize..400,
    ) {
        let mut states = states(patience);
        for (first, count, accept) in steps {
            let transition = if accept { Transition::Accept } else { Transition::Trap };
            let _ = states.convert(range(first, count.min(MODEL_PAGES - first)), transition);
            for (page, hardware) in states.commands.lock().hardware.pages.iter().take(MODEL_PAGES).enumerate() {
                if *hardware == Hardware::Private {
                    prop_assert_eq!(states.state(Gpa(page as u64 * PAGE_SIZE)), Some(PageState::Private));
                }
            }
        }
    }
}
