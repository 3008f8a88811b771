// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time from the TSC, which no host turns back. Its frequency is measured at start-up against the host's 8254, by port requests.
//!
//! Without Secure TSC the host scales the TSC as it likes, so it could make the guest's clock fast or slow without lying here
//! as well; that it cannot do is to turn it back. Readings are bracketed, because a request takes as long as the host wants.

use core::arch::x86_64::_rdtsc;

use platform::{Clock, Instant};

use crate::ghcb::{Refusal, port_read, port_write};

/// Hz of the 8254's input.
const PIT_HZ: u64 = 1_193_182;
/// Least ticks between the two readings of a measurement: about 10 ms.
const WINDOW: u16 = 12_000;
/// How often a measurement that came to nothing is made again.
const ATTEMPTS: usize = 3;
/// Readings at either end of a measurement, of which the tightest counts.
const READINGS: usize = 6;
/// Frequencies outside 10 MHz to 100 GHz are taken for a broken timer.
const PLAUSIBLE: core::ops::RangeInclusive<u64> = 10_000_000..=100_000_000_000;

/// The clock. The guest reads the TSC that Parados reads: without Secure TSC only the host could give it another offset.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    hz: u64,
    /// Nanoseconds a tick, as a 32.32 fixed-point number.
    nanos_per_tick: u64,
}

impl TscClock {
    /// The clock of a processor with this TSC frequency. `None` if the frequency makes no sense.
    pub(crate) fn new(hz: u64) -> Option<Self> {
        if !PLAUSIBLE.contains(&hz) {
            return None;
        }
        let nanos_per_tick = u64::try_from((1_000_000_000u128 << 32) / u128::from(hz)).ok()?;
        Some(Self { hz, nanos_per_tick })
    }
}

/// The processor's time-stamp counter.
#[inline(always)]
pub(crate) fn tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and has no side effect.
    unsafe { _rdtsc() }
}

impl Clock for TscClock {
    fn now(&self) -> Instant {
        self.instant_of_tsc(self.guest_tsc())
    }

    fn guest_tsc(&self) -> u64 {
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

/// A measurement that has begun.
pub struct Measurement(Result<Begun, Refusal>);

#[derive(Clone, Copy)]
struct Begun {
    tsc: u64,
    count: u16,
}

impl Measurement {
    /// Starts the counter. It runs for 55 ms.
    pub fn begin() -> Self {
        Self(start().and_then(|()| read()).map(|(tsc, count)| Begun { tsc, count }))
    }

    /// Ends the measurement, and makes it again if the counter ran out meanwhile. `None` if the timer is broken.
    pub(crate) fn finish(self) -> Option<TscClock> {
        let mut measurement = self;
        for _ in 0..ATTEMPTS {
            if let Ok(Some(hz)) = measurement.0.and_then(frequency) {
                return TscClock::new(hz);
            }
            measurement = Self::begin();
        }
        None
    }
}

/// Hz of the TSC; `None` if the counter ran out, or stands still.
fn frequency(begun: Begun) -> Result<Option<u64>, Refusal> {
    const PATIENCE: u32 = 10_000;
    for _ in 0..PATIENCE {
        let (tsc, count) = read()?;
        let ticks = begun.count.wrapping_sub(count);
        if ticks >= WINDOW {
            let hz = tsc.wrapping_sub(begun.tsc).checked_mul(PIT_HZ).map(|product| product / u64::from(ticks));
            return Ok(hz.filter(|_| !matches!(ran_out(), Ok(true) | Err(_))));
        }
    }
    Ok(None)
}

const COMMAND: u16 = 0x43;
const DATA: u16 = 0x42;
const GATE: u16 = 0x61;

/// Counter 2: gate on, speaker off, mode 0 from FFFFh.
fn start() -> Result<(), Refusal> {
    let control = port_read(GATE, 1)?;
    port_write(GATE, 1, control & 0xfc | 1)?;
    port_write(COMMAND, 1, 0b1011_0000)?;
    port_write(DATA, 1, 0xff)?;
    port_write(DATA, 1, 0xff)
}

/// Whether the counter has passed zero: in mode 0 its output, bit 5 of port 61h, then goes high.
fn ran_out() -> Result<bool, Refusal> {
    Ok(port_read(GATE, 1)? & 1 << 5 != 0)
}

/// A TSC value and the count at that time.
fn read() -> Result<(u64, u16), Refusal> {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..READINGS {
        let before = tsc();
        // Latch counter 2; what is read then is the count of that time.
        port_write(COMMAND, 1, 0b1000_0000)?;
        let after = tsc();
        let count = port_read(DATA, 1)? & 0xff | (port_read(DATA, 1)? & 0xff) << 8;
        let slack = after.wrapping_sub(before);
        if slack < best.0 {
            best = (slack, before.wrapping_add(slack / 2), count as u16);
        }
    }
    Ok((best.1, best.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        let clock = TscClock::new(2_500_000_000).unwrap();
        assert_eq!(clock.instant_of_tsc(2_500_000_000).0 / 1000, 999_999);
        assert_eq!(clock.instant_of_tsc(0), Instant(0));
    }

    #[test]
    fn frequencies_that_no_processor_has_are_refused() {
        for hz in [0, 1, 9_999_999, 100_000_000_001, u64::MAX] {
            assert!(TscClock::new(hz).is_none(), "{hz}");
        }
    }
}
