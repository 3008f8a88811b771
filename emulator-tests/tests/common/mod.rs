// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a comparison and prints its table. `EMULATOR_TESTS_SEED` chooses another seed than 1, `EMULATOR_TESTS_CASES`
//! another number of cases. A difference is told with its bytes and registers; the same seed makes it again.

use emulator_tests::differential;
use emulator_tests::report::PER_CELL;

/// A number from the environment, decimal.
fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Fails if the emulator differs from the processor, or if a cell of the table has too few cases.
pub(crate) fn compare(cases: u64) {
    let seed = from_environment("EMULATOR_TESTS_SEED", 1);
    let cases = from_environment("EMULATOR_TESTS_CASES", cases);
    let report = differential::run(seed, cases).unwrap_or_else(|error| panic!("the host cannot run cases: {error}"));
    println!("{}", report.table());
    for difference in &report.differences {
        println!("{difference}");
    }
    let (cells, least) = (report.cells.len(), report.least());
    let (cases, different) = (report.cases(), report.different());
    println!("{cases} cases in {cells} cells of at least {least}, {different} different, seed {seed}");
    assert!(least >= PER_CELL, "a cell has {least} cases");
    assert_eq!(different, 0, "cases that came out differently");
}
