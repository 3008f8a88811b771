// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts to oneself: acceptance, priorities, end, errors, software disable.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guests::apic::{self, command, is_set, register as reg};
use guests::instructions::{close, in_byte, open, read_cr8, write_cr8};
use guests::interrupts::{me, set_handler};
use guests::report::Report;

const LOW: u8 = 0x45;
const MIDDLE: u8 = 0x61;
const HIGH: u8 = 0x81;

pub(crate) fn run(report: &mut Report) {
    identity(report);
    to_self(report);
    pending(report);
    in_service(report);
    task_priority(report);
    order(report);
    nesting(report);
    errors(report);
    software_disable(report);
}

fn to_self_vector(vector: u8) {
    apic::send(0, command::MYSELF | u32::from(vector));
}

fn identity(report: &mut Report) {
    let id = apic::id();
    report.check("id", id == core::arch::x86_64::__cpuid(1).ebx >> 24, id);
    let version = apic::read(reg::VERSION);
    report.check("version", version & 0xff >= 0x10 && version >> 16 & 0xff >= 3, format_args!("{version:#x}"));
    let spurious = apic::read(reg::SPURIOUS);
    report.check("spurious register", spurious & 0x1ff == 0x1ff, format_args!("{spurious:#x}"));
}

fn to_self(report: &mut Report) {
    let this = me();
    let id = apic::id();
    type Send = fn(u32);
    let ways: [(&str, Send); 3] = [
        ("self, shorthand", |_| to_self_vector(MIDDLE)),
        ("self, physical", |id| apic::send(id, u32::from(MIDDLE))),
        ("self, all including", |_| apic::send(0, command::ALL | u32::from(MIDDLE))),
    ];
    for (name, send) in ways {
        this.clear();
        open();
        send(id);
        close();
        report.check(name, this.came(&[MIDDLE]), format_args!("came {:x}", this.log()));
    }
    // The last one went to the others, too; they only count it.
    if this.x2apic.load(SeqCst) {
        this.clear();
        open();
        apic::write(reg::SELF_IPI, MIDDLE.into());
        close();
        report.check("self, self-IPI register", this.came(&[MIDDLE]), format_args!("came {:x}", this.log()));
    }
    this.clear();
    open();
    apic::send(0, command::OTHERS | u32::from(MIDDLE));
    close();
    report.check("self, all excluding", this.came(&[]), format_args!("came {:x}", this.log()));
}

/// With interrupts off, requests wait in IRR, each vector once.
fn pending(report: &mut Report) {
    let this = me();
    this.clear();
    close();
    for _ in 0..3 {
        to_self_vector(MIDDLE);
    }
    let requested = is_set(reg::REQUEST, MIDDLE) && !is_set(reg::IN_SERVICE, MIDDLE);
    report.check("waits in irr", requested && this.came(&[]), format_args!("{requested}, came {:x}", this.log()));
    open();
    close();
    let after = !is_set(reg::REQUEST, MIDDLE) && !is_set(reg::IN_SERVICE, MIDDLE);
    report.check("comes once", this.came(&[MIDDLE]) && after, format_args!("came {:x}", this.log()));
}

static SEEN: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];

fn seen() -> [u32; 4] {
    let [a, b, c, d] = &SEEN;
    [a, b, c, d].map(|value| value.load(SeqCst))
}

fn in_service(report: &mut Report) {
    set_handler(
        MIDDLE,
        Some(|_| {
            let [request, service, priority, ended] = &SEEN;
            request.store(is_set(reg::REQUEST, MIDDLE).into(), SeqCst);
            service.store(is_set(reg::IN_SERVICE, MIDDLE).into(), SeqCst);
            priority.store(apic::read(reg::PROCESSOR_PRIORITY), SeqCst);
            apic::end_of_interrupt();
            ended.store(is_set(reg::IN_SERVICE, MIDDLE).into(), SeqCst);
        }),
    );
    open();
    to_self_vector(MIDDLE);
    close();
    set_handler(MIDDLE, None);
    let seen = seen();
    report.check("isr and ppr in a handler", seen == [0, 1, 0x60, 0], format_args!("{seen:x?}"));
    let trigger = is_set(reg::TRIGGER_MODE, MIDDLE);
    report.check("tmr after an edge", !trigger, trigger);
    let this = me();
    this.clear();
    apic::end_of_interrupt();
    report.check("eoi with nothing in service", this.came(&[]), "nothing came");
}

