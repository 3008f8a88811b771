// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the MC146818.

use vmm_interface::{Device, Instant};

use super::Rtc;
use crate::fake::{FakeMachine, read, write};

const SECOND: u64 = 1_000_000_000;
/// 29 February 2024, 12:34:56, a Thursday.
const START: u64 = 1_709_210_096;

struct Bench {
    rtc: Rtc,
    machine: FakeMachine,
}

impl Bench {
    fn new() -> Self {
        Self::with_start(START)
    }

    fn with_start(unix_time: u64) -> Self {
        Self { rtc: Rtc::new(unix_time, 3 << 30, 5 << 30), machine: FakeMachine::default() }
    }

    fn get(&mut self, register: u8) -> u8 {
        write(&mut self.rtc, 0, register, &mut self.machine);
        read(&mut self.rtc, 1, &mut self.machine)
    }

    fn set(&mut self, register: u8, value: u8) {
        write(&mut self.rtc, 0, register, &mut self.machine);
        write(&mut self.rtc, 1, value, &mut self.machine);
    }

    /// Second, minute, hour, weekday, day, month, year, century.
    fn time(&mut self) -> [u8; 8] {
        [0, 2, 4, 6, 7, 8, 9, 0x32].map(|register| self.get(register))
    }

    fn run(&mut self, nanos: u64) -> u32 {
        self.machine.run(&mut self.rtc, nanos)
    }
}

#[test]
fn it_starts_with_the_given_time_in_bcd_and_24_hours() {
    let mut bench = Bench::new();
    assert_eq!(bench.time(), [0x56, 0x34, 0x12, 5, 0x29, 0x02, 0x24, 0x20]);
    assert_eq!(bench.get(0x0b), 0x02);
    assert_eq!(bench.get(0x0a), 0x26);
    assert_eq!(bench.get(0x0d), 0x80);
}

#[test]
fn it_counts_seconds_across_the_end_of_a_leap_february() {
    let mut bench = Bench::new();
    bench.machine.advance(4 * SECOND);
    assert_eq!(bench.time(), [0x00, 0x35, 0x12, 5, 0x29, 0x02, 0x24, 0x20]);
    bench.machine.advance(86_400 * SECOND);
    assert_eq!(bench.time(), [0x00, 0x35, 0x12, 6, 0x01, 0x03, 0x24, 0x20]);
}

#[test]
fn the_century_carries() {
    let mut bench = Bench::with_start(4_102_444_799);
    assert_eq!(bench.time(), [0x59, 0x59, 0x23, 5, 0x31, 0x12, 0x99, 0x20]);
    bench.machine.advance(SECOND);
    assert_eq!(bench.time(), [0, 0, 0, 6, 1, 1, 0, 0x21]);
}

#[test]
fn register_b_changes_the_format() {
    let mut bench = Bench::new();
    bench.set(0x0b, 0x06);
    assert_eq!(bench.time(), [56, 34, 12, 5, 29, 2, 24, 20]);
    bench.set(0x0b, 0x00);
    assert_eq!(bench.get(4), 0x92);
    bench.machine.advance(12 * 3600 * SECOND);
    assert_eq!(bench.get(4), 0x12);
    bench.set(0x0b, 0x04);
    assert_eq!(bench.get(4), 12);
}

/// Linux's `mc146818_set_time`: SET, divider reset, eight registers, and back.
#[test]
fn linux_sets_the_time() {
    let mut bench = Bench::new();
    bench.machine.advance(300_000_000);
    bench.set(0x0b, 0x82);
    bench.set(0x0a, 0x76);
    for (register, value) in [(9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58), (6, 0x06), (0x32, 0x19)]
    {
        bench.set(register, value);
        bench.machine.advance(1_000_000);
    }
    bench.machine.advance(3 * SECOND);
    assert_eq!(bench.get(0), 0x58, "nothing moves");
    bench.set(0x0b, 0x02);
    bench.set(0x0a, 0x26);
    bench.machine.advance(499_000_000);
    assert_eq!(bench.get(0), 0x58);
    bench.machine.advance(2_000_000);
    assert_eq!(bench.get(0), 0x59, "the first update comes half a second after the divider's reset");
    bench.machine.advance(SECOND);
    assert_eq!(bench.time(), [0, 0, 0, 7, 1, 1, 0, 0x20]);
}

