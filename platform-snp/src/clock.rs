// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time from the TSC. Its frequency is measured at start-up against the host's 8254, by port requests, and readings are
//! bracketed, because a request takes as long as the host wants.
//!
//! Hostile party: the host. Without Secure TSC what a processor reads is scaled and offset by its VMCB (APM vol. 2, 15.30.5 and
//! appendix B), so the host can make time fast or slow, and turn the counter back. [`SnpClock`] stands still then, for all
//! processors, until the counter is where it was: the guest's timers are late, and no time comes twice.

use core::sync::atomic::{AtomicU64, Ordering};

use platform::{Clock, Instant};
use platform_shared::clock::{TscClock, tsc};

use crate::ghcb::{Refusal, port_read, port_write};

/// Hz of the 8254's input.
const PIT_HZ: u64 = 1_193_182;
/// Least ticks between the two readings of a measurement: about 10 ms.
const WINDOW: u16 = 12_000;
/// How often a measurement that came to nothing is made again.
const ATTEMPTS: usize = 3;
/// Readings at either end of a measurement, of which the tightest counts.
const READINGS: usize = 6;

/// The clock of the VM: the TSC, as long as it goes forward.
pub struct SnpClock {
    tsc: TscClock,
    /// The latest value that any processor has read.
    latest: AtomicU64,
}

impl SnpClock {
    pub(crate) const fn new(tsc: TscClock) -> Self {
        Self { tsc, latest: AtomicU64::new(0) }
    }
}

impl Clock for SnpClock {
    fn now(&self) -> Instant {
        let Instant(nanos) = self.instant_of_tsc(self.guest_tsc());
        // At a time that never comes, timers would fire that nobody has set.
        Instant(nanos.min(Instant::NEVER.0 - 1))
    }

    fn guest_tsc(&self) -> u64 {
        let read = self.tsc.guest_tsc();
        self.latest.fetch_max(read, Ordering::Relaxed).max(read)
    }

    /// Only for measuring, so it may go back.
    #[inline(always)]
    fn cycles(&self) -> u64 {
        tsc()
    }

    fn tsc_hz(&self) -> u64 {
        self.tsc.tsc_hz()
    }

    fn instant_of_tsc(&self, tsc: u64) -> Instant {
        self.tsc.instant_of_tsc(tsc)
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
    ///
    /// The guest reads the TSC that Parados reads, from zero: without Secure TSC only the host could give it another offset.
    pub(crate) fn finish(self) -> Option<TscClock> {
        let mut measurement = self;
        for _ in 0..ATTEMPTS {
            if let Ok(Some(hz)) = measurement.0.and_then(frequency) {
                return TscClock::new(0, hz);
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

    /// A host that turned the TSC back turned Parados's clock back with it.
    #[test]
    fn time_stands_still_where_the_counter_was_turned_back() {
        let clock = SnpClock::new(TscClock::new(0, 1_000_000_000).unwrap());
        let before = clock.guest_tsc();
        assert!(before > 0 && clock.guest_tsc() > before, "it goes forward with the counter");
        let turned_back = clock.guest_tsc() + (1 << 40);
        clock.latest.store(turned_back, Ordering::Relaxed);
        assert_eq!((clock.guest_tsc(), clock.now()), (turned_back, clock.instant_of_tsc(turned_back)));
        assert!(clock.cycles() < turned_back);
    }

    /// A host that let the TSC leap to its end made timers fire that nobody had set.
    #[test]
    fn no_host_makes_it_the_time_that_never_comes() {
        let clock = SnpClock::new(TscClock::new(0, 10_000_000).unwrap());
        clock.latest.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(clock.guest_tsc(), u64::MAX);
        assert_eq!(clock.instant_of_tsc(u64::MAX), Instant::NEVER);
        assert!(clock.now() < Instant::NEVER);
    }
}
