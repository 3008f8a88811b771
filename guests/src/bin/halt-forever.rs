// SPDX-License-Identifier: MIT OR Apache-2.0
//! Halts with interrupts off: only a timeout ends it.

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(run);

fn run(_: u64) -> u32 {
    guests::say!("halt-forever");
    guests::machine::halt_forever()
}
