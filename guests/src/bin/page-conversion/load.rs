// SPDX-License-Identifier: MIT OR Apache-2.0
//! All processors at once: each converts pages of its own, in both sizes and in an order of its own, and checks that every page is
//! where it was put and holds what was written. Small pages of all processors lie between one another in the same 2 MiB.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use guests::instructions::time_stamp;
use guests::interrupts::MAX_PROCESSORS;
use guests::report::Report;
use guests::{apic, smp, time};

use crate::AREA;
use crate::call::{Answer, LARGE, PAGE, REFUSED, SHARED, done, load, share, store, unshare};

/// The 2 MiB that all processors share out among themselves, page by page; then 2 MiB for each, and a run of small pages for each.
const COMMON: u64 = AREA + (8 << 20);
/// The most processors that take part.
const MOST: usize = 8;
/// All memory that the tests touch.
pub(crate) const BYTES: u64 = RUNS - AREA + MOST as u64 * RUN * PAGE;
/// Where the runs are, and how many pages one has: more than are converted at once.
const RUNS: u64 = COMMON + (1 + MOST as u64) * LARGE;
const RUN: u64 = 100;
/// How long a processor may take to end, in microseconds.
const STALL: u64 = 20_000_000;

static PROCESSORS: AtomicUsize = AtomicUsize::new(1);
static END: AtomicU64 = AtomicU64::new(0);

/// What a processor did, and what it found wrong first: address, what it read and what it wanted.
struct Tally {
    rounds: AtomicU64,
    large: AtomicU64,
    runs: AtomicU64,
    small: AtomicU64,
    refused: AtomicU64,
    wrong: [AtomicU64; 3],
}

static TALLIES: [Tally; MAX_PROCESSORS] = [const {
    Tally {
        rounds: AtomicU64::new(0),
        large: AtomicU64::new(0),
        runs: AtomicU64::new(0),
        small: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        wrong: [const { AtomicU64::new(0) }; 3],
    }
}; MAX_PROCESSORS];

fn tally(index: usize) -> &'static Tally {
    let [first, ..] = &TALLIES;
    TALLIES.get(index).unwrap_or(first)
}

pub(crate) fn run(report: &mut Report, count: usize, seconds: u64) {
    let count = count.min(MOST);
    PROCESSORS.store(count, SeqCst);
    END.store(time_stamp() + time::ticks(seconds * 1_000_000), SeqCst);
    for index in 1..count {
        smp::run_on(index, work);
    }
    work(0);
    for index in 0..count {
        let ended = index == 0 || time::wait(STALL, || smp::is_idle(index));
        report.check("ended", ended, index);
        let Tally { rounds, large, runs, small, refused, wrong } = tally(index);
        let counts = [rounds, large, runs, small, refused];
        let [rounds, large, runs, small, refused] = counts.map(|count| count.load(SeqCst));
        let wrong = [&wrong[0], &wrong[1], &wrong[2]].map(|word| word.load(SeqCst));
        let good = wrong == [0; 3] && rounds > 0 && large > 0 && runs > 0 && small > 0;
        let did = format_args!(
            "{rounds} rounds, {large} large, {runs} runs, {small} small, {refused} refused, wrong {wrong:x?}"
        );
        report.check("load", good, did);
    }
}

/// Pages of one processor, all on one side.
struct Pages {
    first: u64,
    /// From one to the next.
    step: u64,
    count: u64,
    shared: bool,
    /// What stands in them.
    seed: u64,
}

impl Pages {
    fn each(&self) -> impl Iterator<Item = u64> + use<> {
        let (first, step) = (self.first, self.step);
        (0..self.count).map(move |index| first + index * step)
    }

    fn name(&self, page: u64) -> u64 {
        if self.shared { page + SHARED } else { page }
    }

    fn fill(&mut self, seed: u64) {
        self.seed = seed;
        self.each().for_each(|page| store(self.name(page) + 8, page ^ seed));
    }

    /// The pages hold what was written, and cannot be seen by their other name (one of them: that is emulated).
    fn check(&self, tally: &Tally) {
        for page in self.each() {
            expect(tally, self.name(page) + 8, page ^ self.seed);
        }
        if self.shared {
            expect(tally, self.first + 8, u64::MAX);
        } else if load(self.first + SHARED + 8) == self.first ^ self.seed {
            note(tally, self.first + SHARED, self.seed, 0);
        }
    }

    /// Moves all of them to the other side. What a host refuses stays as it was, and is asked for again.
    fn convert(&mut self, tally: &Tally) {
        let contiguous = self.step == PAGE;
        let (runs, pages) = if contiguous { (1, self.count) } else { (self.count, 1) };
        for run in 0..runs {
            let (mut first, mut left) = (self.first + run * self.step, pages);
            let end = first + left * PAGE;
            loop {
                let answer = if self.shared { unshare(first, left) } else { share(first, left) };
                if answer == done(first, left) {
                    break;
                }
                let Answer { result, next, left: rest } = answer;
                if result != REFUSED || next + rest * PAGE != end {
                    return note(tally, first, result as u64, next);
                }
                tally.refused.fetch_add(1, SeqCst);
                (first, left) = (next, rest);
            }
        }
        self.shared = !self.shared;
        if !self.shared {
            self.each().for_each(|page| expect(tally, page + 8, 0));
        }
    }
}

fn expect(tally: &Tally, address: u64, wanted: u64) {
    let got = load(address);
    if got != wanted {
        note(tally, address, got, wanted);
    }
}

/// The first thing wrong.
fn note(tally: &Tally, address: u64, got: u64, wanted: u64) {
    let [place, seen, expected] = &tally.wrong;
    if place.compare_exchange(0, address, SeqCst, SeqCst).is_ok() {
        seen.store(got, SeqCst);
        expected.store(wanted, SeqCst);
    }
}

fn work(index: usize) {
    let tally = tally(index);
    let processors = PROCESSORS.load(SeqCst) as u64;
    let own = COMMON + LARGE * (1 + index as u64);
    let mut large = Pages { first: own, step: PAGE, count: 512, shared: false, seed: 0 };
    let first = COMMON + index as u64 * PAGE;
    let mut small = Pages { first, step: processors * PAGE, count: 4, shared: false, seed: 0 };
    let mut run = Pages { first: RUNS + index as u64 * RUN * PAGE, step: PAGE, count: RUN, shared: false, seed: 0 };
    let mut random = 0x9e37_79b9_7f4a_7c15 ^ index as u64;
    large.fill(1);
    small.fill(2);
    run.fill(3);
    while time_stamp() < END.load(SeqCst) || tally.rounds.load(SeqCst) < 2 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // A device's register in between: its access is emulated while others convert.
        let _ = apic::read(apic::register::SPURIOUS);
        let (pages, count) = match random % 8 {
            0 => (&mut large, &tally.large),
            1 | 2 => (&mut run, &tally.runs),
            _ => (&mut small, &tally.small),
        };
        pages.check(tally);
        pages.convert(tally);
        pages.fill(random);
        count.fetch_add(1, SeqCst);
        if random.is_multiple_of(5) {
            large.check(tally);
        }
        tally.rounds.fetch_add(1, SeqCst);
        if tally.wrong[0].load(SeqCst) != 0 {
            return;
        }
    }
    // Each kind at least once, however slow the machine.
    for pages in [&mut large, &mut run, &mut small] {
        pages.check(tally);
        pages.convert(tally);
    }
    for count in [&tally.large, &tally.runs, &tally.small] {
        count.fetch_add(1, SeqCst);
    }
}
