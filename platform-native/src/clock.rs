// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time from the TSC, whose frequency is measured against the 8254 at start-up.
//!
//! The 8254's third counter runs at 1.193182 MHz and can be read without an interrupt. Each reading is bracketed by TSC
//! readings, and the tightest of several counts, because the emulator can be held up at any instruction. The measurement
//! runs while other things are being set up, and so costs no time of its own.

use platform_shared::clock::{TscClock, tsc};

use crate::port;

/// Hz of the 8254's input.
const PIT_HZ: u64 = 1_193_182;
/// Least ticks between the two readings of a measurement: about 5 ms.
const WINDOW: u16 = 6000;
/// How often a measurement is made again whose counter ran out: the emulator was held up for 50 ms each time.
const ATTEMPTS: usize = 20;
/// Readings at either end of a measurement, of which the tightest counts.
const READINGS: usize = 8;

/// A measurement that has begun.
pub struct Measurement {
    counter: Counter,
    tsc: u64,
    count: u16,
}

impl Measurement {
    /// Starts the counter. It runs for 55 ms.
    pub fn begin() -> Self {
        let counter = Counter::start();
        let (tsc, count) = counter.read();
        Self { counter, tsc, count }
    }

    /// Ends the measurement, and makes it again if the counter ran out meanwhile. `None` if the timer is broken.
    pub(crate) fn finish(self, origin: u64) -> Option<TscClock> {
        let mut measurement = self;
        for _ in 0..ATTEMPTS {
            match measurement.frequency()? {
                Some(hz) => return TscClock::new(origin, hz),
                None => measurement = Self::begin(),
            }
        }
        None
    }

    /// `Some(None)` if the counter ran out, `None` if it does not count.
    fn frequency(&self) -> Option<Option<u64>> {
        // A broken counter must not hang the start.
        const PATIENCE: u32 = 1_000_000;
        (0..PATIENCE).find(|_| self.count.wrapping_sub(self.counter.read().1) >= WINDOW)?;
        let (tsc, count) = self.counter.read();
        if self.counter.ran_out() {
            return Some(None);
        }
        let ticks = u64::from(self.count.wrapping_sub(count));
        tsc.wrapping_sub(self.tsc).checked_mul(PIT_HZ)?.checked_div(ticks).map(Some)
    }
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

    /// Whether the counter has passed zero: in mode 0 its output, bit 5 of port 61h, then goes high.
    fn ran_out(&self) -> bool {
        port::read::<u8>(Self::GATE) & 1 << 5 != 0
    }

    /// A TSC value and the count at that time.
    fn read(&self) -> (u64, u16) {
        let one = || {
            let before = tsc();
            // Latch counter 2, then read it.
            port::write::<u8>(Self::COMMAND, 0b1000_0000);
            let count = u16::from_le_bytes([port::read(Self::DATA), port::read(Self::DATA)]);
            let after = tsc();
            (before + (after - before) / 2, count, after - before)
        };
        let first = one();
        let best = (1..READINGS).map(|_| one()).fold(first, |best, next| if next.2 < best.2 { next } else { best });
        (best.0, best.1)
    }
}
