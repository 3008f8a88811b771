// SPDX-License-Identifier: MIT OR Apache-2.0
//! RDMSR and WRMSR.

use core::arch::asm;
use specs::msr;

/// How many MTRRs [`mtrrs`] names.
pub(super) const MTRRS: usize = 28;

/// The MTRRs that QEMU has; the one that enables them comes last (APM vol. 2, 7.7).
pub(super) fn mtrrs() -> impl Iterator<Item = u32> {
    let fixed = [msr::MTRR_FIX_64K_00000, msr::MTRR_FIX_16K_80000, msr::MTRR_FIX_16K_A0000];
    let small = msr::MTRR_FIX_4K_C0000..msr::MTRR_FIX_4K_C0000 + 8;
    let variable = msr::MTRR_PHYS_BASE0..msr::MTRR_PHYS_BASE0 + 16;
    fixed.into_iter().chain(small).chain(variable).chain([msr::MTRR_DEF_TYPE])
}

/// RDMSR. QEMU answers 0 for what it does not know.
pub(super) fn read(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: no register that QEMU emulates has a side effect on reading.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR.
///
/// # Safety
/// The value does what the caller wants, and leaves this program runnable.
pub(super) unsafe fn write(number: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller's duty.
    unsafe { asm!("wrmsr", in("ecx") number, in("eax") low, in("edx") high, options(nostack)) };
}
