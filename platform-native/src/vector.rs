// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's vector and MMX registers, which stay in the processor while Parados runs (APM vol. 4, 1.2; vol. 2, 11.3).
//!
//! Parados is built without floating point, so that nothing but the functions here touches them. They need CR4.OSFXSR in
//! Parados's own CR4, and CR0.EM and CR0.TS clear, which `start::set_up_processor` sees to; the guest's own bits are
//! switched away by #VMEXIT. AVX depends on XCR0 besides, which is the guest's and live.
//!
//! The compiler knows no vector registers for this target, so operands go through memory and nothing is declared
//! clobbered: it keeps nothing in them.

use core::arch::asm;

/// Runs `$template` with `$pointer` for the register of this number; the numbers are spelled out because an instruction
/// cannot take one from a variable.
macro_rules! by_number {
    ($number:expr, $pointer:expr, $before:literal, $register:literal, $after:literal) => {
        match $number & 15 {
            0 => asm!(concat!($before, $register, "0", $after), in(reg) $pointer, options(nostack)),
            1 => asm!(concat!($before, $register, "1", $after), in(reg) $pointer, options(nostack)),
            2 => asm!(concat!($before, $register, "2", $after), in(reg) $pointer, options(nostack)),
            3 => asm!(concat!($before, $register, "3", $after), in(reg) $pointer, options(nostack)),
            4 => asm!(concat!($before, $register, "4", $after), in(reg) $pointer, options(nostack)),
            5 => asm!(concat!($before, $register, "5", $after), in(reg) $pointer, options(nostack)),
            6 => asm!(concat!($before, $register, "6", $after), in(reg) $pointer, options(nostack)),
            7 => asm!(concat!($before, $register, "7", $after), in(reg) $pointer, options(nostack)),
            8 => asm!(concat!($before, $register, "8", $after), in(reg) $pointer, options(nostack)),
            9 => asm!(concat!($before, $register, "9", $after), in(reg) $pointer, options(nostack)),
            10 => asm!(concat!($before, $register, "10", $after), in(reg) $pointer, options(nostack)),
            11 => asm!(concat!($before, $register, "11", $after), in(reg) $pointer, options(nostack)),
            12 => asm!(concat!($before, $register, "12", $after), in(reg) $pointer, options(nostack)),
            13 => asm!(concat!($before, $register, "13", $after), in(reg) $pointer, options(nostack)),
            14 => asm!(concat!($before, $register, "14", $after), in(reg) $pointer, options(nostack)),
            _ => asm!(concat!($before, $register, "15", $after), in(reg) $pointer, options(nostack)),
        }
    };
}

/// XMM register `number`.
pub(crate) fn xmm(number: u8) -> [u8; 16] {
    let mut value = [0; 16];
    // SAFETY: writes the sixteen bytes of `value`; SSE is on (see above).
    unsafe { by_number!(number, value.as_mut_ptr(), "movups [{}], ", "xmm", "") };
    value
}

/// Writes XMM register `number`; the bits above stay.
pub(crate) fn set_xmm(number: u8, value: &[u8; 16]) {
    // SAFETY: reads the sixteen bytes of `value`; SSE is on, and Parados keeps nothing in the register.
    unsafe { by_number!(number, value.as_ptr(), "movups ", "xmm", ", [{}]") };
}

/// YMM register `number`.
///
/// # Safety
/// The processor has AVX, Parados's CR4.OSXSAVE is set, and XCR0 has SSE and AVX.
pub(crate) unsafe fn ymm(number: u8) -> [u8; 32] {
    let mut value = [0; 32];
    // SAFETY: writes the 32 bytes of `value`; AVX is on, as the caller promises.
    unsafe { by_number!(number, value.as_mut_ptr(), "vmovups [{}], ", "ymm", "") };
    value
}

/// Writes YMM register `number`; the bits above become zero.
///
/// # Safety
/// As for [`ymm`].
pub(crate) unsafe fn set_ymm(number: u8, value: &[u8; 32]) {
    // SAFETY: reads the 32 bytes of `value`; AVX is on, as the caller promises, and Parados keeps nothing in the register.
    unsafe { by_number!(number, value.as_ptr(), "vmovups ", "ymm", ", [{}]") };
}

/// The exception summary in the x87 status word (APM vol. 1, 6.2.2).
const EXCEPTION_SUMMARY: u16 = 1 << 7;

/// Whether an x87 exception is pending. It would hit Parados itself in [`mmx`].
pub(crate) fn x87_exception() -> bool {
    let status: u16;
    // SAFETY: FNSTSW changes nothing and raises nothing while CR0.EM and CR0.TS are clear.
    unsafe { asm!("fnstsw ax", out("ax") status, options(nomem, nostack, preserves_flags)) };
    status & EXCEPTION_SUMMARY != 0
}

/// Runs `$template` for the MMX register of this number, unless an x87 exception is pending.
macro_rules! mmx {
    ($number:expr, $pointer:expr, $before:literal, $after:literal) => {
        match $number & 7 {
            0 => asm!(concat!($before, "mm0", $after), in(reg) $pointer, options(nostack)),
            1 => asm!(concat!($before, "mm1", $after), in(reg) $pointer, options(nostack)),
            2 => asm!(concat!($before, "mm2", $after), in(reg) $pointer, options(nostack)),
            3 => asm!(concat!($before, "mm3", $after), in(reg) $pointer, options(nostack)),
            4 => asm!(concat!($before, "mm4", $after), in(reg) $pointer, options(nostack)),
            5 => asm!(concat!($before, "mm5", $after), in(reg) $pointer, options(nostack)),
            6 => asm!(concat!($before, "mm6", $after), in(reg) $pointer, options(nostack)),
            _ => asm!(concat!($before, "mm7", $after), in(reg) $pointer, options(nostack)),
        }
    };
}

/// MMX register `number`; zero while an x87 exception is pending, when nobody should ask.
pub(crate) fn mmx(number: u8) -> u64 {
    let mut value = 0_u64;
    if !x87_exception() {
        // SAFETY: writes the eight bytes of `value`. No #MF can come, checked above, and CR0.EM and CR0.TS are clear. The x87
        // state that it marks as in use is the guest's, whose instruction this is.
        unsafe { mmx!(number, &raw mut value, "movq [{}], ", "") };
    }
    value
}

/// Writes MMX register `number`; not while an x87 exception is pending.
pub(crate) fn set_mmx(number: u8, value: u64) {
    if !x87_exception() {
        // SAFETY: reads the eight bytes of `value`; the rest as in `mmx`.
        unsafe { mmx!(number, &raw const value, "movq ", ", [{}]") };
    }
}
