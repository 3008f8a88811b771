// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot tests about the guest's PC: processors, interrupts, time, resets, the power button.
//!
//! The guests in `guests/` judge what they see themselves. None of these tests depends on how fast the machine is, within
//! the limits of the waits.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use super::common::{at_the_shell, expect, guest, kernel, output, passed, run, same, start};
use super::{Case, Context, Outcome};
use crate::guest::SHELL;
use crate::test::driver::Run;

/// All of them, the long ones first.
pub(super) const ALL: &[Case] = &[
    Case { name: "processors_survive_a_minute_of_stress", run: stress },
    Case { name: "sigterm_ends_a_guest_that_does_not_listen", run: deaf },
    Case { name: "sigterm_powers_the_guest_off", run: sigterm },
    Case { name: "second_sigterm_ends_the_run_at_once", run: second_sigterm },
    Case { name: "sigterm_ends_a_command_at_once", run: command_sigterm },
    Case { name: "sigint_ends_the_run_at_once", run: sigint },
    Case { name: "reset_starts_the_guest_again", run: reset },
    Case { name: "reset_with_no_reboot_ends_with_71", run: reset_no_reboot },
    Case { name: "reset_of_every_kind_starts_the_guest_again", run: |context| all_resets(context, &[]) },
    Case { name: "reset_of_every_kind_with_no_reboot_ends_with_71", run: |context| all_resets_no_reboot(context, &[]) },
    Case { name: "linux_resets_by_acpi", run: |context| linux_reset(context, &[], "acpi", "reset") },
    Case { name: "linux_resets_by_the_keyboard_controller", run: |context| linux_reset(context, &[], "kbd", "reset") },
    Case { name: "linux_resets_by_port_cf9", run: |context| linux_reset(context, &[], "pci", "reset") },
    Case { name: "linux_resets_by_triple_fault", run: |context| linux_reset(context, &[], "triple", "triple-fault") },
    Case { name: "one_processor", run: |context| processors(context, "1") },
    Case { name: "two_processors", run: |context| processors(context, "2") },
    Case { name: "four_processors", run: |context| processors(context, "4") },
    Case { name: "eight_processors", run: |context| processors(context, "8") },
    Case { name: "processors_go_offline_and_come_back", run: |context| hotplug(context, &[]) },
    Case { name: "linux_keeps_pat_and_knows_its_clocks", run: kernel_log },
    Case { name: "the_guest_knows_what_time_it_is", run: |context| time_of_day(context, &[]) },
    Case { name: "clocks_and_timers", run: |context| clocks(context, &[], HELD_UP) },
    Case { name: "local_apic_of_one_processor", run: |context| probe(context, "apic", "1") },
    Case { name: "local_apics_of_four_processors", run: |context| probe(context, "apic", "4") },
    Case { name: "interrupt_controllers", run: |context| probe(context, "interrupt-controllers", "1") },
    Case {
        name: "interrupt_controllers_with_four_processors",
        run: |context| probe(context, "interrupt-controllers", "4"),
    },
    Case { name: "borders_of_memory", run: |context| probe(context, "pages-probe", "2") },
    Case { name: "serial_port", run: |context| probe(context, "uart", "1") },
];

/// Those that take minutes, or a machine that nobody else uses.
pub(super) const SLOW: &[Case] = &[
    Case { name: "clocks_agree", run: |context| clocks(context, &[], "300") },
    Case { name: "processors_survive_ten_minutes_of_stress", run: long_stress },
    Case { name: "sixty_four_processors", run: many_processors },
];

/// The guests that reset, with something that each says before.
const RESETS: [(&str, &str); 3] =
    [("reset", "reset"), ("reset-8042", "reset-8042: ready"), ("reset-92", "reset-92: reads")];

/// A test guest that judges by itself and exits with 0 if all is well.
fn probe(context: &Context, name: &str, processors: &str) -> Outcome {
    guest(context, name, &["--test-devices", "--smp", processors], 1, "test-exit")
}

/// How long, in microseconds, a machine that others use as well may hold up a reading of two clocks.
pub(super) const HELD_UP: &str = "150000";

