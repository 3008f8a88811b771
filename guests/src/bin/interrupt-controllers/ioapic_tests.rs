// SPDX-License-Identifier: MIT OR Apache-2.0
//! The IOAPIC.

use crate::PATIENCE;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guests::apic::{self, is_set, register as reg};
use guests::instructions::open;
use guests::interrupts::{NMI, cpu, me, set_handler};
use guests::report::Report;
use guests::smp;
use guests::time::{delay, wait};
use guests::wires::ioapic::{self, DESTINATION_SHIFT, LEVEL, LOGICAL, MASKED, REMOTE_IRR, entry, set_entry};
use guests::wires::{HIGH_WIRE, drive, pulse};

const VECTOR: u8 = 0x65;
const V: u64 = VECTOR as u64;
const PIN: u8 = HIGH_WIRE;

pub(crate) fn run(report: &mut Report, processors: usize) {
    registers(report);
    edges(report);
    levels(report);
    level_in_handler(report);
    masks(report);
    switch_to_edge(report);
    two_pins(report);
    destinations(report, processors);
    modes(report);
    ioapic::mask_all();
}

fn registers(report: &mut Report) {
    let version = ioapic::read(1);
    report.check("version", version & 0xff >= 0x11 && version >> 16 & 0xff == 23, format_args!("{version:#x}"));
    let masked = (0..24).all(|pin| entry(pin) & MASKED != 0);
    report.check("masked at the start", masked, masked);
    set_entry(PIN, !(7 << 8));
    let all = entry(PIN);
    set_entry(PIN, MASKED);
    report.check("writable bits", all & !(1 << 12) == 0xff00_0000_0001_a8ff, format_args!("{all:#x}"));
    ioapic::write(0, 0x0a00_0000);
    let id = ioapic::read(0);
    ioapic::write(0, 0);
    report.check("id", id == 0x0a00_0000 && ioapic::read(0) == 0, format_args!("{id:#x}"));
    let absent = ioapic::read(0x40);
    report.check("absent register", matches!(absent, 0 | u32::MAX), format_args!("{absent:#x}"));
}

/// Clears, does something with interrupts on, and tells how many of [`VECTOR`] came.
fn counted(act: impl FnOnce()) -> u32 {
    me().clear();
    open();
    act();
    apic::take_pending();
    me().count(VECTOR)
}

fn edges(report: &mut Report) {
    set_entry(PIN, V);
    let rising = counted(|| drive(PIN, true));
    let held = counted(|| delay(500));
    let falling = counted(|| drive(PIN, false));
    report.check(
        "edge",
        (rising, held, falling) == (1, 0, 0),
        format_args!("{rising} up, {held} held, {falling} down"),
    );
    let many = counted(|| (0..5).for_each(|_| pulse(PIN)));
    report.check("five edges", many == 5, many);
    let trigger = is_set(reg::TRIGGER_MODE, VECTOR);
    report.check("tmr after an edge", !trigger, trigger);
    guests::instructions::close();
    me().clear();
    (0..3).for_each(|_| pulse(PIN));
    apic::take_pending();
    report.check("edges merge in irr", me().count(VECTOR) == 1, me().count(VECTOR));
}

static SEEN: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

/// A level comes again until it falls.
fn levels(report: &mut Report) {
    set_handler(
        VECTOR,
        Some(|_| {
            let [remote, trigger, after] = &SEEN;
            remote.store((entry(PIN) & REMOTE_IRR != 0).into(), SeqCst);
            trigger.store(is_set(reg::TRIGGER_MODE, VECTOR).into(), SeqCst);
            if me().count(VECTOR) == 3 {
                drive(PIN, false);
            }
            apic::end_of_interrupt();
            after.store((entry(PIN) & REMOTE_IRR != 0).into(), SeqCst);
        }),
    );
    set_entry(PIN, LEVEL | V);
    let count = counted(|| {
        drive(PIN, true);
        wait(PATIENCE, || me().count(VECTOR) >= 3);
        delay(500);
    });
    set_handler(VECTOR, None);
    let seen = SEEN.each_ref().map(|value| value.load(SeqCst));
    report.check(
        "level until it falls",
        count == 3 && seen == [1, 1, 0],
        format_args!("{count} came, irr, tmr, irr {seen:?}"),
    );
}

/// While one is in service, falling and rising again gives one more, after the EOI.
fn level_in_handler(report: &mut Report) {
    set_handler(
        VECTOR,
        Some(|_| {
            let first = me().count(VECTOR) == 1;
            drive(PIN, false);
            if first {
                drive(PIN, true);
                let [requested, ..] = &SEEN;
                requested.store(is_set(reg::REQUEST, VECTOR).into(), SeqCst);
            }
            apic::end_of_interrupt();
        }),
    );
    let count = counted(|| drive(PIN, true));
    set_handler(VECTOR, None);
    let [requested, ..] = SEEN.each_ref().map(|value| value.load(SeqCst));
    report.check(
        "level again while in service",
        count == 2 && requested == 0,
        format_args!("{count}, irr {requested}"),
    );
}

