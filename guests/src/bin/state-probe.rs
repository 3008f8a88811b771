// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets processor state that nested virtualization hardware does not switch by itself, causes exits, and looks whether the
//! state is still there; then the same for the interrupt shadow.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::arch::{asm, global_asm};
use guests::exceptions::{FIRST_INTERRUPT, take_interrupts};
use guests::guest;
use guests::instructions as cpu;
use guests::machine::lapic;
use guests::report::Report;
use specs::msr;

guest!(run);

// One exit of each kind: CPUID, MSR, port, MMIO. Changes RAX, RCX and RDX, and no flag.
global_asm!(
    r#"
    .pushsection .text, "ax"
provoke_exits:
    push rbx
    mov eax, 0
    mov ecx, 0
    cpuid
    mov ecx, 0xfe
    rdmsr
    mov edx, 0x608
    in eax, dx
    mov eax, 0xfee00030
    mov eax, [rax]
    pop rbx
    ret
    .popsection
    "#
);

unsafe extern "C" {
    fn provoke_exits();
}

fn provoke() {
    // SAFETY: the function keeps the C calling convention.
    unsafe { provoke_exits() };
}

fn run(_: u64) -> u32 {
    let mut report = Report::default();
    let features = __cpuid(1);
    lapic::enable();
    general_registers(&mut report);
    // CR4.OSFXSR, and OSXSAVE where there is XSAVE.
    let xsave = features.ecx & 1 << 26 != 0;
    cpu::write_cr4(cpu::read_cr4() | 1 << 9 | if xsave { 1 << 18 } else { 0 });
    x87_and_sse(&mut report);
    if xsave && features.ecx & 1 << 28 != 0 {
        avx(&mut report);
    } else {
        report.skip("avx, xcr0", "the processor has no AVX");
    }
    control_registers(&mut report);
    debug_registers(&mut report);
    msrs(&mut report);
    swapped_gs(&mut report);
    system_call(&mut report);
    protection_keys(&mut report);
    interrupt_shadow(&mut report);
    report.finish()
}

fn general_registers(report: &mut Report) {
    let (mut r8, mut r9, mut r10, mut r11) = (0x8888u64, 0x9999u64 << 32, 0xaaaau64, u64::MAX);
    let (mut r12, mut r13, mut r14, mut r15, mut rsi, mut rdi) = (12u64, 13u64, 14u64, 15u64, 16u64, 17u64);
    let flags: u64;
    // SAFETY: `provoke_exits` changes only the registers that are named as clobbered.
    unsafe {
        asm!(
            "push 0xcd7",            // every status flag and DF
            "popfq",
            "call {provoke}",
            "pushfq",
            "cld",
            "pop rax",
            provoke = sym provoke_exits,
            out("rax") flags, out("rcx") _, out("rdx") _,
            inout("r8") r8, inout("r9") r9, inout("r10") r10, inout("r11") r11,
            inout("r12") r12, inout("r13") r13, inout("r14") r14, inout("r15") r15, inout("rsi") rsi, inout("rdi") rdi,
        );
    };
    let low = (r8, r9, r10, r11) == (0x8888, 0x9999 << 32, 0xaaaa, u64::MAX);
    let high = (r12, r13, r14, r15, rsi, rdi) == (12, 13, 14, 15, 16, 17);
    report.check("general registers", low && high, "r8 to r15, rsi, rdi");
    report.check("rflags", flags == 0xcd7, format_args!("{flags:#x}"));
}

fn pattern<const N: usize>(seed: u8) -> [u8; N] {
    core::array::from_fn(|index| (index as u8).wrapping_mul(37).wrapping_add(seed))
}

