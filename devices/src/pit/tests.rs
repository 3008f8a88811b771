// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the 8254.

use vmm_interface::{Device, Instant, time};

use super::{HZ, MIN_INTERVAL, Pit};
use crate::fake::{FakeMachine, read, write};

const CONTROL: u64 = 3;

struct Bench {
    pit: Pit,
    machine: FakeMachine,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { pit: Pit::default(), machine: FakeMachine::default() };
        bench.at(1000);
        bench
    }

    /// Moves the clock to the start of tick `tick`, without calling the device. A test may look back.
    fn at(&mut self, tick: u64) {
        self.pit.seen = 0;
        self.machine.now = Instant(time::nanos(tick, HZ));
    }

    fn write(&mut self, offset: u64, value: u8) {
        write(&mut self.pit, offset, value, &mut self.machine);
    }

    fn read(&mut self, offset: u64) -> u8 {
        read(&mut self.pit, offset, &mut self.machine)
    }

    /// Programs a channel for two-byte access.
    fn program(&mut self, channel: u8, mode: u8, count: u16) {
        self.write(CONTROL, channel << 6 | 0x30 | mode << 1);
        self.count(channel, count);
    }

    fn count(&mut self, channel: u8, count: u16) {
        let [low, high] = count.to_le_bytes();
        self.write(channel.into(), low);
        self.write(channel.into(), high);
    }

    fn value(&mut self, channel: u8) -> u16 {
        self.write(CONTROL, channel << 6);
        let low = self.read(channel.into());
        u16::from_le_bytes([low, self.read(channel.into())])
    }

    fn status(&mut self, channel: u8) -> u8 {
        self.write(CONTROL, 0xe0 | 2 << channel);
        self.read(channel.into())
    }

    fn out(&mut self, channel: u8) -> bool {
        self.status(channel) & 0x80 != 0
    }

    fn gate(&mut self, on: bool) {
        self.pit.write_control(on.into(), &mut self.machine);
    }

    /// Ticks in `range` at which the channel's OUT is low.
    fn low_ticks(&mut self, channel: u8, range: core::ops::Range<u64>) -> Vec<u64> {
        range
            .filter(|&tick| {
                self.at(tick);
                !self.out(channel)
            })
            .collect()
    }
}

#[test]
fn mode_0_counts_down_once_and_wraps() {
    let mut bench = Bench::new();
    bench.program(1, 0, 10);
    assert_eq!(bench.status(1), 0x70, "OUT low, not yet loaded");
    bench.at(1001);
    assert_eq!(bench.status(1), 0x30);
    assert_eq!(bench.value(1), 10);
    bench.at(1010);
    assert_eq!(bench.value(1), 1);
    assert!(!bench.out(1));
    bench.at(1011);
    assert_eq!(bench.value(1), 0);
    assert!(bench.out(1));
    bench.at(1012);
    assert_eq!(bench.value(1), 0xffff);
    assert!(bench.out(1));
}

#[test]
fn mode_0_stops_at_the_first_byte_of_a_new_count() {
    let mut bench = Bench::new();
    bench.program(1, 0, 10);
    bench.at(1020);
    assert!(bench.out(1));
    bench.write(1, 5);
    bench.at(1100);
    assert!(!bench.out(1));
    bench.write(1, 0);
    bench.at(1106);
    assert!(bench.out(1));
}

#[test]
fn mode_0_pauses_while_the_gate_is_low() {
    let mut bench = Bench::new();
    bench.program(2, 0, 100);
    bench.at(2000);
    assert_eq!(bench.value(2), 100);
    bench.gate(true);
    bench.at(2040);
    assert_eq!(bench.value(2), 60);
    bench.gate(false);
    bench.at(3000);
    assert_eq!(bench.value(2), 60);
    bench.gate(true);
    bench.at(3059);
    assert!(!bench.out(2));
    bench.at(3060);
    assert!(bench.out(2));
}

