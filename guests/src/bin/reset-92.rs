// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets the machine through system control port A (92h): bit 0 from 0 to 1, after the bit has been written as 0.

#![cfg_attr(target_os = "none", no_std, no_main)]

use guests::instructions::{in_byte, out_byte};

guests::guest!(run);

fn run(_: u64) -> u32 {
    let before = in_byte(0x92);
    // A20 on, then off, then on again: none of these resets.
    for value in [2, 0, 2] {
        out_byte(0x92, value);
    }
    guests::say!("reset-92: reads {before:#x}, then {:#x}", in_byte(0x92));
    out_byte(0x92, 3);
    guests::time::delay(1_000_000);
    guests::say!("reset-92: still here");
    1
}
