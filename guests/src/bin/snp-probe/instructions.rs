// SPDX-License-Identifier: MIT OR Apache-2.0
//! SNP's instructions, as bytes: no assembler needs to know them.

use core::arch::asm;

/// EAX and CF of PVALIDATE.
pub(crate) fn pvalidate(address: u64, large: bool, validate: bool) -> (u32, bool) {
    let (eax, carry): (u64, u8);
    // SAFETY: the page is not one that this program uses otherwise.
    unsafe {
        asm!(
            ".byte 0xf2, 0x0f, 0x01, 0xff",
            "setc {carry}",
            carry = out(reg_byte) carry,
            inout("rax") address => eax,
            in("rcx") u64::from(large),
            in("rdx") u64::from(validate),
        );
    }
    (eax as u32, carry != 0)
}

/// EAX of RMPADJUST of a 4 KiB page.
pub(crate) fn rmpadjust(address: u64, vmpl: u8, rights: u8, vmsa: bool) -> u32 {
    let target = u64::from(vmpl) | u64::from(rights) << 8 | u64::from(vmsa) << 16;
    let eax: u64;
    // SAFETY: as in `pvalidate`; other VMPLs run nothing that this program does not want.
    unsafe { asm!(".byte 0xf3, 0x0f, 0x01, 0xfe", inout("rax") address => eax, in("rcx") 0u64, in("rdx") target) };
    eax as u32
}

/// EAX, RCX and RDX of RMPQUERY.
pub(crate) fn rmpquery(address: u64, vmpl: u8) -> (u32, u64, u64) {
    let (eax, size, target): (u64, u64, u64);
    // SAFETY: it changes nothing.
    unsafe {
        asm!(
            ".byte 0xf3, 0x0f, 0x01, 0xfd",
            inout("rax") address => eax,
            out("rcx") size,
            inout("rdx") u64::from(vmpl) => target,
        );
    }
    (eax as u32, size, target)
}

/// INVLPGB of everything of this guest's, and TLBSYNC.
pub(crate) fn flush() {
    // SAFETY: a flush changes nothing that a program can see.
    unsafe { asm!(".byte 0x0f, 0x01, 0xfe", in("rax") 0xcu64, in("ecx") 0, in("edx") 0) };
    // SAFETY: the same.
    unsafe { asm!(".byte 0x0f, 0x01, 0xff") };
}

/// CR2.
pub(crate) fn read_cr2() -> u64 {
    let value;
    // SAFETY: reading it changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) value) };
    value
}

/// RDMSR.
pub(crate) fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the registers read here have no side effects.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high) };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR.
pub(crate) fn write_msr(number: u32, value: u64) {
    // SAFETY: only the GHCB MSR is written.
    unsafe { asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32) };
}

/// Reads a word of a page that the compiler knows nothing of.
pub(crate) fn read(address: u64) -> u64 {
    let value;
    // SAFETY: the address is mapped; what it holds belongs to no Rust object.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address) };
    value
}

/// Writes one.
pub(crate) fn write(address: u64, value: u64) {
    // SAFETY: as in `read`.
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) value) };
}
