// SPDX-License-Identifier: MIT OR Apache-2.0
//! kvm-unit-tests (<https://gitlab.com/kvm-unit-tests/kvm-unit-tests>): each program of a given build on a bare QEMU
//! and under Parados, side by side.
//!
//! What passes on bare QEMU must pass under Parados, unless [`HIDDEN`] says why not, and so must what [`TARGETS`] names,
//! whatever it does on bare QEMU. The suite is no part of the project:
//! without a folder that somebody built, the tests are skipped, and the totals say so.

mod config;
mod sides;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use igvm_tools::{Platform, write_atomically};

use super::{Totals, crew};
use crate::build;
use crate::failure::{Failure, Result};
use crate::qemu::Qemu;
use crate::say;
use config::Test;
use sides::{Outcome, Ran};

/// Tests of what our machine does not have by policy.
const HIDDEN: &str = include_str!("kvm_unit_tests/hidden.txt");

/// Tests that are to pass even where QEMU's own devices fail.
const TARGETS: &str = include_str!("kvm_unit_tests/targets.txt");

/// Which two sides are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pair {
    /// Bare QEMU, and the native image.
    BareAndNative,
    /// The native image, and the SNP image on the model of the hardware.
    NativeAndSnp,
}

impl Pair {
    /// What the sides are called: the one that sets the standard, and the one that is judged.
    const fn names(self) -> [&'static str; 2] {
        match self {
            Self::BareAndNative => ["bare", "Parados"],
            Self::NativeAndSnp => ["native", "SNP"],
        }
    }
}

/// Checks that are to fail on the model of SEV-SNP.
const OF_THE_MODEL: &str = include_str!("kvm_unit_tests/model.txt");

/// One line of the result. `bare` is the side that sets the standard, `parados` the one that is judged.
struct Row {
    pair: Pair,
    name: String,
    bare: Outcome,
    parados: Outcome,
    reason: String,
    is_target: bool,
}

/// What both sides of every test share.
struct Bench {
    directory: PathBuf,
    /// Where the consoles of the last run are left.
    consoles: PathBuf,
    qemu: Qemu,
    pair: Pair,
}

/// What a row counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Passed,
    Skipped,
    /// Fails on bare QEMU too: counted with the skipped ones.
    FailedOnBoth,
    Failed,
    /// One of [`TARGETS`].
    FailedTarget,
}

pub(super) fn run(
    directory: Option<&Path>,
    only: Option<&str>,
    qemu: Option<&Path>,
    platform: Option<Platform>,
) -> Result<Totals> {
    let Some(directory) = directory else {
        say::out("SKIPPED kvm-unit-tests (no --dir)\n");
        return Ok(Totals { skipped: 1, ..Totals::default() });
    };
    let list = directory.join("x86/unittests.cfg");
    let text = fs::read_to_string(&list).map_err(|error| Failure::system(list.display(), error))?;
    let tests = selected(config::parse(&text), only)?;
    let qemu = Qemu::find(qemu)?;
    build::reference_host()?;
    build::paravisor()?;
    let pair = if platform == Some(Platform::Snp) { Pair::NativeAndSnp } else { Pair::BareAndNative };
    let (major, minor) = qemu.version;
    let commit = commit(directory);
    let [first, second] = pair.names();
    say::progress(&format!("kvm-unit-tests {commit}, QEMU {major}.{minor} (TCG), {first} and {second}"));
    let consoles = build::target_directory().join("kvm-unit-tests");
    fs::create_dir_all(&consoles).map_err(|error| Failure::system(consoles.display(), error))?;
    let rows = all(&tests, &Bench { directory: directory.to_owned(), consoles, qemu, pair })?;
    let mut totals = Totals::default();
    for row in &rows {
        match row.verdict() {
            Verdict::Passed => totals.passed += 1,
            Verdict::Skipped | Verdict::FailedOnBoth => totals.skipped += 1,
            Verdict::Failed | Verdict::FailedTarget => totals.failed += 1,
        }
    }
    let table = table(pair, &rows, &format!("Suite commit {commit}; QEMU {major}.{minor}, TCG, on both sides."));
    let name = if pair == Pair::BareAndNative { "kvm-unit-tests.md" } else { "kvm-unit-tests-snp.md" };
    let place = build::target_directory().join(name);
    write_atomically(&place, table.as_bytes())?;
    say::progress(&format!("the table is in {}, each test's consoles beside it", place.display()));
    Ok(totals)
}

