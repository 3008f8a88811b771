// SPDX-License-Identifier: MIT OR Apache-2.0
//! The instruction emulator against QEMU's processor, a mode of the processor a test: the guest `emulator-compare` runs
//! each instruction on memory and on a device. Its table goes to stdout; `docs/emulator.md` keeps the last one.

use super::common::{expect, kernel, passed, run};
use super::{Case, Context, Outcome, Verdict};
use crate::say;

/// Cases that each cell of the tables gets: together with those on the host's processor well above 50,000.
const SOME: u32 = 12;
/// On the SNP image, whose emulator is the same: it reaches registers and memory by another backend. QEMU's AVX is hidden there.
const FEW: u32 = 3;
/// Together a million.
const MANY: u32 = 300;
const SECONDS: &str = "300";
const MINUTES: &str = "1700";

/// A mode of the guest, by its number there.
macro_rules! mode {
    ($name:literal, $number:literal) => {
        Case { name: concat!("emulator_as_in_", $name), run: |context| compare(context, &[], $number, SOME, SECONDS) }
    };
    (snp $name:literal, $number:literal) => {
        Case {
            name: concat!("snp_emulator_as_in_", $name),
            run: |context| compare(context, &["--platform", "snp"], $number, FEW, SECONDS),
        }
    };
    (slow $name:literal, $number:literal) => {
        Case {
            name: concat!("emulator_at_length_as_in_", $name),
            run: |context| compare(context, &[], $number, MANY, MINUTES),
        }
    };
}

/// All modes.
macro_rules! modes {
    ($($kind:ident)?) => {
        &[
            mode!($($kind)? "64_bit_mode", 0),
            mode!($($kind)? "32_bit_compatibility_mode", 1),
            mode!($($kind)? "16_bit_compatibility_mode", 2),
            mode!($($kind)? "32_bit_protected_mode", 3),
            mode!($($kind)? "16_bit_protected_mode", 4),
            mode!($($kind)? "virtual_8086_mode", 5),
            mode!($($kind)? "real_mode", 6),
        ]
    };
}

/// All of them.
pub(super) const ALL: &[Case] = modes!();

/// The same on the SNP image.
pub(super) const SNP: &[Case] = modes!(snp);

/// Those that take minutes.
pub(super) const SLOW: &[Case] = modes!(slow);

/// The seed is always the same, so that a failure is not chance.
fn compare(context: &Context, platform: &[&str], mode: u32, each: u32, seconds: &str) -> Outcome {
    let Some(kernel) = kernel(context, "emulator-compare")? else {
        return Ok(Verdict::Skipped("there is no test guest emulator-compare".into()));
    };
    let numbers = format!("1 {each} {mode}");
    let arguments = ["--test-devices", "--kernel", &kernel, "--append", &numbers, "--timeout", seconds];
    let finished = run(context, &[platform, &arguments].concat())?;
    say::out(&finished.stdout);
    expect(&finished, 1, "test-exit").map_err(|why| {
        let different = finished.stdout.lines().find(|line| line.starts_with("DIFFERENT"));
        different.map_or_else(|| why.clone(), |line| format!("{line}; {why}"))
    })?;
    if finished.stdout.contains(" 0 different, seed 1") { passed() } else { Err("the guest did not count".into()) }
}
