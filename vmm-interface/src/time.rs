// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conversions between nanoseconds and the ticks of a device's clock, exact over centuries.

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Below this frequency the ticks of less than a second can be computed in 64 bits.
const SHORT_HZ: u64 = u64::MAX / NANOS_PER_SECOND;

/// Whole ticks of a clock of `hz` that pass in `nanos`; saturates.
#[inline]
pub const fn ticks(nanos: u64, hz: u64) -> u64 {
    if hz > SHORT_HZ {
        return saturate(nanos as u128 * hz as u128 / NANOS_PER_SECOND as u128);
    }
    // Drivers poll timers: divisions by a constant are multiplications, one of 128 bits is a long loop.
    let (seconds, rest) = (nanos / NANOS_PER_SECOND, nanos % NANOS_PER_SECOND);
    seconds.saturating_mul(hz).saturating_add(rest * hz / NANOS_PER_SECOND)
}

/// The smallest number of nanoseconds in which `ticks` ticks of a clock of `hz` have passed; saturates.
/// A clock of 0 Hz never ticks.
pub const fn nanos(ticks: u64, hz: u64) -> u64 {
    if hz == 0 {
        return u64::MAX;
    }
    saturate((ticks as u128 * NANOS_PER_SECOND as u128).div_ceil(hz as u128))
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
    fn the_short_way_gives_what_the_long_one_does() {
        for hz in [1, 3_579_545, SHORT_HZ, SHORT_HZ + 1, u64::MAX] {
            for nanos in [0, 1, 999_999_999, 1_000_000_000, u64::MAX / 3, u64::MAX] {
                let exact = u128::from(nanos) * u128::from(hz) / u128::from(NANOS_PER_SECOND);
                assert_eq!(u128::from(ticks(nanos, hz)), exact.min(u128::from(u64::MAX)), "{nanos} ns at {hz} Hz");
            }
        }
    }

    #[test]
    fn a_stopped_clock_never_ticks() {
        assert_eq!(ticks(u64::MAX, 0), 0);
        assert_eq!(nanos(1, 0), u64::MAX);
    }
}
