// SPDX-License-Identifier: MIT OR Apache-2.0
//! The differential test of the instruction emulator: the same bytes on a processor, on real pages, and in the emulator, on
//! pages that are devices. Registers, flags, memory and faults must come out the same.
//!
//! Two programs do it. Here the host's processor is entered at level 3, in 64-bit mode and in 32- and 16-bit segments of
//! compatibility mode. What a process cannot enter (real mode, protected mode without long mode, level 0) is compared by
//! the guest `emulator-compare`, on QEMU's processor. The cases of both are generated here, without the standard library.

#![cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), no_std)]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test code: a panic is how it reports that it is wrong itself"
)]

extern crate alloc;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod differential;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod emulated;
pub mod forms;
pub mod generate;
pub mod layout;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod native;
pub mod random;
pub mod report;
pub mod state;
