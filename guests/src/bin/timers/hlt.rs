// SPDX-License-Identifier: MIT OR Apache-2.0
//! HLT ends by each source, and in time: no lost wake-up.

use crate::{pit, rtc};
use guests::apic::{self, register as reg};
use guests::instructions::{in_byte, out_byte, sleep, time_stamp};
use guests::interrupts::{me, set_handler};
use guests::report::Report;
use guests::time::micros;
use guests::wires::ioapic::{MASKED, set_entry};
use guests::wires::{HIGH_WIRE, drive};
use guests::{machine, smp, time};

const GUARD: u8 = 0x31;
const WIRE: u8 = 0x59;
const TIMES: u32 = 20;
/// No source takes longer than this; the guard, a timer of the local APIC, ends what does not come.
const LIMIT: u64 = 1_000_000;

/// Sleeps until `vector` comes, `TIMES` times; `prepare` makes it come.
fn sleeps(report: &mut Report, name: &str, vector: u8, mut prepare: impl FnMut()) {
    me().clear();
    let mut worst = 0;
    for round in 1..=TIMES {
        apic::write(reg::LVT_TIMER, GUARD.into());
        apic::write(reg::INITIAL_COUNT, u32::MAX);
        let start = time_stamp();
        prepare();
        while me().count(vector) < round && me().count(GUARD) == 0 {
            sleep();
        }
        worst = worst.max(micros(time_stamp() - start));
    }
    apic::write(reg::INITIAL_COUNT, 0);
    let (came, guard) = (me().count(vector), me().count(GUARD));
    let good = came == TIMES && guard == 0 && worst < LIMIT;
    report.check(name, good, format_args!("{came} came, the longest took {worst} us"));
}

pub(crate) fn run(report: &mut Report) {
    set_entry(2, pit::VECTOR.into());
    sleeps(report, "hlt until the 8254", pit::VECTOR, || pit::set(0, 0, 3_000));
    set_entry(2, MASKED);

    // An edge on a masked entry would be lost, and with it all that follow.
    set_entry(8, rtc::VECTOR.into());
    rtc::read(0x0c);
    rtc::write(0x0b, rtc::read(0x0b) & 0x0f | 0x40);
    sleeps(report, "hlt until the rtc", rtc::VECTOR, || ());
    rtc::write(0x0b, rtc::read(0x0b) & 0x0f);
    rtc::read(0x0c);
    set_entry(8, MASKED);

    set_entry(HIGH_WIRE, WIRE.into());
    sleeps(report, "hlt, an edge that waits", WIRE, || {
        drive(HIGH_WIRE, true);
        drive(HIGH_WIRE, false);
    });
    uart(report);
    if machine::processors() > 1 {
        sleeps(report, "hlt, an edge by another processor", WIRE, || {
            time::wait(LIMIT, || smp::is_idle(1));
            smp::run_on(1, |_| {
                time::delay(1_000);
                drive(HIGH_WIRE, true);
                drive(HIGH_WIRE, false);
            });
        });
        sleeps(report, "hlt, an interrupt by another processor", GUARD + 1, || {
            time::wait(LIMIT, || smp::is_idle(1));
            smp::run_on(1, |_| {
                time::delay(1_000);
                apic::send(0, u32::from(GUARD) + 1);
            });
        });
    } else {
        report.skip("hlt until another processor", "one processor");
    }
    set_entry(HIGH_WIRE, MASKED);
}

/// The UART's transmitter is empty at once, so its interrupt waits already.
fn uart(report: &mut Report) {
    const UART: u8 = 0x5a;
    set_entry(4, UART.into());
    set_handler(
        UART,
        Some(|_| {
            in_byte(0x3fa);
            out_byte(0x3f9, 0);
            apic::end_of_interrupt();
        }),
    );
    let control = in_byte(0x3fc);
    out_byte(0x3fc, control | 8);
    sleeps(report, "hlt until the uart", UART, || out_byte(0x3f9, 2));
    out_byte(0x3fc, control);
    set_handler(UART, None);
    set_entry(4, MASKED);
}