fn x87_and_sse(report: &mut Report) {
    // CR0: MP and NE on, EM and TS off.
    cpu::write_cr0(cpu::read_cr0() & !0xc | 0x22);
    let before: [u8; 256] = pattern(3);
    let mut after = [0u8; 256];
    let mut number = 0u64;
    let (control, mut control_after) = (0x1f80u32 | 1 << 15, 0u32);
    // SAFETY: reads and writes the buffers named, within their size.
    unsafe {
        asm!(
            "fninit",
            "mov qword ptr [r8], 123456789",
            "fild qword ptr [r8]",
            "mov qword ptr [r8], 0",
            "ldmxcsr [r9]",
            "movups xmm0, [rsi]", "movups xmm1, [rsi + 16]", "movups xmm2, [rsi + 32]", "movups xmm3, [rsi + 48]",
            "movups xmm4, [rsi + 64]", "movups xmm5, [rsi + 80]", "movups xmm6, [rsi + 96]", "movups xmm7, [rsi + 112]",
            "movups xmm8, [rsi + 128]", "movups xmm9, [rsi + 144]", "movups xmm10, [rsi + 160]",
            "movups xmm11, [rsi + 176]", "movups xmm12, [rsi + 192]", "movups xmm13, [rsi + 208]",
            "movups xmm14, [rsi + 224]", "movups xmm15, [rsi + 240]",
            "call {provoke}",
            "movups [rdi], xmm0", "movups [rdi + 16], xmm1", "movups [rdi + 32], xmm2", "movups [rdi + 48], xmm3",
            "movups [rdi + 64], xmm4", "movups [rdi + 80], xmm5", "movups [rdi + 96], xmm6", "movups [rdi + 112], xmm7",
            "movups [rdi + 128], xmm8", "movups [rdi + 144], xmm9", "movups [rdi + 160], xmm10",
            "movups [rdi + 176], xmm11", "movups [rdi + 192], xmm12", "movups [rdi + 208], xmm13",
            "movups [rdi + 224], xmm14", "movups [rdi + 240], xmm15",
            "stmxcsr [r10]",
            "fistp qword ptr [r8]",
            provoke = sym provoke_exits,
            in("rsi") &raw const before, in("rdi") &raw mut after,
            in("r8") &raw mut number, in("r9") &raw const control, in("r10") &raw mut control_after,
            out("rax") _, out("rcx") _, out("rdx") _,
        );
    };
    report.check("x87", number == 123_456_789, number);
    report.check("sse", before == after, "xmm0 to xmm15");
    report.check("mxcsr", control == control_after, format_args!("{control_after:#x}"));
}

fn avx(report: &mut Report) {
    let xcr0 = 7u32;
    let before: [u8; 96] = pattern(11);
    let mut after = [0u8; 96];
    let xcr0_after: u32;
    // SAFETY: reads and writes the buffers named; the components enabled are those that CPUID offers with AVX.
    unsafe {
        asm!(
            "xor ecx, ecx",
            "xor edx, edx",
            "xsetbv",
            "vmovups ymm0, [rsi]", "vmovups ymm7, [rsi + 32]", "vmovups ymm15, [rsi + 64]",
            "call {provoke}",
            "vmovups [rdi], ymm0", "vmovups [rdi + 32], ymm7", "vmovups [rdi + 64], ymm15",
            "xor ecx, ecx",
            "xgetbv",
            provoke = sym provoke_exits,
            in("rsi") &raw const before, in("rdi") &raw mut after,
            inout("eax") xcr0 => xcr0_after, out("rcx") _, out("rdx") _,
        );
    };
    report.check("avx", before == after, "ymm0, ymm7, ymm15");
    report.check("xcr0", xcr0 == xcr0_after, format_args!("{xcr0_after:#x}"));
    let size = __cpuid_count(0xd, 0).ebx;
    report.check("xsave size follows xcr0", size == 0x340, format_args!("{size:#x} bytes"));
}

