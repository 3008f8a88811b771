// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot tests about what leaves Parados when it dies, and what does not.

use igvm_tools::Platform;

use super::common::{kernel, passed, run, same, tail};
use super::{Case, Context, Outcome, Verdict};
use crate::scratch::Scratch;
use crate::test::driver::Finished;
use crate::{build, image, symbolize};

pub(super) const ALL: &[Case] = &[
    Case {
        name: "a_panic_leaves_a_backtrace_that_symbolize_names",
        run: |context| backtrace(context, Platform::Native),
    },
    Case { name: "a_release_image_lets_out_the_reason_alone", run: release },
    Case { name: "a_crash_is_not_told_as_the_power_off_of_another_processor", run: race },
    Case { name: "levels_decide_what_is_logged", run: levels },
];

/// Parados died, by its own record, and the reason is told in words.
fn died(finished: &Finished) -> Result<(), String> {
    let kind = finished.record.get("kind").and_then(|kind| kind.as_str());
    let reason = finished.record.get("reason").and_then(|reason| reason.as_str()).unwrap_or_default();
    if finished.status == 70 && kind == Some("terminated") && reason.contains("Parados panicked") {
        return Ok(());
    }
    Err(format!("expected a panic, got {} ({kind:?}, {reason}); {}", finished.status, tail(finished)))
}

pub(super) fn backtrace(context: &Context, platform: Platform) -> Outcome {
    let Some(kernel) = kernel(context, "crash")? else {
        return Ok(Verdict::Skipped("there is no test guest crash".into()));
    };
    let of = ["--platform", platform.name(), "--debug-log"];
    let finished = run(context, &[&of[..], &["--kernel", &kernel, "--test-devices", "--log", "debug"]].concat())?;
    died(&finished)?;
    let elf = build::paravisor_for(platform).map_err(|failure| failure.message)?;
    let report = symbolize::report(&finished.stderr, &elf).map_err(|failure| failure.message)?;
    // From what was said last to the bottom of the stack.
    let names = [
        "panicked at paravisor-core/src/machine.rs",
        "log: debug: devices: vCPU 0: nothing is at port 0x1234",
        "Machine<P>::end",
        "VcpuEnv<P>::port",
        "Vcpu<P>::run",
        "parados_main",
    ];
    let mut at = 0;
    for name in names {
        let found = report.get(at..).and_then(|rest| rest.find(name));
        at += found.ok_or_else(|| format!("no '{name}' at its place in: {report}"))?;
    }
    passed()
}

/// The same death of an image whose policy lets nothing out, although it logs everything.
fn release(context: &Context) -> Outcome {
    let Some(kernel) = kernel(context, "crash")? else {
        return Ok(Verdict::Skipped("there is no test guest crash".into()));
    };
    let scratch = Scratch::new().map_err(|failure| failure.message)?;
    let (config, file) = (scratch.file("release.toml"), scratch.file("release.igvm"));
    let text = format!(
        "platform = \"native\"\n[payload]\nkernel = \"{kernel}\"\n[policy]\ntest_devices = true\ndebug_log = false\n\
         [log]\ndevices = \"trace\"\ncore = \"trace\"\n"
    );
    std::fs::write(&config, text).map_err(|error| error.to_string())?;
    let (_, image) = image::configured(&config).map_err(|failure| failure.message)?;
    std::fs::write(&file, image.bytes).map_err(|error| error.to_string())?;
    let finished = run(context, &["--image", &file.to_string_lossy()])?;
    died(&finished)?;
    // The record has what was said of the end: a panic's line is a detail that stays.
    let told = finished.record.get("reason").and_then(|reason| reason.as_str()).unwrap_or_default();
    same("the record's reason", "Parados ended the VM: Parados panicked (reason 0x1)", told)?;
    match finished.stderr.lines().find(|line| line.starts_with("[parados]")) {
        Some(line) => Err(format!("this left: {line}")),
        None => passed(),
    }
}

/// While one processor writes down how it died, which takes a while, another one powers the machine off.
fn race(context: &Context) -> Outcome {
    // A busy machine may run the second processor alone for so long that it comes first.
    const TRIES: usize = 5;
    let Some(kernel) = kernel(context, "crash")? else {
        return Ok(Verdict::Skipped("there is no test guest crash".into()));
    };
    let mut last = String::new();
    for _ in 0..TRIES {
        let arguments = ["--kernel", &kernel, "--test-devices", "--smp", "2", "--log", "error", "--append", "3000"];
        let finished = run(context, &arguments)?;
        if finished.stderr.contains("crash: ") {
            died(&finished)?;
            return passed();
        }
        last = tail(&finished);
    }
    Err(format!("in {TRIES} runs the power-off always came before the crash; {last}"))
}

fn levels(context: &Context) -> Outcome {
    let logged = |levels: &str| -> Result<String, String> {
        let finished = run(context, &["--exec", "true", "--smp", "2", "--log", levels])?;
        if finished.status == 0 { Ok(finished.stderr) } else { Err(tail(&finished)) }
    };
    let (all, few) = (logged("debug,core=trace")?, logged("warning")?);
    for line in
        ["debug: core: vCPU 1: starts at page", "trace: core: vCPU 0: exit of kind", "debug: core: vCPU 1: INIT"]
    {
        if !all.contains(line) {
            return Err(format!("no '{line}' at level trace"));
        }
    }
    if few.contains("[parados]") { Err(format!("at level warning: {few}")) } else { passed() }
}
