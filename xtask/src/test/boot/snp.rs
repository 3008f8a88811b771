// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot tests of the SEV-SNP image: `cargo xtask test boot --platform snp`, and a part of every whole run.
//!
//! The guest must not see a difference: what it says of itself is compared with the native image's words on the same processor
//! model (`portrait`). All of it is seen on the reference host's model of the hardware, and on no hardware.

use igvm_tools::Platform;

use super::cases::{
    append, exec_binary, guest_statistics, halt_forever, high_conversion, lacks, shell, spin, statistics,
};
use super::common::{expect, guest, kernel, output, passed, run, same};
use super::crash::backtrace;
use super::images::damaged_on;
use super::pc::{HELD_UP, all_resets, all_resets_no_reboot, clocks, hotplug, linux_reset, powers_off, time_of_day};
use super::snp_code::exits_by_ghcb_alone;
use super::{Case, Context, Outcome, Verdict, portrait};

/// All of them.
pub(super) const ALL: &[Case] = &[
    Case { name: "snp_stock_kernel_reaches_user_mode", run: user_mode },
    Case { name: "snp_guest_sees_the_native_machine", run: |context| portrait::of_linux(context, "1", "1G") },
    Case {
        name: "snp_guest_sees_the_native_machine_of_two_processors",
        run: |context| portrait::of_linux(context, "2", "3G"),
    },
    Case { name: "snp_cpuid_is_the_native_machines", run: portrait::of_cpuid },
    Case { name: "snp_guest_sees_nothing_of_sev", run: no_trace },
    Case { name: "snp_image_asks_the_host_by_the_ghcb_alone", run: exits_by_ghcb_alone },
    Case { name: "snp_status_of_a_command_is_the_runs", run: command_status },
    Case { name: "snp_default_guest_has_a_shell_on_the_serial_line", run: |context| shell(context, &SNP) },
    Case { name: "snp_exec_output_is_binary_safe", run: |context| exec_binary(context, &SNP) },
    Case { name: "snp_append_reaches_the_kernel", run: |context| append(context, &SNP) },
    Case { name: "snp_statistics_come_as_a_table_and_as_json", run: |context| statistics(context, &SNP) },
    Case {
        name: "snp_the_guest_reads_statistics_where_the_image_allows_it",
        run: |context| guest_statistics(context, &SNP),
    },
    Case { name: "snp_spin_without_interrupts_ends_with_the_timeout", run: |context| spin(context, &SNP) },
    Case { name: "snp_halt_without_interrupts_ends_with_the_timeout", run: |context| halt_forever(context, &SNP) },
    Case {
        name: "snp_a_panic_leaves_a_backtrace_that_symbolize_names",
        run: |context| backtrace(context, Platform::Snp),
    },
    Case { name: "snp_reset_of_every_kind_starts_the_guest_again", run: |context| all_resets(context, &SNP) },
    Case {
        name: "snp_linux_resets_by_the_keyboard_controller",
        run: |context| linux_reset(context, &SNP, "kbd", "reset"),
    },
    Case { name: "snp_linux_resets_by_port_cf9", run: |context| linux_reset(context, &SNP, "pci", "reset") },
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
    Case { name: "snp_pages_above_4_gib_are_shared_and_taken_back", run: |context| high_conversion(context, &SNP) },
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
        name: "snp_what_a_guest_finds_that_looks_for_svm_or_sev",
        run: |context| probe_but(context, "svm-probe", &NOT_HIDDEN),
    },
];

const SNP: [&str; 2] = ["--platform", "snp"];

fn user_mode(context: &Context) -> Outcome {
    let output = output(context, "uname -s; cat /proc/1/comm", &SNP)?;
    same("output", "Linux\ninit\n", &output)?;
    passed()
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

/// What no paravisor can hide: the host does not intercept EFER, the GHCB MSR and reads of SEV_STATUS, and the processor answers SNP's
/// instructions, with a refusal, at every VMPL.
const NOT_HIDDEN: [&str; 9] = [
    "pvalidate",
    "rmpadjust",
    "pvalidate",
    "rmpadjust",
    "efer.svme is hidden",
    "efer.svme cannot be set",
    "GHCB",
    "GHCB",
    "SEV_STATUS",
];

/// SEV_STATUS, which reads as it is: SEV, SEV-ES, SEV-SNP (APM vol. 2, 15.34.10), the virtual top of memory, reflection and
/// alternate injection, which SEV_FEATURES has.
const STATUS: &str = "SEV_STATUS: FAIL (read: 0x5f, no exception)";

/// A test guest that finds these things, in this order, and nothing else.
fn probe_but(context: &Context, name: &str, known: &[&str]) -> Outcome {
    let Some(kernel) = kernel(context, name)? else {
        return Ok(Verdict::Skipped(format!("there is no test guest {name}")));
    };
    let finished = run(context, &[&SNP[..], &["--test-devices", "--kernel", &kernel]].concat())?;
    expect(&finished, 3, "test-exit")?;
    let failed = finished.stdout.lines().filter_map(|line| line.split_once(": FAIL"));
    let failed: Vec<_> = failed.map(|(name, _)| name.trim().to_owned()).collect();
    if !finished.stdout.lines().any(|line| line.trim() == STATUS) {
        return Err(format!("no line {STATUS}"));
    }
    if failed == known { passed() } else { Err(format!("other differences than those known: {failed:?}")) }
}
