// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot tests that start a guest: the default one, or a test guest that misbehaves.

use std::time::{Duration, Instant};

use super::common::{at_the_shell, expect, guest, kernel, output, passed, run, same, tail};
use super::{Case, Context, Outcome, Verdict};

/// All of them, the long ones first.
pub(super) const ALL: &[Case] = &[
    Case { name: "timeout_ends_the_run_with_124", run: timeout },
    Case { name: "spin_without_interrupts_ends_with_the_timeout", run: |context| spin(context, &[]) },
    Case { name: "default_guest_has_a_shell_on_the_serial_line", run: |context| shell(context, &[]) },
    Case { name: "poweroff_ends_with_0", run: poweroff },
    Case { name: "exit_of_the_shell_powers_off", run: exit_of_the_shell },
    Case { name: "exec_prints_the_output_alone", run: exec },
    Case { name: "exec_passes_the_status_on", run: exec_status },
    Case { name: "exec_output_is_binary_safe", run: |context| exec_binary(context, &[]) },
    Case { name: "memory_of_256_mib", run: little_memory },
    Case { name: "memory_of_3_gib", run: much_memory },
    Case { name: "append_reaches_the_kernel", run: |context| append(context, &[]) },
    Case { name: "statistics_come_as_a_table_and_as_json", run: |context| statistics(context, &[]) },
    Case {
        name: "the_guest_reads_statistics_where_the_image_allows_it",
        run: |context| guest_statistics(context, &[]),
    },
    Case { name: "pages_are_shared_and_taken_back_under_load", run: page_conversion },
    Case { name: "pages_above_4_gib_are_shared_and_taken_back", run: |context| high_conversion(context, &[]) },
    Case { name: "pages_are_not_shared_without_the_images_consent", run: no_page_conversion },
    Case { name: "triple_fault_ends_with_71", run: triple_fault },
    Case { name: "jump_into_nowhere_ends_with_71", run: jump_nowhere },
    Case { name: "svm_instructions_are_undefined_for_a_guest", run: svm_probe },
    Case { name: "processor_state_survives_exits", run: state_probe },
    Case { name: "guest_without_an_os_can_power_off", run: guest_poweroff },
    Case { name: "halt_without_interrupts_ends_with_the_timeout", run: |context| halt_forever(context, &[]) },
    Case { name: "no_svm_ends_with_69", run: no_svm },
    Case { name: "unknown_cpu_ends_with_64", run: unknown_cpu },
    Case { name: "absent_qemu_ends_with_69", run: absent_qemu },
];

pub(super) fn shell(context: &Context, platform: &[&str]) -> Outcome {
    let mut run = at_the_shell(context, platform)?;
    // What is waited for differs from what is typed, whose echo comes back too.
    run.send("echo sum=$((6*7)); tty\n")?;
    run.wait_for("sum=42")?;
    run.wait_for("/dev/ttyS0")?;
    // Job control: an interrupt from the keyboard ends the job, not the shell.
    run.send("echo job-$((1+0)); sleep 1000\n")?;
    run.wait_for("job-1")?;
    std::thread::sleep(Duration::from_millis(500));
    run.send("\x03")?;
    run.send("\necho still-$((1+1))\n")?;
    run.wait_for("still-2")?;
    run.send("exit\n")?;
    expect(&run.finish()?, 0, "poweroff")?;
    passed()
}

fn poweroff(context: &Context) -> Outcome {
    let mut run = at_the_shell(context, &[])?;
    run.send("poweroff\n")?;
    expect(&run.finish()?, 0, "poweroff")?;
    passed()
}

fn exit_of_the_shell(context: &Context) -> Outcome {
    let mut run = at_the_shell(context, &[])?;
    run.wait_for("# ")?;
    run.send("\x04")?;
    expect(&run.finish()?, 0, "poweroff")?;
    passed()
}

fn timeout(context: &Context) -> Outcome {
    let begun = Instant::now();
    let finished = run(context, &["--timeout", "6"])?;
    expect(&finished, 124, "timeout")?;
    if begun.elapsed() > Duration::from_secs(60) { Err("took a minute".into()) } else { passed() }
}

