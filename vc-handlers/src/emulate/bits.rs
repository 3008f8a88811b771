// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bits of system registers and page-table entries that the emulator looks at.

pub(super) use specs::msr::efer;

pub(super) use crate::control::{cr0, cr4};

/// RFLAGS (APM vol. 2, 3.1.6).
pub(super) mod rflags {
    pub(crate) const CF: u64 = 1 << 0;
    pub(crate) const PF: u64 = 1 << 2;
    pub(crate) const AF: u64 = 1 << 4;
    pub(crate) const ZF: u64 = 1 << 6;
    pub(crate) const SF: u64 = 1 << 7;
    pub(crate) const TF: u64 = 1 << 8;
    pub(crate) const DF: u64 = 1 << 10;
    pub(crate) const OF: u64 = 1 << 11;
    pub(crate) const IOPL_SHIFT: u32 = 12;
    pub(crate) const VM: u64 = 1 << 17;
    pub(crate) const AC: u64 = 1 << 18;
    /// The six flags that arithmetic sets.
    pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}

/// The error code of a page fault (APM vol. 2, 8.2.15; SDM vol. 3A, 4.7).
pub(super) mod fault_code {
    pub(crate) const PRESENT: u32 = 1 << 0;
    pub(crate) const WRITE: u32 = 1 << 1;
    pub(crate) const USER: u32 = 1 << 2;
    pub(crate) const RESERVED: u32 = 1 << 3;
    pub(crate) const FETCH: u32 = 1 << 4;
    pub(crate) const KEY: u32 = 1 << 5;
}

/// Page-table entries (APM vol. 2, 5.3 and 5.4).
pub(super) mod entry {
    pub(crate) const PRESENT: u64 = 1 << 0;
    pub(crate) const WRITABLE: u64 = 1 << 1;
    pub(crate) const USER: u64 = 1 << 2;
    pub(crate) const ACCESSED: u64 = 1 << 5;
    pub(crate) const DIRTY: u64 = 1 << 6;
    pub(crate) const LARGE: u64 = 1 << 7;
    pub(crate) const KEY_SHIFT: u32 = 59;
    pub(crate) const NO_EXECUTE: u64 = 1 << 63;
}