#[test]
fn mode_1_pulses_low_when_the_gate_rises_and_can_be_retriggered() {
    let mut bench = Bench::new();
    bench.program(2, 1, 4);
    assert_eq!(bench.status(2), 0xf2, "OUT high, count waits for the trigger");
    bench.at(2000);
    bench.gate(true);
    assert_eq!(bench.low_ticks(2, 2000..2010), [2001, 2002, 2003, 2004]);
    bench.at(3000);
    bench.gate(false);
    bench.gate(true);
    bench.at(3002);
    bench.gate(false);
    bench.gate(true);
    assert_eq!(bench.low_ticks(2, 3002..3010), [3002, 3003, 3004, 3005, 3006]);
}

#[test]
fn mode_1_uses_a_new_count_only_after_the_next_trigger() {
    let mut bench = Bench::new();
    bench.program(2, 1, 4);
    bench.gate(true);
    bench.at(1001);
    bench.count(2, 2);
    assert_eq!(bench.low_ticks(2, 1001..1010), [1001, 1002, 1003, 1004]);
    assert_eq!(bench.status(2) & 0x40, 0x40);
    bench.gate(false);
    bench.gate(true);
    assert_eq!(bench.low_ticks(2, 1009..1020), [1010, 1011]);
    assert_eq!(bench.status(2) & 0x40, 0);
}

#[test]
fn mode_2_is_low_for_the_last_tick_of_each_period() {
    let mut bench = Bench::new();
    bench.program(1, 2, 4);
    assert_eq!(bench.low_ticks(1, 1000..1014), [1004, 1008, 1012]);
    for (tick, value) in [(1001, 4), (1002, 3), (1003, 2), (1004, 1), (1005, 4)] {
        bench.at(tick);
        assert_eq!(bench.value(1), value);
    }
}

#[test]
fn mode_2_ends_its_period_before_a_new_count_is_loaded() {
    let mut bench = Bench::new();
    bench.program(1, 2, 10);
    bench.at(1003);
    bench.count(1, 4);
    assert_eq!(bench.status(1) & 0x40, 0x40);
    assert_eq!(bench.value(1), 8);
    assert_eq!(bench.low_ticks(1, 1003..1020), [1010, 1014, 1018]);
    assert_eq!(bench.status(1) & 0x40, 0);
}

#[test]
fn mode_2_restarts_when_the_gate_rises() {
    let mut bench = Bench::new();
    bench.program(2, 2, 5);
    bench.at(1100);
    assert!(bench.out(2));
    bench.gate(true);
    assert_eq!(bench.low_ticks(2, 1100..1108), [1105]);
    bench.gate(false);
    assert!(bench.low_ticks(2, 1108..1120).is_empty());
    bench.gate(true);
    assert_eq!(bench.low_ticks(2, 1120..1127), [1124]);
}

#[test]
fn mode_3_is_low_for_the_second_half() {
    let mut bench = Bench::new();
    bench.program(1, 3, 6);
    assert_eq!(bench.low_ticks(1, 1000..1013), [1004, 1005, 1006, 1010, 1011, 1012]);
    let values: Vec<u16> = (1001..1008)
        .map(|tick| {
            bench.at(tick);
            bench.value(1)
        })
        .collect();
    assert_eq!(values, [6, 4, 2, 6, 4, 2, 6]);
}

#[test]
fn mode_3_gives_an_odd_count_the_longer_high_half() {
    let mut bench = Bench::new();
    bench.program(1, 3, 5);
    assert_eq!(bench.low_ticks(1, 1000..1011), [1004, 1005, 1009, 1010]);
}

#[test]
fn mode_3_changes_its_count_at_the_half() {
    let mut bench = Bench::new();
    bench.program(1, 3, 8);
    bench.at(1002);
    bench.count(1, 4);
    assert_eq!(bench.low_ticks(1, 1002..1012), [1005, 1006, 1009, 1010]);
    let mut bench = Bench::new();
    bench.program(1, 3, 8);
    bench.at(1006);
    bench.count(1, 4);
    assert_eq!(bench.low_ticks(1, 1001..1016), [1005, 1006, 1007, 1008, 1011, 1012, 1015]);
}

