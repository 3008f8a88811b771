// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kinds of stress. A round is one step of one processor; it returns what may be compared with the bound, in TSC ticks.

use crate::watch::{beat, lost, neighbour};
use crate::{STALL, processors};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use guests::apic::{self, command, register as reg};
use guests::exceptions::Frame;
use guests::instructions::{close, open, sleep, time_stamp};
use guests::interrupts::{MAX_PROCESSORS, here};
use guests::report::Report;
use guests::time::ticks;

pub(crate) const TIMER: u8 = 0x41;
pub(crate) const STORM: u8 = 0x52;
const TOKEN_WAKE: u8 = 0x63;
pub(crate) const REQUEST: u8 = 0x74;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;

pub(crate) struct Phase {
    pub(crate) name: &'static str,
    /// Whether it means anything on a single processor.
    pub(crate) alone: bool,
    pub(crate) prepare: fn(),
    pub(crate) round: fn(usize, &mut u64) -> u64,
    pub(crate) finish: fn(usize),
}

fn nothing(_: usize) {}

pub(crate) const PHASES: [Phase; 6] = [
    Phase { name: "storm", alone: true, prepare: ticking, round: storm, finish: nothing },
    Phase { name: "shoot-down", alone: false, prepare: ticking, round: shoot_down, finish: nothing },
    Phase { name: "shoot-down by nmi", alone: false, prepare: ticking, round: shoot_down_by_nmi, finish: nothing },
    Phase { name: "token", alone: false, prepare: quiet, round: token, finish: token_over },
    Phase { name: "timers", alone: true, prepare: one_shot, round: timers, finish: nothing },
    Phase { name: "lock", alone: true, prepare: ticking, round: lock, finish: nothing },
];

/// A timer tick each millisecond or so: the count is in units of the bus clock, about 1 GHz.
fn ticking() {
    apic::write(reg::DIVIDE, 0b1011);
    apic::write(reg::LVT_TIMER, PERIODIC | u32::from(TIMER));
    apic::write(reg::INITIAL_COUNT, 1_000_000);
}

fn quiet() {
    apic::write(reg::INITIAL_COUNT, 0);
    apic::write(reg::LVT_TIMER, MASKED | u32::from(TIMER));
}

fn one_shot() {
    apic::write(reg::INITIAL_COUNT, 0);
    apic::write(reg::LVT_TIMER, u32::from(TIMER));
}

/// Xorshift.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Interrupts for somebody, everybody, oneself; now and then an NMI.
fn storm(_: usize, random: &mut u64) -> u64 {
    let start = time_stamp();
    let choice = next(random);
    let target = (choice >> 8) % processors() as u64;
    match choice & 15 {
        0 => apic::send(0, command::OTHERS | u32::from(STORM)),
        1 => apic::send(0, command::ALL | u32::from(STORM)),
        2 => apic::send(target as u32, command::NMI),
        3 => apic::send(0, command::MYSELF | u32::from(STORM)),
        _ => apic::send(target as u32, u32::from(STORM) + (choice >> 4 & 7) as u32),
    }
    time_stamp() - start
}

/// The last request of each processor, and what each has answered to each: `ANSWERS[who asks][who answers]`.
struct Board {
    requests: [AtomicU64; MAX_PROCESSORS],
    answers: [[AtomicU64; MAX_PROCESSORS]; MAX_PROCESSORS],
}

impl Board {
    const fn new() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; MAX_PROCESSORS],
            answers: [const { [const { AtomicU64::new(0) }; MAX_PROCESSORS] }; MAX_PROCESSORS],
        }
    }

    fn answer(&self, index: usize) {
        for (request, answers) in self.requests.iter().zip(&self.answers).take(processors()) {
            if let Some(answer) = answers.get(index) {
                answer.fetch_max(request.load(SeqCst), SeqCst);
            }
        }
    }

    /// Asks everybody else, and waits until all have answered.
    fn ask(&self, index: usize, phase: &str, send: u32) -> u64 {
        let (Some(request), Some(answers)) = (self.requests.get(index), self.answers.get(index)) else { return 0 };
        let number = request.fetch_add(1, SeqCst) + 1;
        let start = time_stamp();
        apic::send(0, command::OTHERS | send);
        for (whom, answer) in answers.iter().enumerate().take(processors()).filter(|(whom, _)| *whom != index) {
            while answer.load(SeqCst) < number {
                beat(index);
                neighbour(index, phase);
                let age = time_stamp() - start;
                if age > ticks(STALL) {
                    lost(index, phase, whom, age);
                }
                core::hint::spin_loop();
            }
        }
        time_stamp() - start
    }
}

