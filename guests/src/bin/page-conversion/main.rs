// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shares pages with the host and takes them back, as `docs/page-conversion.md` says that a guest may: each refusal, each size,
//! and on all processors at once while others convert beside them.
//!
//! The command line's first number is how many seconds the load lasts; 0 says that the guest has no such calls, and then it makes
//! sure of that. A second number says that the host may refuse a conversion: then there is only the load, which asks again. Needs
//! the test devices.

#![cfg_attr(target_os = "none", no_std, no_main)]

mod basics;
mod call;
mod load;

use guests::report::Report;
use guests::{guest, machine, smp};

guest!(run);

/// Where the tests have their pages: 2 MiB-aligned RAM that nothing else uses.
const AREA: u64 = 512 << 20;
const SECONDS: u64 = 3;

fn run(start_info: u64) -> u32 {
    let mut report = Report::default();
    let mut numbers = machine::command_line_numbers(start_info);
    let seconds = numbers.next().unwrap_or(SECONDS);
    let willing = numbers.next().is_none();
    if seconds == 0 {
        call::must_be_absent(&mut report);
        return report.finish();
    }
    let ready = call::announced() && machine::map_has_ram(start_info, AREA + load::BYTES - 1);
    report.check("announced, and memory for it", ready, format_args!("leaf 40000002h: {:x?}", call::leaf()));
    if !ready {
        return report.finish();
    }
    call::map_shared_addresses();
    if willing {
        basics::run(&mut report, start_info);
    }
    match smp::start() {
        Ok(count) => load::run(&mut report, count, seconds),
        Err(count) => report.check("processors started", false, format_args!("only {count}")),
    }
    report.finish()
}
