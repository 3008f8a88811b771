// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tries, at privilege level 0, what a guest without SVM must not be able to do: every SVM instruction, the SVM registers,
//! and the memory of the paravisor, also as an operand.
//!
//! What is expected is what a processor without SVM does (APM vol. 3, per instruction). On bare QEMU, whose processor has
//! SVM, the probes that would succeed there are skipped.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::arch::x86_64::__cpuid;
use core::fmt;
use guests::instructions::{read_msr, write_msr};
use guests::machine::map_has_ram;
use guests::report::Report;
use guests::{attempt, guest};
use specs::msr::EFER;
use specs::vmcb::{MSR_VM_CR, MSR_VM_HSAVE_PA};

/// Where the paravisor has its memory, if it is reserved in the guest's map.
const PARAVISOR: u64 = 128 << 20;
/// Exception vectors.
const UD: u8 = 6;
const GP: u8 = 13;
/// EFER.SVME.
const SVME: u64 = 1 << 12;
/// MSRs that belong to hypervisors or to SEV guests.
const OTHER_MSRS: [(&str, u32); 2] = [("GHCB", 0xc001_0130), ("SEV_STATUS", 0xc001_0131)];

guest!(run);

/// An exception, or none.
struct Seen(Option<u8>);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(UD) => f.write_str("#UD"),
            Some(GP) => f.write_str("#GP"),
            Some(vector) => write!(f, "exception {vector}"),
            None => f.write_str("no exception"),
        }
    }
}

/// A page of our own, for instructions that take an address.
#[repr(align(4096))]
struct Scratch([u8; 4096]);

fn run(start_info: u64) -> u32 {
    static SCRATCH: Scratch = Scratch([0; 4096]);
    let mut report = Report::default();
    let svm = __cpuid(0x8000_0001).ecx & 1 << 2 != 0;
    let hidden = !map_has_ram(start_info, PARAVISOR);
    for (place, address) in [("scratch", SCRATCH.0.as_ptr() as u64), ("paravisor", PARAVISOR)] {
        svm_instructions(&mut report, place, address);
    }
    hypercalls(&mut report);
    other_instructions(&mut report);
    registers(&mut report, svm);
    if hidden {
        memory(&mut report);
    } else {
        report.skip("memory", "128 MiB is the guest's own RAM here");
    }
    report.finish()
}

/// Without EFER.SVME, every one of them is undefined, whatever its operand.
fn svm_instructions(report: &mut Report, place: &str, address: u64) {
    let mut undefined =
        |name: &str, seen: Option<u8>| report.check(name, seen == Some(UD), format_args!("{place}: {}", Seen(seen)));
    undefined("vmrun", attempt!("vmrun rax", inout("rax") address => _));
    undefined("vmload", attempt!("vmload rax", inout("rax") address => _));
    undefined("vmsave", attempt!("vmsave rax", inout("rax") address => _));
    undefined("stgi", attempt!("stgi", in("rax") address));
    undefined("clgi", attempt!("clgi", in("rax") address));
    undefined("skinit", attempt!("skinit eax", inout("rax") address => _));
    undefined("invlpga", attempt!("invlpga rax, ecx", in("rax") address, in("ecx") 0));
    // PVALIDATE, RMPADJUST, TDCALL, Intel's VMCALL: instructions of other platforms.
    undefined(
        "pvalidate",
        attempt!(".byte 0xf2, 0x0f, 0x01, 0xff", inout("rax") address => _, in("ecx") 0, in("edx") 1),
    );
    undefined(
        "rmpadjust",
        attempt!(".byte 0xf3, 0x0f, 0x01, 0xfe", inout("rax") address => _, in("ecx") 0, in("edx") 1),
    );
    undefined("tdcall", attempt!(".byte 0x66, 0x0f, 0x01, 0xcc", inout("rax") address => _));
    undefined("vmcall", attempt!(".byte 0x0f, 0x01, 0xc1", inout("rax") address => _));
}

/// VMMCALL, and VMGEXIT, which is the same with a prefix: undefined, or with the test devices, which bring KVM's hypercalls, a
/// call of a number that does not exist.
fn hypercalls(report: &mut Report) {
    const NUMBER: u64 = 0x1234_5678;
    const NOT_IMPLEMENTED: u64 = 1000_u64.wrapping_neg();
    let mut call = |name, seen: Option<u8>, result: u64| {
        let good = seen == Some(UD) || seen.is_none() && result == NOT_IMPLEMENTED;
        report.check(name, good, format_args!("{}, rax {result:#x}", Seen(seen)));
    };
    let mut result = NUMBER;
    let seen = attempt!("vmmcall", inout("rax") result);
    call("vmmcall", seen, result);
    result = NUMBER;
    let seen = attempt!(".byte 0xf3, 0x0f, 0x01, 0xd9", inout("rax") result);
    call("vmgexit", seen, result);
}

