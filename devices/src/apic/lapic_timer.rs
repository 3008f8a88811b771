// SPDX-License-Identifier: MIT OR Apache-2.0
//! The local APIC timer: one-shot, periodic and TSC-deadline (SDM vol. 3A, 11.5.4).
//!
//! Nothing ticks. The timer remembers at which time the count had which value, and computes the rest.

use platform::{Clock, Instant, Slip};

/// The timer's input clock ("bus clock" or "core crystal clock") in Hz, before the divider. 1 GHz, so that a tick at
/// divisor 1 is a nanosecond and the arithmetic is exact.
pub const TIMER_HZ: u64 = 1_000_000_000;

/// A periodic timer fires at most this often. The count goes on at its true rate; periods in between are skipped. A guest
/// that asks for an interrupt each nanosecond would otherwise get no further than its exits.
pub const MIN_PERIOD_NANOS: u64 = 100_000;

/// The mode field of the LVT timer entry (11.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    /// 11b. The timer does not run.
    Reserved,
}

impl TimerMode {
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    mode: TimerMode,
    /// A tick is `1 << shift` nanoseconds.
    shift: u8,
    /// The initial-count register.
    initial: u32,
    /// The count that the timer had at `anchor`; 0 if it stands still.
    count: u32,
    anchor: Instant,
    /// IA32_TSC_DEADLINE; 0 if disarmed.
    tsc: u64,
    /// When to fire next. Later than the count says only for a period below [`MIN_PERIOD_NANOS`].
    fire_at: Instant,
}

impl Timer {
    /// Stopped, one-shot, divided by two: the registers are zero.
    pub(super) const RESET: Self = Self {
        mode: TimerMode::OneShot,
        shift: 1,
        initial: 0,
        count: 0,
        anchor: Instant(0),
        tsc: 0,
        fire_at: Instant::NEVER,
    };

    pub(super) fn mode(&self) -> TimerMode {
        self.mode
    }

    pub(super) fn fire_at(&self) -> Instant {
        self.fire_at
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc
    }

    /// The current-count register.
    pub(super) fn current(&self, now: Instant) -> u32 {
        if self.count == 0 {
            return 0;
        }
        let elapsed = now.since(self.anchor) >> self.shift;
        let Some(beyond) = elapsed.checked_sub(u64::from(self.count)) else {
            return self.count - elapsed as u32;
        };
        match (self.mode, beyond.checked_rem(u64::from(self.initial))) {
            (TimerMode::Periodic, Some(into_period)) => self.initial - into_period as u32,
            _ => 0,
        }
    }

    /// Changes the mode. To or from TSC-deadline disarms the timer; between one-shot and periodic the count goes on, and
    /// one that has ended stays at zero. The caller has let the timer expire first.
    pub(super) fn set_mode(&mut self, mode: TimerMode, now: Instant) {
        if mode == self.mode {
            return;
        }
        if mode.counts() && self.mode.counts() {
            self.rebase(now);
            self.mode = mode;
            self.schedule();
        } else {
            *self = Self { shift: self.shift, mode, ..Self::RESET };
        }
    }

    /// Sets the divider. The count goes on from where it is, at the new rate.
    pub(super) fn set_shift(&mut self, shift: u8, now: Instant) {
        self.rebase(now);
        self.shift = shift;
        self.schedule();
    }

    /// Writes the initial-count register, which starts the count; zero stops it. Ignored in TSC-deadline mode.
    pub(super) fn set_initial(&mut self, initial: u32, now: Instant) {
        if !self.mode.counts() {
            return;
        }
        let initial = if Slip::Count.is_planted() { initial & !0x10 } else { initial };
        self.initial = initial;
        self.count = initial;
        self.anchor = now;
        self.schedule();
    }

    /// Writes IA32_TSC_DEADLINE; zero disarms. Ignored in the other modes.
    pub(super) fn set_tsc_deadline(&mut self, tsc: u64, clock: &impl Clock) {
        if self.mode == TimerMode::TscDeadline {
            self.tsc = tsc;
            self.retime(clock);
        }
    }

    /// Finds the time of the deadline.
    fn retime(&mut self, clock: &impl Clock) {
        if self.mode == TimerMode::TscDeadline {
            self.fire_at = if self.tsc == 0 { Instant::NEVER } else { clock.instant_of_tsc(self.tsc) };
        }
    }

    /// Fires if it is time. True once for however many periods have passed.
    pub(super) fn expire(&mut self, now: Instant, clock: &impl Clock) -> bool {
        if now < self.fire_at {
            return false;
        }
        match self.mode {
            TimerMode::TscDeadline => {
                // The conversion may have been refined since. What remains after a second look is rounding.
                if clock.guest_tsc() < self.tsc {
                    self.retime(clock);
                    if now < self.fire_at {
                        return false;
                    }
                }
                self.tsc = 0;
                self.fire_at = Instant::NEVER;
            }
            TimerMode::Periodic => {
                let end = self.end();
                let period = u64::from(self.initial) << self.shift;
                let missed = now.since(end).checked_div(period).unwrap_or(0);
                self.anchor = end.after(missed.saturating_mul(period));
                self.count = self.initial;
                self.schedule();
                if period < MIN_PERIOD_NANOS {
                    self.fire_at = self.fire_at.max(now.after(MIN_PERIOD_NANOS));
                }
            }
            TimerMode::OneShot | TimerMode::Reserved => {
                self.count = 0;
                self.fire_at = Instant::NEVER;
            }
        }
        true
    }

    /// Moves the anchor to the last whole tick, so that the count at the anchor is the current one.
    fn rebase(&mut self, now: Instant) {
        let current = self.current(now);
        let elapsed = now.since(self.anchor) >> self.shift << self.shift;
        self.anchor = self.anchor.after(elapsed);
        self.count = current;
    }

    fn schedule(&mut self) {
        if self.mode.counts() {
            self.fire_at = if self.count == 0 { Instant::NEVER } else { self.end() };
        }
    }

    /// When the count reaches zero.
    fn end(&self) -> Instant {
        self.anchor.after(u64::from(self.count) << self.shift)
    }
}
