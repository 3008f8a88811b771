// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets the machine through the keyboard controller's output pulse (command FEh at port 64h).

#![cfg_attr(target_os = "none", no_std, no_main)]

use guests::instructions::{in_byte, out_byte};

guests::guest!(run);

/// Status: the controller has not taken the last byte yet.
const INPUT_FULL: u8 = 2;

fn run(_: u64) -> u32 {
    // FFh pulses no line.
    for command in [0xff, 0xfe] {
        let ready = guests::time::wait(100_000, || in_byte(0x64) & INPUT_FULL == 0);
        guests::say!("reset-8042: ready {ready}, command {command:#x}");
        out_byte(0x64, command);
    }
    guests::time::delay(1_000_000);
    guests::say!("reset-8042: still here");
    1
}