/// Two processors a test: most programs have one or two.
fn all(tests: &[Test], bench: &Bench) -> Result<Vec<Row>> {
    let rows = crew::each(tests, |_| 2, |test| one(test, bench).inspect(|row| say::out(&row.line())));
    rows.into_iter().collect()
}

fn one(test: &Test, bench: &Bench) -> Result<Row> {
    let kernel: PathBuf = bench.directory.join("x86").join(&test.file);
    let unrun = test.skipped().or_else(|| (!kernel.is_file()).then(|| "not built".to_owned()));
    if let Some(reason) = unrun {
        let is_target = target(TARGETS, &test.name).is_some();
        let (pair, name) = (bench.pair, test.name.clone());
        return Ok(Row { pair, name, bare: Outcome::Skip, parados: Outcome::Skip, reason, is_target });
    }
    let timeout = target(TARGETS, &test.name).flatten().map_or(test.timeout, |longer| longer.max(test.timeout));
    let parados = |sides| sides::parados(sides, test, &kernel, &bench.qemu, timeout);
    let (standard, judged) = match bench.pair {
        Pair::BareAndNative => (sides::bare(test, &kernel, &bench.qemu)?, parados((Platform::Native, false))?),
        Pair::NativeAndSnp => (parados((Platform::Native, true))?, parados((Platform::Snp, true))?),
    };
    let [first, second] = bench.pair.names().map(str::to_lowercase);
    let failed = failed_checks(&judged.console);
    let (standard, judged) = (bench.keep(test, &first, standard)?, bench.keep(test, &second, judged)?);
    let of_the_model = bench.pair == Pair::NativeAndSnp && all_of_the_model(OF_THE_MODEL, &test.name, &failed);
    let judged = if of_the_model && judged.is_of_checks(failed.len()) { Outcome::Pass } else { judged };
    let row = Row::new(bench.pair, &test.name, standard, judged, hidden(HIDDEN, &test.name));
    let reason = if of_the_model { format!("but for {} checks of the model's", failed.len()) } else { row.reason };
    Ok(Row { reason, ..row })
}

impl Bench {
    /// Leaves a side's console where somebody can read it, and returns how the side ended.
    fn keep(&self, test: &Test, side: &str, ran: Ran) -> Result<Outcome> {
        // The name comes from the suite's file: nothing of it may lead elsewhere.
        let name: String = test.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let place = self.consoles.join(format!("{name}.{side}.log"));
        fs::write(&place, &ran.console).map_err(|error| Failure::system(place.display(), error))?;
        Ok(ran.outcome)
    }
}

/// The tests that were asked for by name, or all.
fn selected(tests: Vec<Test>, only: Option<&str>) -> Result<Vec<Test>> {
    let Some(only) = only else { return Ok(tests) };
    let names: Vec<&str> = only.split(',').collect();
    match names.iter().find(|name| !tests.iter().any(|test| test.name == **name)) {
        Some(name) => Err(Failure::usage(format!("--only: the suite has no test named '{name}'"))),
        None => Ok(tests.into_iter().filter(|test| names.contains(&test.name.as_str())).collect()),
    }
}

/// The reason why a test need not pass. A name in the list that ends in `*` stands for all that begin so.
fn hidden<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let is_meant = |listed: &str| match listed.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => listed == name,
    };
    lines.filter_map(|line| line.split_once(": ")).find(|(listed, _)| is_meant(listed)).map(|(_, reason)| reason)
}

/// What a test says of the checks that it fails.
fn failed_checks(console: &[u8]) -> Vec<String> {
    let console = String::from_utf8_lossy(console);
    console.lines().filter_map(|line| line.trim().strip_prefix("FAIL: ")).map(str::to_owned).collect()
}

/// Whether there are failed checks, and all of them are the model's.
fn all_of_the_model(list: &str, name: &str, failed: &[String]) -> bool {
    let lines = list.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(": "));
    let known: Vec<_> = lines.filter(|(test, _)| *test == name).map(|(_, pattern)| pattern).collect();
    !failed.is_empty() && failed.iter().all(|check| known.iter().any(|pattern| matches(pattern, check)))
}

/// Whether a check is as a pattern says, in which one `*` stands for anything.
fn matches(pattern: &str, check: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => check.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        None => pattern == check,
    }
}