static BOARD: Board = Board::new();
static NMI_BOARD: Board = Board::new();

pub(crate) fn answer(_: &mut Frame) {
    BOARD.answer(here());
    apic::end_of_interrupt();
}

pub(crate) fn answer_nmi(_: &mut Frame) {
    NMI_BOARD.answer(here());
}

fn shoot_down(index: usize, _: &mut u64) -> u64 {
    BOARD.ask(index, "shoot-down", REQUEST.into())
}

fn shoot_down_by_nmi(index: usize, _: &mut u64) -> u64 {
    NMI_BOARD.ask(index, "shoot-down by nmi", command::NMI)
}

/// How often the token has moved; who has it follows from that.
static TOKEN: AtomicU64 = AtomicU64::new(0);
static TOKEN_MOVED: AtomicU64 = AtomicU64::new(0);
static TOKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Nobody may go to sleep after processor 0 has left.
fn token_over(index: usize) {
    if index == 0 {
        TOKEN_OVER.store(true, SeqCst);
        apic::send(0, command::OTHERS | u32::from(TOKEN_WAKE));
    }
}

/// Passes the token to the next processor with an interrupt; the others sleep without any timer. Processor 0 never sleeps,
/// and sees that the token moves.
fn token(index: usize, _: &mut u64) -> u64 {
    let count = processors() as u64;
    let mut took = 0;
    if index == 0 {
        let moved = TOKEN_MOVED.load(SeqCst);
        took = if moved == 0 { 0 } else { time_stamp().saturating_sub(moved) };
        if took > ticks(STALL) {
            lost(index, "token", (TOKEN.load(SeqCst) % count) as usize, took);
        }
        // Everybody is waked up now and then: for the end of the phase, and the watch.
        if TOKEN.load(SeqCst).is_multiple_of(64 * count) {
            apic::send(0, command::OTHERS | u32::from(TOKEN_WAKE));
        }
    } else {
        close();
        let mine = TOKEN.load(SeqCst) % count == index as u64;
        if !mine && !TOKEN_OVER.load(SeqCst) {
            sleep();
        }
        open();
    }
    let now = TOKEN.load(SeqCst);
    if now % count == index as u64 {
        TOKEN_MOVED.store(time_stamp(), SeqCst);
        TOKEN.store(now + 1, SeqCst);
        let to = (now + 1) % count;
        if to != index as u64 {
            apic::send(to as u32, TOKEN_WAKE.into());
        }
    }
    took
}

/// Sleeps until a timer of random length; returns how late it was.
fn timers(_: usize, random: &mut u64) -> u64 {
    let nanos = 20_000 + next(random) % 1_000_000;
    close();
    let start = time_stamp();
    apic::write(reg::INITIAL_COUNT, nanos as u32);
    sleep();
    let took = time_stamp() - start;
    open();
    took.saturating_sub(ticks(nanos / 1000))
}

static TICKET: AtomicUsize = AtomicUsize::new(0);
static SERVED: AtomicUsize = AtomicUsize::new(0);
/// Two halves of one counter, each changed by a load and a store.
static COUNTER: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn lock(index: usize, _: &mut u64) -> u64 {
    let start = time_stamp();
    let mine = TICKET.fetch_add(1, SeqCst);
    while SERVED.load(SeqCst) != mine {
        beat(index);
        neighbour(index, "lock");
        core::hint::spin_loop();
    }
    for half in &COUNTER {
        half.store(half.load(SeqCst) + 1, SeqCst);
    }
    SERVED.store(mine + 1, SeqCst);
    time_stamp() - start
}

/// Whether the lock kept its promise.
pub(crate) fn locks_agree(report: &mut Report, rounds: u64) {
    let [first, second] = COUNTER.each_ref().map(|half| half.load(SeqCst));
    report.check("lock, counted", first == rounds && second == rounds, format_args!("{first}, {second} of {rounds}"));
}
