// SPDX-License-Identifier: MIT OR Apache-2.0
//! Goes across every border of the memory map, and into the paravisor's own memory by every way that a guest has: loads,
//! stores, strings, port strings, code, page tables. Where there is no memory, ones are read and writes go
//! nowhere; never may a byte of the paravisor be seen or changed.
//!
//! Needs the test devices. On bare QEMU absent memory reads as zeros, and 128 MiB is the guest's: there it says nothing.

#![cfg_attr(target_os = "none", no_std, no_main)]

mod accesses;
mod borders;
mod tables;

use guests::report::Report;
use guests::{guest, instructions, machine};

guest!(run);

/// Where the paravisor has its memory, if it is reserved in the guest's map.
const PARAVISOR: u64 = 128 << 20;
/// What absent memory reads as.
const ABSENT: u64 = u64::MAX;

fn run(start_info: u64) -> u32 {
    let mut report = Report::default();
    let region = machine::memory_map(start_info).find(|entry| entry.kind != 1 && entry.start == PARAVISOR);
    let Some(region) = region else {
        report.skip("everything", "128 MiB is the guest's own RAM here");
        return report.finish();
    };
    // CR4.OSFXSR, for SSE accesses.
    instructions::write_cr0(instructions::read_cr0() & !0xc | 2);
    instructions::write_cr4(instructions::read_cr4() | 1 << 9);
    let end = region.start + region.bytes;
    report.check("region", end.is_multiple_of(2 << 20), format_args!("{:#x} to {end:#x}", region.start));
    accesses::sweep(&mut report, region.start, end);
    accesses::kinds(&mut report, region.start);
    borders::run(&mut report, start_info, region.start, end);
    accesses::code(&mut report, region.start);
    tables::run(&mut report, region.start);
    accesses::sweep(&mut report, region.start, end);
    report.finish()
}