/// Whether a test is a target, and how long it may take if longer than the suite allows.
fn target(list: &str, name: &str) -> Option<Option<Duration>> {
    let heads = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(": ").map_or(line, |(head, _)| head));
    let mut words = heads.map(|head| head.split(' ')).find(|words| words.clone().next() == Some(name))?.skip(1);
    Some(words.next().and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs))
}

impl Row {
    /// What a test came to. One that need not pass, and does not, is skipped.
    fn new(pair: Pair, name: &str, bare: Outcome, parados: Outcome, hidden: Option<&str>) -> Self {
        let (parados, reason) = match (&bare, parados, hidden) {
            (_, Outcome::Skip | Outcome::Fail(_), Some(reason)) => (Outcome::Skip, reason.to_owned()),
            (_, Outcome::Fail(reason), None) => (Outcome::Fail(reason.clone()), reason),
            (Outcome::Fail(reason), parados, _) => {
                let [first, _] = pair.names();
                (parados, format!("{first}: {reason}"))
            }
            (_, parados, _) => (parados, String::new()),
        };
        Self { pair, name: name.to_owned(), bare, parados, reason, is_target: target(TARGETS, name).is_some() }
    }

    fn verdict(&self) -> Verdict {
        match (&self.bare, &self.parados) {
            (_, Outcome::Pass) => Verdict::Passed,
            _ if self.is_target => Verdict::FailedTarget,
            (Outcome::Pass, _) if hidden(HIDDEN, &self.name).is_none() => Verdict::Failed,
            (Outcome::Skip, Outcome::Fail(_)) => Verdict::Failed,
            // Neither is it a pass, nor has Parados broken anything.
            (Outcome::Fail(_), Outcome::Fail(_)) => Verdict::FailedOnBoth,
            _ => Verdict::Skipped,
        }
    }

    fn line(&self) -> String {
        let word = match self.verdict() {
            Verdict::Passed => "ok",
            Verdict::Skipped => "skipped",
            Verdict::FailedOnBoth => "fails on both sides",
            Verdict::Failed => "FAILED",
            Verdict::FailedTarget => "FAILED, a target",
        };
        let (bare, parados, [first, second]) = (self.bare.word(), self.parados.word(), self.pair.names());
        let reason = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        format!("test kvm-unit-tests::{} ... {word} ({first} {bare}, {second} {parados}){reason}\n", self.name)
    }
}

/// The result as the documentation has it.
fn table(pair: Pair, rows: &[Row], caption: &str) -> String {
    let [first, second] = pair.names();
    let mut table = format!("{caption}\n\n| test | {first} | {second} | reason |\n|---|---|---|---|\n");
    for row in rows {
        let reason = say::printable(row.reason.as_bytes()).replace('|', "\\|");
        table.push_str(&format!("| {} | {} | {} | {reason} |\n", row.name, row.bare.word(), row.parados.word()));
    }
    let count = |what: &str, side: fn(&Row) -> &Outcome| rows.iter().filter(|row| side(row).word() == what).count();
    for (name, side) in [(first, (|row| &row.bare) as fn(&Row) -> &Outcome), (second, |row| &row.parados)] {
        let [pass, fail, skip] = ["pass", "fail", "skip"].map(|what| count(what, side));
        table.push_str(&format!("\n{name}: {pass} pass, {fail} fail, {skip} skip.\n"));
    }
    table
}

