// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MC146818A: time, and its three interrupts on IRQ 8. Flags are cleared before their interrupt is enabled: one that is
//! set already interrupts at once.

use crate::{PATIENCE, agree, jitter, ppm};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
use guests::apic;
use guests::instructions::{close, in_byte, open, out_byte, time_stamp};
use guests::interrupts::{me, set_handler};
use guests::report::Report;
use guests::time::{delay, micros, wait};
use guests::wires::ioapic::{MASKED, set_entry};

pub(crate) const VECTOR: u8 = 0x58;
const PIN: u8 = 8;
const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;
const D: u8 = 0x0d;
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;

pub(crate) fn read(register: u8) -> u8 {
    out_byte(0x70, register);
    in_byte(0x71)
}

pub(crate) fn write(register: u8, value: u8) {
    out_byte(0x70, register);
    out_byte(0x71, value);
}

/// Register C of the last interrupt, and when that came.
static FLAGS: AtomicU8 = AtomicU8::new(0);
static CAME: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(report: &mut Report) {
    set_handler(
        VECTOR,
        Some(|_| {
            CAME.store(time_stamp(), SeqCst);
            FLAGS.store(read(C), SeqCst);
            apic::end_of_interrupt();
        }),
    );
    set_entry(PIN, VECTOR.into());
    report.check("rtc, valid", read(D) & 0x80 != 0, format_args!("{:#x}", read(D)));
    let (a, b) = (read(A), read(B));
    report.check("rtc, divider and modes", a & 0x70 == 0x20, format_args!("a {a:#x}, b {b:#x}"));
    periodic(report, b & 0x0f);
    updates(report, b & 0x0f);
    alarm(report, b & 0x0f);
    polled(report);
    set(report, b & 0x0f);
    write(B, b & 0x0f);
    read(C);
    set_entry(PIN, MASKED);
}

fn periodic(report: &mut Report, modes: u8) {
    // Rate 6: 1024 Hz. Rate 10: 64 Hz.
    for (rate, hz, times) in [(6, 1024, 100), (10, 64, 20)] {
        write(A, 0x20 | rate);
        read(C);
        write(B, modes | PERIODIC);
        me().clear();
        open();
        let start = time_stamp();
        let came = wait(PATIENCE, || me().count(VECTOR) >= times);
        let took = micros(time_stamp() - start);
        close();
        write(B, modes);
        read(C);
        apic::take_pending();
        // One may have waited already when its interrupt was enabled.
        let nominal = (u64::from(times) - 2) * 1_000_000 / hz;
        let good = came && took + jitter() >= nominal && FLAGS.load(SeqCst) & 0xc0 == 0xc0;
        report.check("rtc, periodic", good, format_args!("{times} at {hz} Hz took {took} us of {nominal}"));
    }
    write(A, 0x26);
}

/// Update-ended interrupts come each second, and the seconds go on with them.
fn updates(report: &mut Report, modes: u8) {
    read(C);
    write(B, modes | UPDATE);
    me().clear();
    open();
    let first = wait(PATIENCE, || me().count(VECTOR) >= 1);
    let (start, second) = (CAME.load(SeqCst), read(0));
    let last = wait(PATIENCE, || me().count(VECTOR) >= 3);
    let (end, later) = (CAME.load(SeqCst), read(0));
    close();
    write(B, modes);
    read(C);
    let took = micros(end - start);
    let flags = FLAGS.load(SeqCst);
    let good = first && last && agree(took, 2_000_000) && flags & 0x90 == 0x90;
    let ppm = ppm(took, 2_000_000);
    report.check("rtc, updates against tsc", good, format_args!("2 s took {took} us, {ppm} ppm, c {flags:#x}"));
    let seconds = |value: u8| u32::from(value >> 4) * 10 + u32::from(value & 15);
    let passed = (seconds(later) + 60 - seconds(second)) % 60;
    report.check("rtc, seconds", passed == 2, format_args!("{second:#x}, then {later:#x}"));
}

/// "Don't care" in all three alarm registers: each second.
fn alarm(report: &mut Report, modes: u8) {
    for register in [1, 3, 5] {
        write(register, 0xff);
    }
    read(C);
    write(B, modes | ALARM);
    me().clear();
    open();
    let came = wait(PATIENCE, || me().count(VECTOR) >= 1);
    close();
    write(B, modes);
    let flags = FLAGS.load(SeqCst);
    report.check("rtc, alarm", came && flags & 0xa0 == 0xa0, format_args!("c {flags:#x}"));
}

/// Without an acknowledge in register C there is no second interrupt, and flags are set without being enabled.
///
/// The periodic flag comes back within a millisecond, so the reads count only if nobody held the processor up in between.
fn polled(report: &mut Report) {
    const SOON: u64 = 400;
    const ATTEMPTS: usize = 20;
    me().clear();
    let (mut first, mut second) = (0, 0);
    for _ in 0..ATTEMPTS {
        read(C);
        delay(10_000);
        let start = time_stamp();
        (first, second) = (read(C), read(C));
        if micros(time_stamp() - start) < SOON {
            break;
        }
    }
    let good = first & 0xc0 == 0x40 && second & 0xc0 == 0 && me().total() == 0;
    report.check("rtc, flags without interrupts", good, format_args!("c {first:#x}, then {second:#x}"));
}

/// SET stops the time, which can then be written.
fn set(report: &mut Report, modes: u8) {
    write(B, modes | 0x80);
    for (register, value) in [(0, 0x58), (2, 0x59), (4, 0x23), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x19)] {
        write(register, value);
    }
    delay(1_200_000);
    let stopped = read(0);
    write(B, modes);
    let came = wait(4_000_000, || read(A) & 0x80 == 0 && read(9) == 0);
    let date = [0x32, 9, 8, 7, 4, 2].map(read);
    let good = stopped == 0x58 && came && date == [0x20, 0, 1, 1, 0, 0];
    report.check("rtc, set and the turn of a century", good, format_args!("{stopped:#x}, then {date:x?}"));
}