fn exec(context: &Context) -> Outcome {
    let stdout = output(context, "echo out; echo err >&2; uname -s", &[])?;
    same("stdout", "out\nerr\nLinux\n", &stdout)?;
    passed()
}

fn exec_status(context: &Context) -> Outcome {
    let finished = run(context, &["--exec", "printf 'no line feed'; exit 7"])?;
    expect(&finished, 7, "poweroff")?;
    same("stdout", "no line feed", &finished.stdout)?;
    passed()
}

pub(super) fn exec_binary(context: &Context, platform: &[&str]) -> Outcome {
    // What could be taken for a trailer, for a line end, or for a terminal's control characters.
    let stdout = output(context, r"printf 'a\r\nb\n\0360\n\003\004\021\023'; seq 1 5000", platform)?;
    let numbers: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    same("stdout", &format!("a\r\nb\n\x1e0\n\x03\x04\x11\x13{numbers}"), &stdout)?;
    passed()
}

fn memory_between(context: &Context, size: &str, least: u64, most: u64) -> Outcome {
    let stdout = output(context, "awk '/^MemTotal/ { print $2 }' /proc/meminfo", &["--memory", size])?;
    let kib: u64 = stdout.trim().parse().map_err(|_| format!("MemTotal is {stdout:?}"))?;
    let mib = kib >> 10;
    if (least..=most).contains(&mib) { passed() } else { Err(format!("{mib} MiB, expected {least} to {most}")) }
}

fn little_memory(context: &Context) -> Outcome {
    memory_between(context, "256M", 180, 256)
}

fn much_memory(context: &Context) -> Outcome {
    memory_between(context, "3G", 2850, 3072)
}

pub(super) fn append(context: &Context, platform: &[&str]) -> Outcome {
    let stdout = output(context, "cat /proc/cmdline", &[platform, &["--append", "marker=a,b c"]].concat())?;
    // Parados may add words of its own after ours.
    if format!("{} ", stdout.trim_end()).contains(" marker=a,b c ") {
        passed()
    } else {
        Err(format!("command line {stdout:?}"))
    }
}

pub(super) fn statistics(context: &Context, platform: &[&str]) -> Outcome {
    let scratch = crate::scratch::Scratch::new().map_err(|failure| failure.message)?;
    let file = scratch.file("stats.json");
    let read = ["--smp", "2", "--exec", "true", "--stats", "--stats-json", &file.to_string_lossy()];
    let finished = run(context, &[platform, &read].concat())?;
    expect(&finished, 0, "poweroff")?;
    let text = std::fs::read(&file).map_err(|error| format!("no statistics: {error}"))?;
    let stats: serde_json::Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let number = |path: &str| stats.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or_default();
    // What every Linux does while it boots, on either processor.
    for path in [
        "/tsc_hz",
        "/pages/accepted",
        "/total/exits/cpuid/count",
        "/total/exits/port_out/count",
        "/total/events/interrupts",
        "/total/events/apic_timer",
        "/vcpus/0/exits/mmio/count",
        "/vcpus/1/events/starts",
        "/total/ports/0/count",
        "/total/msrs/0/count",
        "/total/mmio_pages/0/count",
    ] {
        if number(path) == 0 {
            return Err(format!("{path} is zero or absent: {stats}"));
        }
    }
    let sum = number("/vcpus/0/exits/cpuid/count") + number("/vcpus/1/exits/cpuid/count");
    if sum != number("/total/exits/cpuid/count") {
        return Err(format!("the vCPUs make {sum} CPUID exits: {stats}"));
    }
    let shown = ["cpuid", "interrupts", "MMIO page"].iter().all(|word| finished.stderr.contains(word));
    if shown { passed() } else { Err(tail(&finished)) }
}

