// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time from the TSC, once its frequency is known. How it is measured is the backend's.

use core::arch::x86_64::_rdtsc;

use platform::{Clock, Instant};

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
    /// The clock of a processor with this TSC frequency, zero at `origin`. `None` if the frequency makes no sense.
    pub fn new(origin: u64, hz: u64) -> Option<Self> {
        if !PLAUSIBLE.contains(&hz) {
            return None;
        }
        let nanos_per_tick = u64::try_from((1_000_000_000u128 << 32) / u128::from(hz)).ok()?;
        Some(Self { origin, hz, nanos_per_tick })
    }

    /// What the hardware adds to its TSC for the guest.
    pub const fn guest_offset(&self) -> u64 {
        self.origin.wrapping_neg()
    }
}

/// The processor's time-stamp counter.
#[inline(always)]
pub fn tsc() -> u64 {
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

    #[inline(always)]
    fn cycles(&self) -> u64 {
        tsc()
    }

    fn tsc_hz(&self) -> u64 {
        self.hz
    }

    fn instant_of_tsc(&self, tsc: u64) -> Instant {
        let nanos = (u128::from(tsc) * u128::from(self.nanos_per_tick)) >> 32;
        Instant(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        let clock = TscClock::new(0, 2_500_000_000).unwrap();
        assert_eq!(clock.instant_of_tsc(2_500_000_000).0 / 1000, 999_999);
        assert_eq!(clock.instant_of_tsc(0), Instant(0));
    }

    #[test]
    fn frequencies_that_no_processor_has_are_refused() {
        for hz in [0, 1, 9_999_999, 100_000_000_001, u64::MAX] {
            assert!(TscClock::new(0, hz).is_none(), "{hz}");
        }
    }
}