#[test]
fn modes_4_and_5_strobe_for_one_tick() {
    let mut bench = Bench::new();
    bench.program(1, 4, 3);
    assert_eq!(bench.low_ticks(1, 1000..1100), [1004]);
    bench.program(2, 5, 3);
    assert!(bench.low_ticks(2, 1100..1110).is_empty());
    bench.gate(true);
    assert_eq!(bench.low_ticks(2, 1109..1200), [1113]);
    bench.gate(false);
    bench.gate(true);
    assert_eq!(bench.low_ticks(2, 1199..1300), [1203]);
}

#[test]
fn modes_6_and_7_are_2_and_3() {
    let mut bench = Bench::new();
    bench.program(1, 6, 100);
    assert_eq!(bench.status(1) & 0x0e, 0x04);
    bench.program(1, 7, 100);
    assert_eq!(bench.status(1) & 0x0e, 0x06);
}

#[test]
fn zero_counts_as_65536_or_10000() {
    let mut bench = Bench::new();
    bench.program(1, 0, 0);
    bench.at(1001);
    assert_eq!(bench.value(1), 0);
    bench.at(1002);
    assert_eq!(bench.value(1), 0xffff);
    bench.at(1001 + 65535);
    assert!(!bench.out(1));
    bench.at(1001 + 65536);
    assert!(bench.out(1));

    let mut bench = Bench::new();
    bench.write(CONTROL, 0x71);
    bench.count(1, 0);
    bench.at(1002);
    assert_eq!(bench.value(1), 0x9999);
    bench.at(1001 + 10_000);
    assert!(bench.out(1));
}

#[test]
fn bcd_counts_in_decimal_digits() {
    let mut bench = Bench::new();
    bench.write(CONTROL, 0x75);
    bench.count(1, 0x1000);
    bench.at(1002);
    assert_eq!(bench.value(1), 0x0999);
    assert_eq!(bench.status(1) & 1, 1);
    bench.count(1, 0xffff);
    bench.at(5000);
    let digits = bench.value(1);
    assert!((0..4).all(|digit| digits >> (4 * digit) & 15 < 10));
}

#[test]
fn single_byte_access_leaves_the_other_byte_zero() {
    let mut bench = Bench::new();
    bench.write(CONTROL, 0x50);
    bench.write(1, 0x34);
    bench.at(1001);
    assert_eq!(bench.read(1), 0x34);
    bench.at(1002);
    assert_eq!(bench.read(1), 0x33);
    bench.write(CONTROL, 0x60);
    bench.write(1, 0x12);
    bench.at(1003);
    assert_eq!(bench.read(1), 0x12);
    bench.at(1004);
    assert_eq!(bench.read(1), 0x11);
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let mut bench = Bench::new();
    bench.program(1, 2, 0x1234);
    bench.at(1001);
    bench.write(CONTROL, 0x40);
    bench.at(1501);
    bench.write(CONTROL, 0x40);
    assert_eq!([bench.read(1), bench.read(1)], [0x34, 0x12]);
    assert_ne!(bench.read(1), 0x34, "live again");
}

#[test]
fn read_back_gives_status_before_count_for_each_selected_channel() {
    let mut bench = Bench::new();
    bench.program(1, 2, 0x1234);
    bench.program(2, 0, 0x4321);
    bench.at(1001);
    bench.write(CONTROL, 0xcc);
    bench.at(1010);
    bench.write(CONTROL, 0xcc);
    assert_eq!([bench.read(1), bench.read(1), bench.read(1)], [0xb4, 0x34, 0x12]);
    assert_eq!([bench.read(2), bench.read(2), bench.read(2)], [0x30, 0x21, 0x43]);
    bench.write(CONTROL, 0xdc);
    assert_ne!(bench.read(1), 0xb4, "neither count nor status was asked for");
}

