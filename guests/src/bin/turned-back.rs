// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest sees of time while its host turns the TSC back: RDTSC, which nobody intercepts, goes back once; the PM timer,
//! which is Parados's, stands still meanwhile and never goes back.

#![cfg_attr(target_os = "none", no_std, no_main)]

use guests::guest;
use guests::instructions::time_stamp;
use guests::report::Report;
use guests::time::pm_timer;

guest!(run);

/// So many readings take seconds, and the host strikes after some hundred.
const LIMIT: u32 = 100_000;
/// How long it looks on after the TSC is where it was, in cycles: more than the processor is taken away for.
const AFTERWARDS: u64 = 1 << 29;

fn run(_: u64) -> u32 {
    let mut report = Report::default();
    let (mut latest, mut steps_of_tsc, mut steps_of_timer) = (0, 0, 0);
    let mut last = (time_stamp(), pm_timer());
    let (mut stood, mut after) = (0, 0);
    for _ in 0..LIMIT {
        let now = (time_stamp(), pm_timer());
        let ticks = now.1.wrapping_sub(last.1) & 0xff_ffff;
        // Within half of its range, a step is forward.
        steps_of_timer += u32::from(ticks > 0x7f_ffff);
        if now.0 < last.0 {
            steps_of_tsc += 1;
            latest = last.0;
        } else if now.0 < latest {
            stood += ticks;
        } else if latest != 0 {
            after += ticks;
        }
        if latest != 0 && now.0 > latest + AFTERWARDS {
            break;
        }
        last = now;
    }
    report.check("the tsc was turned back", steps_of_tsc == 1, format_args!("{steps_of_tsc} times"));
    report.check("the pm timer never goes back", steps_of_timer == 0, format_args!("{steps_of_timer} steps back"));
    report.check("and goes on afterwards", after > 0, format_args!("{stood} ticks meanwhile, {after} then"));
    report.finish()
}
