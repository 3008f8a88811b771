// SPDX-License-Identifier: MIT OR Apache-2.0
//! The 8254 (data sheet 231164) and port 61h.

use crate::{PATIENCE, agree, jitter, ppm};
use guests::apic;
use guests::instructions::{close, in_byte, open, out_byte, time_stamp};
use guests::interrupts::me;
use guests::report::Report;
use guests::time::{bracketed, delay, micros, wait};
use guests::wires::ioapic::{MASKED, set_entry};

pub(crate) const VECTOR: u8 = 0x50;
/// Where the MADT says that IRQ 0 goes.
const PIN: u8 = 2;
const HZ: u64 = 1_193_182;
const COMMAND: u16 = 0x43;
const CONTROL: u16 = 0x61;
const OUT: u8 = 0x20;

/// Sets a channel to a mode and a count.
pub(crate) fn set(channel: u8, mode: u8, count: u16) {
    out_byte(COMMAND, channel << 6 | 0x30 | mode << 1);
    for byte in count.to_le_bytes() {
        out_byte(0x40 + u16::from(channel), byte);
    }
}

/// Latches and reads a channel's count.
fn count(channel: u8) -> u16 {
    out_byte(COMMAND, channel << 6);
    let port = 0x40 + u16::from(channel);
    u16::from_le_bytes([in_byte(port), in_byte(port)])
}

fn ticks(micros: u64) -> u16 {
    (micros * HZ / 1_000_000) as u16
}

pub(crate) fn run(report: &mut Report) {
    set_entry(PIN, VECTOR.into());
    once(report);
    periodic(report);
    read_back(report);
    gate(report);
    one_shot_by_gate(report);
    refresh(report);
    drift(report);
    set_entry(PIN, MASKED);
}

fn once(report: &mut Report) {
    me().clear();
    open();
    let start = time_stamp();
    set(0, 0, ticks(20_000));
    let came = wait(PATIENCE, || me().count(VECTOR) > 0);
    let took = micros(time_stamp() - start);
    delay(100_000);
    close();
    let count = me().count(VECTOR);
    let good = came && count == 1 && took + 20 >= 20_000;
    report.check("8254, mode 0", good, format_args!("20000 us took {took}, {count} came"));
}

fn periodic(report: &mut Report) {
    for mode in [2, 3] {
        // The mode alone raises OUT, which is an edge if it was low.
        set(0, mode, 0);
        apic::take_pending();
        me().clear();
        open();
        let start = time_stamp();
        set(0, mode, ticks(10_000));
        let came = wait(PATIENCE, || me().count(VECTOR) >= 50);
        let took = micros(time_stamp() - start);
        close();
        set(0, 0, 0);
        apic::take_pending();
        // Ticks that come late merge, so it may take longer; never shorter.
        let good = came && took + jitter() >= 500_000 - 500;
        report.check("8254, modes 2 and 3", good, format_args!("mode {mode}: 50 of 10000 us took {took} us"));
    }
}

fn read_back(report: &mut Report) {
    set(0, 2, 50_000);
    out_byte(COMMAND, 0xc2);
    let status = in_byte(0x40);
    let first = u16::from_le_bytes([in_byte(0x40), in_byte(0x40)]);
    report.check("8254, read-back of status", status & 0x3f == 0x34, format_args!("{status:#x}"));
    delay(1_000);
    out_byte(COMMAND, 0x00);
    delay(1_000);
    let latched = u16::from_le_bytes([in_byte(0x40), in_byte(0x40)]);
    let passed = first.wrapping_sub(latched);
    let good = first <= 50_000 && latched < first && passed >= ticks(990);
    report.check("8254, latched count", good, format_args!("{first}, then {latched}"));
}

/// Channel 2 counts while port 61h opens its gate.
fn gate(report: &mut Report) {
    let control = in_byte(CONTROL) & 0xc;
    out_byte(CONTROL, control);
    set(2, 0, ticks(20_000));
    let before = count(2);
    delay(2_000);
    let stopped = count(2) == before;
    let low = in_byte(CONTROL) & OUT == 0;
    let start = time_stamp();
    out_byte(CONTROL, control | 1);
    let came = wait(PATIENCE, || in_byte(CONTROL) & OUT != 0);
    let took = micros(time_stamp() - start);
    let good = stopped && low && came && took + 20 >= 20_000;
    report.check("8254, channel 2 and its gate", good, format_args!("stopped {stopped}, low {low}, took {took} us"));
}

/// Mode 1: a rising gate starts, and starts over.
fn one_shot_by_gate(report: &mut Report) {
    out_byte(CONTROL, 0);
    set(2, 1, ticks(20_000));
    let idle = in_byte(CONTROL) & OUT != 0;
    out_byte(CONTROL, 1);
    delay(200);
    let running = in_byte(CONTROL) & OUT == 0;
    delay(10_000);
    out_byte(CONTROL, 0);
    let start = time_stamp();
    out_byte(CONTROL, 1);
    let came = wait(PATIENCE, || in_byte(CONTROL) & OUT != 0);
    let took = micros(time_stamp() - start);
    out_byte(CONTROL, 0);
    let good = idle && running && came && took + 20 >= 20_000;
    report.check("8254, mode 1", good, format_args!("high {idle}, low {running}, started over took {took} us"));
}

fn refresh(report: &mut Report) {
    let first = in_byte(CONTROL) & 0x10;
    let toggles = wait(10_000, || in_byte(CONTROL) & 0x10 != first);
    report.check("port 61h, refresh", toggles, toggles);
}

/// Counts whole turns of channel 0 by its count alone, for a second.
fn drift(report: &mut Report) {
    set(0, 2, 0);
    delay(1_000);
    let (start, mut last) = bracketed(|| count(0));
    let mut passed = 0;
    let (mut end, mut now) = (start, last);
    while micros(end - start) < 1_000_000 {
        (end, now) = bracketed(|| count(0));
        passed += u64::from(last.wrapping_sub(now));
        last = now;
    }
    let (by_timer, by_tsc) = (passed * 1_000_000 / HZ, micros(end - start));
    let good = agree(by_timer, by_tsc);
    let ppm = ppm(by_timer, by_tsc);
    report.check("8254 against tsc", good, format_args!("{by_timer} us, {by_tsc} us, {ppm} ppm, count {now}"));
    set(0, 0, 0);
}