fn control_registers(report: &mut Report) {
    cpu::write_cr2(0x1234_5678_9abc);
    cpu::write_cr8(5);
    let (cr0, cr4) = (cpu::read_cr0(), cpu::read_cr4());
    provoke();
    let (cr2, cr8) = (cpu::read_cr2(), cpu::read_cr8());
    report.check("cr2", cr2 == 0x1234_5678_9abc, format_args!("{cr2:#x}"));
    report.check("cr8", cr8 == 5, cr8);
    let task_priority = lapic::read(0x80);
    report.check("task priority register", task_priority == 0x50, format_args!("{task_priority:#x}"));
    cpu::write_cr8(0);
    report.check("cr0, cr4", (cr0, cr4) == (cpu::read_cr0(), cpu::read_cr4()), format_args!("{cr0:#x}, {cr4:#x}"));
}

fn debug_registers(report: &mut Report) {
    let wanted = [0x1000, 0xffff_8000_0000_2000, 0x3000, 0x7fff_0000_4000];
    let [first, second, third, fourth] = wanted;
    cpu::write_dr0(first);
    cpu::write_dr1(second);
    cpu::write_dr2(third);
    cpu::write_dr3(fourth);
    provoke();
    let seen = [cpu::read_dr0(), cpu::read_dr1(), cpu::read_dr2(), cpu::read_dr3()];
    report.check("dr0 to dr3", seen == wanted, format_args!("{seen:x?}"));
}

fn msrs(report: &mut Report) {
    let registers = [
        ("fs base", msr::FS_BASE, 0x1111_2222_3333),
        ("gs base", msr::GS_BASE, 0xffff_8000_4444_5555),
        ("kernel gs base", msr::KERNEL_GS_BASE, 0x6666_7777),
        ("star", msr::STAR, 0x0013_0008_1234_5678),
        ("lstar", msr::LSTAR, 0xffff_ffff_8100_0000),
        ("cstar", msr::CSTAR, 0xffff_ffff_8200_0000),
        ("sfmask", msr::SFMASK, 0x4_7700),
        ("sysenter cs", msr::SYSENTER_CS, 0x10),
        ("sysenter esp", msr::SYSENTER_ESP, 0xffff_8000_0000_1000),
        ("sysenter eip", msr::SYSENTER_EIP, 0xffff_8000_0000_2000),
        ("pat", msr::PAT, 0x0007_0406_0107_0406),
    ];
    for (name, index, value) in registers {
        let old = cpu::read_msr(index);
        cpu::write_msr(index, value);
        provoke();
        let seen = cpu::read_msr(index);
        cpu::write_msr(index, old);
        report.check(name, seen == value, format_args!("{seen:#x}"));
    }
    if __cpuid(0x8000_0001).edx & 1 << 27 == 0 {
        report.skip("tsc_aux", "the processor has no RDTSCP");
        return;
    }
    cpu::write_msr(msr::TSC_AUX, 0xa5a5);
    provoke();
    let seen: u32;
    // SAFETY: reads a counter and a register.
    unsafe { asm!("rdtscp", out("eax") _, out("edx") _, out("ecx") seen, options(nomem, nostack)) };
    report.check("tsc_aux", seen == 0xa5a5, format_args!("{seen:#x}"));
}

/// Not what RDMSR says but what the processor does: an access through GS, before and after SWAPGS.
fn swapped_gs(report: &mut Report) {
    let (user, kernel) = (0x1111u64, 0x2222u64);
    cpu::write_msr(msr::GS_BASE, &raw const user as u64);
    cpu::write_msr(msr::KERNEL_GS_BASE, &raw const kernel as u64);
    let (first, second): (u64, u64);
    // SAFETY: both bases point to variables that live on; GS is not used otherwise.
    unsafe {
        asm!(
            "call {provoke}",
            "mov {first}, gs:[0]",
            "swapgs",
            "call {provoke}",
            "mov {second}, gs:[0]",
            provoke = sym provoke_exits,
            first = out(reg) first, second = out(reg) second,
            out("rax") _, out("rcx") _, out("rdx") _,
        );
    };
    report.check("swapgs", (first, second) == (user, kernel), format_args!("{first:#x}, {second:#x}"));
}

