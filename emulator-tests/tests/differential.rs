// SPDX-License-Identifier: MIT OR Apache-2.0
//! The comparison: at least 50,000 cases, and at least 200 in each cell of the table.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

#[test]
fn the_emulator_does_what_the_processor_does() {
    common::compare(50_000);
}
