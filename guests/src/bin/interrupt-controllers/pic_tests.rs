// SPDX-License-Identifier: MIT OR Apache-2.0
//! The 8259s, through LINT0 of the boot processor as ExtINT.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guests::apic::{self, register as reg};
use guests::instructions::{in_byte, out_byte, write_cr8};
use guests::interrupts::{me, set_handler};
use guests::report::Report;
use guests::time::delay;
use guests::wires::pic::{self, BASE};
use guests::wires::{HIGH_WIRE, MASTER_WIRE, SLAVE_WIRE, drive, ioapic, pulse};

const MASTER: u8 = BASE + MASTER_WIRE;
const SLAVE: u8 = BASE + SLAVE_WIRE;
const OPEN: u8 = !(1 << MASTER_WIRE | 1 << 2);
const SLAVE_OPEN: u8 = !(1 << (SLAVE_WIRE - 8));
const EXTINT: u32 = 7 << 8;
const MASKED: u32 = 1 << 16;
/// ICW4: 8086 mode; automatic EOI besides.
const NORMAL: u8 = 1;
const AUTOMATIC: u8 = 3;
/// Line 3 of the master: COM2's wire, which is idle.
const HIGHER_WIRE: u8 = 3;

static SEEN: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

pub(crate) fn run(report: &mut Report) {
    for vector in BASE..BASE + 16 {
        set_handler(vector, Some(|frame| pic::end(frame.vector as u8 >= BASE + 8)));
    }
    pic::initialise(NORMAL);
    apic::write(reg::LVT_LINT0, EXTINT);
    edge(report);
    masks(report);
    level(report);
    slave(report);
    registers_in_handler(report);
    priorities(report);
    lint0(report);
    task_priority(report);
    spurious(report);
    poll(report);
    automatic(report);
    hlt(report);
    pic::initialise(NORMAL);
    (BASE..BASE + 16).for_each(|vector| set_handler(vector, None));
}

fn check(report: &mut Report, name: &str, vectors: &[u8]) {
    apic::take_pending();
    report.check(name, me().came(vectors), format_args!("{:x}", me().log()));
    me().clear();
}

fn edge(report: &mut Report) {
    me().clear();
    pic::set_masks(OPEN, 0xff);
    drive(MASTER_WIRE, true);
    let request = pic::requests();
    report.check("irr", request & 1 << MASTER_WIRE != 0, format_args!("{request:#x}"));
    check(report, "edge through lint0", &[MASTER]);
    let request = pic::requests();
    report.check("irr after the acknowledge", request & 1 << MASTER_WIRE == 0, format_args!("{request:#x}"));
    drive(MASTER_WIRE, false);
    check(report, "falling edge", &[]);
    drive(MASTER_WIRE, true);
    drive(MASTER_WIRE, false);
    check(report, "an edge that went away", &[]);
}

fn masks(report: &mut Report) {
    pic::set_masks(0xff, 0xff);
    let read = (in_byte(0x21), in_byte(0xa1));
    report.check("masks read back", read == (0xff, 0xff), format_args!("{read:x?}"));
    drive(MASTER_WIRE, true);
    check(report, "masked", &[]);
    pic::set_masks(OPEN, 0xff);
    check(report, "a masked edge waits", &[MASTER]);
    drive(MASTER_WIRE, false);
}

fn level(report: &mut Report) {
    out_byte(0x4d0, 1 << MASTER_WIRE);
    set_handler(
        MASTER,
        Some(|_| {
            if me().count(MASTER) == 3 {
                drive(MASTER_WIRE, false);
            }
            pic::end(false);
        }),
    );
    drive(MASTER_WIRE, true);
    check(report, "level until it falls", &[MASTER; 3]);
    set_handler(MASTER, Some(|_| pic::end(false)));
    out_byte(0x4d0, 0);
}

fn slave(report: &mut Report) {
    pic::set_masks(OPEN, SLAVE_OPEN);
    drive(SLAVE_WIRE, true);
    check(report, "through the slave", &[SLAVE]);
    drive(SLAVE_WIRE, false);
    pulse(SLAVE_WIRE);
    drive(SLAVE_WIRE, true);
    drive(MASTER_WIRE, true);
    check(report, "the slave's inputs come first", &[SLAVE, MASTER]);
    drive(SLAVE_WIRE, false);
    drive(MASTER_WIRE, false);
}

fn registers_in_handler(report: &mut Report) {
    set_handler(
        SLAVE,
        Some(|_| {
            let [service, after] = &SEEN;
            service.store(pic::in_service().into(), SeqCst);
            pic::end(true);
            after.store(pic::in_service().into(), SeqCst);
        }),
    );
    drive(SLAVE_WIRE, true);
    check(report, "in the handler", &[SLAVE]);
    drive(SLAVE_WIRE, false);
    let seen = SEEN.each_ref().map(|value| value.load(SeqCst));
    report.check("isr of both", seen == [1 << SLAVE_WIRE | 1 << 2, 0], format_args!("{seen:x?}"));
}

