// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the modes forbid: #GP for x2APIC accesses that do not exist, for impossible transitions, and for reserved bits; and
//! what a disabled APIC still does.

use core::arch::x86_64::__cpuid;
use guests::apic::{self, BASE_ENABLED, BASE_EXTENDED, BASE_MSR, msr, register as reg};
use guests::attempt;
use guests::instructions::{close, open, read_cr8, read_msr, write_cr8, write_msr};
use guests::interrupts::me;
use guests::machine::lapic;
use guests::report::Report;

const GP: Option<u8> = Some(13);
const BOOTSTRAP: u64 = 1 << 8;

fn try_read(index: u32) -> Option<u8> {
    attempt!("rdmsr", in("ecx") index, out("eax") _, out("edx") _)
}

fn try_write(index: u32, value: u64) -> Option<u8> {
    attempt!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
}

fn refused(report: &mut Report, name: &str, seen: Option<u8>) {
    report.check(name, seen == GP, format_args!("{seen:?}"));
}

/// In xAPIC mode, x2APIC registers do not exist.
pub(crate) fn xapic(report: &mut Report) {
    refused(report, "xapic: rdmsr of the id", try_read(msr(reg::ID)));
    refused(report, "xapic: wrmsr of tpr", try_write(msr(reg::TASK_PRIORITY), 0));
}

/// In x2APIC mode.
pub(crate) fn x2apic(report: &mut Report) {
    for (name, index) in [
        ("read of eoi", msr(reg::END_OF_INTERRUPT)),
        ("read of self-ipi", msr(reg::SELF_IPI)),
        ("read of dfr", msr(reg::DESTINATION_FORMAT)),
        ("read of the icr's high half", msr(reg::COMMAND_HIGH)),
        ("read of nothing (801h)", 0x801),
        ("read of nothing (8ffh)", 0x8ff),
    ] {
        refused(report, name, try_read(index));
    }
    for (name, register, value) in [
        ("write of id", reg::ID, 1),
        ("write of version", reg::VERSION, 0),
        ("write of ldr", reg::LOGICAL_DESTINATION, 1),
        ("write of ppr", reg::PROCESSOR_PRIORITY, 0),
        ("write of isr", reg::IN_SERVICE, 0),
        ("write of irr", reg::REQUEST, 0),
        ("write of the current count", reg::CURRENT_COUNT, 0),
        ("write of dfr", reg::DESTINATION_FORMAT, 0xffff_ffff),
        ("eoi with a value", reg::END_OF_INTERRUPT, 1),
        ("esr with a value", reg::ERROR_STATUS, 1),
        ("tpr with high bits", reg::TASK_PRIORITY, 0x100),
        ("svr with reserved bits", reg::SPURIOUS, 0x1_0000_01ff),
        ("timer with reserved bits", reg::LVT_TIMER, 0x8001_0000),
        ("divider with reserved bits", reg::DIVIDE, 4),
        ("icr with reserved bits", reg::COMMAND_LOW, 1 << 20 | 0x61),
        ("self-ipi with high bits", reg::SELF_IPI, 0x161),
        ("initial count with high bits", reg::INITIAL_COUNT, 1 << 32),
    ] {
        refused(report, name, try_write(msr(register), value));
    }
    let (id, logical) = (apic::id(), apic::read(reg::LOGICAL_DESTINATION));
    let expected = id >> 4 << 16 | 1 << (id & 15);
    report.check("ldr follows from the id", logical == expected, format_args!("{logical:#x}"));
    let value = lapic::read(reg::VERSION);
    report.check("the page is not the apic", value != apic::read(reg::VERSION), format_args!("{value:#x}"));
    let this = me();
    this.clear();
    open();
    lapic::write(reg::COMMAND_LOW, 1 << 18 | 0x61);
    close();
    report.check("a write to the page sends nothing", this.came(&[]), this.total());
}

/// Ends in xAPIC mode, from x2APIC mode.
pub(crate) fn transitions(report: &mut Report) {
    let base = read_msr(BASE_MSR) & !(BASE_ENABLED | BASE_EXTENDED);
    let both = BASE_ENABLED | BASE_EXTENDED;
    report.check("bootstrap flag", base & BOOTSTRAP != 0, format_args!("{:#x}", read_msr(BASE_MSR)));
    refused(report, "x2apic to xapic", try_write(BASE_MSR, base | BASE_ENABLED));
    refused(report, "x2apic to extended but not enabled", try_write(BASE_MSR, base | BASE_EXTENDED));
    refused(report, "reserved bit 9", try_write(BASE_MSR, base | both | 1 << 9));
    refused(report, "reserved bit 0", try_write(BASE_MSR, base | both | 1));
    refused(report, "reserved bit 63", try_write(BASE_MSR, base | both | 1 << 63));
    let seen = try_write(BASE_MSR, base | both);
    report.check("x2apic to itself", seen.is_none(), format_args!("{seen:?}"));
    let seen = try_write(BASE_MSR, base);
    report.check("x2apic to disabled", seen.is_none(), format_args!("{seen:?}"));
    let feature = __cpuid(1).edx & 1 << 9;
    report.check("cpuid hides a disabled apic", feature == 0, format_args!("{feature:#x}"));
    refused(report, "disabled to x2apic", try_write(BASE_MSR, base | both));
    refused(report, "disabled: rdmsr of the id", try_read(msr(reg::ID)));
    let seen = try_write(BASE_MSR, base | BASE_ENABLED);
    report.check("disabled to xapic", seen.is_none(), format_args!("{seen:?}"));
    me().x2apic.store(false, core::sync::atomic::Ordering::SeqCst);
    let feature = __cpuid(1).edx & 1 << 9;
    report.check("cpuid shows an enabled apic", feature != 0, format_args!("{feature:#x}"));
    let registers = [reg::SPURIOUS, reg::LVT_TIMER, reg::LVT_LINT0, reg::DESTINATION_FORMAT, reg::TASK_PRIORITY];
    let registers = registers.map(apic::read);
    let reset = registers == [0xff, 0x1_0000, 0x1_0000, 0xffff_ffff, 0];
    report.check("registers after being disabled", reset, format_args!("{registers:x?}"));
    apic::enable();
}

/// From xAPIC mode and back.
pub(crate) fn disabled(report: &mut Report) {
    let base = read_msr(BASE_MSR);
    // A processor may support relocation; this machine refuses it, and must not lose the APIC over it.
    let moved = try_write(BASE_MSR, base & 0xfff | 0xfed8_0000);
    if moved.is_none() {
        write_msr(BASE_MSR, base);
    }
    let version = lapic::read(reg::VERSION);
    report.check("relocation", moved.is_none() || moved == GP && version & 0xff >= 0x10, format_args!("{moved:?}"));
    write_msr(BASE_MSR, base & !BASE_ENABLED);
    let value = lapic::read(reg::VERSION);
    write_cr8(5);
    let class = read_cr8();
    write_cr8(0);
    write_msr(BASE_MSR, base);
    apic::enable();
    report.check("the page of a disabled apic", value == u32::MAX || value == 0, format_args!("{value:#x}"));
    report.check("cr8 without an apic", class == 5, class);
    let this = me();
    this.clear();
    open();
    apic::send(0, apic::command::MYSELF | 0x61);
    close();
    report.check("works after being disabled", this.came(&[0x61]), format_args!("{:x}", this.log()));
}