fn other_instructions(report: &mut Report) {
    let seen = attempt!("rsm");
    report.check("rsm", seen == Some(UD), Seen(seen));
    if __cpuid(1).ecx & 1 << 3 == 0 {
        let seen = attempt!("monitor", in("rax") PARAVISOR, in("ecx") 0, in("edx") 0);
        report.check("monitor", seen == Some(UD), Seen(seen));
        let seen = attempt!("mwait", in("eax") 0, in("ecx") 0);
        report.check("mwait", seen == Some(UD), Seen(seen));
    } else {
        let seen = attempt!("monitor", in("rax") &raw const *report as u64, in("ecx") 0, in("edx") 0);
        report.check("monitor", seen.is_none(), Seen(seen));
        report.skip("mwait", "the processor has it, and it would wait");
    }
    // There are no counters: a counter number that does not exist is #GP; QEMU knows the instruction not at all.
    let seen = attempt!("rdpmc", in("ecx") 0x1234_5678, out("eax") _, out("edx") _);
    report.check("rdpmc", matches!(seen, Some(UD | GP)), Seen(seen));
    // Under a hypervisor there is nothing to write back or to lose.
    let seen = attempt!("invd");
    report.check("invd", seen.is_none(), Seen(seen));
    let seen = attempt!("wbinvd");
    report.check("wbinvd", seen.is_none(), Seen(seen));
}

fn registers(report: &mut Report, svm: bool) {
    if svm {
        report.skip("registers", "this processor has SVM");
        return;
    }
    let efer = read_msr(EFER);
    report.check("efer.svme is hidden", efer & SVME == 0, format_args!("EFER {efer:#x}"));
    let wanted = efer | SVME;
    let seen = attempt!("wrmsr", in("ecx") EFER, in("eax") wanted as u32, in("edx") (wanted >> 32) as u32);
    report.check("efer.svme cannot be set", seen == Some(GP), Seen(seen));
    let after = read_msr(EFER);
    report.check("efer is unchanged", after == efer, format_args!("EFER {after:#x}"));
    write_msr(EFER, efer);
    // Operating systems read VM_CR whatever CPUID says: 0 without SVM, or SVMDIS and LOCK as firmware leaves it, whose
    // writes are ignored (APM vol. 2, 15.30.1).
    let control = || {
        let mut value = 0u32;
        let seen = attempt!("rdmsr", in("ecx") MSR_VM_CR, inout("eax") value, out("edx") _);
        (seen, value)
    };
    let (seen, value) = control();
    let known = seen.is_none() && matches!(value, 0 | 0x18);
    report.check("VM_CR", known, format_args!("read: {value:#x}, {}", Seen(seen)));
    let seen = attempt!("wrmsr", in("ecx") MSR_VM_CR, in("eax") 2u32, in("edx") 0);
    let kept = control() == (None, value) && matches!(seen, None | Some(GP));
    report.check("VM_CR", kept, format_args!("write: {}, then {:#x}", Seen(seen), control().1));
    let mut value = 0u32;
    let seen = attempt!("rdmsr", in("ecx") MSR_VM_HSAVE_PA, inout("eax") value, out("edx") _);
    let nothing = matches!(seen, None | Some(GP)) && value & !0xfff == 0;
    report.check("VM_HSAVE_PA", nothing, format_args!("read: {value:#x}, {}", Seen(seen)));
    let seen = attempt!("wrmsr", in("ecx") MSR_VM_HSAVE_PA, in("eax") PARAVISOR as u32, in("edx") 0);
    report.check("VM_HSAVE_PA", seen == Some(GP), format_args!("write: {}", Seen(seen)));
    for (name, index) in OTHER_MSRS {
        let mut value = 0u32;
        let seen = attempt!("rdmsr", in("ecx") index, inout("eax") value, out("edx") _);
        report.check(name, seen == Some(GP), format_args!("read: {value:#x}, {}", Seen(seen)));
        let seen = attempt!("wrmsr", in("ecx") index, in("eax") PARAVISOR as u32, in("edx") 0);
        report.check(name, seen == Some(GP), format_args!("write: {}", Seen(seen)));
    }
}

/// Reads of the paravisor's memory must give ones, as where there is no memory; writes must go nowhere.
fn memory(report: &mut Report) {
    for offset in [0, 8, 0x1000, 0x10_0000, 0x1f_fff8] {
        let address = PARAVISOR + offset;
        let before = load(address);
        let fault = attempt!("mov [{at}], {value}", at = in(reg) address, value = in(reg) 0x5afe_c0de_5afe_c0deu64);
        let after = load(address);
        let absent = (None, u64::MAX);
        let good = before == absent && fault.is_none() && after == absent;
        report.check("memory", good, format_args!("{address:#x}: {:#x}, then {:#x}", before.1, after.1));
    }
    let fault = attempt!("lock xadd [{at}], {value}", at = in(reg) PARAVISOR, value = inout(reg) 1u64 => _);
    let after = load(PARAVISOR);
    report.check("memory, locked", after == (None, u64::MAX), format_args!("{}, then {:#x}", Seen(fault), after.1));
}

fn load(address: u64) -> (Option<u8>, u64) {
    let value: u64;
    let fault = attempt!("mov {value}, [{at}]", value = out(reg) value, at = in(reg) address);
    (fault, value)
}
