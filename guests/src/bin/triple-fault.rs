// SPDX-License-Identifier: MIT OR Apache-2.0
//! Crashes: an exception without an interrupt descriptor table is a triple fault.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::arch::asm;

guests::guest!(run);

fn run(_: u64) -> u32 {
    guests::say!("triple-fault");
    guests::exceptions::forget();
    // SAFETY: the guest ends here, which is its purpose.
    unsafe { asm!("ud2", options(noreturn)) }
}
