// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures what accepting memory costs: time-stamp cycles for the first touch of 2 MiB, and for a bare `rep stosq` over the same
//! 2 MiB afterwards, in the same run.
//!
//! Prints a JSON line for each, with the averages of some batches, and then ends the run. Where memory needs no accepting, the first
//! touch costs nothing. With a number in its command line it does less: 0 nothing, 1 touches only, so that who counts the cycles of
//! a whole run can tell what each adds.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::arch::asm;
use core::fmt::Write;
use guests::instructions::time_stamp;
use guests::serial::Serial;
use guests::{guest, machine};

/// Memory that nobody has touched: 512 MiB and up.
const START: u64 = 512 << 20;
const LARGE: u64 = 2 << 20;
/// Stretches of 2 MiB in a batch, and batches.
const STRETCHES: u64 = 16;
const BATCHES: usize = 12;

guest!(run);

fn run(start_info: u64) -> u32 {
    if !machine::map_has_ram(start_info, START + BATCHES as u64 * STRETCHES * LARGE - 1) {
        return 1;
    }
    let most = machine::command_line_number(start_info).unwrap_or(2);
    let mut stored = [0; BATCHES];
    let touched: [u64; BATCHES] = core::array::from_fn(|batch| {
        let first = START + batch as u64 * STRETCHES * LARGE;
        let begun = time_stamp();
        if most > 0 {
            (0..STRETCHES).for_each(|stretch| touch(first + stretch * LARGE));
        }
        let between = time_stamp();
        if most > 1 {
            // The first time for who maps it, the second time is measured.
            fill(first, STRETCHES * LARGE);
            let again = time_stamp();
            fill(first, STRETCHES * LARGE);
            if let Some(slot) = stored.get_mut(batch) {
                *slot = (time_stamp() - again) / STRETCHES;
            }
        }
        (between - begun) / STRETCHES
    });
    for (kind, cycles) in [("accept", touched), ("stosq", stored)] {
        // The port cannot fail.
        let _ = writeln!(Serial, "{{\"kind\":\"{kind}\",\"cycles\":{cycles:?},\"n\":{STRETCHES}}}");
    }
    0
}

fn touch(address: u64) {
    // SAFETY: RAM that nothing else uses, mapped one to one.
    unsafe { asm!("mov qword ptr [{}], 1", in(reg) address, options(nostack, preserves_flags)) };
}

fn fill(address: u64, bytes: u64) {
    // SAFETY: as in `touch`; the direction flag is clear.
    unsafe {
        asm!("rep stosq", inout("rcx") bytes / 8 => _, inout("rdi") address => _, in("rax") 0u64, options(nostack, preserves_flags));
    }
}
