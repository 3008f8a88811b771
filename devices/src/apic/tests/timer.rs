// SPDX-License-Identifier: MIT OR Apache-2.0
//! The timer's three modes.

use super::*;
use crate::apic::{MIN_PERIOD_NANOS, TIMER_HZ};

const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 2 << 17;
const BY_ONE: u32 = 0b1011;
const VECTOR: u8 = 0xee;

/// A timer in this mode, divided by one.
fn bench(mode: u32) -> Bench {
    let mut bench = Bench::new();
    bench.write(LVT_TIMER, mode | u32::from(VECTOR));
    bench.write(DIVIDE, BY_ONE);
    bench
}

/// Takes the timer's interrupt and ends it.
fn fired(bench: &mut Bench) -> bool {
    match bench.take() {
        Some(vector) => {
            assert_eq!(vector, VECTOR);
            bench.write(EOI, 0);
            true
        }
        None => false,
    }
}

#[test]
fn one_shot_counts_down_once() {
    let mut bench = bench(0);
    bench.clock.advance(77);
    bench.write(INITIAL, 0x10000);
    assert_eq!(bench.lapic.deadline(), Instant(77 + 0x10000));
    assert_eq!(bench.read(CURRENT), 0x10000);
    bench.run(0xffff);
    assert_eq!(bench.read(CURRENT), 1);
    assert!(!fired(&mut bench));
    bench.run(1);
    assert_eq!(bench.read(CURRENT), 0);
    assert!(fired(&mut bench));
    assert_eq!(bench.lapic.deadline(), Instant::NEVER);
    bench.run(u64::from(u32::MAX) * 10);
    assert!(!fired(&mut bench));
    assert_eq!((bench.read(CURRENT), bench.read(INITIAL)), (0, 0x10000));
}

#[test]
fn the_divider_slows_the_count() {
    assert_eq!(TIMER_HZ, 1_000_000_000);
    let mut bench = bench(0);
    for (code, divisor) in [(0b0000, 2), (0b0011, 16), (0b1010, 128), (0b1011, 1)] {
        bench.write(DIVIDE, code);
        bench.write(INITIAL, 1000);
        bench.run(999 * divisor);
        assert_eq!(bench.read(CURRENT), 1, "by {divisor}");
        assert!(!fired(&mut bench));
        bench.run(divisor);
        assert!(fired(&mut bench));
    }
}

#[test]
fn a_new_divider_goes_on_from_the_present_count() {
    let mut bench = bench(0);
    bench.write(INITIAL, 1000);
    bench.run(400);
    bench.write(DIVIDE, 0b0001);
    assert_eq!(bench.read(CURRENT), 600);
    bench.run(4 * 599);
    assert_eq!(bench.read(CURRENT), 1);
    bench.run(4);
    assert!(fired(&mut bench));
}

#[test]
fn periodic_keeps_its_phase_however_late_it_is_served() {
    let mut bench = bench(PERIODIC);
    bench.write(INITIAL, 1_000_000);
    bench.run(1_000_000);
    assert!(fired(&mut bench));
    bench.run(10_700_000);
    assert!(fired(&mut bench));
    assert!(!fired(&mut bench), "ten missed periods are one interrupt");
    assert_eq!(bench.lapic.deadline(), Instant(12_000_000));
    assert_eq!(bench.read(CURRENT), 300_000);
    bench.run(300_000);
    assert!(fired(&mut bench));
}

#[test]
fn a_period_of_nothing_is_no_storm() {
    let mut bench = bench(PERIODIC);
    bench.write(INITIAL, 1);
    let mut interrupts = 0;
    while bench.clock.now() < Instant(1_000_000) {
        let wait = bench.lapic.deadline().since(bench.clock.now());
        bench.run(wait);
        interrupts += u64::from(fired(&mut bench));
    }
    assert!(interrupts <= 1_000_000 / MIN_PERIOD_NANOS + 1, "{interrupts}");
    assert!(bench.read(CURRENT) <= 1);
}

#[test]
fn zero_stops_the_timer() {
    for mode in [0, PERIODIC] {
        let mut bench = bench(mode);
        bench.write(INITIAL, 1000);
        bench.run(500);
        bench.write(INITIAL, 0);
        assert_eq!((bench.read(CURRENT), bench.lapic.deadline()), (0, Instant::NEVER));
        bench.run(10_000);
        assert!(!fired(&mut bench));
    }
}

#[test]
fn a_masked_timer_counts_in_silence() {
    let mut bench = bench(MASKED);
    bench.write(INITIAL, 1000);
    bench.run(400);
    assert_eq!(bench.read(CURRENT), 600);
    bench.run(700);
    bench.write(LVT_TIMER, u32::from(VECTOR));
    bench.run(0);
    assert!(!fired(&mut bench), "what was missed is missed");

    bench.write(LVT_TIMER, PERIODIC | MASKED | u32::from(VECTOR));
    bench.write(INITIAL, 1_000_000);
    assert_eq!(bench.lapic.deadline(), Instant::NEVER, "nobody needs to be woken");
    bench.run(2_300_000);
    assert_eq!(bench.read(CURRENT), 700_000);
    bench.write(LVT_TIMER, PERIODIC | u32::from(VECTOR));
    assert!(!fired(&mut bench));
    bench.run(700_000);
    assert!(fired(&mut bench));
}

