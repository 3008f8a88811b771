// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints everything that CPUID says, on each processor: the ranges that processors, hypervisors and vendors use, a few leaves beyond
//! the end of each, and subleaves where there are any (APM vol. 3, appendix E). Whoever started it compares.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::arch::x86_64::{__cpuid_count, CpuidResult};

use guests::{guest, machine, say, smp};

/// Where a range starts, and how many of its leaves are asked for.
const RANGES: [(u32, u32); 5] =
    [(0, 0x30), (0x2000_0000, 1), (0x4000_0000, 0x110), (0x8000_0000, 0x30), (0xc000_0000, 8)];
/// Subleaves that are asked for where there are any.
const SUBLEAVES: u32 = 8;
/// Microseconds that a processor may take.
const LIMIT: u64 = 60_000_000;

guest!(run);

fn run(_: u64) -> u32 {
    dump(0);
    let count = smp::start().unwrap_or_else(|count| count);
    for index in 1..count {
        if !smp::call(index, dump, LIMIT) {
            say!("processor {index} does not answer");
        }
    }
    say!("{count} processors");
    machine::power_off()
}

fn dump(index: usize) {
    for (start, leaves) in RANGES {
        for leaf in start..start + leaves {
            let subleaves = if has_subleaves(leaf) { SUBLEAVES } else { 1 };
            for subleaf in 0..subleaves {
                let CpuidResult { eax, ebx, ecx, edx } = __cpuid_count(leaf, subleaf);
                // Most leaves are nothing, and those say it by not being there.
                if eax | ebx | ecx | edx != 0 {
                    say!("{index}: {leaf:08x} {subleaf}: {eax:08x} {ebx:08x} {ecx:08x} {edx:08x}");
                }
            }
        }
    }
}

fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | 0xd..=0x20 | 0x8000_001d | 0x8000_0020 | 0x8000_0026)
}