/// A higher input interrupts a handler, an equal or lower one waits for the EOI.
fn priorities(report: &mut Report) {
    set_handler(
        MASTER,
        Some(|_| {
            drive(MASTER_WIRE, false);
            drive(MASTER_WIRE, me().count(MASTER) == 1);
            drive(HIGHER_WIRE, me().count(MASTER) == 1);
            apic::take_pending();
            let [inside, _] = &SEEN;
            if me().count(MASTER) == 1 {
                inside.store(me().total(), SeqCst);
            }
            pic::end(false);
        }),
    );
    pic::set_masks(OPEN & !(1 << HIGHER_WIRE), 0xff);
    drive(MASTER_WIRE, true);
    check(report, "nesting", &[MASTER, BASE + HIGHER_WIRE, MASTER]);
    let [inside, _] = SEEN.each_ref().map(|value| value.load(SeqCst));
    report.check("only the higher one nests", inside == 2, inside);
    drive(HIGHER_WIRE, false);
    drive(MASTER_WIRE, false);
    set_handler(MASTER, Some(|_| pic::end(false)));
    pic::set_masks(OPEN, 0xff);
}

fn lint0(report: &mut Report) {
    apic::write(reg::LVT_LINT0, MASKED | EXTINT);
    drive(MASTER_WIRE, true);
    check(report, "lint0 masked", &[]);
    apic::write(reg::LVT_LINT0, EXTINT);
    check(report, "lint0 unmasked", &[MASTER]);
    drive(MASTER_WIRE, false);
    // As a fixed interrupt, LINT0 has a vector of its own and the 8259s wait for a poll.
    apic::write(reg::LVT_LINT0, 0x66);
    drive(MASTER_WIRE, true);
    check(report, "lint0 as a fixed interrupt", &[0x66]);
    out_byte(0x20, 0x0c);
    let polled = in_byte(0x20);
    pic::end(false);
    drive(MASTER_WIRE, false);
    report.check("then polled", polled == 0x80 | MASTER_WIRE, format_args!("{polled:#x}"));
    apic::write(reg::LVT_LINT0, EXTINT);
    check(report, "nothing left", &[]);
}

/// ExtINT knows no priority.
fn task_priority(report: &mut Report) {
    write_cr8(15);
    drive(MASTER_WIRE, true);
    check(report, "cr8 does not hold extint", &[MASTER]);
    write_cr8(0);
    drive(MASTER_WIRE, false);
}

/// An acknowledge when nothing is requested: the IOAPIC's ExtINT message makes one.
fn spurious(report: &mut Report) {
    ioapic::set_entry(HIGH_WIRE, 7 << 8);
    set_handler(
        BASE + 7,
        Some(|_| {
            let [service, _] = &SEEN;
            service.store(pic::in_service().into(), SeqCst);
        }),
    );
    pulse(HIGH_WIRE);
    check(report, "spurious irq 7", &[BASE + 7]);
    let [service, _] = SEEN.each_ref().map(|value| value.load(SeqCst));
    report.check("nothing in service for it", service == 0, format_args!("{service:#x}"));
    // With a request there, the same message fetches it.
    apic::write(reg::LVT_LINT0, MASKED | EXTINT);
    drive(MASTER_WIRE, true);
    pulse(HIGH_WIRE);
    check(report, "extint by message", &[MASTER]);
    drive(MASTER_WIRE, false);
    apic::write(reg::LVT_LINT0, EXTINT);
    ioapic::set_entry(HIGH_WIRE, ioapic::MASKED);
    set_handler(BASE + 7, Some(|_| pic::end(false)));
}

fn poll(report: &mut Report) {
    drive(MASTER_WIRE, true);
    out_byte(0x20, 0x0c);
    let polled = in_byte(0x20);
    let service = pic::in_service();
    pic::end(false);
    drive(MASTER_WIRE, false);
    let good = polled == 0x80 | MASTER_WIRE && service == 1 << MASTER_WIRE;
    report.check("poll", good, format_args!("{polled:#x}, isr {service:#x}"));
    check(report, "polled, so none comes", &[]);
}

fn automatic(report: &mut Report) {
    pic::initialise(AUTOMATIC);
    pic::set_masks(OPEN, 0xff);
    set_handler(
        MASTER,
        Some(|_| {
            let [service, _] = &SEEN;
            service.store(pic::in_service().into(), SeqCst);
        }),
    );
    for _ in 0..2 {
        drive(MASTER_WIRE, true);
        check(report, "automatic eoi", &[MASTER]);
        drive(MASTER_WIRE, false);
    }
    let [service, _] = SEEN.each_ref().map(|value| value.load(SeqCst));
    report.check("automatic eoi, isr", service == 0, format_args!("{service:#x}"));
    set_handler(MASTER, Some(|_| pic::end(false)));
    pic::initialise(NORMAL);
}

/// HLT ends by an interrupt that waits already.
fn hlt(report: &mut Report) {
    pic::set_masks(OPEN, 0xff);
    for _ in 0..20 {
        drive(MASTER_WIRE, true);
        guests::instructions::sleep();
        drive(MASTER_WIRE, false);
    }
    delay(10);
    report.check("hlt", me().count(MASTER) == 20, me().count(MASTER));
    me().clear();
}
