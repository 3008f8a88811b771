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

mod accept;
mod ending;
#[cfg(target_os = "none")]
mod entry;
mod interrupts;
mod launched;
mod log;
mod smp;
mod start;
mod tdcall;

pub use ending::{Ending, claim_end, end};
pub use launched::{Placed, TdxMemory, wrong_attributes};
pub use log::{last_words, say};
pub use platform_shared::exceptions::control_registers;
pub use platform_shared::own_tables::is_mapped;
pub use smp::start_others;
pub use start::{StartError, check_attributes, early, take_memory};
