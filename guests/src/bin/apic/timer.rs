// SPDX-License-Identifier: MIT OR Apache-2.0
//! The local APIC's timer: one-shot, periodic, TSC-deadline.

use crate::PATIENCE;
use core::arch::x86_64::__cpuid;
use guests::apic::{self, register as reg};
use guests::instructions::{close, open, read_msr, sleep, time_stamp, write_msr};
use guests::interrupts::me;
use guests::report::Report;
use guests::time::{delay, micros, ticks, wait};

const VECTOR: u8 = 0x71;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 2 << 17;
const TSC_DEADLINE: u32 = 0x6e0;
const BY_1: u32 = 0b1011;
const BY_16: u32 = 0b0011;

pub(crate) fn run(report: &mut Report) {
    apic::write(reg::DIVIDE, BY_1);
    let hz = frequency(report);
    one_shot(report, hz);
    halted(report, hz);
    divider(report, hz);
    masked(report, hz);
    periodic(report, hz);
    keeps_counting(report, hz);
    if __cpuid(1).ecx & 1 << 24 != 0 {
        deadline(report);
    } else {
        report.skip("tsc deadline", "the processor has none");
    }
    apic::write(reg::LVT_TIMER, MASKED);
}

fn frequency(report: &mut Report) -> u64 {
    apic::write(reg::LVT_TIMER, MASKED);
    apic::write(reg::INITIAL_COUNT, u32::MAX);
    let sample = || guests::time::bracketed(|| apic::read(reg::CURRENT_COUNT));
    let (start, first) = sample();
    delay(50_000);
    let (end, last) = sample();
    apic::write(reg::INITIAL_COUNT, 0);
    let hz = u64::from(first.wrapping_sub(last)) * 1_000_000 / micros(end - start).max(1);
    let (leaf, told) = (__cpuid(0).eax >= 0x15, __cpuid(0x15).ecx);
    let good = first > last && (!leaf || told == 0 || u64::from(told).abs_diff(hz) * 200 < hz);
    report.check("timer frequency", good, format_args!("{hz} Hz, CPUID 15h says {told}"));
    let stopped = apic::read(reg::CURRENT_COUNT);
    report.check("count after zero is written", stopped == 0, stopped);
    hz.max(1)
}

fn count(hz: u64, micros: u64) -> u32 {
    (hz * micros / 1_000_000) as u32
}

fn one_shot(report: &mut Report, hz: u64) {
    let this = me();
    for time in [1_000, 20_000] {
        this.clear();
        open();
        apic::write(reg::LVT_TIMER, VECTOR.into());
        let start = time_stamp();
        apic::write(reg::INITIAL_COUNT, count(hz, time));
        let came = wait(PATIENCE, || this.total() > 0);
        let took = micros(time_stamp() - start);
        delay(2 * time);
        close();
        let rest = apic::read(reg::CURRENT_COUNT);
        // The frequency was measured: 0.1 % and 20 µs for that.
        let good = came && this.came(&[VECTOR]) && took + 20 + time / 1000 >= time && rest == 0;
        report.check("one-shot", good, format_args!("{time} us took {took}, {} came, count {rest}", this.total()));
    }
}

fn halted(report: &mut Report, hz: u64) {
    let this = me();
    this.clear();
    let start = time_stamp();
    for _ in 0..10 {
        apic::write(reg::INITIAL_COUNT, count(hz, 2_000));
        sleep();
    }
    let took = micros(time_stamp() - start);
    report.check(
        "hlt until the timer",
        this.count(VECTOR) == 10 && took > 19_000,
        format_args!("10 times 2 ms took {took} us"),
    );
}

fn divider(report: &mut Report, hz: u64) {
    let this = me();
    this.clear();
    apic::write(reg::DIVIDE, BY_16);
    let read = apic::read(reg::DIVIDE);
    let start = time_stamp();
    apic::write(reg::INITIAL_COUNT, count(hz, 1_000));
    open();
    let came = wait(PATIENCE, || this.total() > 0);
    close();
    let took = micros(time_stamp() - start);
    apic::write(reg::DIVIDE, BY_1);
    let good = came && took >= 15_900 && read == BY_16;
    report.check("divided by 16", good, format_args!("1 ms took {took} us"));
}

fn masked(report: &mut Report, hz: u64) {
    let this = me();
    this.clear();
    open();
    apic::write(reg::LVT_TIMER, MASKED | u32::from(VECTOR));
    apic::write(reg::INITIAL_COUNT, count(hz, 1_000));
    delay(5_000);
    apic::write(reg::LVT_TIMER, VECTOR.into());
    delay(2_000);
    close();
    report.check("masked", this.total() == 0 && apic::read(reg::CURRENT_COUNT) == 0, this.total());
}

