// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same comparison with a million cases: `cargo test -p emulator-tests --test slow -- --ignored --nocapture`.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

#[test]
#[ignore = "takes half a minute"]
fn the_emulator_does_a_million_times_what_the_processor_does() {
    common::compare(1_000_000);
}
