// SPDX-License-Identifier: MIT OR Apache-2.0
//! ACPI fixed hardware: PM1 event and control blocks, PM timer and GPE0 block, laid out as in the ICH9's PMBASE range.
//!
//! Follows ACPI 6.5, section 4.8, and the ICH9 datasheet (316972), section 13.8.3.
//!
//! - **Always in ACPI mode.** There is no SMM here, so no SMI can hand power management over to the operating system: the
//!   FADT gives no SMI_CMD, and SCI_EN is hard-wired to one. ACPI 6.5 section 5.2.9 provides for exactly this machine, and
//!   it keeps the fixed registers, which hardware-reduced ACPI would take away together with the PM timer and S5 as every
//!   operating system knows it.
//! - **The timer has 24 bits**, as in the ICH9 whose name we carry. Every operating system has met that width; nothing is
//!   gained by 32, because a guest reads more often than once in 4.7 seconds or does not care.
//! - **S5 is SLP_TYP 0**, so that the widely known write of 2000h to port 604h powers the machine off. No other sleeping
//!   state exists, and asking for one does nothing.
//! - GPE0 has enable bits that can be set and status bits that never are: nothing is wired to it yet.

use core::ops::RangeInclusive;

use specs::acpi::{PM_TIMER_HZ, pm1, pm1_control};
use vmm_interface::{Device, Instant, Lifecycle, Line, Machine, Register, time};

use super::lanes;

/// First port of the power management block (PMBASE).
pub const PM_BASE: u16 = 0x600;
/// The ports of [`Power`].
pub const PM_PORTS: RangeInclusive<u64> = 0x600..=0x67F;
/// The wire of the system control interrupt: level-triggered, active high.
pub const SCI: Line = Line(9);
/// SLP_TYP of the off state; the `\_S5` package says the same.
pub const SLEEP_TYPE_S5: u8 = 0;

/// Offsets and lengths of the blocks within [`PM_PORTS`], for the FADT.
pub mod block {
    /// PM1a event block: status, then enable.
    pub const PM1_EVENT: u16 = 0x00;
    /// Bytes of [`PM1_EVENT`].
    pub const PM1_EVENT_BYTES: u8 = 4;
    /// PM1a control block.
    pub const PM1_CONTROL: u16 = 0x04;
    /// Bytes of [`PM1_CONTROL`].
    pub const PM1_CONTROL_BYTES: u8 = 2;
    /// PM timer.
    pub const TIMER: u16 = 0x08;
    /// Bytes of [`TIMER`].
    pub const TIMER_BYTES: u8 = 4;
    /// GPE0: eight bytes of status, then eight of enable.
    pub const GPE0: u16 = 0x20;
    /// Bytes of [`GPE0`].
    pub const GPE0_BYTES: u8 = 16;
}

mod regs {
    pub(super) const STATUS: u64 = 0x00;
    pub(super) const ENABLE: u64 = 0x02;
    pub(super) const CONTROL: u64 = 0x04;
    pub(super) const TIMER: u64 = 0x08;
    pub(super) const TIMER_LAST: u64 = 0x0B;
    pub(super) const GPE0_ENABLE: u64 = 0x28;
    pub(super) const GPE0_ENABLE_LAST: u64 = 0x2F;
}

/// Enable bits that exist. The global lock can be enabled, because an operating system checks that it can, but no
/// firmware will ever release the lock. The same goes for the clock's alarm, whose status is for waking from states that
/// this machine does not have.
const ENABLES: u16 = pm1::TIMER | pm1::GLOBAL_LOCK | pm1::POWER_BUTTON | pm1::RTC;
/// Control bits that keep what is written.
const CONTROLS: u16 = pm1_control::BM_RLD | pm1_control::SLP_TYP;

const TIMER_MASK: u64 = (1 << 24) - 1;
/// Ticks between two changes of the timer's most significant bit.
const HALF_PERIOD_SHIFT: u32 = 23;

/// The power management block; at first as firmware would leave it: ACPI mode, nothing enabled, nothing pending.
#[derive(Debug, Default)]
pub struct Power {
    status: u16,
    enable: u16,
    control: u16,
    gpe0_enable: [u8; 8],
    /// How many changes of the timer's most significant bit have gone into `status`.
    half_periods: u64,
}

impl Power {
    /// The user pressed the power button. A guest that enabled it gets an SCI; another one sees the status bit.
    pub fn press_power_button(&mut self, machine: &mut impl Machine) {
        self.status |= pm1::POWER_BUTTON;
        self.sync(machine);
    }

