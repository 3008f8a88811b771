// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MC146818 real-time clock and CMOS memory at ports 70h and 71h.
//!
//! Follows the Motorola MC146818A data sheet and, for the wiring and the divider's settings, the ICH9 data sheet (316972),
//! section 13.6. Only the first 128 bytes exist; the extended bank at 72h/73h does not. Daylight saving is not done, as in
//! the ICH. The update itself takes no time here: UIP is up for the 244 µs before it, as the data sheet promises.
//!
//! Time passes in closed formulas: seconds and periods are counts since the divider chain's last reset. While the guest
//! holds SET, or the divider in reset, the ten time registers are plain bytes.
//!
//! Hostile party: the guest. Any byte may stand in any register; an interrupt that is not acknowledged in register C does
//! not come again, so that no rate can storm.

mod alarm;
mod calendar;
mod cmos;
#[cfg(test)]
mod tests;

use alarm::Alarm;
use calendar::{DAY, Fields, Format, Raw};
use cmos::Cmos;
use platform::Slip;
use vmm_interface::{Device, Instant, Line, Machine, Register};

/// The clock's wire.
const RTC_LINE: Line = Line(8);
/// Frequency of the crystal.
const HZ: i128 = 32_768;
const SECOND: i64 = 1_000_000_000;
/// From UIP to the update (data sheet, table 6: t_BUC).
const BEFORE_UPDATE: i64 = 244_000;
/// From the end of a divider reset to the first update.
const FIRST_UPDATE: i64 = SECOND / 2;

mod regs {
    //! Registers and their bits.

    pub(super) const SECONDS_ALARM: u8 = 0x01;
    pub(super) const MINUTES_ALARM: u8 = 0x03;
    pub(super) const HOURS_ALARM: u8 = 0x05;
    pub(super) const A: u8 = 0x0a;
    pub(super) const B: u8 = 0x0b;
    pub(super) const C: u8 = 0x0c;
    pub(super) const D: u8 = 0x0d;
    /// The time registers, in the order of `calendar::Raw`. The century's place is the PC's convention, told to the guest
    /// by the FADT.
    pub(super) const TIME: [u8; 8] = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, super::CENTURY];

    /// A: update in progress (RO).
    pub(super) const A_UPDATE: u8 = 0x80;
    /// A: both upper divider bits hold the divider in reset.
    pub(super) const A_DIVIDER_RESET: u8 = 0x60;
    /// A: rate of the periodic interrupt.
    pub(super) const A_RATE: u8 = 0x0f;
    /// B: stops updates, so that the time can be set.
    pub(super) const B_SET: u8 = 0x80;
    /// B: binary rather than BCD.
    pub(super) const B_BINARY: u8 = 0x04;
    /// B: 24 hours rather than 12.
    pub(super) const B_24_HOURS: u8 = 0x02;
    /// C: the interrupt line is asserted.
    pub(super) const C_IRQ: u8 = 0x80;
    /// C, and enabled in B: periodic.
    pub(super) const PERIODIC: u8 = 0x40;
    /// C, and enabled in B: alarm.
    pub(super) const ALARM: u8 = 0x20;
    /// C, and enabled in B: update ended.
    pub(super) const UPDATE: u8 = 0x10;
    /// D: the battery was never empty (RO).
    pub(super) const D_VALID: u8 = 0x80;
    /// Port 70h: no NMIs.
    pub(super) const NMI_MASK: u8 = 0x80;
}

/// The register that holds the century, for the FADT.
pub const CENTURY: u8 = 0x32;

/// The clock and its memory. Eight-bit registers at offsets 0 (index) and 1 (data).
#[derive(Debug)]
pub struct Rtc {
    // Guest-visible state.
    /// Port 70h as written, with the NMI mask.
    index: u8,
    /// All bytes but C and D. The time registers are valid only while the time stands still.
    ram: Cmos,
    /// PERIODIC, ALARM and UPDATE of register C.
    flags: u8,

    // The clock.
    /// Where the divider chain started, in nanoseconds of [`Instant`]; its seconds end at whole multiples from there.
    origin: i64,
    /// Seconds since 1970 at `origin`.
    base: i64,
    weekday_shift: i64,
    /// Up to when `flags` is right.
    seen: i64,
    alarm: Alarm,
    deadline: Instant,
}

/// Seconds since 1970 by another MC146818, whose registers `read` reads; `None` if there is none, or one whose battery was
/// empty. Whatever it says is a date (see `calendar`): its owner is the host.
pub fn time_of(read: impl Fn(u8) -> u8) -> Option<u64> {
    /// Two readings that agree were not torn by an update; updates are a second apart.
    const READINGS: usize = 4;
    if read(regs::D) != regs::D_VALID {
        return None;
    }
    let b = read(regs::B);
    let format = Format { binary: b & regs::B_BINARY != 0, hours_24: b & regs::B_24_HOURS != 0 };
    let mut last = regs::TIME.map(&read);
    for _ in 0..READINGS {
        let raw = regs::TIME.map(&read);
        if raw == last {
            return u64::try_from(Fields::decode(raw, format).to_unix().0).ok();
        }
        last = raw;
    }
    None
}

