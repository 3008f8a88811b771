// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets the machine through the reset control register (CF9h).

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(run);

fn run(_: u64) -> u32 {
    guests::say!("reset");
    guests::machine::reset()
}