    fn read_byte(&self, offset: u64, now: Instant) -> u8 {
        let [status_low, status_high] = self.status.to_le_bytes();
        let [enable_low, enable_high] = self.enable.to_le_bytes();
        let [control_low, control_high] = (self.control | pm1_control::SCI_EN).to_le_bytes();
        match offset {
            regs::STATUS => status_low,
            0x01 => status_high,
            regs::ENABLE => enable_low,
            0x03 => enable_high,
            regs::CONTROL => control_low,
            0x05 => control_high,
            regs::TIMER..=regs::TIMER_LAST => (timer(now) >> (8 * (offset - regs::TIMER))) as u8,
            regs::GPE0_ENABLE..=regs::GPE0_ENABLE_LAST => {
                self.gpe0_enable.get((offset - regs::GPE0_ENABLE) as usize).copied().unwrap_or(0)
            }
            // Reserved, GPE0 status, and the ICH9's SMI and TCO registers, which do nothing without SMM.
            _ => 0,
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8, machine: &mut impl Machine) {
        let low = u16::from(value);
        let high = low << 8;
        match offset {
            regs::STATUS => self.status &= !low,
            0x01 => self.status &= !high,
            regs::ENABLE => self.enable = (self.enable & 0xFF00 | low) & ENABLES,
            0x03 => self.enable = (self.enable & 0x00FF | high) & ENABLES,
            regs::CONTROL => self.control = (self.control & 0xFF00 | low) & CONTROLS,
            0x05 => {
                self.control = (self.control & 0x00FF | high) & CONTROLS;
                if high & pm1_control::SLP_EN != 0 && sleep_type(self.control) == SLEEP_TYPE_S5 {
                    machine.request(Lifecycle::PowerOff);
                }
            }
            regs::GPE0_ENABLE..=regs::GPE0_ENABLE_LAST => {
                if let Some(byte) = self.gpe0_enable.get_mut((offset - regs::GPE0_ENABLE) as usize) {
                    *byte = value;
                }
            }
            _ => {}
        }
    }

    /// Any read but the timer's whole register, which guests poll.
    #[inline(never)]
    fn read_block(&mut self, at: Register, now: Instant, machine: &mut impl Machine) -> u64 {
        self.catch_up(now);
        let value = lanes::read(at, |offset| self.read_byte(offset, now));
        self.sync(machine);
        value
    }

    /// Takes the timer's overflow into the status register.
    fn catch_up(&mut self, now: Instant) {
        let half_periods = ticks(now) >> HALF_PERIOD_SHIFT;
        if half_periods != self.half_periods {
            self.half_periods = half_periods;
            self.status |= pm1::TIMER;
        }
    }

    fn sync(&self, machine: &mut impl Machine) {
        machine.set_line(SCI, self.status & self.enable != 0);
    }
}

const fn sleep_type(control: u16) -> u8 {
    ((control & pm1_control::SLP_TYP) >> 10) as u8
}

/// Ticks since Parados started. The same as [`time::ticks`], without its 128-bit division: guests read this in loops.
const fn ticks(now: Instant) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    now.0 / SECOND * PM_TIMER_HZ + now.0 % SECOND * PM_TIMER_HZ / SECOND
}

const fn timer(now: Instant) -> u64 {
    ticks(now) & TIMER_MASK
}

impl Device for Power {
    #[inline]
    fn read(&mut self, at: Register, machine: &mut impl Machine) -> u64 {
        let now = machine.now();
        if at.offset == regs::TIMER && at.width == 4 { timer(now) } else { self.read_block(at, now, machine) }
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        self.catch_up(machine.now());
        lanes::write(at, value, |offset, byte| self.write_byte(offset, byte, machine));
        self.sync(machine);
    }

    fn deadline(&self) -> Instant {
        // Once the status bit is set, the wire is up already and stays so until the guest clears the bit.
        if self.enable & !self.status & pm1::TIMER == 0 {
            return Instant::NEVER;
        }
        Instant(time::nanos((self.half_periods + 1) << HALF_PERIOD_SHIFT, PM_TIMER_HZ))
    }

