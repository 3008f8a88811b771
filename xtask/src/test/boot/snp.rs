// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot tests of the SEV-SNP image: `cargo xtask test boot --platform snp`, and a part of every whole run.
//!
//! The guest must not see a difference: what it says of itself is compared with the native image's words on the same processor
//! model, line by line. Lines that may differ are listed in `snp_differences.txt`, each with its reason. All of it is seen on
//! the reference host's model of the hardware, and on no hardware.

use igvm_tools::Platform;

use super::cases::lacks;
use super::common::{expect, guest, kernel, output, passed, run, same};
use super::images::damaged_on;
use super::pc::{HELD_UP, all_resets_no_reboot, clocks, hotplug, linux_reset, powers_off, time_of_day};
use super::{Case, Context, Outcome, Verdict};

/// All of them.
pub(super) const ALL: &[Case] = &[
    Case { name: "snp_stock_kernel_reaches_user_mode", run: user_mode },
    Case { name: "snp_guest_sees_the_native_machine", run: same_machine },
    Case { name: "snp_guest_sees_nothing_of_sev", run: no_trace },
    Case { name: "snp_status_of_a_command_is_the_runs", run: command_status },
    Case { name: "snp_on_a_processor_model_without_a_word_of_address_bits", run: any_model },
    Case { name: "snp_without_svm_ends_with_69", run: |context| lacks(context, &SNP, "max,-svm") },
    Case { name: "snp_without_rdrand_ends_with_69", run: |context| lacks(context, &SNP, "max,-rdrand") },
    Case {
        name: "snp_payload_that_is_not_what_was_measured_is_not_started",
        run: |context| damaged_on(context, Platform::Snp),
    },
    Case { name: "snp_memory_of_3_gib", run: much_memory },
    Case { name: "snp_guest_without_an_os_can_power_off", run: poweroff },
    Case { name: "snp_triple_fault_ends_with_71", run: triple_fault },
    Case {
        name: "snp_reset_of_every_kind_with_no_reboot_ends_with_71",
        run: |context| all_resets_no_reboot(context, &SNP),
    },
    Case { name: "snp_linux_resets_by_acpi", run: |context| linux_reset(context, &SNP, "acpi", "reset") },
    Case {
        name: "snp_linux_resets_by_triple_fault",
        run: |context| linux_reset(context, &SNP, "triple", "triple-fault"),
    },
    Case { name: "snp_sigterm_powers_the_guest_off", run: |context| powers_off(context, &SNP) },
    Case { name: "snp_jump_into_nowhere_ends_with_71", run: jump_nowhere },
    Case { name: "snp_guest_knows_what_time_it_is", run: |context| time_of_day(context, &SNP) },
    Case { name: "snp_two_processors", run: |context| processors(context, "2") },
    Case { name: "snp_eight_processors", run: |context| processors(context, "8") },
    Case { name: "snp_processors_go_offline_and_come_back", run: |context| hotplug(context, &SNP) },
    Case { name: "snp_processors_survive_stress", run: stress },
    Case { name: "snp_pages_are_shared_and_taken_back_under_load", run: page_conversion },
    Case { name: "snp_pages_are_not_shared_without_the_images_consent", run: no_page_conversion },
    Case { name: "snp_timers_of_the_pc", run: |context| clocks(context, &SNP, HELD_UP) },
    Case { name: "snp_processor_state_survives_exits", run: |context| probe(context, "state-probe") },
    Case {
        name: "snp_interrupt_controllers_of_four_processors",
        run: |context| probe_with(context, "interrupt-controllers", "4"),
    },
    Case { name: "snp_local_apic", run: |context| probe(context, "apic") },
    Case { name: "snp_local_apics_of_two_processors", run: |context| probe_with(context, "apic", "2") },
    Case { name: "snp_serial_port", run: |context| probe(context, "uart") },
    Case { name: "snp_borders_of_memory", run: |context| probe_with(context, "pages-probe", "2") },
    Case {
        name: "snp_what_a_guest_finds_that_looks_for_svm",
        run: |context| probe_but(context, "svm-probe", &NOT_HIDDEN),
    },
];

const SNP: [&str; 2] = ["--platform", "snp"];

/// The processor of both sides: what the model hides is switched off for the native image as well.
const CPU: &str = "EPYC,phys-bits=52,-xsave,-avx,-avx2,-fma,-f16c";

