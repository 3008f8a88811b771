// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes Parados panic, by the test device that is there for it; before, it does something odd that a log at level debug
//! notes.

#![cfg_attr(target_os = "none", no_std, no_main)]

use guests::instructions::{in_byte, out_byte};

guests::guest!(run);

/// A port where nothing is.
const NOWHERE: u16 = 0x1234;
const CRASH_PORT: u16 = 0xf8;

fn run(_: u64) -> u32 {
    guests::say!("crash: nowhere reads {:#x}", in_byte(NOWHERE));
    for (port, byte) in (CRASH_PORT..).zip(*b"DIE!") {
        out_byte(port, byte);
    }
    guests::say!("crash: still here");
    1
}
