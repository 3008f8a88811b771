// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: every test there is, or the suites named.

mod boot;
mod crew;
mod driver;
mod fuzz_smoke;
mod hostile;
mod kvm_unit_tests;
mod reproducible;
pub(crate) mod snp_model;
mod unit;

use std::ops::AddAssign;
use std::path::PathBuf;

use lexopt::Arg::{Long, Value};

use igvm_tools::Platform;

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
    FuzzSmoke,
    Boot,
    SnpModel,
    Hostile,
    KvmUnitTests,
    Reproducible,
}

/// Their names, in the order in which all of them run.
const SUITES: &[(&str, Suite)] = &[
    ("unit", Suite::Unit),
    ("model", Suite::Model),
    ("fuzz-smoke", Suite::FuzzSmoke),
    ("boot", Suite::Boot),
    ("snp-model", Suite::SnpModel),
    ("hostile", Suite::Hostile),
    ("kvm-unit-tests", Suite::KvmUnitTests),
    ("reproducible", Suite::Reproducible),
];

impl Suite {
    fn parse(name: &str) -> Result<Self> {
        if let Some((_, suite)) = SUITES.iter().find(|(known, _)| *known == name) {
            return Ok(*suite);
        }
        let names: Vec<_> = SUITES.iter().map(|(known, _)| *known).collect();
        let what = if matches!(name, "attacks" | "gdb") { "is not built yet" } else { "is unknown" };
        Err(Failure::usage(format!("test: the suite '{name}' {what}; there are {}", names.join(", "))))
    }
}

/// `--platform`: also one whose image starts, though no guest does.
fn platform(name: &str) -> Result<Platform> {
    if name == Platform::Tdx.name() { Ok(Platform::Tdx) } else { options::platform(name) }
}

/// The verb.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<u8> {
    let (mut suites, mut slow) = (Vec::new(), false);
    let (mut seed, mut seeds) = (None, None);
    let (mut platform, mut qemu, mut directory): (_, Option<PathBuf>, Option<PathBuf>) = (None, None, None);
    let mut only: Option<String> = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) => suites.push(Suite::parse(&name.to_string_lossy())?),
            Long("platform") => set(&mut platform, "platform", self::platform(&options::text(&mut parser)?)?)?,
            Long("qemu") => set(&mut qemu, "qemu", options::path(&mut parser)?)?,
            Long("dir") => set(&mut directory, "dir", options::path(&mut parser)?)?,
            Long("only") => set(&mut only, "only", options::text(&mut parser)?)?,
            Long("slow") => slow = true,
            Long("seed") => set(&mut seed, "seed", options::number(&mut parser, "seed")?)?,
            Long("seeds") => set(&mut seeds, "seeds", options::number(&mut parser, "seeds")?)?,
            other => return Err(other.unexpected().into()),
        }
    }
    if seeds == Some(0) {
        return Err(Failure::usage("--seeds 0: at least one"));
    }
    if let Some(platform @ (Platform::Snp | Platform::Tdx)) = platform {
        let own: &[Suite] = if platform == Platform::Snp {
            &[Suite::Boot, Suite::Hostile, Suite::KvmUnitTests]
        } else {
            &[Suite::Boot]
        };
        if suites.is_empty() || !suites.iter().all(|suite| own.contains(suite)) {
            return Err(Failure::usage(format!(
                "--platform {}: of the suites only boot{} tests of its own for it",
                platform.name(),
                if own.len() == 1 { " has" } else { ", hostile and kvm-unit-tests have" },
            )));
        }
    }
    let choice = hostile::Choice { seed, count: seeds, slow };
    let mut totals = Totals::default();
    for (_, suite) in SUITES.iter().filter(|(_, suite)| suites.is_empty() || suites.contains(suite)) {
        totals += match suite {
            Suite::Unit => unit::run(slow)?,
            Suite::Model => unit::model()?,
            Suite::FuzzSmoke => fuzz_smoke::run(slow)?,
            Suite::Boot => boot::run(qemu.as_deref(), slow, platform, only.as_deref())?,
            Suite::SnpModel => snp_model::run(qemu.as_deref(), only.as_deref())?,
            Suite::Hostile => hostile::all(qemu.as_deref(), choice, platform)?,
            Suite::KvmUnitTests => {
                kvm_unit_tests::run(directory.as_deref(), only.as_deref(), qemu.as_deref(), platform)?
            }
            Suite::Reproducible => reproducible::run(slow)?,
        };
    }
    say::out(&format!("\n{} passed, {} failed, {} skipped\n", totals.passed, totals.failed, totals.skipped));
    Ok(if totals.failed == 0 { status::OK } else { status::FAILED })
}
