// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between seconds since 1970 and the clock's ten registers, in each of its formats.

/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;
/// The last second that two digits of century can tell: the end of the year 9999.
const LAST: i64 = 253_402_300_799;
/// The first one: the start of the year 0.
const FIRST: i64 = -62_167_219_200;

/// How values stand in the registers (bits of register B).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Format {
    pub(super) binary: bool,
    pub(super) hours_24: bool,
}

/// In 12-hour format: after noon.
const PM: u8 = 0x80;

impl Format {
    /// A value below 100.
    pub(super) const fn encode(self, value: u8) -> u8 {
        if self.binary { value } else { ((value / 10 % 10) << 4) | (value % 10) }
    }

    const fn decode(self, byte: u8) -> u8 {
        if self.binary { byte } else { (byte >> 4) * 10 + (byte & 15) }
    }

    /// An hour from 0 to 23.
    pub(super) const fn encode_hour(self, hour: u8) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let on_the_dial = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(on_the_dial) | if hour >= 12 { PM } else { 0 }
    }

    const fn decode_hour(self, byte: u8) -> u8 {
        if self.hours_24 {
            return self.decode(byte) % 24;
        }
        self.decode(byte & !PM) % 12 + if byte & PM != 0 { 12 } else { 0 }
    }
}

/// A date and time, all in plain binary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fields {
    pub(super) second: u8,
    pub(super) minute: u8,
    pub(super) hour: u8,
    /// 1 is Sunday. A counter of its own: the guest may set it against the date.
    pub(super) weekday: u8,
    pub(super) day: u8,
    pub(super) month: u8,
    /// Within the century.
    pub(super) year: u8,
    pub(super) century: u8,
}

/// The registers in the order of [`Fields`].
pub(super) type Raw = [u8; 8];

impl Fields {
    pub(super) fn encode(self, format: Format) -> Raw {
        [
            format.encode(self.second),
            format.encode(self.minute),
            format.encode_hour(self.hour),
            format.encode(self.weekday),
            format.encode(self.day),
            format.encode(self.month),
            format.encode(self.year),
            format.encode(self.century),
        ]
    }

    /// What cannot be a date is taken as the nearest one that can.
    pub(super) fn decode(raw: Raw, format: Format) -> Self {
        let [second, minute, hour, weekday, day, month, year, century] = raw;
        let mut fields = Self {
            second: format.decode(second).min(59),
            minute: format.decode(minute).min(59),
            hour: format.decode_hour(hour),
            weekday: format.decode(weekday).clamp(1, 7),
            day: 1,
            month: format.decode(month).clamp(1, 12),
            year: format.decode(year).min(99),
            century: format.decode(century).min(99),
        };
        fields.day = format.decode(day).clamp(1, fields.days_of_month());
        fields
    }

    fn full_year(self) -> i64 {
        i64::from(self.century) * 100 + i64::from(self.year)
    }

    fn days_of_month(self) -> u8 {
        let year = self.full_year();
        match self.month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// With a weekday `shift` days after the true one.
    pub(super) fn from_unix(seconds: i64, shift: i64) -> Self {
        let seconds = seconds.clamp(FIRST, LAST);
        let days = seconds.div_euclid(DAY);
        let of_day = seconds.rem_euclid(DAY);
        let (year, month, day) = civil(days);
        let byte = |value: i64| u8::try_from(value).unwrap_or(0);
        Self {
            second: byte(of_day % 60),
            minute: byte(of_day / 60 % 60),
            hour: byte(of_day / 3600),
            weekday: byte(true_weekday(days, shift)),
            day: byte(day),
            month: byte(month),
            year: byte(year.rem_euclid(100)),
            century: byte(year.div_euclid(100)),
        }
    }

    /// The seconds since 1970, and by how many days the weekday is off.
    pub(super) fn to_unix(self) -> (i64, i64) {
        let days = days_from_civil(self.full_year(), self.month.into(), self.day.into());
        let of_day = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        (days * DAY + of_day, (i64::from(self.weekday) - true_weekday(days, 0)).rem_euclid(7))
    }
}

/// 1 is Sunday; 1 January 1970 was a Thursday.
const fn true_weekday(days: i64, shift: i64) -> i64 {
    (days + 4 + shift).rem_euclid(7) + 1
}

/// Days from 1 January 1970 to a date of the Gregorian calendar. Years are counted from March, so that the leap day is a
/// year's last.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let before_year = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719468 days lie between 1 March of the year 0 and 1970.
    before_year + (153 * month_from_march + 2) / 5 + day - 1 - 719_468
}