/// What may differ, and why: a pattern with `*` for anything, a tabulator, the reason.
const DIFFERENCES: &str = include_str!("snp_differences.txt");
/// No more than this.
const MOST_DIFFERENCES: usize = 15;

fn user_mode(context: &Context) -> Outcome {
    let output = output(context, "uname -s; cat /proc/1/comm", &SNP)?;
    same("output", "Linux\ninit\n", &output)?;
    passed()
}

/// What a guest can say of its machine: processor, firmware's tables, kernel log, ports and memory in use.
const SELF_PORTRAIT: &str = "cat /proc/cpuinfo; for t in /sys/firmware/acpi/tables/*; do \
                             [ -f $t ] && echo $t && hexdump -C $t; done; cat /proc/iomem /proc/ioports; dmesg";

fn same_machine(context: &Context) -> Outcome {
    let differences = differences(DIFFERENCES)?;
    // The same place for the kernel, and the same processor.
    let both = ["--cpu", CPU, "--append", "nokaslr"];
    let native = output(context, SELF_PORTRAIT, &both)?;
    let snp = output(context, SELF_PORTRAIT, &[&SNP[..], &both].concat())?;
    let (native, snp) = (portrait(&native, &differences), portrait(&snp, &differences));
    if native.len() < 300 {
        return Err(format!("the guest said {} lines, expected some hundred", native.len()));
    }
    let missing = native.iter().find(|line| !snp.contains(line));
    let new = snp.iter().find(|line| !native.contains(line));
    match (missing, new) {
        (None, None) => passed(),
        (missing, new) => Err(format!("only native: {missing:?}; only SNP: {new:?}")),
    }
}

/// The patterns of the list.
fn differences(list: &str) -> Result<Vec<&str>, String> {
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let patterns: Vec<_> = lines
        .map(|line| match line.split_once('\t') {
            Some((pattern, reason)) if !reason.trim().is_empty() => Ok(pattern),
            _ => Err(format!("snp_differences.txt: '{line}': expected a tabulator and a reason")),
        })
        .collect::<Result<_, _>>()?;
    if patterns.len() > MOST_DIFFERENCES {
        return Err(format!("snp_differences.txt: {} patterns, at most {MOST_DIFFERENCES}", patterns.len()));
    }
    Ok(patterns)
}

/// The lines that must be the same, without the kernel's time stamps. Their order is not compared: kernel threads race.
fn portrait(output: &str, differences: &[&str]) -> Vec<String> {
    let lines = output.lines().map(|line| without_time(line.trim_end()));
    lines.filter(|line| !differences.iter().any(|pattern| matches(pattern, line))).map(str::to_owned).collect()
}

/// `[    0.000000] text` without what stands in brackets.
fn without_time(line: &str) -> &str {
    let stamp = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match stamp {
        Some((stamp, text)) if stamp.trim().parse::<f64>().is_ok() => text,
        _ => line,
    }
}

/// Whether a line is as a pattern says, in which `*` stands for anything.
fn matches(pattern: &str, line: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == line };
    let Some(line) = line.strip_prefix(first) else { return false };
    if rest.is_empty() {
        return true;
    }
    line.char_indices().map(|(at, _)| at).chain([line.len()]).any(|at| line.get(at..).is_some_and(|l| matches(rest, l)))
}

/// Neither the kernel nor CPUID says anything of what protects the guest.
fn no_trace(context: &Context) -> Outcome {
    let command = "dmesg; cat /proc/cpuinfo; ls /dev /sys/devices/system/cpu; cat /sys/hypervisor/* 2>/dev/null; true";
    let output = output(context, command, &SNP)?;
    let words = ["SEV", "sev_", "sev-guest", "Memory Encryption", "SNP", "VMPL", "GHCB", "Hyper-V", "KVM"];
    match output.lines().find(|line| words.iter().any(|word| line.contains(word))) {
        Some(line) => Err(format!("the guest says '{line}'")),
        None if output.lines().count() < 200 => Err("the guest said hardly anything".into()),
        None => passed(),
    }
}

fn command_status(context: &Context) -> Outcome {
    let finished = run(context, &[&SNP[..], &["--exec", "exit 7"]].concat())?;
    expect(&finished, 7, "poweroff")?;
    passed()
}

/// `--cpu max` was refused, because QEMU gives it 40 address bits.
fn any_model(context: &Context) -> Outcome {
    guest(context, "poweroff", &[&SNP[..], &["--cpu", "max"]].concat(), 0, "poweroff")
}

