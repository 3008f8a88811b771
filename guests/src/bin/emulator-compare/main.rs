// SPDX-License-Identifier: MIT OR Apache-2.0
//! The instruction emulator against QEMU's processor, in the modes that a process cannot enter: each instruction runs once
//! with its data in memory, where the processor executes it, and once with the same data on a device, where it has to be
//! emulated. Registers, flags, memory, the accessed and dirty bits, and faults must come out the same.
//!
//! The numbers on the command line: a seed, how many cases each cell of the table gets, and which mode (an index into
//! `Mode::ALL`). The cases come from `emulator-tests`. Needs the test devices: memory at FF000000h, and some of the
//! same at A8000h for real mode, where every access has to be emulated. On bare QEMU these are no such thing, and the
//! guest says so.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(
    clippy::indexing_slicing,
    reason = "test code on its own tables: a panic is how it reports that it is wrong itself"
)]

extern crate alloc;

#[cfg(target_os = "none")]
mod case;
#[cfg(target_os = "none")]
mod compare;
#[cfg(target_os = "none")]
mod exchange;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod legacy;
#[cfg(target_os = "none")]
mod long;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod tcg;
#[cfg(target_os = "none")]
mod world;

use guests::guest;

guest!(run);

/// Vectors with an error code (APM vol. 2, table 8-1).
#[cfg(target_os = "none")]
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x1f << 10 | 1 << 17;

/// Compares; 0 if nothing was different.
fn run(start_info: u64) -> u32 {
    #[cfg(target_os = "none")]
    return run::all(start_info);
    // A process has the other half of the test.
    #[cfg(not(target_os = "none"))]
    return start_info as u32;
}
