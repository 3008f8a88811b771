// SPDX-License-Identifier: MIT OR Apache-2.0
//! Absurd values to control and debug registers, and the instructions that exit without an operand. Control registers, #UD and what
//! raises it make exits on some platforms alone, so they do not count.

use core::arch::asm;
use guests::coverage::Deed;
use guests::instructions::{read_cr0, read_cr3, read_cr4};

use crate::area::Area;
use crate::handler::clear_breakpoints;
use crate::handler::probe;
use crate::note::note_deed;
use crate::random::Random;

pub(crate) fn run(area: &Area, random: &mut Random, count: u64) {
    for _ in 0..count {
        match random.below(8) {
            0 => cr0(area, random),
            1 => cr3(area, random),
            2 => cr4(area, random),
            3 => small(area, random),
            4 => debug(area, random),
            _ => plain(area, random),
        }
    }
}

fn verdict(area: &Area, fault: Option<u32>, done: Deed, refused: Deed) {
    note_deed(if fault.is_none() { done } else { refused });
    area.beat();
}

fn cr0(area: &Area, random: &mut Random) {
    let old = read_cr0();
    let value = if random.once_in(2) { old ^ 1 << random.below(64) } else { random.value() };
    let fault = probe!(area, "mov cr0, {v}\n mov cr0, {old}", v = in(reg) value, old = in(reg) old);
    verdict(area, fault, Deed::Cr0, Deed::BadCr0);
    let word = random.next() as u16;
    let _ = probe!(area, "lmsw {v:x}\n clts\n mov cr0, {old}", v = in(reg) u64::from(word), old = in(reg) old);
    area.beat();
}

fn cr4(area: &Area, random: &mut Random) {
    let old = read_cr4();
    let value = if random.once_in(3) { random.value() } else { old ^ 1 << random.below(64) };
    let fault = probe!(area, "mov cr4, {v}\n mov cr4, {old}", v = in(reg) value, old = in(reg) old);
    verdict(area, fault, Deed::Cr4, Deed::BadCr4);
}

/// The root stays, for this program needs it: all other bits may change.
fn cr3(area: &Area, random: &mut Random) {
    const ROOT: u64 = 0xff_ffff_f000;
    let old = read_cr3();
    let value = if random.once_in(2) { old ^ random.next() & 0xfff } else { old ^ random.value() & !ROOT };
    let fault = probe!(area, "mov cr3, {v}\n mov cr3, {old}", v = in(reg) value, old = in(reg) old);
    note_deed(if fault.is_none() { Deed::Cr3 } else { Deed::BadCr3 });
    area.beat();
}

/// CR2, CR8 and XCR0.
fn small(area: &Area, random: &mut Random) {
    let value = random.value();
    let _ = probe!(area, "mov cr2, {v}", v = in(reg) value);
    let level = if random.once_in(4) { value } else { value & 15 };
    let zero = 0u64;
    let _ = probe!(area, "mov cr8, {v}\n mov cr8, {zero}", v = in(reg) level, zero = in(reg) zero);
    note_deed(Deed::Cr8);
    let old = read_cr4();
    let xcr0 = if random.once_in(2) { random.next() & 0x3ff } else { value };
    let _ = probe!(
        area,
        "mov cr4, {on}\n xor ecx, ecx\n xsetbv\n mov eax, 1\n xor edx, edx\n xsetbv",
        on = in(reg) old | 1 << 18,
        inout("rax") xcr0 => _, inout("rdx") xcr0 >> 32 => _, out("rcx") _
    );
    let _ = probe!(area, "mov cr4, {old}", old = in(reg) old);
    note_deed(Deed::Xsetbv);
    area.beat();
}

/// QEMU 7.2 crashes with a breakpoint that reaches beyond the end of the address space.
pub(crate) const HIGHEST_BREAKPOINT: u64 = !15;

fn debug(area: &Area, random: &mut Random) {
    let address = random.value().min(HIGHEST_BREAKPOINT);
    let _ = probe!(area, "mov dr0, {v}\n mov dr1, {v}\n mov dr2, {v}\n mov dr3, {v}", v = in(reg) address);
    note_deed(Deed::Breakpoint);
    let _ = probe!(area, "mov dr6, {v}", v = in(reg) random.value());
    note_deed(Deed::Dr6);
    let control = if random.once_in(4) { random.value() } else { random.next() & 0xffff_ffff };
    let _ = probe!(area, "mov dr7, {v}\n in al, 0x80\n mov {v}, dr6\n mov {v}, dr4", v = inout(reg) control => _, out("rax") _);
    note_deed(Deed::Dr7);
    clear_breakpoints();
    // SAFETY: reading has no effect, and breakpoints are off.
    unsafe { asm!("mov {v}, dr7", v = out(reg) _, options(nomem, nostack)) };
    area.exits(1);
}

fn plain(area: &Area, random: &mut Random) {
    let (a, c) = (random.value(), random.value());
    let deed = match random.below(16) {
        0 => {
            let _ = probe!(area, "push rbx\n cpuid\n pop rbx", inout("rax") a => _, inout("rcx") c => _, out("rdx") _);
            Deed::Cpuid
        }
        1 => {
            let _ = probe!(area, "rdpmc", inout("rax") a => _, inout("rcx") c => _, out("rdx") _);
            Deed::Rdpmc
        }
        2 => {
            let _ = probe!(area, "invd");
            Deed::Invd
        }
        3 => {
            let _ = probe!(area, "wbinvd");
            Deed::Wbinvd
        }
        4 => {
            let _ = probe!(area, "monitor", in("rax") area.sandbox(), in("rcx") 0u64, in("rdx") 0u64);
            Deed::Monitor
        }
        5 => {
            let _ = probe!(area, "mwait", in("rax") a, in("rcx") c);
            Deed::Mwait
        }
        6 => {
            let _ = probe!(area, "rsm");
            Deed::Rsm
        }
        7 => {
            let _ = probe!(area, "vmmcall", inout("rax") a => _, inout("rcx") c => _);
            let _ = probe!(area, "vmcall", inout("rax") a => _, inout("rcx") c => _);
            Deed::Vmmcall
        }
        8..=11 => {
            let at = [a, 128 << 20, area.sandbox(), area.sandbox() + 0x8000].get(random.below(4) as usize).copied();
            svm(area, random, at.unwrap_or(a));
            Deed::Svm
        }
        _ => {
            let _ = probe!(area, "ud2");
            Deed::Undefined
        }
    };
    note_deed(deed);
    let elsewhere = matches!(deed, Deed::Rsm | Deed::Svm | Deed::Undefined);
    area.exits(u64::from(!elsewhere));
}

fn svm(area: &Area, random: &mut Random, at: u64) {
    let _ = match random.below(8) {
        0 => probe!(area, "vmrun", in("rax") at),
        1 => probe!(area, "vmload", in("rax") at),
        2 | 3 => probe!(area, "vmsave", in("rax") at),
        4 => probe!(area, "stgi"),
        5 => probe!(area, "clgi"),
        6 => probe!(area, "skinit", in("eax") at as u32),
        _ => probe!(area, "invlpga", in("rax") at, in("ecx") 1),
    };
}