fn masks(report: &mut Report) {
    set_entry(PIN, MASKED | V);
    let masked = counted(|| drive(PIN, true));
    let unmasked = counted(|| set_entry(PIN, V));
    drive(PIN, false);
    report.check("a masked edge is lost", (masked, unmasked) == (0, 0), format_args!("{masked}, {unmasked}"));
    set_handler(
        VECTOR,
        Some(|_| {
            drive(PIN, false);
            apic::end_of_interrupt();
        }),
    );
    set_entry(PIN, MASKED | LEVEL | V);
    let masked = counted(|| drive(PIN, true));
    let unmasked = counted(|| set_entry(PIN, LEVEL | V));
    set_handler(VECTOR, None);
    report.check("a masked level waits", (masked, unmasked) == (0, 1), format_args!("{masked}, {unmasked}"));
    set_entry(PIN, MASKED | LEVEL | V);
    let gone = counted(|| {
        drive(PIN, true);
        drive(PIN, false);
        set_entry(PIN, LEVEL | V);
    });
    report.check("a level that went is gone", gone == 0, gone);
}

/// Making the entry edge-triggered drops remote IRR, which is how Linux unsticks a version 11h part.
fn switch_to_edge(report: &mut Report) {
    guests::instructions::close();
    me().clear();
    set_entry(PIN, LEVEL | V);
    drive(PIN, true);
    drive(PIN, false);
    let stuck = entry(PIN) & REMOTE_IRR != 0;
    set_entry(PIN, MASKED | V);
    set_entry(PIN, MASKED | LEVEL | V);
    let dropped = entry(PIN) & REMOTE_IRR == 0;
    apic::take_pending();
    report.check("remote irr, dropped by edge mode", stuck && dropped, format_args!("{stuck} {dropped}"));
}

/// Two pins at once: the higher vector first; and two pins with one vector.
fn two_pins(report: &mut Report) {
    guests::instructions::close();
    me().clear();
    set_entry(PIN, V);
    set_entry(PIN + 1, 0x95);
    pulse(PIN);
    pulse(PIN + 1);
    apic::take_pending();
    report.check("two pins", me().came(&[0x95, VECTOR]), format_args!("{:x}", me().log()));
    set_handler(
        VECTOR,
        Some(|_| {
            let wire = if me().count(VECTOR) == 1 { PIN } else { PIN + 1 };
            drive(wire, false);
            apic::end_of_interrupt();
        }),
    );
    guests::instructions::close();
    set_entry(PIN, LEVEL | V);
    set_entry(PIN + 1, LEVEL | V);
    let count = counted(|| {
        drive(PIN, true);
        drive(PIN + 1, true);
    });
    set_handler(VECTOR, None);
    set_entry(PIN + 1, MASKED);
    report.check("two levels with one vector", count == 2, count);
}

fn destinations(report: &mut Report, processors: usize) {
    let took = |times: fn(u32) -> bool| {
        (0..processors).fold(0_u64, |set, index| set | u64::from(times(cpu(index).count(VECTOR))) << index)
    };
    // Who took the interrupt once, after at least so many took it: the host may keep a processor waiting.
    let fire = |target: u64, expected: usize| {
        (0..processors).for_each(|index| cpu(index).clear());
        set_entry(PIN, target | V);
        open();
        pulse(PIN);
        wait(1_000_000, || took(|times| times > 0).count_ones() as usize >= expected);
        delay(2_000);
        guests::instructions::close();
        took(|times| times == 1)
    };
    for index in 0..processors {
        let reached = fire((index as u64) << DESTINATION_SHIFT, 1);
        report.check("physical", reached == 1 << index, format_args!("{reached:#x}"));
    }
    let all = u64::MAX >> (64 - processors);
    let reached = fire(0xff << DESTINATION_SHIFT, processors);
    report.check("broadcast", reached == all, format_args!("{reached:#x}"));
    for index in 0..processors.min(8) {
        let job: smp::Job = |index| apic::write(reg::LOGICAL_DESTINATION, 1 << (24 + index));
        if index == 0 {
            job(0)
        } else {
            smp::call(index, job, PATIENCE);
        }
    }
    let some = all & 0xff;
    let reached = fire(LOGICAL | some << DESTINATION_SHIFT, processors.min(8));
    report.check("logical", reached == some, format_args!("{reached:#x}"));
    let reached = fire(LOGICAL | 1 << 8 | some << DESTINATION_SHIFT, 1);
    report.check("lowest priority", reached.count_ones() == 1, format_args!("{reached:#x}"));
    let reached = fire(0x70 << DESTINATION_SHIFT, 0);
    report.check("nobody", reached == 0, format_args!("{reached:#x}"));
    // A level for nobody must not get stuck.
    set_entry(PIN, LEVEL | V | 0x70 << DESTINATION_SHIFT);
    pulse(PIN);
    let stuck = entry(PIN) & REMOTE_IRR != 0;
    report.check("a level that nobody takes", !stuck, stuck);
}

fn modes(report: &mut Report) {
    guests::instructions::close();
    me().clear();
    set_entry(PIN, 4 << 8);
    pulse(PIN);
    delay(100);
    report.check("nmi", me().came(&[NMI]), format_args!("{:x}", me().log()));
    me().clear();
    set_entry(PIN, 3 << 8 | V);
    pulse(PIN);
    apic::take_pending();
    report.check("reserved delivery mode", me().came(&[]), format_args!("{:x}", me().log()));
    // With CR8 above it, a vector waits.
    set_entry(PIN, V);
    guests::instructions::write_cr8(6);
    let held = counted(|| pulse(PIN));
    let released = counted(|| guests::instructions::write_cr8(5));
    guests::instructions::write_cr8(0);
    report.check("cr8", (held, released) == (0, 1), format_args!("{held}, {released}"));
}
