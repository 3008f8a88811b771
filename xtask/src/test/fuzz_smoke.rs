// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzzers without a fuzzer: corpora, seeded mutations, planted bugs. `fuzz-targets` does it; this builds and starts it.

use super::{Totals, unit};
use crate::build;
use crate::failure::Result;
use crate::say;

/// How many times the mutations of a quick run a slow one makes.
const SLOW: &str = "50";

/// Runs the smoke form of every fuzzer.
pub(super) fn run(slow: bool) -> Result<Totals> {
    say::progress("fuzzers' smoke run");
    let mut command = build::cargo();
    command.args(["run", "--quiet", "--profile", "fuzz", "--package", "fuzz-targets", "--bin", "fuzz-smoke"]);
    if slow {
        command.args(["--", "--times", SLOW]);
    }
    unit::totals("the fuzzers' smoke run", command)
}
