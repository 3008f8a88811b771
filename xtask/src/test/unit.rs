// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `cargo test` runs on the host: the unit tests of everything that is not itself a bare-metal program, and the models
//! of the run loop's locking, for which a checker takes the place of all atomics and locks.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::Totals;
use crate::build;
use crate::failure::{Failure, Result};
use crate::say;

/// The unit tests. `slow`: a million cases of the emulator on the host's processor besides.
pub(super) fn run(slow: bool) -> Result<Totals> {
    say::progress("unit tests (cargo test)");
    let mut totals = cargo_test(&["--workspace", "--no-fail-fast"], None)?;
    if slow {
        let million = ["-p", "emulator-tests", "--test", "slow", "--", "--ignored", "--nocapture"];
        totals += cargo_test(&million, None)?;
    }
    Ok(totals)
}

/// The models, built apart because the checker's atomics work nowhere else.
pub(super) fn model() -> Result<Totals> {
    say::progress("models of the locking (cargo test, checked by loom)");
    let flags = Some("--cfg loom");
    let mut totals = cargo_test(&["-p", "model-tests", "--target-dir", "target/loom"], flags)?;
    let own = ["-p", "paravisor-core", "--lib", "--target-dir", "target/loom", "vcpu::tests::model"];
    totals += cargo_test(&own, flags)?;
    Ok(totals)
}

/// Runs `cargo test`.
fn cargo_test(arguments: &[&str], flags: Option<&str>) -> Result<Totals> {
    let mut command = build::cargo();
    command.arg("test").args(arguments);
    if let Some(flags) = flags {
        command.env("RUSTFLAGS", flags);
    }
    totals("cargo test", command)
}

/// Runs a program that ends as `cargo test` does, passes its output on, and adds up its totals.
pub(super) fn totals(name: &str, mut command: Command) -> Result<Totals> {
    command.stdout(Stdio::piped());
    let failed = |error: &dyn std::fmt::Display| Failure::missing(format!("{name}: {error}"));
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let mut totals = Totals::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            totals += totals_of(&line).unwrap_or_default();
            say::out(&format!("{line}\n"));
        }
    }
    let result = child.wait().map_err(|error| failed(&error))?;
    if !result.success() && totals.failed == 0 {
        // It did not build, or a test took the whole program down.
        totals.failed = 1;
    }
    Ok(totals)
}

/// From a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn totals_of(line: &str) -> Option<Totals> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok());
    Some(Totals { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_totals_are_read() {
        let line = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(totals_of(line), Some(Totals { passed: 12, failed: 1, skipped: 2 }));
        assert_eq!(totals_of("test boot::x ... ok"), None);
    }
}