/// The guest compares clocks for seconds: three times in a row is not by chance that others delayed it.
pub(super) fn clocks(context: &Context, platform: &[&str], jitter: &str) -> Outcome {
    let arguments = [platform, &["--test-devices", "--smp", "2", "--append", jitter]].concat();
    let compare = || guest(context, "timers", &arguments, 1, "test-exit");
    compare().or_else(|_| compare()).or_else(|_| compare())
}

/// Its clock begins where the host's is.
pub(super) fn time_of_day(context: &Context, platform: &[&str]) -> Outcome {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let before = now();
    let output = output(context, "date +%s", platform)?;
    let told: u64 = output.trim().parse().map_err(|_| format!("no number of seconds: {output:?}"))?;
    // A clock of whole seconds is off by one.
    if (before.saturating_sub(1)..=now() + 1).contains(&told) {
        return passed();
    }
    Err(format!("the guest's clock shows {told}, expected {before} to {}", now()))
}

fn stress(context: &Context) -> Outcome {
    guest(context, "smp-stress", &["--test-devices", "--smp", "4", "--append", "60"], 1, "test-exit")
}

fn long_stress(context: &Context) -> Outcome {
    let arguments = ["--test-devices", "--smp", "4", "--append", "600", "--timeout", "900"];
    guest(context, "smp-stress", &arguments, 1, "test-exit")
}

fn processors(context: &Context, count: &str) -> Outcome {
    same("nproc", &format!("{count}\n"), &output(context, "nproc", &["--smp", count])?)?;
    passed()
}

fn many_processors(context: &Context) -> Outcome {
    same("nproc", "64\n", &output(context, "nproc", &["--smp", "64", "--timeout", "900"])?)?;
    passed()
}

/// Each processor goes and comes back several times, and works afterwards.
pub(super) fn hotplug(context: &Context, platform: &[&str]) -> Outcome {
    let command = "set -e; cd /sys/devices/system/cpu
        for round in 1 2 3; do
            for cpu in 1 2 3; do echo 0 > cpu$cpu/online; done; nproc
            for cpu in 1 2 3; do echo 1 > cpu$cpu/online; done; nproc
        done
        for mask in 1 2 4 8; do taskset $mask sh -c 'expr 6 \\* 7'; done";
    same(
        "output",
        &format!("{}{}", "1\n4\n".repeat(3), "42\n".repeat(4)),
        &output(context, command, &[platform, &["--smp", "4"]].concat())?,
    )?;
    passed()
}

/// What a stock kernel says about the machine.
fn kernel_log(context: &Context) -> Outcome {
    let log = output(context, "dmesg", &["--smp", "2"])?;
    let has = |text: &str| log.lines().any(|line| line.contains(text));
    if !has("x86/PAT: Configuration [0-7]: WB") {
        return Err("the kernel disabled PAT".into());
    }
    // "tsc: Detected 2596.102 MHz processor": what it was told, in kHz, and not what it measured.
    let after = |text: &str, what: &str| text.split(what).nth(1)?.split_whitespace().next().map(str::to_owned);
    let (told, taken) = (after(&log, "tsc_early_khz="), after(&log, "tsc: Detected "));
    if told.is_none() || told != taken.as_ref().map(|mhz| mhz.replace('.', "")) {
        return Err(format!("the kernel was told a TSC of {told:?} kHz and took {taken:?} MHz"));
    }
    for complaint in
        ["clocksource: timekeeping watchdog", "Marking clocksource", "TSC unstable", "soft lockup", "rcu_sched"]
    {
        if has(complaint) {
            return Err(format!("the kernel says {complaint:?}"));
        }
    }
    passed()
}

fn reset(context: &Context) -> Outcome {
    let mut run = at_the_shell(context, &[])?;
    run.send("reboot\n")?;
    run.wait_for(SHELL)?;
    run.send("exit\n")?;
    expect(&run.finish()?, 0, "poweroff")?;
    passed()
}

fn reset_no_reboot(context: &Context) -> Outcome {
    let mut run = at_the_shell(context, &["--no-reboot"])?;
    run.send("reboot\n")?;
    expect(&run.finish()?, 71, "reset")?;
    passed()
}