/// Reads through /dev/mem with a usual tool and no driver: the magic, and the CPUID exits of vCPU 0 so far. A write changes
/// nothing. Without the image's consent there is nothing to read.
pub(super) fn guest_statistics(context: &Context, platform: &[&str]) -> Outcome {
    let script = "devmem 0xfef00000 64 0; devmem 0xfef00000 64; sum=0; for bucket in $(seq 0 31); do \
                  sum=$((sum + $(devmem $((0xfef01000 + 8 * bucket)) 64))); done; echo $sum";
    let text = output(context, script, &[platform, &["--guest-stats"]].concat())?;
    let mut words = text.split_whitespace();
    // "PARASTAT" as a little-endian number.
    let magic = words.next() == Some("0x5441545341524150");
    let exits: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
    // A booting Linux asks hundreds of times.
    if !magic || exits < 100 {
        return Err(format!("the window shows {text:?}"));
    }
    same("without consent", "0xFFFFFFFFFFFFFFFF\n", &output(context, "devmem 0xfef00000 64", platform)?)?;
    passed()
}

/// Three processors convert pages in both sizes and check what they find.
fn page_conversion(context: &Context) -> Outcome {
    guest(context, "page-conversion", &["--test-devices", "--page-conversion", "--smp", "3"], 1, "test-exit")
}

/// The same with memory above 4 GiB, which the guest does not pass over.
pub(super) fn high_conversion(context: &Context, platform: &[&str]) -> Outcome {
    let Some(kernel) = kernel(context, "page-conversion")? else {
        return Ok(Verdict::Skipped("there is no test guest page-conversion".into()));
    };
    let arguments = ["--kernel", &kernel, "--test-devices", "--page-conversion", "--memory", "3G", "--append", "1"];
    let finished = run(context, &[platform, &arguments].concat())?;
    expect(&finished, 1, "test-exit")?;
    if finished.stdout.contains("share 2 MiB above 4 GiB: ok") { passed() } else { Err(tail(&finished)) }
}

fn no_page_conversion(context: &Context) -> Outcome {
    guest(context, "page-conversion", &["--test-devices", "--append", "0"], 1, "test-exit")
}

fn triple_fault(context: &Context) -> Outcome {
    guest(context, "triple-fault", &[], 71, "triple-fault")
}

fn jump_nowhere(context: &Context) -> Outcome {
    guest(context, "jump-nowhere", &[], 71, "triple-fault")
}

pub(super) fn spin(context: &Context, platform: &[&str]) -> Outcome {
    guest(context, "spin", &[platform, &["--timeout", "4"]].concat(), 124, "timeout")
}

/// The guest's vector registers, debug registers and more survive exits; it says so with 0.
fn state_probe(context: &Context) -> Outcome {
    guest(context, "state-probe", &["--test-devices"], 1, "test-exit")
}

fn guest_poweroff(context: &Context) -> Outcome {
    guest(context, "poweroff", &[], 0, "poweroff")
}

pub(super) fn halt_forever(context: &Context, platform: &[&str]) -> Outcome {
    guest(context, "halt-forever", &[platform, &["--timeout", "4"]].concat(), 124, "timeout")
}

/// The guest tries every SVM instruction, wants #UD each time and its canary untouched, and then exits with 0.
fn svm_probe(context: &Context) -> Outcome {
    guest(context, "svm-probe", &["--test-devices"], 1, "test-exit")
}

fn no_svm(context: &Context) -> Outcome {
    lacks(context, &[], "max,-svm")
}

/// A processor model that cannot run a guest of the platform.
pub(super) fn lacks(context: &Context, platform: &[&str], model: &str) -> Outcome {
    expect(&run(context, &[platform, &["--cpu", model]].concat())?, 69, "terminated")?;
    passed()
}

fn unknown_cpu(context: &Context) -> Outcome {
    expect(&run(context, &["--cpu", "abacus"])?, 64, "qemu")?;
    passed()
}

fn absent_qemu(context: &Context) -> Outcome {
    for qemu in ["/nowhere/qemu", "/bin/true"] {
        expect(&run(context, &["--qemu", qemu])?, 69, "not-started")?;
    }
    passed()
}
