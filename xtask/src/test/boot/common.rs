// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the boot tests share: runs of `cargo xtask run`, and what is expected of them.

use super::{Context, Outcome, Verdict};
use crate::guest::SHELL;
use crate::test::driver::{self, Finished, Run};

pub(super) fn passed() -> Outcome {
    Ok(Verdict::Passed)
}

/// The status, the kind in the status file, and that nothing panicked.
pub(super) fn expect(finished: &Finished, status: i32, kind: &str) -> Result<(), String> {
    let recorded = finished.record.get("kind").and_then(|kind| kind.as_str()).unwrap_or("none");
    if finished.status != status || recorded != kind || finished.record.get("status") != Some(&status.into()) {
        let got = format!("got {} ({recorded})", finished.status);
        return Err(format!("expected status {status} ({kind}), {got}; {}", tail(finished)));
    }
    if finished.stderr.contains("panicked") {
        return Err(format!("something panicked; {}", tail(finished)));
    }
    Ok(())
}

pub(super) fn tail(finished: &Finished) -> String {
    let last = |text: &str| {
        let lines: Vec<_> = text.lines().collect();
        lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join(" / ")
    };
    format!("stderr ends: {}; stdout ends: {}", last(&finished.stderr), last(&finished.stdout))
}

pub(super) fn same(what: &str, expected: &str, got: &str) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("{what}: expected {expected:?}, got {got:?}")) }
}

pub(super) fn run(context: &Context, arguments: &[&str]) -> Result<Finished, String> {
    driver::run(context.qemu.as_deref(), arguments)
}

pub(super) fn start(context: &Context, arguments: &[&str]) -> Result<Run, String> {
    Run::start(context.qemu.as_deref(), arguments)
}

/// A run whose guest is at its shell's prompt.
pub(super) fn at_the_shell(context: &Context, arguments: &[&str]) -> Result<Run, String> {
    let mut run = start(context, arguments)?;
    run.wait_for(SHELL)?;
    Ok(run)
}

/// The output of a command in the guest, which must succeed.
pub(super) fn output(context: &Context, command: &str, arguments: &[&str]) -> Result<String, String> {
    let finished = run(context, &[&["--exec", command], arguments].concat())?;
    expect(&finished, 0, "poweroff")?;
    Ok(finished.stdout)
}

/// A test guest's file, if there is one of that name.
pub(super) fn kernel(context: &Context, name: &str) -> Result<Option<String>, String> {
    Ok(context.guest(name)?.map(|kernel| kernel.to_string_lossy().into_owned()))
}

/// What a test guest prints that powers off in the end.
pub(super) fn guest_output(context: &Context, name: &str, arguments: &[&str]) -> Result<String, String> {
    let kernel = kernel(context, name)?.ok_or_else(|| format!("there is no test guest {name}"))?;
    let finished = run(context, &[&["--kernel", &kernel], arguments].concat())?;
    expect(&finished, 0, "poweroff")?;
    Ok(finished.stdout)
}

/// Runs a test guest.
pub(super) fn guest(context: &Context, name: &str, arguments: &[&str], status: i32, kind: &str) -> Outcome {
    let Some(kernel) = kernel(context, name)? else {
        return Ok(Verdict::Skipped(format!("there is no test guest {name}")));
    };
    let finished = run(context, &[&["--kernel", &kernel], arguments].concat())?;
    expect(&finished, status, kind).map_err(|why| {
        let failures: Vec<_> = finished.stdout.lines().filter(|line| line.contains(": FAIL")).collect();
        if failures.is_empty() { why } else { format!("{}; {why}", failures.join(" / ")) }
    })?;
    passed()
}