fn nanos(now: Instant) -> i64 {
    i64::try_from(now.0).unwrap_or(i64::MAX / 2).min(i64::MAX / 2)
}

fn instant(nanos: i128) -> Instant {
    u64::try_from(nanos.max(0)).map_or(Instant::NEVER, Instant)
}

impl Rtc {
    /// A clock that showed `unix_time` at [`Instant`] zero, in BCD and 24 hours, and memory that tells the sizes of RAM.
    pub fn new(unix_time: u64, memory_below_4g: u64, memory_above_4g: u64) -> Self {
        let mut rtc = Self {
            index: regs::D,
            ram: cmos::initial(memory_below_4g, memory_above_4g),
            flags: 0,
            origin: 0,
            base: i64::try_from(unix_time).unwrap_or(i64::MAX).min(1 << 48),
            weekday_shift: 0,
            seen: 0,
            alarm: Alarm::new(0, 0, 0, Format { binary: false, hours_24: true }),
            deadline: Instant::NEVER,
        };
        rtc.put(regs::A, 0x26);
        rtc.put(regs::B, regs::B_24_HOURS);
        rtc
    }

    /// Whether the guest has masked NMIs by port 70h.
    pub const fn nmi_masked(&self) -> bool {
        self.index & regs::NMI_MASK != 0
    }

    fn get(&self, register: u8) -> u8 {
        self.ram.get(usize::from(register)).copied().unwrap_or(0xff)
    }

    fn put(&mut self, register: u8, value: u8) {
        if let Some(byte) = self.ram.get_mut(usize::from(register)) {
            *byte = value;
        }
    }

    fn format(&self) -> Format {
        let b = self.get(regs::B);
        Format { binary: b & regs::B_BINARY != 0, hours_24: b & regs::B_24_HOURS != 0 }
    }

    fn divider_runs(&self) -> bool {
        self.get(regs::A) & regs::A_DIVIDER_RESET != regs::A_DIVIDER_RESET
    }

    /// Whether updates happen.
    fn updates(&self) -> bool {
        self.divider_runs() && self.get(regs::B) & regs::B_SET == 0
    }

    /// Whole seconds of the divider chain.
    const fn ticks(&self, now: i64) -> i64 {
        (now - self.origin).div_euclid(SECOND)
    }

    /// Log2 of the periodic interrupt's period in ticks of the crystal.
    fn period_shift(&self) -> Option<u32> {
        match self.get(regs::A) & regs::A_RATE {
            0 => None,
            rate @ (1 | 2) => Some(u32::from(rate) + 6), // 256 and 128 Hz
            rate => Some(u32::from(rate) - 1),
        }
    }

    /// Whole periods of the periodic interrupt.
    fn periods(&self, now: i64, shift: u32) -> i128 {
        (i128::from(now - self.origin) * HZ).div_euclid(i128::from(SECOND)) >> shift
    }

    /// The time registers as they read now.
    fn time(&self, now: i64) -> Raw {
        if !self.updates() {
            return regs::TIME.map(|register| self.get(register));
        }
        Fields::from_unix(self.base.saturating_add(self.ticks(now)), self.weekday_shift).encode(self.format())
    }

    /// Makes the time registers plain bytes, with the present time in them.
    fn freeze(&mut self, now: i64) {
        for (register, value) in regs::TIME.into_iter().zip(self.time(now)) {
            self.put(register, value);
        }
    }

    /// Makes the bytes of the time registers the present time.
    fn thaw(&mut self, now: i64) {
        let raw = regs::TIME.map(|register| self.get(register));
        let (seconds, shift) = Fields::decode(raw, self.format()).to_unix();
        self.base = seconds - self.ticks(now);
        self.weekday_shift = shift;
    }

    fn read_data(&mut self, machine: &mut impl Machine) -> u8 {
        let now = nanos(machine.now());
        let register = self.index & !regs::NMI_MASK;
        match register {
            regs::A => self.get(regs::A) | if self.update_is_near(now) { regs::A_UPDATE } else { 0 },
            regs::C => self.read_flags(now, machine),
            regs::D => regs::D_VALID,
            _ => regs::TIME
                .into_iter()
                .zip(self.time(now))
                .find_map(|(time, value)| (time == register).then_some(value))
                .unwrap_or_else(|| self.get(register)),
        }
    }

    fn update_is_near(&self, now: i64) -> bool {
        self.updates() && (now - self.origin).rem_euclid(SECOND) >= SECOND - BEFORE_UPDATE
    }

    /// Register C: reading it acknowledges everything.
    fn read_flags(&mut self, now: i64, machine: &mut impl Machine) -> u8 {
        self.sync(now, machine);
        let flags = self.flags | if self.interrupts() { regs::C_IRQ } else { 0 };
        self.flags = 0;
        self.sync(now, machine);
        flags
    }

