// SPDX-License-Identifier: MIT OR Apache-2.0
//! The watch that each processor keeps over the next one.

use crate::{STALL, processors};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use guests::instructions::time_stamp;
use guests::interrupts::{MAX_PROCESSORS, cpu};
use guests::{machine, say, time};

static BEATS: [AtomicU64; MAX_PROCESSORS] = [const { AtomicU64::new(0) }; MAX_PROCESSORS];
static ENDING: AtomicBool = AtomicBool::new(false);

/// Says that a processor is alive.
pub(crate) fn beat(index: usize) {
    if let Some(beat) = BEATS.get(index) {
        beat.store(time_stamp(), SeqCst);
    }
}

/// Looks after the next processor.
pub(crate) fn neighbour(index: usize, phase: &str) {
    let next = (index + 1) % processors();
    let Some(beat) = BEATS.get(next).filter(|_| next != index) else { return };
    let last = beat.load(SeqCst);
    let age = time_stamp().saturating_sub(last);
    if age > time::ticks(STALL) {
        lost(index, phase, next, age);
    }
}

/// Ends the run, because `whom` has not moved or answered for so many ticks.
pub(crate) fn lost(index: usize, phase: &str, whom: usize, age: u64) -> ! {
    if ENDING.swap(true, SeqCst) {
        machine::halt_forever();
    }
    let rip = cpu(whom).last_rip.load(SeqCst);
    say!(
        "{phase}: FAIL (cpu {index} waits for cpu {whom} since {} us, last interrupted at {rip:#x})",
        time::micros(age)
    );
    for index in 0..processors() {
        let age = BEATS.get(index).map_or(0, |beat| time_stamp().saturating_sub(beat.load(SeqCst)));
        say!("cpu {index}: {} interrupts, moved {} us ago", cpu(index).total(), time::micros(age));
    }
    machine::exit(1)
}