/// The inverse: year, month, day.
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    // An average year has 365.2425 days; the guess is right or one too high.
    let mut year = (days * 10_000 + 14_780).div_euclid(3_652_425);
    let mut of_year = days - (365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400));
    if of_year < 0 {
        year -= 1;
        of_year = days - (365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400));
    }
    let month_from_march = (100 * of_year + 52) / 3060;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (if month <= 2 { year + 1 } else { year }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_FORMATS: [Format; 4] = [
        Format { binary: false, hours_24: false },
        Format { binary: false, hours_24: true },
        Format { binary: true, hours_24: false },
        Format { binary: true, hours_24: true },
    ];

    #[test]
    fn every_day_of_ten_thousand_years_comes_back() {
        let mut expected = (0, 1, 1);
        for days in FIRST / DAY..=LAST / DAY {
            let (year, month, day) = civil(days);
            assert_eq!((year, month, day), expected);
            assert_eq!(days_from_civil(year, month, day), days);
            let fields = Fields::from_unix(days * DAY, 0);
            expected = match (day == i64::from(fields.days_of_month()), month) {
                (false, _) => (year, month, day + 1),
                (true, 12) => (year + 1, 1, 1),
                (true, _) => (year, month + 1, 1),
            };
        }
        assert_eq!(expected, (10_000, 1, 1));
    }

    #[test]
    fn every_second_of_a_day_survives_every_format() {
        for format in ALL_FORMATS {
            for second in 1_709_164_800..1_709_164_800 + DAY {
                let fields = Fields::from_unix(second, 3);
                let back = Fields::decode(fields.encode(format), format);
                assert_eq!(back, fields);
                assert_eq!(back.to_unix(), (second, 3));
            }
        }
    }

    #[test]
    fn known_dates_have_their_weekday() {
        // 29 February 2024, 12:34:56, a Thursday.
        let fields = Fields::from_unix(1_709_210_096, 0);
        let raw = fields.encode(Format { binary: false, hours_24: false });
        assert_eq!(raw, [0x56, 0x34, 0x92, 5, 0x29, 0x02, 0x24, 0x20]);
    }

    #[test]
    fn twelve_hour_clocks_have_no_hour_zero() {
        let bcd = Format { binary: false, hours_24: false };
        assert_eq!([0, 1, 11, 12, 13, 23].map(|hour| bcd.encode_hour(hour)), [0x12, 0x01, 0x11, 0x92, 0x81, 0x91]);
    }

    #[test]
    fn impossible_registers_become_a_possible_date() {
        for format in ALL_FORMATS {
            for byte in 0..=255 {
                let fields = Fields::decode([byte; 8], format);
                let (seconds, shift) = fields.to_unix();
                assert_eq!(Fields::from_unix(seconds, shift), fields);
            }
        }
        let feb_30 = Fields::decode([0, 0, 0, 1, 0x30, 0x02, 0x23, 0x20], Format { binary: false, hours_24: true });
        assert_eq!(feb_30.day, 28);
    }

    #[test]
    fn times_out_of_range_stop_at_the_ends() {
        assert_eq!(Fields::from_unix(i64::MAX, 0).century, 99);
        assert_eq!(Fields::from_unix(i64::MIN, 0).century, 0);
    }
}
