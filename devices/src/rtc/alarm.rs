// SPDX-License-Identifier: MIT OR Apache-2.0
//! The alarm: which seconds of a day match the three alarm registers, and when the next one comes.

use super::calendar::Format;

/// Alarm bytes from here up match anything.
const DONT_CARE: u8 = 0xc0;

/// Sets of matching seconds, minutes and hours, one bit each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alarm {
    seconds: u64,
    minutes: u64,
    hours: u64,
}

/// The values below `count` whose encoding is `register`.
fn matches(register: u8, count: u8, encode: impl Fn(u8) -> u8) -> u64 {
    (0..count)
        .filter(|&value| register >= DONT_CARE || encode(value) == register)
        .fold(0, |set, value| set | 1 << value)
}

/// The smallest member of `set` from `from` up.
fn first(set: u64, from: u32) -> Option<u32> {
    let rest = set.checked_shr(from)?;
    (rest != 0).then(|| from + rest.trailing_zeros())
}

impl Alarm {
    pub(super) fn new(second: u8, minute: u8, hour: u8, format: Format) -> Self {
        Self {
            seconds: matches(second, 60, |value| format.encode(value)),
            minutes: matches(minute, 60, |value| format.encode(value)),
            hours: matches(hour, 24, |value| format.encode_hour(value)),
        }
    }

    /// Seconds from second `of_day` to the next one that matches, at least 1 and at most a day. `None` if none ever does.
    pub(super) fn next(&self, of_day: u32) -> Option<u32> {
        const DAY: u32 = 86_400;
        let start = (of_day + 1) % DAY;
        let (hour, minute, second) = (start / 3600, start / 60 % 60, start % 60);
        let second_0 = first(self.seconds, 0)?;
        let minute_0 = first(self.minutes, 0)?;
        let this_minute =
            || self.minutes.checked_shr(minute).filter(|rest| rest & 1 != 0).and(first(self.seconds, second));
        let this_hour = || {
            this_minute()
                .map(|at| minute * 60 + at)
                .or_else(|| first(self.minutes, minute + 1).map(|at| at * 60 + second_0))
        };
        let found = if self.hours >> hour & 1 != 0 { this_hour().map(|at| hour * 3600 + at) } else { None };
        let found = found.or_else(|| {
            let later = first(self.hours, hour + 1).or_else(|| first(self.hours, 0))?;
            Some(later * 3600 + minute_0 * 60 + second_0)
        })?;
        Some((found + DAY - start) % DAY + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCD: Format = Format { binary: false, hours_24: true };

    #[test]
    fn the_next_match_agrees_with_a_search() {
        for registers in [
            (0x30, 0x15, 0x07),
            (0x00, 0xff, 0xff),
            (0xc0, 0xc0, 0xc0),
            (0xff, 0x59, 0x23),
            (0x59, 0x59, 0xff),
            (0xff, 0x00, 0x00),
            (0x15, 0x00, 0xe0),
        ] {
            let alarm = Alarm::new(registers.0, registers.1, registers.2, BCD);
            let matching: Vec<bool> = (0..86_400u32)
                .map(|at| {
                    let hit = |register: u8, value: u32| {
                        register >= 0xc0 || BCD.encode(u8::try_from(value).unwrap()) == register
                    };
                    hit(registers.0, at % 60) && hit(registers.1, at / 60 % 60) && hit(registers.2, at / 3600)
                })
                .collect();
            // From the end of the day backwards, the distance to the next match is known without a search.
            let mut next = matching.iter().position(|&hit| hit).unwrap() + 86_400;
            for at in (0..86_400).rev() {
                assert_eq!(alarm.next(u32::try_from(at).unwrap()), Some(u32::try_from(next - at).unwrap()), "{at}");
                if matching[at] {
                    next = at;
                }
            }
        }
    }

    #[test]
    fn an_impossible_time_never_comes() {
        for (second, minute, hour) in [(0x60, 0, 0), (0, 0x7f, 0), (0, 0, 0x24), (0x0a, 0xff, 0xff)] {
            assert_eq!(Alarm::new(second, minute, hour, BCD).next(0), None);
        }
    }
}
