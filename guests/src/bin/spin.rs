// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spins with interrupts off: only a timeout ends it.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::arch::asm;

guests::guest!(run);

fn run(_: u64) -> u32 {
    guests::say!("spin");
    // SAFETY: nothing follows.
    unsafe { asm!("cli", "2: jmp 2b", options(noreturn)) }
}