pub(super) fn all_resets(context: &Context, platform: &[&str]) -> Outcome {
    for (name, says) in RESETS {
        let Some(kernel) = kernel(context, name)? else { continue };
        let mut run = start(context, &[platform, &["--kernel", &kernel]].concat())?;
        for _ in 0..3 {
            run.wait_for(says)?;
        }
        run.signal(Signal::SIGINT)?;
        expect(&run.finish()?, 128 + 2, "interrupted")?;
    }
    passed()
}

pub(super) fn all_resets_no_reboot(context: &Context, platform: &[&str]) -> Outcome {
    for (name, _) in RESETS {
        guest(context, name, &[platform, &["--no-reboot"]].concat(), 71, "reset")
            .map_err(|why| format!("{name}: {why}"))?;
    }
    passed()
}

pub(super) fn linux_reset(context: &Context, platform: &[&str], how: &str, kind: &str) -> Outcome {
    let append = format!("reboot={how}");
    expect(&run(context, &[platform, &["--exec", "reboot", "--append", &append]].concat())?, 71, kind)?;
    passed()
}

/// A guest whose kernel tells it of the power button.
fn listening(context: &Context, arguments: &[&str]) -> Result<Run, String> {
    let mut run = at_the_shell(context, arguments)?;
    // The kernel's modules are loaded behind the shell's back. What is waited for differs from what is typed.
    run.send(
        "until ls -l /proc/[0-9]*/fd | grep -q input/event; do sleep 0.1; done 2>/dev/null; echo ready-$((1+1))\n",
    )?;
    run.wait_for("ready-2")?;
    Ok(run)
}

fn sigterm(context: &Context) -> Outcome {
    powers_off(context, &[])
}

/// A guest of one processor, and one of two, hears the power button and powers off.
pub(super) fn powers_off(context: &Context, platform: &[&str]) -> Outcome {
    for processors in ["1", "2"] {
        let mut run = listening(context, &[platform, &["--smp", processors]].concat())?;
        run.signal(Signal::SIGTERM)?;
        run.wait_for("guest: power button pressed")?;
        expect(&run.finish()?, 0, "poweroff")?;
    }
    passed()
}

fn deaf(context: &Context) -> Outcome {
    let Some(kernel) = kernel(context, "spin")? else { return passed() };
    let run = start(context, &["--kernel", &kernel])?;
    std::thread::sleep(Duration::from_secs(5));
    run.signal(Signal::SIGTERM)?;
    expect(&run.finish()?, 128 + 15, "interrupted")?;
    passed()
}

/// The button was never heard, so that only the second signal can have ended it before the wait is over.
fn second_sigterm(context: &Context) -> Outcome {
    let Some(kernel) = kernel(context, "halt-forever")? else { return passed() };
    let run = start(context, &["--kernel", &kernel])?;
    std::thread::sleep(Duration::from_secs(5));
    let begun = Instant::now();
    run.signal(Signal::SIGTERM)?;
    std::thread::sleep(Duration::from_millis(500));
    run.signal(Signal::SIGTERM)?;
    ended_at_once(run, begun, Signal::SIGTERM)
}

fn command_sigterm(context: &Context) -> Outcome {
    let mut run = start(context, &["--exec", "echo begun; sleep 1000"])?;
    run.wait_for("begun")?;
    let begun = Instant::now();
    run.signal(Signal::SIGTERM)?;
    ended_at_once(run, begun, Signal::SIGTERM)
}

fn sigint(context: &Context) -> Outcome {
    let run = at_the_shell(context, &[])?;
    let begun = Instant::now();
    run.signal(Signal::SIGINT)?;
    ended_at_once(run, begun, Signal::SIGINT)
}

fn ended_at_once(run: Run, begun: Instant, signal: Signal) -> Outcome {
    // QEMU holds stdout too: one that was left behind would keep it open.
    expect(&run.finish()?, 128 + signal as i32, "interrupted")?;
    let took = begun.elapsed();
    if took < Duration::from_secs(9) { passed() } else { Err(format!("took {took:?}")) }
}
