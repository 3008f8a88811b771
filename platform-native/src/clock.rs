// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time from the TSC, whose frequency is measured against the 8254 at start-up.
//!
//! The 8254's third counter runs at 1.193182 MHz and can be read without an interrupt. Each reading is bracketed by two
//! TSC readings; of several attempts the one with the tightest brackets counts, because the emulator can be held up at
//! any instruction.

use core::arch::x86_64::_rdtsc;

use platform::{Clock, Instant};

use crate::port;

/// Hz of the 8254's input.
const PIT_HZ: u64 = 1_193_182;
/// Ticks between the two readings of a measurement: about 2.5 ms.
const WINDOW: u16 = 3000;
/// How many measurements; the best counts.
const ATTEMPTS: usize = 4;
/// Readings per measurement point, of which the tightest counts.
const READINGS: usize = 4;
/// Frequencies outside 10 MHz to 100 GHz are taken for a broken timer.
const PLAUSIBLE: core::ops::RangeInclusive<u64> = 10_000_000..=100_000_000_000;

/// The clock: the guest's TSC starts at zero together with [`Instant`].
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    /// The hardware TSC at [`Instant`] zero.
    origin: u64,
    hz: u64,
    /// Nanoseconds a tick, as a 32.32 fixed-point number.
    nanos_per_tick: u64,
}

impl TscClock {
    /// Measures the frequency. `None` if the timer makes no sense.
    pub(crate) fn measure(origin: u64) -> Option<Self> {
        let hz = (0..ATTEMPTS).filter_map(|_| attempt()).min_by_key(|&(_, slack)| slack)?.0;
        if !PLAUSIBLE.contains(&hz) {
            return None;
        }
        let nanos_per_tick = u64::try_from((1_000_000_000u128 << 32) / u128::from(hz)).ok()?;
        Some(Self { origin, hz, nanos_per_tick })
    }

    /// What the hardware adds to its TSC for the guest.
    pub(crate) const fn guest_offset(&self) -> u64 {
        self.origin.wrapping_neg()
    }
}

/// The processor's time-stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and has no side effect.
    unsafe { _rdtsc() }
}

impl Clock for TscClock {
    fn now(&self) -> Instant {
        self.instant_of_tsc(self.guest_tsc())
    }

    fn guest_tsc(&self) -> u64 {
        tsc().wrapping_sub(self.origin)
    }

    fn tsc_hz(&self) -> u64 {
        self.hz
    }

    fn instant_of_tsc(&self, tsc: u64) -> Instant {
        let nanos = (u128::from(tsc) * u128::from(self.nanos_per_tick)) >> 32;
        Instant(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// One measurement: the frequency, and how far it may be off, in TSC ticks.
fn attempt() -> Option<(u64, u64)> {
    let counter = Counter::start();
    let (tsc_0, count_0, slack_0) = counter.read();
    // A broken counter must not hang the start.
    for _ in 0..1_000_000 {
        if count_0.wrapping_sub(counter.read().1) >= WINDOW {
            break;
        }
    }
    let (tsc_1, count_1, slack_1) = counter.read();
    let ticks = u64::from(count_0.wrapping_sub(count_1));
    if ticks < u64::from(WINDOW) {
        return None;
    }
    Some((tsc_1.wrapping_sub(tsc_0).checked_mul(PIT_HZ)? / ticks, slack_0 + slack_1))
}

/// Counter 2 of the 8254, counting down from FFFFh. The 8254 and port 61h are Parados's alone.
struct Counter;

impl Counter {
    const COMMAND: u16 = 0x43;
    const DATA: u16 = 0x42;
    const GATE: u16 = 0x61;

    /// Gate 2 on, speaker off, mode 0 from FFFFh.
    fn start() -> Self {
        let control = port::read::<u8>(Self::GATE);
        port::write::<u8>(Self::GATE, control & 0xfc | 1);
        port::write::<u8>(Self::COMMAND, 0b1011_0000);
        port::write::<u8>(Self::DATA, 0xff);
        port::write::<u8>(Self::DATA, 0xff);
        Self
    }

    /// TSC, count, and the uncertainty of the pair.
    fn read(&self) -> (u64, u16, u64) {
        let one = || {
            let before = tsc();
            // Latch counter 2, then read it.
            port::write::<u8>(Self::COMMAND, 0b1000_0000);
            let count = u16::from_le_bytes([port::read(Self::DATA), port::read(Self::DATA)]);
            let after = tsc();
            (before + (after - before) / 2, count, after - before)
        };
        let first = one();
        (1..READINGS).map(|_| one()).fold(first, |best, next| if next.2 < best.2 { next } else { best })
    }
}