    fn write_data(&mut self, value: u8, machine: &mut impl Machine) {
        let now = nanos(machine.now());
        let register = self.index & !regs::NMI_MASK;
        self.sync(now, machine);
        match register {
            regs::A => self.write_a(value, now),
            regs::B => self.write_b(value, now),
            regs::C | regs::D => {}
            _ if regs::TIME.contains(&register) => self.write_time(register, value, now),
            _ => self.put(register, value),
        }
        if matches!(register, regs::B | regs::SECONDS_ALARM | regs::MINUTES_ALARM | regs::HOURS_ALARM) {
            let [second, minute, hour] =
                [regs::SECONDS_ALARM, regs::MINUTES_ALARM, regs::HOURS_ALARM].map(|register| self.get(register));
            self.alarm = Alarm::new(second, minute, hour, self.format());
        }
        self.sync(now, machine);
    }

    fn write_time(&mut self, register: u8, value: u8, now: i64) {
        let updates = self.updates();
        if updates {
            self.freeze(now);
        }
        self.put(register, value);
        if updates {
            self.thaw(now);
        }
    }

    fn write_a(&mut self, value: u8, now: i64) {
        let (ran, updated) = (self.divider_runs(), self.updates());
        if updated {
            self.freeze(now);
        }
        self.put(regs::A, value & !regs::A_UPDATE);
        if !ran && self.divider_runs() {
            self.origin = now - FIRST_UPDATE;
        }
        if self.updates() {
            self.thaw(now);
        }
    }

    fn write_b(&mut self, value: u8, now: i64) {
        let updated = self.updates();
        if updated && value & regs::B_SET != 0 {
            self.freeze(now);
        }
        // SET also takes back the update-ended interrupt's enable.
        let refused = if value & regs::B_SET != 0 { regs::UPDATE } else { 0 };
        self.put(regs::B, value & !refused);
        if !updated && self.updates() {
            self.thaw(now);
        }
    }

    fn interrupts(&self) -> bool {
        self.flags & self.get(regs::B) != 0
    }

    /// Raises the flags of everything that happened since the last call, drives the wire, and sets the deadline.
    fn sync(&mut self, now: i64, machine: &mut impl Machine) {
        if self.divider_runs() {
            if self.period_shift().is_some_and(|shift| self.periods(now, shift) > self.periods(self.seen, shift)) {
                self.flags |= regs::PERIODIC;
            }
            let passed = self.ticks(now) - self.ticks(self.seen);
            if self.updates() && passed > 0 {
                self.flags |= regs::UPDATE;
                if self.next_alarm(self.seen).is_some_and(|seconds| seconds <= passed) {
                    self.flags |= regs::ALARM;
                }
            }
        }
        self.seen = self.seen.max(now); // Another vCPU's clock may lag a little.
        machine.set_line(RTC_LINE, self.interrupts());
        self.deadline = self.next_event(now);
    }

    /// Seconds from the present one to the alarm.
    fn next_alarm(&self, now: i64) -> Option<i64> {
        let of_day = self.base.saturating_add(self.ticks(now)).rem_euclid(DAY);
        self.alarm.next(u32::try_from(of_day).ok()?).map(i64::from)
    }

    /// When an enabled flag that is down next rises.
    fn next_event(&self, now: i64) -> Instant {
        let awaited = self.get(regs::B) & !self.flags;
        let mut next = Instant::NEVER;
        if awaited & regs::PERIODIC != 0
            && self.divider_runs()
            && let Some(shift) = self.period_shift()
        {
            let ticks = (self.periods(now, shift) + 1) << shift;
            let from_origin = (ticks * i128::from(SECOND) + HZ - 1).div_euclid(HZ);
            next = next.min(instant(i128::from(self.origin) + from_origin));
        }
        let second = |seconds: i64| {
            instant(i128::from(self.origin) + i128::from(self.ticks(now) + seconds) * i128::from(SECOND))
        };
        if awaited & regs::UPDATE != 0 && self.updates() {
            next = next.min(second(1));
        }
        if awaited & regs::ALARM != 0
            && self.updates()
            && let Some(seconds) = self.next_alarm(now)
        {
            next = next.min(second(seconds));
        }
        next
    }
}

impl Device for Rtc {
    fn read(&mut self, at: Register, machine: &mut impl Machine) -> u64 {
        match at.offset {
            1 => self.read_data(machine).into(),
            _ => 0xff, // The index is write-only.
        }
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        let [byte, ..] = value.to_le_bytes();
        match at.offset {
            0 => self.index = byte,
            1 => self.write_data(byte, machine),
            _ => {}
        }
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn expire(&mut self, machine: &mut impl Machine) {
        if Slip::EarlyUpdate.is_planted() && machine.now() < self.deadline {
            self.flags |= regs::UPDATE;
        }
        self.sync(nanos(machine.now()), machine);
    }
}
