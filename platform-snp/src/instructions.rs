// SPDX-License-Identifier: MIT OR Apache-2.0
//! SNP's instructions (APM vol. 3), VMGEXIT, and the two places where an event of the host may come between a look and what
//! follows from it.

use core::arch::{asm, global_asm};

use specs::sev::{VmplRights, rmpadjust as target};

/// What PVALIDATE answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Validation {
    /// One of `specs::sev::result`.
    pub(crate) code: u32,
    /// CF: the page was already as it was to become.
    pub(crate) unchanged: bool,
}

/// PVALIDATE.
///
/// # Safety
/// The page is mapped private at its own address, and nothing that must keep its content lies in it.
pub(crate) unsafe fn pvalidate(address: u64, large: bool, validate: bool) -> Validation {
    let (code, carry): (u64, u8);
    // SAFETY: the caller's duty. The instruction writes RAX and flags.
    unsafe {
        asm!(
            ".byte 0xf2, 0x0f, 0x01, 0xff",
            "setc {carry}",
            carry = out(reg_byte) carry,
            inout("rax") address => code,
            in("rcx") u64::from(large),
            in("rdx") u64::from(validate),
            options(nostack),
        );
    }
    Validation { code: code as u32, unchanged: carry != 0 }
}

/// RMPADJUST: gives a VMPL its rights, and makes the page a VMSA or none; one of `specs::sev::result`.
///
/// # Safety
/// The page is mapped private at its own address, and its new rights give nobody what is Parados's.
pub(crate) unsafe fn rmpadjust(address: u64, large: bool, vmpl: u8, rights: VmplRights, vmsa: bool) -> u32 {
    let mut attributes = u64::from(vmpl) | u64::from(rights.bits()) << target::RIGHTS_SHIFT;
    if vmsa {
        attributes |= target::VMSA;
    }
    let code: u64;
    // SAFETY: the caller's duty. The instruction writes RAX and flags.
    unsafe {
        asm!(
            ".byte 0xf3, 0x0f, 0x01, 0xfe",
            inout("rax") address => code,
            in("rcx") u64::from(large),
            in("rdx") attributes,
            options(nostack),
        );
    }
    code as u32
}

/// Drops every translation of this guest on all processors: INVLPGB with a valid ASID and global pages, then TLBSYNC.
pub(crate) fn flush_all() {
    const ALL: u64 = 1 << 2 | 1 << 3;
    // SAFETY: a flush changes nothing that a program can see. Every processor with SNP has both instructions.
    unsafe { asm!(".byte 0x0f, 0x01, 0xfe", in("rax") ALL, in("ecx") 0, in("edx") 0, options(nostack)) };
    // SAFETY: as above.
    unsafe { asm!(".byte 0x0f, 0x01, 0xff", options(nostack)) };
}

/// VMGEXIT. What the host answers is in the GHCB MSR or in the GHCB, which are read by instructions that the compiler does
/// not move across this.
pub(crate) fn vmgexit() {
    // SAFETY: the host cannot reach registers or private memory.
    unsafe { asm!("rep vmmcall", options(nostack)) };
}

// #HV comes at any time and means only that somebody should look at the doorbell. If it comes between a look and the VMGEXIT
// or HLT that the look led to, that instruction must not follow: the handler moves RIP behind it. The doorbell's first byte
// is the pending vector, and a bit in the second an NMI (GHCB 2.0, 4.1.11).
global_asm!(
    ".section .text.snp_doorbell, \"ax\"",
    ".global snp_exit_unless_rung",
    "snp_exit_unless_rung:", // RDI: the doorbell. EAX: whether the exit took place.
    "    xor eax, eax",
    "    test word ptr [rdi], {waits}",
    "2:  jne 4f",
    "    rep vmmcall",
    "3:  mov eax, 1",
    "4:  ret",
    ".global snp_halt_unless_rung",
    "snp_halt_unless_rung:", // RDI: the doorbell.
    "    test word ptr [rdi], {waits}",
    "5:  jne 6f",
    "    hlt",
    "6:  ret",
    ".global snp_hv",
    "snp_hv:",
    "    push rax",
    "    push rcx",
    "    mov rax, [rsp + 16]",
    "    lea rcx, [rip + 2b]",
    "    cmp rax, rcx",
    "    jb 7f",
    "    lea rcx, [rip + 3b]",
    "    cmp rax, rcx",
    "    jae 7f",
    "    lea rax, [rip + 4b]",
    "    mov [rsp + 16], rax",
    "    jmp 8f",
    "7:  lea rcx, [rip + 5b]",
    "    cmp rax, rcx",
    "    jb 8f",
    "    lea rcx, [rip + 6b]",
    "    cmp rax, rcx",
    "    jae 8f",
    "    mov [rsp + 16], rcx",
    "8:  pop rcx",
    "    pop rax",
    "    iretq",
    ".text",
    waits = const 0x1ff,
);

unsafe extern "C" {
    fn snp_exit_unless_rung(doorbell: *const u8) -> u32;
    fn snp_halt_unless_rung(doorbell: *const u8);
    /// The gate of #HV leads here.
    pub(crate) static snp_hv: u8;
}

/// VMGEXIT, unless a vector waits in the doorbell. Whether it took place.
pub(crate) fn vmgexit_unless_rung(doorbell: *const u8) -> bool {
    // SAFETY: the function reads one byte of a page that is mapped for ever; VMGEXIT as in `vmgexit`.
    unsafe { snp_exit_unless_rung(doorbell) != 0 }
}

/// HLT, unless a vector waits in the doorbell.
pub(crate) fn halt_unless_rung(doorbell: *const u8) {
    // SAFETY: the function reads one byte of a page that is mapped for ever, and sleeps until the host goes on.
    unsafe { snp_halt_unless_rung(doorbell) };
}