#[test]
fn set_alone_keeps_the_phase_of_the_second() {
    let mut bench = Bench::new();
    bench.machine.advance(SECOND / 4);
    bench.set(0x0b, 0x82);
    bench.set(0, 0x10);
    bench.machine.advance(SECOND);
    assert_eq!(bench.get(0), 0x10);
    bench.set(0x0b, 0x02);
    bench.machine.advance(3 * SECOND / 4 - 1);
    assert_eq!(bench.get(0), 0x10);
    bench.machine.advance(1);
    assert_eq!(bench.get(0), 0x11);
}

#[test]
fn a_time_register_can_be_written_while_the_clock_runs() {
    let mut bench = Bench::new();
    bench.set(4, 0x23);
    bench.set(6, 0x02);
    assert_eq!(bench.time(), [0x56, 0x34, 0x23, 2, 0x29, 0x02, 0x24, 0x20]);
    bench.machine.advance(3600 * SECOND);
    assert_eq!(bench.time(), [0x56, 0x34, 0x00, 3, 0x01, 0x03, 0x24, 0x20]);
}

/// Linux reads the time only while UIP is down, and relies on at least 244 µs from then.
#[test]
fn uip_announces_the_update_by_244_microseconds() {
    let mut bench = Bench::new();
    bench.machine.advance(SECOND - 244_001);
    assert_eq!(bench.get(0x0a), 0x26);
    bench.machine.advance(1);
    assert_eq!(bench.get(0x0a), 0xa6);
    bench.machine.advance(243_999);
    assert_eq!((bench.get(0x0a), bench.get(0)), (0xa6, 0x56));
    bench.machine.advance(1);
    assert_eq!((bench.get(0x0a), bench.get(0)), (0x26, 0x57));
    bench.machine.advance(SECOND - 1);
    bench.set(0x0b, 0x82);
    assert_eq!(bench.get(0x0a), 0x26, "no update while SET is up");
}

#[test]
fn uip_cannot_be_written() {
    let mut bench = Bench::new();
    bench.set(0x0a, 0xa6);
    assert_eq!(bench.get(0x0a), 0x26);
}

#[test]
fn registers_c_and_d_cannot_be_written() {
    let mut bench = Bench::new();
    bench.set(0x0c, 0xff);
    bench.set(0x0d, 0x00);
    assert_eq!((bench.get(0x0c), bench.get(0x0d)), (0, 0x80));
}

#[test]
fn flags_rise_without_their_enables_and_drive_no_line() {
    let mut bench = Bench::new();
    assert_eq!(bench.rtc.deadline(), Instant::NEVER);
    bench.machine.advance(SECOND);
    assert_eq!(bench.get(0x0c), 0x50);
    assert_eq!(bench.get(0x0c), 0);
    assert_eq!(bench.machine.take_edges(8), 0);
}

#[test]
fn the_periodic_interrupt_runs_at_each_rate() {
    for (rate, hz) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (13, 8), (15, 2)] {
        let mut bench = Bench::new();
        bench.set(0x0a, 0x20 | rate);
        bench.set(0x0b, 0x42);
        let mut interrupts = 0;
        while bench.rtc.deadline().0 <= SECOND {
            bench.machine.now = bench.rtc.deadline();
            bench.rtc.expire(&mut bench.machine);
            assert_eq!(bench.machine.take_edges(8), 1);
            assert_eq!(bench.get(0x0c) & 0xc0, 0xc0);
            assert!(!bench.machine.level(8));
            interrupts += 1;
        }
        assert_eq!(interrupts, hz, "rate {rate}");
    }
}

#[test]
fn rate_zero_is_off() {
    let mut bench = Bench::new();
    bench.set(0x0a, 0x20);
    bench.set(0x0b, 0x42);
    assert_eq!(bench.rtc.deadline(), Instant::NEVER);
}

#[test]
fn an_unacknowledged_interrupt_asks_for_nothing_more() {
    let mut bench = Bench::new();
    bench.set(0x0a, 0x23);
    bench.set(0x0b, 0x72);
    assert!(bench.run(3600 * SECOND) <= 3);
    assert_eq!(bench.machine.take_edges(8), 1);
    assert!(bench.machine.level(8));
    bench.get(0x0c);
    assert!(!bench.machine.level(8));
    let wait = bench.rtc.deadline().since(bench.machine.now);
    assert!(wait > 0 && wait <= 122_100, "one period from now, not all that were missed");
}

