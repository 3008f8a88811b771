// SPDX-License-Identifier: MIT OR Apache-2.0
//! x87 and SSE registers, which this program does not use itself: they are the running VMPL's.

use core::arch::asm;
use reference_host::snp::state::FX_BYTES;

/// What FXSAVE stores and FXRSTOR loads.
#[repr(C, align(16))]
pub(super) struct Area(pub(super) [u8; FX_BYTES]);

impl Area {
    pub(super) const ZEROED: Self = Self([0; FX_BYTES]);

    /// Loads what `reference_host::snp::state` has prepared.
    pub(super) fn load(&self) {
        // SAFETY: the area is aligned, and its MXCSR has no reserved bit set.
        unsafe { asm!("fxrstor64 [{}]", in(reg) self, options(nostack, readonly)) };
    }

    /// Saves what is there.
    pub(super) fn save(&mut self) {
        // SAFETY: the area is aligned and ours.
        unsafe { asm!("fxsave64 [{}]", in(reg) self, options(nostack)) };
    }
}
