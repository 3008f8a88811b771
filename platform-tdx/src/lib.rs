// SPDX-License-Identifier: MIT OR Apache-2.0
//! The TDX platform, as far as it exists: Parados starts in a TD, finds out what it was launched as, and ends there. Nothing here
//! runs a guest yet.
//!
//! Sources: TDXBASE (initial state of a TD's processors), TDXABI (TDG leaves), GHCI (TDG.VP.VMCALL).
//!
//! | file | what it touches |
//! |---|---|
//! | `entry` | the reset vector, the way to long mode, where other processors wait |
//! | `tdcall` | the TDX module and, through it, the host |
//! | `accept`, `memory` | memory changing hands; what the launch placed |
//! | `smp` | the other processors |
//! | `interrupts`, `log`, `ending` | exceptions, lines to the host, the end |
//!
//! Hostile party: the host.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod launched;

pub use launched::{Placed, TdxMemory, wrong_attributes};

#[cfg(target_os = "none")]
mod accept;
#[cfg(target_os = "none")]
mod ending;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
mod log;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod tdcall;

#[cfg(target_os = "none")]
pub use {
    ending::{Ending, claim_end, end},
    log::{last_words, say},
    platform_shared::exceptions::control_registers,
    platform_shared::own_tables::is_mapped,
    smp::start_others,
    start::{StartError, check_attributes, early, take_memory},
};