/// SYSCALL from privilege level 0 goes to LSTAR with the flags masked, after exits.
fn system_call(report: &mut Report) {
    cpu::write_msr(msr::EFER, cpu::read_msr(msr::EFER) | msr::efer::SCE);
    cpu::write_msr(msr::STAR, 8 << 32);
    cpu::write_msr(msr::SFMASK, 1);
    let (flags, saved): (u64, u64);
    let arrived: u64;
    // SAFETY: LSTAR is the label behind the instruction; STAR gives the selectors that are loaded already.
    unsafe {
        asm!(
            "lea rax, [rip + 2f]",
            "mov rdx, rax",
            "shr rdx, 32",
            "mov ecx, 0xc0000082",      // LSTAR
            "wrmsr",
            "call {provoke}",
            "xor r8d, r8d",
            "stc",
            "syscall",
            "mov r8d, 1",
            "2:",
            "pushfq",
            "pop rax",
            provoke = sym provoke_exits,
            out("rax") flags, out("rcx") _, out("rdx") _, out("r8") arrived, out("r11") saved,
        );
    };
    let good = arrived == 0 && flags & 1 == 0 && saved & 1 == 1;
    report.check("syscall", good, format_args!("flags {flags:#x}, saved {saved:#x}"));
}

fn protection_keys(report: &mut Report) {
    if __cpuid_count(7, 0).ecx & 1 << 3 == 0 {
        report.skip("pkru", "the processor has no protection keys");
        return;
    }
    cpu::write_cr4(cpu::read_cr4() | 1 << 22);
    let seen: u32;
    // SAFETY: protection keys bind only accesses to user pages, of which there are none.
    unsafe {
        asm!(
            "xor ecx, ecx",
            "xor edx, edx",
            "wrpkru",
            "call {provoke}",
            "xor ecx, ecx",
            "rdpkru",
            provoke = sym provoke_exits,
            inout("eax") 0x5555_5550u32 => seen, out("rcx") _, out("rdx") _,
        );
    };
    report.check("pkru", seen == 0x5555_5550, format_args!("{seen:#x}"));
}

/// Runs STI or MOV SS, then one instruction that exits, with an interrupt pending: it may come only behind the latter.
macro_rules! shadow {
    ($report:expr, $name:literal, $before:literal, $open:literal, $instruction:literal) => {{
        lapic::interrupt_self(FIRST_INTERRUPT);
        let expected: u64;
        // SAFETY: the interrupt's handler counts and returns; RBX is kept.
        unsafe {
            asm!(
                "mov r8, rbx",
                "mov r9d, ss",
                "mov edx, 0x608",
                "mov ecx, 0xfe",
                "mov esi, 0xfee00030",
                "xor eax, eax",
                $before,
                $open,
                $instruction,
                "2:",
                "nop",
                "nop",
                "cli",
                "mov rbx, r8",
                "lea {expected}, [rip + 2b]",
                expected = lateout(reg) expected,
                out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _,
            );
        };
        let (count, place) = take_interrupts();
        let offset = place.wrapping_sub(expected) as i64;
        $report.check($name, count == 1 && offset == 0, format_args!("{count} interrupts, the last {offset} bytes off"));
    }};
}

fn interrupt_shadow(report: &mut Report) {
    shadow!(report, "shadow: sti, nop", "", "sti", "nop");
    shadow!(report, "shadow: sti, cpuid", "", "sti", "cpuid");
    shadow!(report, "shadow: sti, rdmsr", "", "sti", "rdmsr");
    shadow!(report, "shadow: sti, in", "", "sti", "in eax, dx");
    shadow!(report, "shadow: sti, out", "mov edx, 0x80", "sti", "out dx, al");
    shadow!(report, "shadow: sti, mmio", "", "sti", "mov eax, [rsi]");
    shadow!(report, "shadow: sti, hlt", "", "sti", "hlt");
}
