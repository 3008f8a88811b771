// SPDX-License-Identifier: MIT OR Apache-2.0
//! A probe's verdicts, one line each: `name: ok`, `name: FAIL …` or `name: skip …`.

use crate::say;
use core::fmt::Display;

/// Counts what failed.
#[derive(Debug, Default)]
pub struct Report {
    failures: u32,
}

impl Report {
    /// A probe that is fine if `good`; `seen` says what was seen.
    pub fn check(&mut self, name: &str, good: bool, seen: impl Display) {
        if good {
            say!("{name}: ok ({seen})");
        } else {
            say!("{name}: FAIL ({seen})");
            self.failures += 1;
        }
    }

    /// A probe that tells nothing here.
    pub fn skip(&self, name: &str, why: &str) {
        say!("{name}: skip ({why})");
    }

    /// The last line; the value to exit with, 0 or 1.
    pub fn finish(self) -> u32 {
        say!("{} failed", self.failures);
        u32::from(self.failures > 0)
    }
}
