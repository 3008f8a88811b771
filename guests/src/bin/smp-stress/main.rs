// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stress on all processors at once: storms of interrupts and NMIs, requests that every other processor must answer (as a
//! TLB shoot-down is), a token that travels through sleeping processors, timers that end HLT, and a contended lock.
//!
//! The command line's first number is how many seconds it lasts; 5 without one. A processor that does not move for
//! [`STALL`] is found by its neighbour, which ends the run: a lost wake-up is such a stall. A late answer is one as well.

#![cfg_attr(target_os = "none", no_std, no_main)]

mod phases;
mod watch;

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use guests::instructions::{close, open, time_stamp};
use guests::interrupts::{MAX_PROCESSORS, NMI, cpu, set_handler};
use guests::report::Report;
use guests::{apic, guest, machine, say, smp, time};
use phases::{PHASES, Phase};

guest!(run);

/// Microseconds after which a processor, or an answer, counts as lost.
const STALL: u64 = 4_000_000;
const SECONDS: u64 = 5;

static PROCESSORS: AtomicUsize = AtomicUsize::new(0);
/// When each phase ends, in TSC ticks from its start.
static LENGTH: AtomicU64 = AtomicU64::new(0);
static ENDS: [AtomicU64; PHASES.len()] = [const { AtomicU64::new(0) }; PHASES.len()];
static ARRIVED: [AtomicUsize; PHASES.len()] = [const { AtomicUsize::new(0) }; PHASES.len()];

fn processors() -> usize {
    PROCESSORS.load(SeqCst)
}

/// What one processor did in one phase.
struct Tally {
    rounds: AtomicU64,
    /// The longest that something took, in TSC ticks.
    worst: AtomicU64,
}

static TALLIES: [[Tally; PHASES.len()]; MAX_PROCESSORS] =
    [const { [const { Tally { rounds: AtomicU64::new(0), worst: AtomicU64::new(0) } }; PHASES.len()] }; MAX_PROCESSORS];

fn tally(index: usize, phase: usize) -> &'static Tally {
    let [[first, ..], ..] = &TALLIES;
    TALLIES.get(index).and_then(|all| all.get(phase)).unwrap_or(first)
}

fn run(start_info: u64) -> u32 {
    let seconds = machine::command_line_number(start_info).unwrap_or(SECONDS).clamp(1, 3600);
    let mut report = Report::default();
    let count = match smp::start() {
        Ok(count) => count,
        Err(count) => {
            report.check("processors started", false, format_args!("only {count}"));
            return report.finish();
        }
    };
    PROCESSORS.store(count, SeqCst);
    LENGTH.store(time::ticks(seconds * 1_000_000) / PHASES.len() as u64, SeqCst);
    set_handler(phases::REQUEST, Some(phases::answer));
    set_handler(NMI, Some(phases::answer_nmi));
    (0..count).for_each(watch::beat);
    for index in 1..count {
        smp::run_on(index, work);
    }
    work(0);
    for index in 1..count {
        let done = time::wait(STALL, || smp::is_idle(index));
        report.check("ended", done, index);
    }
    results(&mut report, count);
    report.finish()
}

/// All phases, on one processor.
fn work(index: usize) {
    for (at, phase) in PHASES.iter().enumerate() {
        (phase.prepare)();
        barrier(index, at);
        let end = ENDS.get(at).map_or(0, |end| end.load(SeqCst));
        let tally = tally(index, at);
        let mut random = index as u64 + 1;
        open();
        while time_stamp() < end {
            watch::beat(index);
            watch::neighbour(index, phase.name);
            let took = (phase.round)(index, &mut random);
            tally.rounds.fetch_add(1, SeqCst);
            tally.worst.fetch_max(took, SeqCst);
        }
        (phase.finish)(index);
        // Others may still want answers: those come by interrupt, until all have arrived at the next phase.
    }
    let still_open = PHASES.len() - 1;
    let _ = barrier_only(index, still_open, 2 * processors());
    close();
}

/// Waits until all processors are here. The last one sets the phase's end.
fn barrier(index: usize, at: usize) {
    open();
    let (Some(arrived), Some(end)) = (ARRIVED.get(at), ENDS.get(at)) else { return };
    if arrived.fetch_add(1, SeqCst) + 1 == processors() {
        end.store(time_stamp() + LENGTH.load(SeqCst), SeqCst);
    }
    while end.load(SeqCst) == 0 {
        watch::beat(index);
        watch::neighbour(index, "barrier");
        core::hint::spin_loop();
    }
}

/// The same at the very end, counted on in the last phase's counter.
fn barrier_only(index: usize, at: usize, wanted: usize) -> Option<()> {
    let arrived = ARRIVED.get(at)?;
    arrived.fetch_add(1, SeqCst);
    while arrived.load(SeqCst) < wanted {
        watch::beat(index);
        watch::neighbour(index, "the end");
        core::hint::spin_loop();
    }
    Some(())
}

fn results(report: &mut Report, count: usize) {
    for (at, Phase { name, alone, .. }) in PHASES.iter().enumerate() {
        let rounds = |index| tally(index, at).rounds.load(SeqCst);
        let all: u64 = (0..count).map(rounds).sum();
        let least = (0..count).map(rounds).min().unwrap_or(0);
        let worst = (0..count).map(|index| tally(index, at).worst.load(SeqCst)).max().unwrap_or(0);
        let worst = time::micros(worst);
        if count == 1 && !alone {
            report.skip(name, "one processor");
            continue;
        }
        let good = least > 0 && worst < STALL;
        report.check(name, good, format_args!("{all} rounds, at least {least} each, the longest {worst} us"));
    }
    phases::locks_agree(report, tally_sum(count));
    for index in 0..count {
        let came = |vector| cpu(index).count(vector);
        let (storm, request) = (came(phases::STORM), came(phases::REQUEST));
        let (timer, nmi) = (came(phases::TIMER), came(NMI));
        say!("cpu {index}: {storm} storm, {request} requests, {timer} timer, {nmi} nmi");
    }
    apic::write(apic::register::LVT_TIMER, 1 << 16);
}

/// Rounds of the last phase, the lock's.
fn tally_sum(count: usize) -> u64 {
    (0..count).map(|index| tally(index, PHASES.len() - 1).rounds.load(SeqCst)).sum()
}