    fn expire(&mut self, machine: &mut impl Machine) {
        self.catch_up(machine.now());
        self.sync(machine);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::survives_anything;
    use super::*;
    use crate::fake::FakeMachine;

    const SECOND: u64 = 1_000_000_000;

    fn at(offset: u64, width: u8) -> Register {
        Register { offset, width }
    }

    #[test]
    fn any_access_is_answered() {
        survives_anything(&mut Power::default(), 0x80);
    }

    #[test]
    fn timer_counts_at_its_frequency_and_wraps_at_24_bits() {
        let mut power = Power::default();
        let mut machine = FakeMachine { now: Instant(SECOND), ..Default::default() };
        assert_eq!(power.read(at(8, 4), &mut machine), PM_TIMER_HZ);
        machine.now = Instant(10 * SECOND);
        assert_eq!(power.read(at(8, 4), &mut machine), (10 * PM_TIMER_HZ) & 0xFF_FFFF);
        assert_eq!(power.read(at(9, 2), &mut machine), (10 * PM_TIMER_HZ) >> 8 & 0xFFFF);
        power.write(at(8, 4), 0, &mut machine);
        assert_eq!(power.read(at(8, 4), &mut machine), (10 * PM_TIMER_HZ) & 0xFF_FFFF);
    }

    #[test]
    fn fast_tick_arithmetic_equals_the_exact_one() {
        for now in [0, 1, 279, 280, SECOND - 1, SECOND, 123_456_789_012_345_678, u64::MAX] {
            assert_eq!(ticks(Instant(now)), time::ticks(now, PM_TIMER_HZ));
        }
    }

    #[test]
    fn writing_2000h_to_port_604h_powers_off() {
        let mut machine = FakeMachine::default();
        Power::default().write(at(4, 2), 0x2000, &mut machine);
        assert_eq!(machine.requests, [Lifecycle::PowerOff]);
    }

    #[test]
    fn other_sleep_types_do_nothing() {
        let mut machine = FakeMachine::default();
        for sleep_type in 1..8 {
            Power::default().write(at(4, 2), 0x2000 | sleep_type << 10, &mut machine);
        }
        assert_eq!(machine.requests, []);
    }

    #[test]
    fn sleep_type_written_before_the_enable_bit_counts() {
        let mut machine = FakeMachine::default();
        let mut power = Power::default();
        power.write(at(4, 2), 5 << 10, &mut machine);
        assert_eq!(power.read(at(4, 2), &mut machine), 5 << 10 | 1);
        power.write(at(4, 1), 0x02, &mut machine);
        assert_eq!(machine.requests, []);
        power.write(at(5, 1), 0x20, &mut machine);
        assert_eq!(machine.requests, [Lifecycle::PowerOff]);
    }

    #[test]
    fn sci_enable_is_hard_wired_and_sleep_enable_reads_zero() {
        let mut machine = FakeMachine::default();
        let mut power = Power::default();
        power.write(at(4, 2), 0, &mut machine);
        assert_eq!(power.read(at(4, 2), &mut machine), 1);
        power.write(at(4, 2), 0xFFFF, &mut machine);
        assert_eq!(power.read(at(4, 2), &mut machine), 0x1C03);
    }

    #[test]
    fn power_button_raises_sci_until_its_status_is_cleared() {
        let mut machine = FakeMachine::default();
        let mut power = Power::default();
        power.press_power_button(&mut machine);
        assert!(!machine.levels[9], "not enabled");
        power.write(at(2, 2), 0x100, &mut machine);
        assert!(machine.levels[9], "enabled while pending");
        assert_eq!(power.read(at(0, 2), &mut machine), 0x100);
        power.write(at(0, 2), 0x001, &mut machine);
        assert!(machine.levels[9], "another bit's clearing");
        power.write(at(0, 2), 0x100, &mut machine);
        assert!(!machine.levels[9]);
        assert_eq!(power.read(at(0, 4), &mut machine), 0x0100_0000);
    }

    #[test]
    fn only_existing_events_can_be_enabled() {
        let mut machine = FakeMachine::default();
        let mut power = Power::default();
        power.write(at(2, 2), 0xFFFF, &mut machine);
        assert_eq!(power.read(at(2, 2), &mut machine), 0x0521);
    }

    #[test]
    fn timer_overflow_sets_status_and_raises_sci_if_enabled() {
        let mut machine = FakeMachine { now: Instant(SECOND), ..Default::default() };
        let mut power = Power::default();
        assert_eq!(power.deadline(), Instant::NEVER);
        power.write(at(2, 2), 1, &mut machine);
        let deadline = power.deadline();
        assert_eq!(deadline, Instant(time::nanos(1 << 23, PM_TIMER_HZ)));

        machine.now = Instant(deadline.0 - 1);
        power.expire(&mut machine);
        assert!(!machine.levels[9], "early");
        machine.now = deadline;
        power.expire(&mut machine);
        assert!(machine.levels[9]);
        assert_eq!(power.deadline(), Instant::NEVER, "pending already");
        assert_eq!(power.read(at(0, 2), &mut machine), 1);

        power.write(at(0, 2), 1, &mut machine);
        assert!(!machine.levels[9]);
        assert_eq!(power.deadline(), Instant(time::nanos(2 << 23, PM_TIMER_HZ)));
    }

    #[test]
    fn a_very_late_expiry_is_one_event() {
        let mut machine = FakeMachine::default();
        let mut power = Power::default();
        power.write(at(2, 2), 1, &mut machine);
        machine.now = Instant(1 << 60);
        power.expire(&mut machine);
        power.write(at(0, 2), 1, &mut machine);
        assert_eq!(power.read(at(0, 2), &mut machine), 0);
        assert!(power.deadline() > machine.now);
    }

    #[test]
    fn gpe0_enables_are_kept_and_statuses_stay_clear() {
        let mut machine = FakeMachine::default();
        let mut power = Power::default();
        power.write(at(0x20, 4), u64::from(u32::MAX), &mut machine);
        power.write(at(0x28, 4), 0x1234_5678, &mut machine);
        assert_eq!(power.read(at(0x20, 4), &mut machine), 0);
        assert_eq!(power.read(at(0x28, 4), &mut machine), 0x1234_5678);
        assert!(!machine.levels[9]);
    }
}
