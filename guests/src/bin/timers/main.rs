// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PC's clocks as a guest sees them: the 8254 and port 61h, the MC146818, the PM timer; how far they drift against each
//! other and the TSC; and that each of them, a UART and a wire end HLT.
//!
//! Rates are held to 0.1 % over the time that they are measured, plus the jitter of one reading, which is the number on the
//! command line, in microseconds; nothing may come early.

#![cfg_attr(target_os = "none", no_std, no_main)]

mod hlt;
mod pit;
mod pm;
mod rtc;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use guests::report::Report;
use guests::wires::ioapic;
use guests::{guest, machine, say, smp, time};

guest!(run);

/// How long something that must come may take, in microseconds.
const PATIENCE: u64 = 3_000_000;
/// What one reading may be off, in microseconds, on a host that others use as well.
static JITTER: AtomicU64 = AtomicU64::new(300);

fn run(start_info: u64) -> u32 {
    if let Some(jitter) = machine::command_line_number(start_info) {
        JITTER.store(jitter, Relaxed);
    }
    let mut report = Report::default();
    if let Err(count) = smp::start() {
        report.check("processors started", false, format_args!("only {count}"));
        return report.finish();
    }
    say!("tsc: {} Hz by the PM timer", time::tsc_hz());
    pm::run(&mut report);
    pit::run(&mut report);
    rtc::run(&mut report);
    hlt::run(&mut report);
    ioapic::mask_all();
    report.finish()
}

fn jitter() -> u64 {
    JITTER.load(Relaxed)
}

/// Whether two spans of microseconds agree within 0.1 % and the jitter.
fn agree(first: u64, second: u64) -> bool {
    first.abs_diff(second) <= second / 1000 + jitter()
}

/// How far `measured` is from `nominal`, in millionths.
fn ppm(measured: u64, nominal: u64) -> i64 {
    (measured as i64 - nominal as i64) * 1_000_000 / (nominal as i64).max(1)
}