#[test]
fn a_control_word_drops_latches_and_half_written_counts() {
    let mut bench = Bench::new();
    bench.program(1, 2, 0x1234);
    bench.write(CONTROL, 0x40);
    bench.write(1, 0x99);
    bench.program(1, 2, 0x10);
    bench.at(1001);
    assert_eq!([bench.read(1), bench.read(1)], [0x10, 0]);
}

#[test]
fn the_control_port_reads_as_all_ones() {
    assert_eq!(Bench::new().read(CONTROL), 0xff);
}

#[test]
fn periodic_modes_interrupt_once_a_period() {
    for mode in [2, 3] {
        let mut bench = Bench::new();
        bench.program(0, mode, 1193);
        bench.machine.take_edges(0);
        let calls = bench.machine.run(&mut bench.pit, 1_000_000_000);
        assert!((999..=1001).contains(&calls), "{calls}");
        assert_eq!(bench.machine.take_edges(0), calls);
    }
}

#[test]
fn one_shot_modes_interrupt_once() {
    for mode in [0, 4] {
        let mut bench = Bench::new();
        bench.program(0, mode, 1193);
        bench.machine.take_edges(0);
        bench.machine.run(&mut bench.pit, 999_000);
        assert_eq!(bench.machine.take_edges(0), 0);
        bench.machine.run(&mut bench.pit, 2_000_000_000);
        assert_eq!(bench.machine.take_edges(0), 1);
        assert_eq!(bench.pit.deadline(), Instant::NEVER);
    }
}

#[test]
fn the_triggered_modes_never_start_on_channel_0() {
    for mode in [1, 5] {
        let mut bench = Bench::new();
        bench.program(0, mode, 100);
        assert_eq!(bench.pit.deadline(), Instant::NEVER);
        assert!(bench.machine.level(0));
    }
}

#[test]
fn a_late_call_gives_one_interrupt_and_keeps_the_phase() {
    let mut bench = Bench::new();
    bench.program(0, 2, 11932);
    let first = bench.pit.deadline();
    bench.machine.take_edges(0);
    bench.machine.advance(3_600_000_000_000);
    bench.pit.expire(&mut bench.machine);
    assert_eq!(bench.machine.take_edges(0), 1);
    let next = bench.pit.deadline();
    assert!(next > bench.machine.now && next.since(bench.machine.now) <= 10_000_100);
    let periods = (time::ticks(next.0, HZ) - time::ticks(first.0, HZ)) % 11932;
    assert_eq!(periods, 0);
}

#[test]
fn an_early_call_gives_no_interrupt() {
    let mut bench = Bench::new();
    bench.program(0, 2, 11932);
    bench.machine.take_edges(0);
    let deadline = bench.pit.deadline();
    bench.machine.now = Instant(deadline.0 - 1);
    bench.pit.expire(&mut bench.machine);
    assert_eq!(bench.machine.take_edges(0), 0);
    assert_eq!(bench.pit.deadline(), deadline);
}

#[test]
fn the_shortest_period_cannot_storm() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1);
    let calls = bench.machine.run(&mut bench.pit, 10_000_000);
    assert!(u64::from(calls) <= 10_000_000 / MIN_INTERVAL + 2, "{calls}");
}

#[test]
fn reprogramming_replaces_the_deadline() {
    let mut bench = Bench::new();
    bench.program(0, 2, 11932);
    bench.machine.run(&mut bench.pit, 50_000_000);
    bench.write(CONTROL, 0x38);
    assert_eq!(bench.pit.deadline(), Instant::NEVER);
    bench.machine.take_edges(0);
    bench.count(0, 2386);
    let start = bench.machine.now;
    assert!((1_999_000..2_003_000).contains(&bench.pit.deadline().since(start)));
    bench.machine.run(&mut bench.pit, 100_000_000);
    assert_eq!(bench.machine.take_edges(0), 1);
}