fn periodic(report: &mut Report, hz: u64) {
    const PERIOD: u64 = 5_000;
    const COUNT: u32 = 20;
    let this = me();
    this.clear();
    open();
    apic::write(reg::LVT_TIMER, PERIODIC | u32::from(VECTOR));
    let start = time_stamp();
    apic::write(reg::INITIAL_COUNT, count(hz, PERIOD));
    let came = wait(PATIENCE, || this.count(VECTOR) >= COUNT);
    let took = micros(time_stamp() - start);
    let within = apic::read(reg::CURRENT_COUNT) <= count(hz, PERIOD);
    apic::write(reg::INITIAL_COUNT, 0);
    let stopped_at = this.count(VECTOR);
    delay(3 * PERIOD);
    close();
    let nominal = PERIOD * u64::from(COUNT);
    // Ticks may merge on a busy host, but none comes early.
    let good = came && within && took + nominal / 500 + 50 >= nominal;
    report.check("periodic", good, format_args!("{COUNT} of {PERIOD} us took {took} us"));
    report.check("periodic, stopped", this.count(VECTOR) <= stopped_at + 1, this.count(VECTOR) - stopped_at);
}

/// kvm-unit-tests' `apic` asks the same of a period of 10 ms, in which a machine must have written a line to its console.
fn keeps_counting(report: &mut Report, hz: u64) {
    apic::write(reg::DIVIDE, BY_16);
    let sample = || guests::time::bracketed(|| apic::read(reg::CURRENT_COUNT));
    for (name, from, to) in [("one-shot to periodic", 0, PERIODIC), ("periodic to one-shot", PERIODIC, 0)] {
        apic::write(reg::LVT_TIMER, MASKED | from);
        // More than a minute.
        apic::write(reg::INITIAL_COUNT, u32::MAX);
        delay(20_000);
        let (start, first) = sample();
        apic::write(reg::LVT_TIMER, MASKED | to);
        let (end, last) = sample();
        let counted = u64::from(first.wrapping_sub(last));
        let due = micros(end - start) * hz / 16_000_000;
        // Readings may be as far off as they take, some 200 us on a busy host.
        let good = counted.abs_diff(due) < hz / 16 / 500 && u32::MAX - first > count(hz / 16, 15_000);
        report.check(name, good, format_args!("counted on by {counted}, {due} were due"));
    }
    apic::write(reg::INITIAL_COUNT, 0);
    apic::write(reg::DIVIDE, BY_1);
}

fn deadline(report: &mut Report) {
    let this = me();
    write_msr(TSC_DEADLINE, time_stamp() + ticks(1_000));
    report.check("deadline in another mode", read_msr(TSC_DEADLINE) == 0, read_msr(TSC_DEADLINE));
    apic::write(reg::LVT_TIMER, DEADLINE | u32::from(VECTOR));
    for time in [0, 100, 1_000, 20_000] {
        this.clear();
        let target = time_stamp() + ticks(time);
        open();
        write_msr(TSC_DEADLINE, target);
        let came = wait(PATIENCE, || this.total() > 0);
        let end = time_stamp();
        close();
        let good = came && end >= target && this.came(&[VECTOR]) && read_msr(TSC_DEADLINE) == 0;
        report.check("tsc deadline", good, format_args!("{time} us: {} us late", micros(end - target)));
    }
    this.clear();
    for _ in 0..50 {
        write_msr(TSC_DEADLINE, time_stamp() + ticks(200));
        sleep();
    }
    report.check("hlt until the deadline", this.count(VECTOR) == 50, this.count(VECTOR));
    // Far enough for the host to keep this processor waiting before it disarms.
    const FAR: u64 = 250_000;
    this.clear();
    write_msr(TSC_DEADLINE, time_stamp() + ticks(FAR));
    apic::write(reg::INITIAL_COUNT, 1000);
    let ignored = apic::read(reg::CURRENT_COUNT) == 0;
    report.check("count in deadline mode", ignored, "ignored");
    write_msr(TSC_DEADLINE, 0);
    open();
    delay(FAR + 50_000);
    report.check("deadline disarmed", this.total() == 0, this.total());
    write_msr(TSC_DEADLINE, time_stamp() + ticks(FAR));
    apic::write(reg::LVT_TIMER, VECTOR.into());
    delay(FAR + 50_000);
    close();
    report.check("mode change disarms", this.total() == 0, this.total());
}
