// SPDX-License-Identifier: MIT OR Apache-2.0
//! The differential test of the instruction emulator: the same bytes on the host's processor, on real pages, and in the
//! emulator, on pages that are devices. Registers, flags, memory and faults must come out the same.
//!
//! The host's processor is entered at level 3, in 64-bit mode and in 32- and 16-bit segments of compatibility mode. What a
//! process cannot enter (real mode, protected mode without long mode, level 0) is not compared here.

#![cfg_attr(not(target_os = "linux"), no_std)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test code: a panic is how it reports that it is wrong itself"
)]

pub mod differential;
pub mod emulated;
pub mod forms;
pub mod generate;
pub mod layout;
pub mod native;
pub mod random;
pub mod state;
