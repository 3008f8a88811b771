// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes Parados panic, by the test device that is there for it; before, it does something odd that a log at level debug
//! notes.
//!
//! With a number in the command line, another processor powers the machine off so many microseconds later.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use guests::instructions::{in_byte, out_byte};
use guests::{machine, smp, time};

guests::guest!(run);

/// A port where nothing is.
const NOWHERE: u16 = 0x1234;
const CRASH_PORT: u16 = 0xf8;

/// After how many microseconds the other processor powers off.
static DELAY: AtomicU64 = AtomicU64::new(0);

fn run(start_info: u64) -> u32 {
    guests::say!("crash: nowhere reads {:#x}", in_byte(NOWHERE));
    if let Some(delay) = machine::command_line_number(start_info) {
        DELAY.store(delay, SeqCst);
        if smp::start() != Ok(2) {
            guests::say!("crash: this wants two processors");
            return 1;
        }
        smp::run_on(1, power_off);
    }
    for (port, byte) in (CRASH_PORT..).zip(*b"DIE!") {
        out_byte(port, byte);
    }
    guests::say!("crash: still here");
    1
}

fn power_off(_: usize) {
    time::delay(DELAY.load(SeqCst));
    machine::power_off()
}
