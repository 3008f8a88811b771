// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time as Parados counts it: nanoseconds since its own start, never backwards.

/// A point in time, in nanoseconds since Parados started. 584 years fit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The far future: a deadline that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// `nanos` later; stays at [`Self::NEVER`] rather than wrapping.
    pub const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to `self`, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Monotonic time, from a source that the host cannot turn back where the hardware has one.
///
/// Native and SNP: the TSC (Secure TSC where offered). TDX: the TD's TSC, which the module virtualizes.
pub trait Clock {
    /// The current time.
    fn now(&self) -> Instant;
    /// The time-stamp counter as the guest reads it.
    fn guest_tsc(&self) -> u64;
    /// The frequency of [`Self::guest_tsc`] in Hz.
    fn tsc_hz(&self) -> u64;
    /// A counter for measuring how long something of Parados's own takes, at the rate of [`Self::tsc_hz`], from any origin.
    /// Called twice an exit: a backend whose counter needs no offset gives it as it is.
    #[inline(always)]
    fn cycles(&self) -> u64 {
        self.guest_tsc()
    }
    /// The time at which the guest's time-stamp counter will read `tsc`; a past value gives a past time.
    fn instant_of_tsc(&self, tsc: u64) -> Instant;
}

/// One deadline for each processor.
///
/// Native: the xAPIC one-shot timer. SNP: the host's timer, by MSR calls, checked against the TSC. TDX: the TSC
/// deadline of TDG.VP.ENTER, and the host's timer while waiting.
pub trait Timer {
    /// Makes [`crate::GuestCpu::run`] and [`Self::wait`] return at `deadline` or soon after; replaces the last one.
    fn arm(&mut self, deadline: Instant);

    /// Sleeps until the armed deadline, a host event or a kick. Atomic with a kick that arrives just before: it never
    /// sleeps through one. May return early.
    fn wait(&mut self);
}
