// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot tests: what `cargo xtask run` promises, each on a machine of its own.
//!
//! They show that the image works on QEMU's emulation of a processor. What that emulation lacks or gets wrong
//! (caches, stale translations, timing) they cannot show.

mod cases;
mod common;
mod control;
mod crash;
mod emulator;
mod images;
mod pc;
mod portrait;
mod snp;
mod snp_code;
mod tdx;

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Totals, crew};
use crate::build;
use crate::failure::Result;
use crate::guest::Files;
use crate::qemu::Qemu;
use crate::say;
use igvm_tools::Platform;

/// How a test ended that did not fail.
pub(super) enum Verdict {
    Passed,
    /// What it needs is not here.
    Skipped(String),
}

/// What every test gets.
pub(super) struct Context {
    /// `--qemu`, if given.
    qemu: Option<PathBuf>,
    kernel: PathBuf,
}

type Outcome = std::result::Result<Verdict, String>;

/// A named test.
pub(super) struct Case {
    name: &'static str,
    run: fn(&Context) -> Outcome,
}

/// `slow`: also those that take minutes. `platform`: those of one platform's image alone. `only`: those with one of these in their
/// names.
pub(super) fn run(qemu: Option<&Path>, slow: bool, platform: Option<Platform>, only: Option<&str>) -> Result<Totals> {
    say::progress("boot tests");
    Qemu::find(qemu)?;
    build::reference_host()?;
    build::paravisor()?;
    build::paravisor_for(Platform::Snp)?;
    build::paravisor_for(Platform::Tdx)?;
    let context = Context { qemu: qemu.map(Path::to_owned), kernel: Files::get()?.kernel };
    let of_slow = if slow { [pc::SLOW, emulator::SLOW] } else { [&[], emulator::ALL] };
    let native = [of_slow[0], of_slow[1], control::ALL, pc::ALL, cases::ALL, crash::ALL, images::ALL];
    let of = |own: Platform| platform.is_none_or(|platform| platform == own);
    let native = native.into_iter().filter(|_| of(Platform::Native));
    let snp = [snp::ALL, emulator::SNP].into_iter().filter(|_| of(Platform::Snp));
    let tdx = [tdx::ALL].into_iter().filter(|_| of(Platform::Tdx));
    let wanted = |case: &&Case| only.is_none_or(|only| only.split(',').any(|part| case.name.contains(part)));
    Ok(all(&context, &native.chain(snp).chain(tdx).flatten().filter(wanted).collect::<Vec<_>>()))
}

/// Two processors a test: one for the guest, one for everything else.
fn all(context: &Context, cases: &[&Case]) -> Totals {
    let mut totals = Totals::default();
    crew::each(cases, |_| 2, |case| one(context, case)).into_iter().for_each(|total| totals += total);
    totals
}

fn one(context: &Context, case: &Case) -> Totals {
    let start = Instant::now();
    let (word, detail, totals) = match (case.run)(context) {
        Ok(Verdict::Passed) => ("ok", String::new(), Totals { passed: 1, ..Totals::default() }),
        Ok(Verdict::Skipped(why)) => ("skipped", why, Totals { skipped: 1, ..Totals::default() }),
        Err(why) => ("FAILED", why, Totals { failed: 1, ..Totals::default() }),
    };
    let seconds = start.elapsed().as_secs_f64();
    let detail = if detail.is_empty() { format!(" ({seconds:.1} s)") } else { format!(": {detail}") };
    say::out(&format!("test boot::{} ... {word}{detail}\n", case.name));
    totals
}

impl Context {
    /// A test guest from `guests/`, if there is one of that name.
    fn guest(&self, name: &str) -> std::result::Result<Option<PathBuf>, String> {
        let sources = build::workspace().join("guests/src/bin");
        if !sources.join(format!("{name}.rs")).exists() && !sources.join(name).is_dir() {
            return Ok(None);
        }
        build::guest(name).map(Some).map_err(|failure| failure.message)
    }
}
