// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that means harm, from a stream of numbers that a seed fixes: garbage to every port, MSR and device register,
//! random bytes executed at every privilege in every mode, absurd tables, floods of interrupts, accesses across every
//! border.
//!
//! vCPU 0 is the **warden**: it keeps interrupts off, hands out jobs, watches, and starts the others again by INIT when they
//! no longer move. vCPUs 1 and 2 are the **victims**. What is random is what they do; when their interrupts come is not, for
//! several processors run at once.
//!
//! Started by `cargo xtask test hostile` with six numbers: the first seed, how many seeds, the part of the first seed to
//! begin with (a run that ended early goes on with the next part), how to end the VM, how many exits the first seed made
//! in earlier VMs, and the least count that timers are given (`floods`; 0: as fast as they go). A seed has 16 parts, and further ones until it made 10,000 exits. Text goes out as marked lines, see
//! `console`; when all is done, the guest waits for the power button.

#![cfg_attr(target_os = "none", no_std, no_main)]

mod area;
mod canary;
mod code;
mod console;
mod foreign;
mod handler;
mod note;
mod plan;
mod probes;
mod random;
mod start;
mod tables;
mod victim;

use core::sync::atomic::Ordering::SeqCst;

use area::{Area, VICTIMS, area, state};
use foreign::Prepared;
use guests::coverage::{Deed, Point};
use guests::instructions::{in_word, out_byte, out_word, read_cr3, time_stamp};
use guests::{guest, interrupts, machine, smp, time};
use note::{note, note_deed};
use plan::{Ending, Job, MOST_PARTS, PARTS};
use probes::floods;
use random::Random;
use start::{REAL_BEAT, REAL_STATE, Start, peek};

guest!(run);

/// Exits that each seed makes at least.
const EXITS: u64 = 10_000;
/// PM1 status, and the power button in it.
const PM1_STATUS: u16 = 0x600;
const POWER_BUTTON: u16 = 1 << 8;

fn run(start_info: u64) -> u32 {
    interrupts::take_over(0);
    smp::mask_8259s();
    guests::apic::enable();
    console::initialise(time::ticks(20_000));
    let [first, count, part, ending, exits, slowness] = arguments(start_info);
    floods::SLOWNESS.store(slowness as u32, SeqCst);
    tell!("begin {first} {count} {part}");
    let mut before = (part, exits);
    for seed in first..first + count.max(1) {
        one_seed(seed, before, start_info);
        before = (0, 0);
    }
    (0..VICTIMS).for_each(start::park);
    scan(start_info);
    cover();
    out_word(PM1_STATUS, POWER_BUTTON);
    while in_word(PM1_STATUS) & POWER_BUTTON == 0 {
        tell!("done");
        time::wait(500_000, || in_word(PM1_STATUS) & POWER_BUTTON != 0);
    }
    end(Ending::of(ending))
}

/// The numbers of the command line.
fn arguments(start_info: u64) -> [u64; 6] {
    let mut index = 0;
    [(); 6].map(|()| {
        let number = machine::command_line_numbers(start_info).nth(index).unwrap_or(0);
        index += 1;
        number
    })
}

/// What a victim is about, as the warden sees it.
struct Watch {
    victim: usize,
    prepared: Option<Prepared>,
    beat: u32,
    /// When it last moved, and when it was last poked.
    moved: u64,
    poked: u64,
    begun: u64,
    over: bool,
}

/// A seed from a part on, with the exits that its earlier parts made.
fn one_seed(seed: u64, (from, before): (u64, u64), start_info: u64) {
    let (mut exits, mut stuck) = (before, 0);
    for part in from..MOST_PARTS {
        if part >= PARTS && exits >= EXITS {
            break;
        }
        let kinds: [u64; VICTIMS] = core::array::from_fn(|victim| Job::of(seed, part, victim as u64));
        tell!("part {seed} {part} {:?}", kinds.map(Job::at));
        (0..VICTIMS).for_each(|victim| area(victim).words.exits.store(0, SeqCst));
        let boot = read_cr3();
        let mut watches = [0, 1].map(|victim| launch(seed, part, victim, boot));
        while !watches.iter().all(|watch| watch.over) {
            watches.iter_mut().filter(|watch| !watch.over).for_each(|watch| stuck += watch.look(seed, part));
            core::hint::spin_loop();
        }
        leaks(seed, part);
        let counting = kinds.iter().enumerate().filter(|(_, kind)| Job::at(**kind).counts());
        let made: u64 = counting.map(|(victim, _)| area(victim).words.exits.load(SeqCst)).sum();
        tell!("made {seed} {part} {made}");
        exits += made;
    }
    region(seed, start_info);
    cover();
    tell!("seed {seed} stuck {stuck}");
}

