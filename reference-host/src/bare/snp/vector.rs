// SPDX-License-Identifier: MIT OR Apache-2.0
//! x87 and SSE registers, which this program does not use itself: they are the running VMPL's.

use core::arch::asm;
use reference_host::snp::state::FX_BYTES;

#[repr(C, align(16))]
struct Area([u8; FX_BYTES]);

/// Loads what `reference_host::snp::state` has prepared.
pub(super) fn load(area: &[u8; FX_BYTES]) {
    let area = Area(*area);
    // SAFETY: the area is aligned, and its MXCSR has no reserved bit set.
    unsafe { asm!("fxrstor64 [{}]", in(reg) &raw const area, options(nostack, readonly)) };
}

/// Saves what is there.
pub(super) fn save() -> [u8; FX_BYTES] {
    let mut area = Area([0; FX_BYTES]);
    // SAFETY: the area is aligned and ours.
    unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut area, options(nostack)) };
    area.0
}