fn task_priority(report: &mut Report) {
    let this = me();
    this.clear();
    apic::write(reg::TASK_PRIORITY, 0x50);
    report.check("tpr shows in cr8", read_cr8() == 5, read_cr8());
    let priority = apic::read(reg::PROCESSOR_PRIORITY);
    report.check("tpr shows in ppr", priority == 0x50, format_args!("{priority:#x}"));
    open();
    to_self_vector(LOW);
    to_self_vector(0x51);
    let held = this.came(&[]);
    to_self_vector(MIDDLE);
    close();
    report.check("tpr holds lower and equal classes", held && this.came(&[MIDDLE]), format_args!("{:x}", this.log()));
    open();
    apic::write(reg::TASK_PRIORITY, 0x40);
    close();
    report.check("a lower tpr lets through", this.came(&[MIDDLE, 0x51]), format_args!("{:x}", this.log()));
    open();
    write_cr8(0);
    close();
    report.check("cr8 lets through", this.came(&[MIDDLE, 0x51, LOW]), format_args!("{:x}", this.log()));
    report.check("cr8 shows in tpr", apic::read(reg::TASK_PRIORITY) == 0, apic::read(reg::TASK_PRIORITY));

    this.clear();
    write_cr8(15);
    open();
    to_self_vector(HIGH);
    to_self_vector(0xfe);
    // An exit of another kind must not let anything through.
    in_byte(0x80);
    let held = this.came(&[]);
    write_cr8(8);
    let first = this.came(&[0xfe]);
    write_cr8(7);
    let second = this.came(&[0xfe, HIGH]);
    close();
    write_cr8(0);
    report.check(
        "mov cr8 holds and releases at once",
        held && first && second,
        format_args!("{held} {first} {second}"),
    );

    apic::write(reg::TASK_PRIORITY, 0x3c);
    let (priority, class) = (apic::read(reg::PROCESSOR_PRIORITY), read_cr8());
    apic::write(reg::TASK_PRIORITY, 0);
    report.check("tpr's sub-class", priority == 0x3c && class == 3, format_args!("ppr {priority:#x}, cr8 {class}"));
}

fn order(report: &mut Report) {
    let this = me();
    this.clear();
    close();
    for vector in [LOW, HIGH, MIDDLE, 0x46, 0xe0] {
        to_self_vector(vector);
    }
    open();
    close();
    let good = this.came(&[0xe0, HIGH, MIDDLE, 0x46, LOW]);
    report.check("higher vectors first", good, format_args!("{:x}", this.log()));
}

/// In the handler of a middle vector, a higher class comes at once, others after the end.
fn nesting(report: &mut Report) {
    let this = me();
    this.clear();
    set_handler(
        MIDDLE,
        Some(|_| {
            let [before, after, ..] = &SEEN;
            to_self_vector(LOW);
            to_self_vector(MIDDLE + 1);
            to_self_vector(HIGH);
            open();
            before.store(me().total(), SeqCst);
            apic::end_of_interrupt();
            after.store(me().total(), SeqCst);
            close();
        }),
    );
    open();
    to_self_vector(MIDDLE);
    close();
    set_handler(MIDDLE, None);
    let [before, after, ..] = seen();
    let good = this.came(&[MIDDLE, HIGH, MIDDLE + 1, LOW]) && before == 2 && after == 4;
    report.check("nesting", good, format_args!("{:x}, {before} before and {after} after eoi", this.log()));
}

fn errors(report: &mut Report) {
    const ERROR: u8 = 0xe5;
    let this = me();
    this.clear();
    let status = || {
        apic::write(reg::ERROR_STATUS, 0);
        apic::read(reg::ERROR_STATUS)
    };
    status();
    apic::write(reg::LVT_ERROR, ERROR.into());
    open();
    to_self_vector(5);
    close();
    let first = status();
    let second = status();
    apic::write(reg::LVT_ERROR, 1 << 16);
    let good = first & 0x60 != 0 && second == 0 && this.came(&[ERROR]);
    report.check("illegal vector", good, format_args!("esr {first:#x}, then {second:#x}, came {:x}", this.log()));
    if !this.x2apic.load(SeqCst) {
        guests::machine::lapic::read(0x40);
        let first = status();
        report.check("illegal register", first & 0x80 != 0, format_args!("esr {first:#x}"));
        guests::machine::lapic::write(reg::ID, 0x0700_0000);
        let id = apic::id();
        guests::machine::lapic::write(reg::ID, 0);
        report.check("id after a write", matches!(id, 0 | 7), id);
    }
}

fn software_disable(report: &mut Report) {
    let this = me();
    this.clear();
    apic::write(reg::LVT_LINT1, 0x400);
    apic::write(reg::LVT_ERROR, 0xe5);
    apic::write(reg::SPURIOUS, 0xff);
    let masked = [reg::LVT_TIMER, reg::LVT_LINT0, reg::LVT_LINT1, reg::LVT_ERROR].map(apic::read);
    report.check("software disable masks", masked.iter().all(|lvt| lvt & 1 << 16 != 0), format_args!("{masked:x?}"));
    apic::write(reg::LVT_ERROR, 0xe5);
    let kept = apic::read(reg::LVT_ERROR);
    report.check("masks stay while disabled", kept == 0x100e5, format_args!("{kept:#x}"));
    open();
    to_self_vector(MIDDLE);
    close();
    let disabled = this.came(&[]) && !is_set(reg::REQUEST, MIDDLE);
    apic::enable();
    open();
    close();
    report.check("takes no vectors while disabled", disabled && this.came(&[]), format_args!("{:x}", this.log()));
    let kept = apic::read(reg::LVT_ERROR);
    report.check("masks stay when enabled", kept == 0x100e5, format_args!("{kept:#x}"));
    open();
    to_self_vector(MIDDLE);
    close();
    report.check("works after being enabled", this.came(&[MIDDLE]), format_args!("{:x}", this.log()));
}
