// SPDX-License-Identifier: MIT OR Apache-2.0
//! NMIs: from the ICR, blocked from their delivery until IRET, one latched.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guests::apic::{self, command, register as reg};
use guests::instructions::{in_byte, open};
use guests::interrupts::{NMI, me, set_handler};
use guests::report::Report;
use guests::time::wait;

static DEPTH: AtomicU32 = AtomicU32::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);
static SENDS: AtomicU32 = AtomicU32::new(0);

fn nmi_to_self() {
    apic::send(apic::id(), command::NMI);
}

pub(crate) fn run(report: &mut Report) {
    let this = me();
    this.clear();
    nmi_to_self();
    report.check("nmi, physical", this.came(&[NMI]), format_args!("{:x}", this.log()));
    this.clear();
    nmi_to_self();
    nmi_to_self();
    report.check("nmi, two in turn", this.came(&[NMI; 2]), format_args!("{:x}", this.log()));
    let service = guests::apic::is_set(reg::IN_SERVICE, NMI);
    report.check("nmi is not in service", !service, service);
    blocked(report);
    higher_than_interrupts(report);
    software_disabled(report);
    lint1(report);
}

/// In the handler, NMIs wait for IRET, and of many only one.
fn blocked(report: &mut Report) {
    let this = me();
    for sends in [1, 3] {
        this.clear();
        SENDS.store(sends, SeqCst);
        DEEPEST.store(0, SeqCst);
        set_handler(
            NMI,
            Some(|_| {
                let depth = DEPTH.fetch_add(1, SeqCst) + 1;
                DEEPEST.fetch_max(depth, SeqCst);
                for _ in 0..SENDS.swap(0, SeqCst) {
                    nmi_to_self();
                    // An exit, at which it could come in wrongly.
                    in_byte(0x80);
                }
                DEPTH.fetch_sub(1, SeqCst);
            }),
        );
        nmi_to_self();
        wait(1_000, || this.count(NMI) >= 3);
        set_handler(NMI, None);
        let (deepest, count) = (DEEPEST.load(SeqCst), this.count(NMI));
        let good = deepest == 1 && count == 2;
        report.check(
            "nmi blocked until iret",
            good,
            format_args!("{sends} sent inside: {count} came, depth {deepest}"),
        );
    }
    // An interrupt that comes in the handler, and whose IRET opens NMIs early: that is how the architecture is.
    this.clear();
    SENDS.store(1, SeqCst);
    set_handler(
        NMI,
        Some(|_| {
            if SENDS.swap(0, SeqCst) == 0 {
                return;
            }
            nmi_to_self();
            let before = me().count(NMI);
            apic::send(0, command::MYSELF | 0x61);
            open();
            guests::instructions::close();
            DEEPEST.store(me().count(NMI) - before, SeqCst);
        }),
    );
    nmi_to_self();
    set_handler(NMI, None);
    let inside = DEEPEST.load(SeqCst);
    report.check("any iret opens nmis", inside == 1 && this.came(&[NMI, 0x61, NMI]), format_args!("{:x}", this.log()));
}

/// With both pending the NMI comes first.
fn higher_than_interrupts(report: &mut Report) {
    let this = me();
    this.clear();
    apic::send(0, command::MYSELF | 0x61);
    nmi_to_self();
    open();
    guests::instructions::close();
    report.check("nmi with interrupts off", this.came(&[NMI, 0x61]), format_args!("{:x}", this.log()));
}

fn software_disabled(report: &mut Report) {
    let this = me();
    this.clear();
    apic::write(reg::SPURIOUS, 0xff);
    nmi_to_self();
    apic::enable();
    report.check("nmi while disabled by software", this.came(&[NMI]), format_args!("{:x}", this.log()));
}

/// Nothing drives LINT1 on this machine; its entry keeps what a PC's firmware writes.
fn lint1(report: &mut Report) {
    let this = me();
    this.clear();
    apic::write(reg::LVT_LINT1, 0x400);
    let kept = apic::read(reg::LVT_LINT1);
    report.check("lint1 as nmi", kept == 0x400 && this.came(&[]), format_args!("{kept:#x}"));
}