/// What the suite was built from: its build leaves that in a file.
fn commit(directory: &Path) -> String {
    let built = fs::read_to_string(directory.join("build-head")).unwrap_or_default();
    let hash = built.trim();
    if hash.len() >= 12 && hash.chars().all(|c| c.is_ascii_hexdigit()) {
        return hash.to_owned();
    }
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["rev-parse", "HEAD"]).stdin(Stdio::null()).stderr(Stdio::null());
    match git.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(bare: Outcome, parados: Outcome) -> Verdict {
        Row {
            pair: Pair::BareAndNative,
            name: "no such test".into(),
            bare,
            parados,
            reason: String::new(),
            is_target: false,
        }
        .verdict()
    }

    #[test]
    fn what_passes_bare_must_pass_here() {
        let fail = || Outcome::Fail("1 checks".into());
        assert_eq!(verdict(Outcome::Pass, Outcome::Pass), Verdict::Passed);
        assert_eq!(verdict(Outcome::Pass, fail()), Verdict::Failed);
        assert_eq!(verdict(Outcome::Pass, Outcome::Skip), Verdict::Failed);
        assert_eq!(verdict(fail(), Outcome::Pass), Verdict::Passed);
        assert_eq!(verdict(fail(), fail()), Verdict::FailedOnBoth);
        assert_eq!(verdict(fail(), Outcome::Skip), Verdict::Skipped);
        assert_eq!(verdict(Outcome::Skip, Outcome::Skip), Verdict::Skipped);
        assert_eq!(verdict(Outcome::Skip, fail()), Verdict::Failed);
    }

    /// A target that failed on both sides was counted as skipped.
    #[test]
    fn a_target_must_pass_whatever_the_other_side_does() {
        let fail = || Outcome::Fail("timeout".into());
        for bare in [Outcome::Pass, Outcome::Skip, fail()] {
            assert_eq!(
                Row::new(Pair::BareAndNative, "x2apic", bare.clone(), Outcome::Pass, None).verdict(),
                Verdict::Passed
            );
            for parados in [Outcome::Skip, fail()] {
                let row = Row::new(Pair::BareAndNative, "x2apic", bare.clone(), parados, None);
                assert_eq!(row.verdict(), Verdict::FailedTarget);
                assert!(row.line().contains("FAILED, a target"), "{}", row.line());
            }
        }
    }

    #[test]
    fn targets_may_have_a_longer_time() {
        let list = "# x 5: no\nx 1800: slow\ny\n";
        assert_eq!(target(list, "x"), Some(Some(Duration::from_secs(1800))));
        assert_eq!((target(list, "y"), target(list, "#"), target(list, "z")), (Some(None), None, None));
        for name in ["x2apic", "xapic", "ioapic", "msr", "emulator", "idt_test"] {
            assert!(target(TARGETS, name).is_some(), "{name}");
        }
        let hidden_too =
            TARGETS.lines().filter(|line| hidden(HIDDEN, line.split([' ', ':']).next().unwrap()).is_some());
        assert_eq!(hidden_too.count(), 0);
    }

    #[test]
    fn tests_can_be_asked_for_by_name() {
        let all = || config::parse("[a]\nfile = x\n[b]\nfile = x\n[c]\nfile = x\n");
        let names = |only| selected(all(), only).map(|tests| tests.iter().map(|t| t.name.clone()).collect::<String>());
        assert_eq!(names(None).ok().as_deref(), Some("abc"));
        assert_eq!(names(Some("c,a")).ok().as_deref(), Some("ac"));
        assert!(names(Some("a,d")).is_err_and(|failure| failure.message.contains("'d'")));
    }

    #[test]
    fn only_the_listed_checks_are_the_models() {
        let list = "# a: b\na: x * z\na: y\n";
        let all = |name, failed: &[&str]| {
            let failed: Vec<_> = failed.iter().map(|&check| check.to_owned()).collect();
            all_of_the_model(list, name, &failed)
        };
        assert!(all("a", &["y"]) && all("a", &["y", "x 1 z", "x 2 z"]));
        assert!(!all("a", &[]) && !all("a", &["y", "z"]) && !all("b", &["y"]) && !all("# a", &["b"]));
        assert_eq!(failed_checks(b"PASS: x\r\n  FAIL: y\r\nFAIL:z\n"), ["y"]);
    }

    #[test]
    fn every_listed_test_has_a_reason() {
        let lines = || HIDDEN.lines().filter(|line| !line.starts_with('#'));
        assert!(lines().all(|line| line.split_once(": ").is_some_and(|(_, reason)| !reason.is_empty())));
        assert_eq!(hidden("# a: b\nx: y: z\n", "x"), Some("y: z"));
        assert_eq!(hidden("# a: b\n", "# a"), None);
        assert_eq!(hidden("vm*: y\n", "vmx_eoi"), Some("y"));
        assert_eq!(hidden("vm*: y\nsvm: z\n", "svm_npt"), None);
    }

    #[test]
    fn a_listed_test_is_skipped_unless_it_passes() {
        let fail = || Outcome::Fail("1 checks".into());
        let row = |bare, parados, hidden| {
            let row = Row::new(Pair::BareAndNative, "x", bare, parados, hidden);
            (row.parados.word(), row.reason)
        };
        assert_eq!(row(Outcome::Pass, fail(), Some("why")), ("skip", "why".into()));
        assert_eq!(row(Outcome::Pass, Outcome::Pass, Some("why")), ("pass", String::new()));
        assert_eq!(row(Outcome::Pass, fail(), None), ("fail", "1 checks".into()));
        assert_eq!(row(fail(), Outcome::Pass, None), ("pass", "bare: 1 checks".into()));
    }
}
