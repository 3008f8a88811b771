// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures what an exit costs: time-stamp cycles for one CPUID, RDMSR, IN and MMIO read, each the average over a loop.
//!
//! Prints a JSON line for each kind, and then ends the run. With a number in its command line it makes as many exits of that kind
//! alone (1 CPUID, and so on), or none for 0, and says only how many. The instructions are chosen so that the floor (`floor.rs`) can
//! skip them by a constant length.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::arch::asm;
use core::fmt::Write;
use guests::instructions::time_stamp;
use guests::serial::Serial;
use guests::{guest, machine};

/// Exits in a loop.
const COUNT: u64 = 1000;
/// Loops of each kind; whoever reads the lines takes the best, or the spread.
const RUNS: usize = 15;

guest!(run);

fn run(start_info: u64) -> u32 {
    type Loop = fn();
    let kinds: [(&str, Loop); 4] = [("cpuid", cpuid), ("msr", msr), ("port", port), ("mmio", mmio)];
    if let Some(number) = machine::command_line_number(start_info) {
        let chosen = kinds.get((number as usize).wrapping_sub(1));
        let loops = if let Some((_, exits)) = chosen { (0..RUNS).map(|_| exits()).count() } else { 0 };
        // As many characters, whatever the number: each of them is exits as well.
        let _ = writeln!(Serial, "{{\"counted\":{:05}}}", loops as u64 * COUNT);
        return 0;
    }
    for (kind, exits) in kinds {
        // Once for the caches of whoever answers.
        exits();
        let cycles: [u64; RUNS] = core::array::from_fn(|_| {
            let start = time_stamp();
            exits();
            (time_stamp() - start) / COUNT
        });
        // The port cannot fail.
        let _ = writeln!(Serial, "{{\"kind\":\"{kind}\",\"cycles\":{cycles:?},\"n\":{COUNT}}}");
    }
    0
}

fn cpuid() {
    // SAFETY: a loop that keeps RBX.
    unsafe {
        asm!(
            "mov r8, rbx",
            "2:",
            "xor eax, eax",
            "cpuid",
            "dec rsi",
            "jnz 2b",
            "mov rbx, r8",
            inout("rsi") COUNT => _, out("rax") _, out("rcx") _, out("rdx") _, out("r8") _,
            options(nomem, nostack),
        );
    };
}

fn msr() {
    // SAFETY: MTRRcap can be read without effect.
    unsafe {
        asm!(
            "2:",
            "rdmsr",
            "dec rsi",
            "jnz 2b",
            inout("rsi") COUNT => _, in("ecx") specs::msr::MTRR_CAP, out("eax") _, out("edx") _,
            options(nomem, nostack),
        );
    };
}

fn port() {
    // SAFETY: the PM timer can be read without effect.
    unsafe {
        asm!(
            "2:",
            "in eax, dx",
            "dec rsi",
            "jnz 2b",
            inout("rsi") COUNT => _, in("edx") 0x608, out("eax") _,
            options(nomem, nostack),
        );
    };
}

fn mmio() {
    // SAFETY: the APIC's version register can be read without effect.
    unsafe {
        asm!(
            "2:",
            "mov eax, [rdi]",
            "dec rsi",
            "jnz 2b",
            inout("rsi") COUNT => _, in("rdi") specs::apic::LAPIC_BASE + 0x30, out("eax") _,
            options(nostack, readonly),
        );
    };
}
