// SPDX-License-Identifier: MIT OR Apache-2.0
//! Crashes: jumps to an address where there is no memory, without an interrupt descriptor table.
//!
//! Absent memory reads as ones, which are no instruction. On bare QEMU it reads as zeros, which are: there, only a timeout
//! ends this guest.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::arch::asm;

/// Between the end of RAM, at 2 GiB at most, and the devices.
const NOWHERE: u64 = 0xd123_4000;

guests::guest!(run);

fn run(_: u64) -> u32 {
    guests::say!("jump-nowhere");
    guests::exceptions::forget();
    // SAFETY: the guest ends here, which is its purpose.
    unsafe { asm!("jmp {}", in(reg) NOWHERE, options(noreturn)) }
}