#[test]
fn the_update_interrupt_comes_with_each_second() {
    let mut bench = Bench::new();
    bench.machine.advance(SECOND / 3);
    bench.get(0x0c);
    bench.set(0x0b, 0x12);
    for second in 1..4 {
        assert_eq!(bench.rtc.deadline(), Instant(second * SECOND));
        bench.machine.now = bench.rtc.deadline();
        bench.rtc.expire(&mut bench.machine);
        assert!(bench.machine.level(8));
        assert_eq!(bench.get(0x0c) & 0x90, 0x90);
    }
}

#[test]
fn set_takes_back_the_update_interrupt() {
    let mut bench = Bench::new();
    bench.set(0x0b, 0x92);
    assert_eq!(bench.get(0x0b), 0x82);
    assert_eq!(bench.rtc.deadline(), Instant::NEVER);
}

#[test]
fn the_alarm_comes_at_its_time() {
    let mut bench = Bench::new();
    for (register, value) in [(1, 0x00), (3, 0x00), (5, 0x13)] {
        bench.set(register, value);
    }
    bench.get(0x0c);
    bench.set(0x0b, 0x22);
    assert_eq!(bench.rtc.deadline(), Instant((25 * 60 + 4) * SECOND));
    bench.run(25 * 60 * SECOND);
    assert!(!bench.machine.level(8));
    bench.run(4 * SECOND);
    assert!(bench.machine.level(8));
    assert_eq!(bench.get(0x0c) & 0xa0, 0xa0);
    assert_eq!(bench.rtc.deadline(), Instant((25 * 60 + 4 + 86_400) * SECOND));
}

#[test]
fn dont_care_alarms_come_every_minute() {
    let mut bench = Bench::new();
    for (register, value) in [(1, 0x10), (3, 0xff), (5, 0xc0)] {
        bench.set(register, value);
    }
    bench.set(0x0b, 0x22);
    assert_eq!(bench.rtc.deadline(), Instant(14 * SECOND));
    bench.run(14 * SECOND);
    bench.get(0x0c);
    assert_eq!(bench.rtc.deadline(), Instant(74 * SECOND));
}

#[test]
fn an_alarm_that_passed_unobserved_is_flagged() {
    let mut bench = Bench::new();
    for (register, value) in [(1, 0x59), (3, 0x34), (5, 0x12)] {
        bench.set(register, value);
    }
    bench.machine.advance(2 * SECOND);
    assert_eq!(bench.get(0x0c) & 0x20, 0);
    bench.machine.advance(100 * SECOND);
    assert_eq!(bench.get(0x0c) & 0x20, 0x20);
    bench.machine.advance(100 * SECOND);
    assert_eq!(bench.get(0x0c) & 0x20, 0);
}

#[test]
fn the_alarm_follows_the_clock_that_is_set() {
    let mut bench = Bench::new();
    for (register, value) in [(1, 0), (3, 0), (5, 0)] {
        bench.set(register, value);
    }
    bench.set(0x0b, 0x22);
    bench.set(0x0b, 0xa2);
    assert_eq!(bench.rtc.deadline(), Instant::NEVER);
    for (register, value) in [(0, 0x58), (2, 0x59), (4, 0x23)] {
        bench.set(register, value);
    }
    bench.set(0x0b, 0x22);
    assert_eq!(bench.rtc.deadline(), Instant(2 * SECOND));
}

#[test]
fn a_twelve_hour_alarm_tells_morning_from_afternoon() {
    let mut bench = Bench::new();
    bench.set(0x0b, 0x20);
    for (register, value) in [(1, 0), (3, 0), (5, 0x81)] {
        bench.set(register, value);
    }
    assert_eq!(bench.rtc.deadline(), Instant((25 * 60 + 4) * SECOND));
    bench.set(5, 0x01);
    assert_eq!(bench.rtc.deadline(), Instant((12 * 3600 + 25 * 60 + 4) * SECOND));
}

