// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: every test there is, or the suites named.

mod boot;
mod driver;
mod kvm_unit_tests;
pub(crate) mod snp_model;
mod unit;

use std::ops::AddAssign;
use std::path::PathBuf;

use lexopt::Arg::{Long, Value};

use crate::failure::{Failure, Result, status};
use crate::options::{self, set};
use crate::say;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Suite {
    Unit,
    Model,
    Boot,
    SnpModel,
    KvmUnitTests,
}

const ALL: [Suite; 5] = [Suite::Unit, Suite::Model, Suite::Boot, Suite::SnpModel, Suite::KvmUnitTests];
const NAMES: &str = "unit, model, boot, snp-model and kvm-unit-tests";

impl Suite {
    fn parse(name: &str) -> Result<Self> {
        match name {
            "unit" => Ok(Self::Unit),
            "model" => Ok(Self::Model),
            "boot" => Ok(Self::Boot),
            "snp-model" => Ok(Self::SnpModel),
            "kvm-unit-tests" => Ok(Self::KvmUnitTests),
            "attacks" | "fuzz-smoke" | "gdb" => {
                Err(Failure::usage(format!("test: the suite '{name}' is not built yet; there are {NAMES}")))
            }
            _ => Err(Failure::usage(format!("test: unknown suite '{name}'; there are {NAMES}"))),
        }
    }
}

/// The verb.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<u8> {
    let (mut suites, mut slow) = (Vec::new(), false);
    let (mut platform, mut qemu, mut directory): (_, Option<PathBuf>, Option<PathBuf>) = (None, None, None);
    let mut only: Option<String> = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) => suites.push(Suite::parse(&name.to_string_lossy())?),
            Long("platform") => set(&mut platform, "platform", options::platform(&options::text(&mut parser)?)?)?,
            Long("qemu") => set(&mut qemu, "qemu", options::path(&mut parser)?)?,
            Long("dir") => set(&mut directory, "dir", options::path(&mut parser)?)?,
            Long("only") => set(&mut only, "only", options::text(&mut parser)?)?,
            Long("slow") => slow = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let mut totals = Totals::default();
    for suite in ALL.into_iter().filter(|suite| suites.is_empty() || suites.contains(suite)) {
        totals += match suite {
            Suite::Unit => unit::run()?,
            Suite::Model => unit::model()?,
            Suite::Boot => boot::run(qemu.as_deref(), slow)?,
            Suite::SnpModel => snp_model::run(qemu.as_deref())?,
            Suite::KvmUnitTests => kvm_unit_tests::run(directory.as_deref(), only.as_deref(), qemu.as_deref())?,
        };
    }
    say::out(&format!("\n{} passed, {} failed, {} skipped\n", totals.passed, totals.failed, totals.skipped));
    Ok(if totals.failed == 0 { status::OK } else { status::FAILED })
}
