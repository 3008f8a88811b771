// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conversions between nanoseconds and the ticks of a device's clock, exact over centuries.

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Whole ticks of a clock of `hz` that pass in `nanos`; saturates.
pub const fn ticks(nanos: u64, hz: u64) -> u64 {
    saturate(nanos as u128 * hz as u128 / NANOS_PER_SECOND)
}

/// The smallest number of nanoseconds in which `ticks` ticks of a clock of `hz` have passed; saturates.
/// A clock of 0 Hz never ticks.
pub const fn nanos(ticks: u64, hz: u64) -> u64 {
    if hz == 0 {
        return u64::MAX;
    }
    saturate((ticks as u128 * NANOS_PER_SECOND).div_ceil(hz as u128))
}

const fn saturate(value: u128) -> u64 {
    if value > u64::MAX as u128 { u64::MAX } else { value as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_has_passed_exactly_when_its_nanoseconds_have() {
        for hz in [1, 32_768, 1_193_182, 3_579_545, 1_000_000_000] {
            for n in [1, 2, 3, 1000, 123_456_789] {
                assert_eq!(ticks(nanos(n, hz), hz), n, "{n} ticks at {hz} Hz");
                assert_eq!(ticks(nanos(n, hz) - 1, hz), n - 1, "one nanosecond before tick {n} at {hz} Hz");
            }
        }
    }

    #[test]
    fn a_stopped_clock_never_ticks() {
        assert_eq!(ticks(u64::MAX, 0), 0);
        assert_eq!(nanos(1, 0), u64::MAX);
    }
}
