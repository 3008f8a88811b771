// SPDX-License-Identifier: MIT OR Apache-2.0
//! The values of those MSRs that have no effect and only remember what was written.

use specs::msr::{misc_enable, mtrr};

/// Which value; a range of MSRs takes consecutive places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Slot {
    /// Eight pairs of base and mask.
    MtrrPhys = 0,
    /// 64 KiB pieces.
    MtrrFixed64K = 16,
    /// 16 KiB pieces: two.
    MtrrFixed16K = 17,
    /// 4 KiB pieces: eight.
    MtrrFixed4K = 19,
    MtrrDefType = 27,
    MiscEnable = 28,
    Hwcr = 29,
    NbCfg = 30,
}

const SLOTS: usize = 31;

/// MTRR_DEF_TYPE as firmware leaves it: all on, write-back by default. With less, Linux turns the PAT off.
pub(super) const MTRR_DEF_TYPE: u64 = mtrr::ENABLE | mtrr::FIXED_ENABLE | mtrr::WRITE_BACK;
/// IA32_MISC_ENABLE at reset: nothing that would need performance counters.
pub(super) const MISC_ENABLE: u64 =
    misc_enable::FAST_STRINGS | misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE;
/// HWCR at reset: the time-stamp counter counts at the P0 rate, which Linux warns about otherwise (PPR, MSR C001_0015).
pub(super) const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;

/// The stored values of one vCPU.
#[derive(Clone, Debug)]
pub(crate) struct MsrState([u64; SLOTS]);

impl MsrState {
    /// As firmware would leave them.
    pub(crate) fn new() -> Self {
        let mut this = Self([0; SLOTS]);
        let write_back = mtrr::WRITE_BACK * 0x0101_0101_0101_0101;
        let mut init = |slot: Slot, offset, value| {
            let stored = this.set(slot, offset, value);
            debug_assert!(stored.is_some(), "slots lie inside the array");
        };
        init(Slot::MtrrFixed64K, 0, write_back);
        // A0000h–BFFFFh, the second of the two, stays uncacheable: no memory is there.
        init(Slot::MtrrFixed16K, 0, write_back);
        for offset in 0..8 {
            init(Slot::MtrrFixed4K, offset, write_back);
        }
        init(Slot::MtrrDefType, 0, MTRR_DEF_TYPE);
        init(Slot::MiscEnable, 0, MISC_ENABLE);
        init(Slot::Hwcr, 0, HWCR_TSC_FREQ_SEL);
        this
    }

    pub(super) fn get(&self, slot: Slot, offset: u32) -> Option<u64> {
        self.0.get((slot as usize).checked_add(offset as usize)?).copied()
    }

    pub(super) fn set(&mut self, slot: Slot, offset: u32, value: u64) -> Option<()> {
        *self.0.get_mut((slot as usize).checked_add(offset as usize)?)? = value;
        Some(())
    }
}