#[test]
fn a_divider_in_reset_stops_everything() {
    let mut bench = Bench::new();
    bench.set(0x0b, 0x72);
    bench.set(0x0a, 0x66);
    bench.get(0x0c);
    assert_eq!(bench.rtc.deadline(), Instant::NEVER);
    bench.machine.advance(10 * SECOND);
    assert_eq!((bench.get(0), bench.get(0x0c)), (0x56, 0));
    bench.set(0x0a, 0x26);
    assert!(bench.rtc.deadline().since(bench.machine.now) <= 976_600);
    assert_eq!(bench.get(0), 0x56);
}

#[test]
fn the_index_keeps_the_nmi_mask_and_cannot_be_read() {
    let mut bench = Bench::new();
    assert_eq!(bench.get(0x8d), 0x80);
    assert!(bench.rtc.nmi_masked());
    bench.get(0x0d);
    assert!(!bench.rtc.nmi_masked());
    assert_eq!(read(&mut bench.rtc, 0, &mut bench.machine), 0xff);
}

#[test]
fn memory_sizes_stand_where_firmware_leaves_them() {
    let mut bench = Bench::new();
    let mut word = |at: u8| u16::from_le_bytes([bench.get(at), bench.get(at + 1)]);
    assert_eq!(word(0x15), 640);
    assert_eq!(word(0x17), 0xffff);
    assert_eq!(word(0x30), 0xffff);
    assert_eq!(word(0x34), ((3 << 14) - 256) as u16);
    assert_eq!(word(0x5b), (5u32 << 14) as u16);
    assert_eq!(bench.get(0x5d), 1);
    let sum: u16 = (0x10..0x2e).map(|at| u16::from(bench.get(at))).sum();
    assert_eq!(sum, u16::from_be_bytes([bench.get(0x2e), bench.get(0x2f)]));
}

#[test]
fn the_other_bytes_are_memory() {
    let mut bench = Bench::new();
    for register in (0x0e..0x32).chain(0x33..0x80) {
        bench.set(register, register ^ 0x5a);
    }
    for register in (0x0e..0x32).chain(0x33..0x80) {
        assert_eq!(bench.get(register), register ^ 0x5a);
    }
}

#[test]
fn no_sequence_of_writes_breaks_it() {
    let mut bench = Bench::with_start(u64::MAX);
    let mut state = 1u32;
    for _ in 0..50_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [register, value, what, _] = state.to_be_bytes();
        match what % 4 {
            0 => drop(bench.get(register % 14)),
            1 => bench.machine.advance(u64::from(value) * 37_000_000),
            _ => bench.set(register % 14, value),
        }
    }
    bench.machine.now = Instant::NEVER;
    bench.get(0x0c);
    bench.get(0);
}

#[test]
fn a_clock_that_lags_a_little_brings_no_interrupt_twice() {
    let mut bench = Bench::new();
    bench.set(0x0b, 0x12);
    bench.run(SECOND);
    assert_eq!(bench.get(0x0c) & 0x10, 0x10);
    bench.machine.now = Instant(SECOND - 100);
    bench.get(0x0c);
    bench.machine.now = Instant(SECOND + 100);
    assert_eq!(bench.get(0x0c) & 0x10, 0);
}

/// A clock read by what runs under it, torn `tears` times by an update.
fn another(format: u8, tears: u32) -> impl Fn(u8) -> u8 {
    let bench = std::cell::RefCell::new(Bench::new());
    bench.borrow_mut().set(0x0b, format);
    let left = std::cell::Cell::new(tears);
    move |register| {
        let mut bench = bench.borrow_mut();
        if register == 0 && left.get() > 0 {
            left.set(left.get() - 1);
            bench.machine.advance(SECOND);
        }
        bench.get(register)
    }
}

#[test]
fn another_clock_is_read_in_each_format() {
    for format in [0, 2, 4, 6] {
        assert_eq!(super::time_of(another(format, 0)), Some(START), "{format}");
    }
    assert_eq!(super::time_of(another(2, 2)), Some(START + 2));
    assert_eq!(super::time_of(another(2, 9)), None, "it never stands still");
    assert_eq!(super::time_of(|_| 0xff), None, "there is none");
    assert_eq!(super::time_of(|_| 0), None, "its battery was empty");
}