#[test]
fn a_new_period_on_channel_0_starts_after_the_present_one() {
    let mut bench = Bench::new();
    bench.program(0, 2, 10_000);
    bench.at(2000);
    bench.count(0, 20_000);
    assert_eq!(time::ticks(bench.pit.deadline().0, HZ), 11_001);
    bench.machine.now = bench.pit.deadline();
    bench.pit.expire(&mut bench.machine);
    assert_eq!(time::ticks(bench.pit.deadline().0, HZ), 31_001);
}

/// Linux's `pit_calibrate_tsc`: channel 2 in mode 0, and port 61h bit 5 polled until it rises.
#[test]
fn linux_calibrates_against_out2() {
    let mut bench = Bench::new();
    let control = bench.pit.read_control(&mut bench.machine);
    bench.pit.write_control(control & !2 | 1, &mut bench.machine);
    bench.write(CONTROL, 0xb0);
    let latch = u16::try_from(HZ / (1000 / 50)).unwrap();
    bench.count(2, latch);
    let start = bench.machine.now;
    while bench.pit.read_control(&mut bench.machine) & 0x20 == 0 {
        bench.machine.advance(500);
    }
    let elapsed = bench.machine.now.since(start);
    assert!((50_000_000..50_003_000).contains(&elapsed), "{elapsed}");
}

/// Linux's `quick_pit_calibrate`: the high byte of channel 2 is watched as it counts down from FFFFh.
#[test]
fn linux_quick_calibration_sees_every_high_byte() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.write(CONTROL, 0xb0);
    bench.count(2, 0xffff);
    bench.machine.advance(1000);
    for expected in (0xf0..=0xff).rev() {
        let mut seen = 0;
        loop {
            bench.read(2);
            if bench.read(2) != expected {
                break;
            }
            seen += 1;
            bench.machine.advance(2000);
        }
        assert!(seen > 50, "{seen} reads of {expected:#x}");
    }
}

#[test]
fn port_61_keeps_its_control_bits_and_toggles_refresh() {
    let mut bench = Bench::new();
    bench.pit.write_control(0xff, &mut bench.machine);
    assert_eq!(bench.pit.read_control(&mut bench.machine) & 0xcf, 0x0f);
    let mut toggles = 0;
    let mut last = 0;
    for _ in 0..1000 {
        bench.machine.advance(1000);
        let now = bench.pit.read_control(&mut bench.machine) & 0x10;
        toggles += u32::from(now != last);
        last = now;
    }
    assert!((65..=67).contains(&toggles), "{toggles}");
}

#[test]
fn a_clock_that_lags_a_little_brings_no_interrupt_twice() {
    let mut bench = Bench::new();
    bench.program(0, 2, 11932);
    bench.machine.take_edges(0);
    let deadline = bench.pit.deadline();
    for offset in [0, -200, 0, -1, 5] {
        bench.machine.now = Instant(deadline.0.strict_add_signed(offset));
        bench.pit.expire(&mut bench.machine);
    }
    assert_eq!(bench.machine.take_edges(0), 1);
}

#[test]
fn no_sequence_of_accesses_breaks_it() {
    let mut bench = Bench::new();
    let mut state = 7_u32;
    for _ in 0..100_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [offset, value, what, time] = state.to_be_bytes();
        match what % 8 {
            0 => drop(bench.read(u64::from(offset % 8))),
            1 => bench.pit.write_control(value, &mut bench.machine),
            2 => drop(bench.pit.read_control(&mut bench.machine)),
            3 => drop(bench.machine.run(&mut bench.pit, u64::from(time) * 10_000)),
            4 => bench.machine.advance(1 << (time % 40)),
            _ => bench.write(u64::from(offset % 5), value),
        }
    }
    bench.machine.now = Instant::NEVER;
    for offset in 0..4 {
        bench.read(offset);
        bench.write(offset, 0x30);
    }
    bench.pit.expire(&mut bench.machine);
}
