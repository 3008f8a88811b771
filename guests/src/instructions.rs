// SPDX-License-Identifier: MIT OR Apache-2.0
//! Single instructions as functions.

use core::arch::asm;

/// OUT of a byte.
pub fn out_byte(port: u16, value: u8) {
    // SAFETY: no port of this machine reaches memory that Rust knows of.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// OUT of two bytes.
pub fn out_word(port: u16, value: u16) {
    // SAFETY: as in `out_byte`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// OUT of four bytes.
pub fn out_dword(port: u16, value: u32) {
    // SAFETY: as in `out_byte`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// IN of a byte.
pub fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY: as in `out_byte`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// IN of two bytes.
pub fn in_word(port: u16) -> u16 {
    let value;
    // SAFETY: as in `out_byte`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// IN of four bytes.
pub fn in_dword(port: u16) -> u32 {
    let value;
    // SAFETY: as in `out_byte`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// STI, and one instruction for its shadow.
pub fn open() {
    // SAFETY: interrupts find their handlers. Not `nomem`: they change memory.
    unsafe { asm!("sti", "nop", options(nostack)) };
}

/// CLI.
pub fn close() {
    // SAFETY: only holds interrupts off.
    unsafe { asm!("cli", options(nostack)) };
}

/// STI; HLT; CLI: sleeps until the next interrupt, also if it is pending already.
pub fn sleep() {
    // SAFETY: as in `open`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// RDTSC.
pub fn time_stamp() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter. The fence keeps what is measured on its side.
    unsafe { asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// RDMSR of a register that exists.
pub fn read_msr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: no register has side effects on being read.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR. The caller may only write what leaves this program running.
pub fn write_msr(index: u32, value: u64) {
    // SAFETY: the guests write registers that this program does not depend on, or the value it depends on.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    };
}

/// A control register as two functions.
macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: reading has no side effects.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes ", $name, "; the caller may only write what leaves this program running.")]
        pub fn $write(value: u64) {
            // SAFETY: the guests change only bits that this program does not depend on.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}

control_register!(read_cr2, write_cr2, "cr2");
control_register!(read_cr3, write_cr3, "cr3");
control_register!(read_cr4, write_cr4, "cr4");
control_register!(read_cr8, write_cr8, "cr8");
control_register!(read_cr0, write_cr0, "cr0");
control_register!(read_dr0, write_dr0, "dr0");
control_register!(read_dr1, write_dr1, "dr1");
control_register!(read_dr2, write_dr2, "dr2");
control_register!(read_dr3, write_dr3, "dr3");
