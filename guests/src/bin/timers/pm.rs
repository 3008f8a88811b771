// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ACPI PM timer and the TSC (ACPI 6.5, 4.8.3.3).

use crate::{agree, ppm};
use core::arch::x86_64::__cpuid;
use guests::instructions::{in_byte, time_stamp};
use guests::report::Report;
use guests::time::{PM_TIMER, PM_TIMER_HZ, bracketed, delay, micros, pm_timer, tsc_hz};

pub(crate) fn run(report: &mut Report) {
    let mut last = (time_stamp(), pm_timer());
    let mut backwards = 0;
    for _ in 0..3_000 {
        let now = (time_stamp(), pm_timer());
        // Within half of its range, a step is forward.
        if now.1.wrapping_sub(last.1) & 0xff_ffff > 0x7f_ffff || now.0 <= last.0 {
            backwards += 1;
        }
        last = now;
    }
    report.check("pm timer and tsc are monotonic", backwards == 0, format_args!("{backwards} steps back"));
    let lanes: [u8; 3] = core::array::from_fn(|lane| in_byte(PM_TIMER + lane as u16));
    let whole = pm_timer();
    let [_, _, high] = lanes;
    let close = (whole >> 16 & 0xff).wrapping_sub(high.into()) & 0xff <= 1;
    report.check("pm timer by bytes", close, format_args!("{high:#x} of {whole:#x}"));

    let (start, first) = bracketed(pm_timer);
    delay(1_000_000);
    let (end, second) = bracketed(pm_timer);
    let by_timer = u64::from(second.wrapping_sub(first) & 0xff_ffff) * 1_000_000 / PM_TIMER_HZ;
    let by_tsc = micros(end - start);
    report.check(
        "pm timer against tsc",
        agree(by_timer, by_tsc),
        format_args!("{by_timer} us, {by_tsc} us, {} ppm", ppm(by_timer, by_tsc)),
    );
    told(report);
}

/// What CPUID says of the TSC, against what was measured.
fn told(report: &mut Report) {
    let measured = tsc_hz();
    if __cpuid(0).eax >= 0x15 {
        let leaf = __cpuid(0x15);
        let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax).max(1);
        let good = hz == 0 || hz.abs_diff(measured) * 1000 < measured;
        report.check("tsc by cpuid 15h", good, format_args!("{hz} Hz of {measured}, {} ppm", ppm(hz, measured)));
    } else {
        report.skip("tsc by cpuid 15h", "there is none");
    }
    if __cpuid(1).ecx & 1 << 31 != 0 && __cpuid(0x4000_0000).eax >= 0x4000_0010 {
        let hz = u64::from(__cpuid(0x4000_0010).eax) * 1000;
        let good = hz.abs_diff(measured) * 1000 < measured;
        report.check("tsc by cpuid 40000010h", good, format_args!("{hz} Hz of {measured}, {} ppm", ppm(hz, measured)));
    } else {
        report.skip("tsc by cpuid 40000010h", "there is none");
    }
}
