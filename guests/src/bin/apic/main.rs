// SPDX-License-Identifier: MIT OR Apache-2.0
//! The local APIC, as a guest sees it, in xAPIC and in x2APIC mode: interrupts to oneself and to others, priorities, masks,
//! errors, the timer, NMIs, interrupt shadows, and the ways between the modes.
//!
//! What is expected is in SDM vol. 3A, chapters 7 and 11. What a processor model lacks is skipped. The APIC of QEMU 7.2 itself
//! does not pass: there the guest ends early.

#![cfg_attr(target_os = "none", no_std, no_main)]

mod faults;
mod local;
mod nmi;
mod others;
mod shadow;
mod timer;

use core::arch::x86_64::__cpuid;
use guests::report::Report;
use guests::{apic, guest, smp};

guest!(run);

/// How long something that must come may take, in microseconds. The emulator's threads share the host with others.
const PATIENCE: u64 = 2_000_000;

fn run(_: u64) -> u32 {
    let mut report = Report::default();
    let processors = match smp::start() {
        Ok(count) => {
            report.check("processors started", true, count);
            count
        }
        Err(count) => {
            report.check("processors started", false, format_args!("only {count}"));
            return report.finish();
        }
    };
    others::start_up(&mut report, processors);
    suite(&mut report, "xapic", processors);
    if __cpuid(1).ecx & 1 << 21 != 0 {
        faults::xapic(&mut report);
        for index in 1..processors {
            smp::call(index, |_| apic::enter_x2apic(), PATIENCE);
        }
        apic::enter_x2apic();
        suite(&mut report, "x2apic", processors);
        faults::x2apic(&mut report);
        others::keeps_mode_over_init(&mut report, processors);
        for index in 1..processors {
            smp::call(index, |_| apic::enter_xapic(), PATIENCE);
        }
        faults::transitions(&mut report);
    } else {
        report.skip("x2apic", "the processor has none");
    }
    faults::disabled(&mut report);
    report.finish()
}

fn suite(report: &mut Report, mode: &str, processors: usize) {
    guests::say!("--- {mode}");
    local::run(report);
    timer::run(report);
    nmi::run(report);
    shadow::run(report);
    others::run(report, processors);
}