fn launch(seed: u64, part: u64, victim: usize, boot: u64) -> Watch {
    let area = area(victim);
    start::park(victim);
    let index = Job::of(seed, part, victim as u64);
    let mut random = Random::new(seed, part, victim as u64 + 1000);
    let words = &area.words;
    for (slot, value) in [(&words.seed, seed), (&words.part, part), (&words.job, index), (&words.recovery, 0)] {
        slot.store(value, SeqCst);
    }
    for slot in [&words.armed, &words.fault, &words.vector, &words.beat] {
        slot.store(0, SeqCst);
    }
    // The victim must be in its wait before its tables change under it.
    time::delay(50);
    tables::build_descriptors(area, &mut random);
    let prepared = match Job::at(index) {
        Job::Tasks => Some(foreign::prepare_tasks(area, &mut random, false)),
        Job::Virtual => Some(foreign::prepare_tasks(area, &mut random, true)),
        Job::Real => Some(foreign::prepare_real(area, &mut random)),
        _ => {
            tables::build_gates(area, 0, &mut random);
            None
        }
    };
    let (how, cr3, cr4) = prepared.as_ref().map_or((Start::Long, 0, 0), |made| (made.start, made.cr3, made.cr4));
    start::start(victim, how, cr3, cr4, boot);
    note_deed(Deed::Startup);
    let now = time_stamp();
    Watch { victim, prepared, beat: 0, moved: now, poked: now, begun: now, over: false }
}

/// Microseconds without a beat after which a victim gets an NMI, and after which it is given up.
const NUDGE: u64 = 2_000;
const LIMIT: u64 = 40_000;
/// Microseconds that a job may take.
const JOB_LIMIT: u64 = 1_500_000;

impl Watch {
    /// Looks after a victim; 1 if it stood still for good.
    fn look(&mut self, seed: u64, part: u64) -> u64 {
        let area = area(self.victim);
        let real = matches!(&self.prepared, Some(made) if made.start == Start::Real);
        let beat = if real { peek(area.real() + REAL_BEAT) } else { area.words.beat.load(SeqCst) };
        let at = if real { peek::<u16>(area.real() + REAL_STATE).into() } else { area.words.state.load(SeqCst) };
        let now = time_stamp();
        if beat != self.beat {
            (self.beat, self.moved, self.poked) = (beat, now, now);
        }
        let still = now.saturating_sub(self.moved);
        let late = now.saturating_sub(self.begun) > time::ticks(JOB_LIMIT);
        if at == state::DONE {
            self.finish(area);
            return 0;
        }
        if at == state::LOST {
            let [vector, error, rip] =
                [0, 1, 2].map(|index| area.words.lost.get(index).map_or(0, |word| word.load(SeqCst)));
            tell!("lost {seed} {part} victim {}: vector {vector}, error {error:#x}, rip {rip:#x}", self.victim);
            self.finish(area);
            return 0;
        }
        if still > time::ticks(LIMIT) || late {
            start::park(self.victim);
            self.finish(area);
            note_deed(Deed::Stuck);
            return 1;
        }
        let listens = real || area.takes_nmis();
        if listens && still > time::ticks(NUDGE) && now.saturating_sub(self.poked) > time::ticks(NUDGE) {
            guests::apic::send(self.victim as u32 + 1, guests::apic::command::NMI);
            self.poked = now;
        }
        0
    }

    fn finish(&mut self, area: &Area) {
        self.over = true;
        if let Some(prepared) = &self.prepared {
            prepared.note(area);
        }
    }
}

/// What victims saw in their registers.
fn leaks(seed: u64, part: u64) {
    for victim in 0..VICTIMS {
        let value = area(victim).words.leak.swap(0, SeqCst);
        // The word lies where a victim that lost its way may write.
        if canary::is_word(value) {
            tell!("LEAK {seed} {part} a canary in a register of victim {victim}: {value:#x}");
        }
    }
}

/// All memory.
fn scan(start_info: u64) {
    if let Some((at, value)) = canary::scan(start_info) {
        tell!("LEAK {value:#x} at {at:#x}");
    }
    note_deed(Deed::Scan);
}

/// The paravisor's region alone, which must read as ones.
fn region(seed: u64, start_info: u64) {
    if let Some((at, value)) = canary::scan_region(start_info) {
        tell!("LEAK {seed} {value:#x} at {at:#x}");
    }
}

/// All points so far.
fn cover() {
    struct Hex;
    impl core::fmt::Display for Hex {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            note::words().try_for_each(|word| write!(f, "{word:08x}"))
        }
    }
    tell!("cover {Hex}");
}

/// The end that was asked for; `xtask` knows which.
fn end(ending: Ending) -> ! {
    let write = |port, value| {
        note(Point::port(port, true));
        value
    };
    match ending {
        Ending::PowerOff => machine::power_off(),
        Ending::ResetControl => machine::reset(),
        Ending::SystemControl => out_byte(0x92, write(0x92, 3)),
        Ending::Keyboard => out_byte(0x64, write(0x64, 0xfe)),
        Ending::TestExit => {
            for port in 0xf4..=0xf7 {
                write(port, 0);
            }
            cover();
            machine::exit(0x33);
        }
        Ending::TripleFault => {
            guests::exceptions::forget();
            // SAFETY: meant to crash.
            unsafe { core::arch::asm!("ud2") };
        }
        Ending::Init => guests::apic::send(0, guests::apic::command::INIT | guests::apic::command::LEVEL),
    }
    machine::halt_forever()
}
