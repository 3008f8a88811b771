// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time for the guests: the TSC, measured against the ACPI PM timer (3.579545 MHz, ACPI 6.5, 4.8.3.3).

use crate::instructions::{in_dword, time_stamp};
use core::sync::atomic::{AtomicU64, Ordering};

/// PM_TMR.
pub const PM_TIMER: u16 = 0x608;
/// Its frequency.
pub const PM_TIMER_HZ: u64 = 3_579_545;

static TSC_HZ: AtomicU64 = AtomicU64::new(0);

/// The PM timer's count; how many bits count is the machine's choice, 24 always do.
pub fn pm_timer() -> u32 {
    in_dword(PM_TIMER)
}

/// A PM timer reading between two TSC readings, the tightest of some: the TSC in the middle, and the count.
pub fn bracketed<T>(mut read: impl FnMut() -> T) -> (u64, T) {
    let mut one = || {
        let before = time_stamp();
        let value = read();
        let after = time_stamp();
        (after - before, before + (after - before) / 2, value)
    };
    let mut best = one();
    for _ in 0..8 {
        let next = one();
        if next.0 < best.0 {
            best = next;
        }
    }
    (best.1, best.2)
}

/// Measures the TSC's frequency over at least 50 ms, once; later calls give the same answer.
pub fn tsc_hz() -> u64 {
    let known = TSC_HZ.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let (start, first) = bracketed(pm_timer);
    let elapsed = |count: u32| u64::from(count.wrapping_sub(first) & 0xff_ffff);
    while elapsed(pm_timer()) < PM_TIMER_HZ / 20 {}
    let (end, last) = bracketed(pm_timer);
    let hz = (end - start) * PM_TIMER_HZ / elapsed(last).max(1);
    TSC_HZ.store(hz, Ordering::Relaxed);
    hz
}

/// TSC ticks in so many microseconds.
pub fn ticks(micros: u64) -> u64 {
    (u128::from(tsc_hz()) * u128::from(micros) / 1_000_000) as u64
}

/// Microseconds in so many TSC ticks.
pub fn micros(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000 / u128::from(tsc_hz())) as u64
}

/// Spins until `done`, for at most so many microseconds; whether it came.
pub fn wait(limit: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = time_stamp() + ticks(limit);
    loop {
        if done() {
            return true;
        }
        if time_stamp() >= end {
            return done();
        }
        core::hint::spin_loop();
    }
}

/// Spins for so many microseconds.
pub fn delay(micros: u64) {
    wait(micros, || false);
}