fn much_memory(context: &Context) -> Outcome {
    let output = output(context, "grep MemTotal /proc/meminfo", &[&SNP[..], &["--memory", "3G"]].concat())?;
    let kib: u64 = output.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    if (2900 << 10..3 << 20).contains(&kib) { passed() } else { Err(format!("the guest has {kib} KiB")) }
}

fn processors(context: &Context, count: &str) -> Outcome {
    let output = output(context, "nproc; grep -c ^processor /proc/cpuinfo", &[&SNP[..], &["--smp", count]].concat())?;
    same("output", &format!("{count}\n{count}\n"), &output)?;
    passed()
}

fn stress(context: &Context) -> Outcome {
    guest(context, "smp-stress", &[&SNP[..], &["--test-devices", "--smp", "4"]].concat(), 1, "test-exit")
}

/// Three processors convert pages in both sizes and check what they find, while the model looks for broken rules.
fn page_conversion(context: &Context) -> Outcome {
    let options = ["--test-devices", "--page-conversion", "--smp", "3"];
    guest(context, "page-conversion", &[&SNP[..], &options].concat(), 1, "test-exit")
}

fn no_page_conversion(context: &Context) -> Outcome {
    guest(context, "page-conversion", &[&SNP[..], &["--test-devices", "--append", "0"]].concat(), 1, "test-exit")
}

fn poweroff(context: &Context) -> Outcome {
    guest(context, "poweroff", &SNP, 0, "poweroff")
}

fn triple_fault(context: &Context) -> Outcome {
    guest(context, "triple-fault", &SNP, 71, "triple-fault")
}

fn jump_nowhere(context: &Context) -> Outcome {
    guest(context, "jump-nowhere", &SNP, 71, "triple-fault")
}

/// A test guest that judges by itself.
fn probe(context: &Context, name: &str) -> Outcome {
    probe_with(context, name, "1")
}

fn probe_with(context: &Context, name: &str, processors: &str) -> Outcome {
    guest(context, name, &[&SNP[..], &["--test-devices", "--smp", processors]].concat(), 1, "test-exit")
}

/// What no paravisor can hide: the host does not intercept EFER and the GHCB MSR, and the processor answers SNP's instructions,
/// with a refusal, at every VMPL.
const NOT_HIDDEN: [&str; 8] = [
    "pvalidate",
    "rmpadjust",
    "pvalidate",
    "rmpadjust",
    "efer.svme is hidden",
    "efer.svme cannot be set",
    "GHCB",
    "GHCB",
];

/// A test guest that finds these things, in this order, and nothing else.
fn probe_but(context: &Context, name: &str, known: &[&str]) -> Outcome {
    let Some(kernel) = kernel(context, name)? else {
        return Ok(Verdict::Skipped(format!("there is no test guest {name}")));
    };
    let finished = run(context, &[&SNP[..], &["--test-devices", "--kernel", &kernel]].concat())?;
    expect(&finished, 3, "test-exit")?;
    let failed = finished.stdout.lines().filter_map(|line| line.split_once(": FAIL"));
    let failed: Vec<_> = failed.map(|(name, _)| name.trim().to_owned()).collect();
    if failed == known { passed() } else { Err(format!("other differences than those known: {failed:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_short_and_reasoned() {
        assert!(!differences(DIFFERENCES).unwrap().is_empty());
        assert!(differences("a*b").unwrap_err().contains("a reason"));
        let long = "x\tbecause\n".repeat(MOST_DIFFERENCES + 1);
        assert!(differences(&long).unwrap_err().contains("16 patterns"));
    }

    #[test]
    fn a_star_is_anything() {
        assert!(matches("a*c", "abc") && matches("a*c", "ac") && matches("*", "") && matches("a*", "a"));
        assert!(!matches("a*c", "abd") && !matches("a", "ab") && !matches("*b", "a"));
        assert!(matches("*tsc_early_khz=*", "Command line: quiet tsc_early_khz=2596239"));
        assert!(matches("*ab*ab", "abab") && !matches("*ab*ab", "ab"));
    }

    #[test]
    fn only_time_stamps_are_cut_off() {
        assert_eq!(without_time("[    1.324529] Freeing"), "Freeing");
        assert_eq!(without_time("[mem 0x0-0x1] usable"), "[mem 0x0-0x1] usable");
    }
}
