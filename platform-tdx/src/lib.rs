// SPDX-License-Identifier: MIT OR Apache-2.0
//! The TDX platform, as far as it exists: Parados starts in a TD, finds out what it was launched as, and ends there. Nothing here
//! runs a guest yet.
//!
//! Sources: TDXBASE (initial state of a TD's processors), TDXABI (TDG leaves), GHCI (TDG.VP.VMCALL).
//!
//! | file | what it touches |
//! |---|---|
//! | `fatal` | nothing: the registers of the last call |
//! | `launched` | attributes, and what the launch placed |
//! | `td` | everything that calls the TDX module: in the TDX image alone, with the feature `td` |
//!
//! The calls are those of the crate `tdx-guest`. It does not build as the toolchain is meant to be used (`td.rs`), so nothing
//! but the TDX image has it, and `cargo xtask check` sees to that.
//!
//! Hostile party: the host.

#![cfg_attr(not(test), no_std)]

#[cfg(all(target_os = "none", feature = "td"))]
extern crate alloc;

mod fatal;
mod launched;
#[cfg(all(target_os = "none", feature = "td"))]
mod td;

pub use fatal::fatal_error_call;
pub use launched::{Placed, TdxMemory, wrong_attributes};
#[cfg(all(target_os = "none", feature = "td"))]
pub use td::{
    Ending, StartError, check_attributes, control_registers, early, is_mapped, last_words, say, start_others,
    take_memory,
};
