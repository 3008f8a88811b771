// SPDX-License-Identifier: MIT OR Apache-2.0
//! Powers the machine off through ACPI (PM1a_CNT, S5).

#![cfg_attr(target_os = "none", no_std, no_main)]

guests::guest!(run);

fn run(_: u64) -> u32 {
    guests::say!("poweroff");
    guests::machine::power_off()
}
