// SPDX-License-Identifier: MIT OR Apache-2.0
//! The IOAPIC and the 8259s, as a guest sees them, with wires that it drives itself through the test ports (2000h–2017h):
//! edges, levels, masks, destinations, remote IRR, ExtINT, priorities, and spurious interrupts.
//!
//! What is expected is in the data sheets of the 82093AA and the 8259A and in SDM vol. 3A, 11.6.

#![cfg_attr(target_os = "none", no_std, no_main)]

mod ioapic_tests;
mod pic_tests;

use guests::report::Report;
use guests::{guest, smp};

guest!(run);

/// How long something that must come may take, in microseconds.
const PATIENCE: u64 = 2_000_000;

fn run(_: u64) -> u32 {
    let mut report = Report::default();
    let processors = match smp::start() {
        Ok(count) => count,
        Err(count) => {
            report.check("processors started", false, format_args!("only {count}"));
            return report.finish();
        }
    };
    ioapic_tests::run(&mut report, processors);
    pic_tests::run(&mut report);
    report.finish()
}