#[test]
fn changing_between_one_shot_and_periodic_goes_on_counting() {
    const COUNT: u32 = 0x99_9999;
    let mut bench = bench(0);
    bench.write(INITIAL, COUNT);
    bench.write(LVT_TIMER, PERIODIC | u32::from(VECTOR));
    assert_eq!(bench.read(INITIAL), COUNT);
    bench.run(u64::from(COUNT) * 3 / 4);
    assert!(bench.read(CURRENT) < COUNT / 2 && bench.read(CURRENT) > 0);
    bench.write(LVT_TIMER, u32::from(VECTOR));
    bench.write(LVT_TIMER, PERIODIC | u32::from(VECTOR));
    assert!(bench.read(CURRENT) < COUNT / 2, "the count is not loaded again");
    bench.run(u64::from(COUNT) / 2);
    assert!(fired(&mut bench));
    assert!(bench.read(CURRENT) > COUNT / 2, "it wrapped around");
    bench.write(LVT_TIMER, u32::from(VECTOR));
    bench.run(u64::from(COUNT));
    assert!(fired(&mut bench));
    assert_eq!(bench.read(CURRENT), 0);
    bench.write(LVT_TIMER, PERIODIC | u32::from(VECTOR));
    bench.run(u64::from(COUNT) * 2);
    assert_eq!(bench.read(CURRENT), 0, "a timer that ended stays at zero");
    assert!(!fired(&mut bench));
}

#[test]
fn a_tsc_deadline_fires_once_and_clears_itself() {
    let mut bench = bench(DEADLINE);
    let deadline = bench.clock.guest_tsc() + 20_001;
    bench.lapic.set_tsc_deadline(deadline, &bench.clock);
    assert_eq!(bench.lapic.tsc_deadline(), deadline);
    assert_eq!(bench.read(CURRENT), 0);
    bench.run(10_000);
    assert!(!fired(&mut bench), "one tick too early");
    bench.run(1);
    assert!(fired(&mut bench));
    assert_eq!(bench.lapic.tsc_deadline(), 0);
    bench.run(1_000_000);
    assert!(!fired(&mut bench));
}

#[test]
fn a_tsc_deadline_in_the_past_fires_at_once() {
    let mut bench = bench(DEADLINE);
    bench.clock.advance(5);
    for deadline in [1, bench.clock.guest_tsc()] {
        bench.lapic.set_tsc_deadline(deadline, &bench.clock);
        assert!(fired(&mut bench));
        assert_eq!(bench.lapic.tsc_deadline(), 0);
    }
}

#[test]
fn a_tsc_deadline_can_be_moved_and_disarmed() {
    let mut bench = bench(DEADLINE);
    let tsc = bench.clock.guest_tsc();
    bench.lapic.set_tsc_deadline(tsc + 2000, &bench.clock);
    bench.lapic.set_tsc_deadline(tsc + 4000, &bench.clock);
    bench.run(1500);
    assert!(!fired(&mut bench));
    bench.lapic.set_tsc_deadline(0, &bench.clock);
    assert_eq!(bench.lapic.deadline(), Instant::NEVER);
    bench.run(10_000);
    assert!(!fired(&mut bench));
}

#[test]
fn each_mode_ignores_the_other_modes_registers() {
    let mut bench = bench(DEADLINE);
    bench.write(INITIAL, 1000);
    assert_eq!((bench.read(INITIAL), bench.read(CURRENT)), (0, 0));
    assert_eq!(bench.lapic.deadline(), Instant::NEVER);
    bench.write(LVT_TIMER, u32::from(VECTOR));
    bench.lapic.set_tsc_deadline(5000, &bench.clock);
    assert_eq!((bench.lapic.tsc_deadline(), bench.lapic.deadline()), (0, Instant::NEVER));
}

#[test]
fn entering_or_leaving_deadline_mode_disarms() {
    let mut bench = bench(0);
    bench.write(INITIAL, 1000);
    bench.write(LVT_TIMER, DEADLINE | u32::from(VECTOR));
    assert_eq!(bench.lapic.deadline(), Instant::NEVER);
    bench.lapic.set_tsc_deadline(u64::MAX, &bench.clock);
    bench.write(LVT_TIMER, PERIODIC | u32::from(VECTOR));
    assert_eq!((bench.lapic.tsc_deadline(), bench.lapic.deadline()), (0, Instant::NEVER));
    bench.write(LVT_TIMER, DEADLINE | u32::from(VECTOR));
    assert_eq!(bench.lapic.tsc_deadline(), 0);
}

#[test]
fn the_reserved_mode_does_not_run() {
    let mut bench = bench(3 << 17);
    bench.write(INITIAL, 1000);
    bench.lapic.set_tsc_deadline(1, &bench.clock);
    bench.run(10_000);
    assert!(!fired(&mut bench));
    assert_eq!(bench.lapic.deadline(), Instant::NEVER);
}

#[test]
fn extreme_counts_do_not_overflow() {
    for mode in [0, PERIODIC] {
        let mut bench = bench(mode);
        bench.clock.advance(u64::MAX - 1000);
        bench.write(DIVIDE, 0b1010);
        bench.write(INITIAL, u32::MAX);
        bench.run(999);
        bench.read(CURRENT);
        bench.write(DIVIDE, BY_ONE);
        bench.write(LVT_TIMER, PERIODIC | MASKED | u32::from(VECTOR));
        bench.read(CURRENT);
    }
}
