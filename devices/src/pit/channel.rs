// SPDX-License-Identifier: MIT OR Apache-2.0
//! One counter of an 8254.
//!
//! Nothing runs in the background: the counting element and OUT are functions of the time since the count was loaded.
//! Time is in ticks of the counter's clock; a count written during tick `t` is loaded at `t + 1`, as in the data sheet.

/// A point in time, in ticks of the input clock.
pub(super) type Tick = i64;

/// Counting modes (data sheet, "Mode Definitions").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// 0: OUT rises once, when the count ends.
    TerminalCount,
    /// 1: the gate starts a low pulse.
    OneShot,
    /// 2: low for the last tick of each period.
    RateGenerator,
    /// 3: low for the second half of each period.
    SquareWave,
    /// 4: low for one tick after the count.
    SoftwareStrobe,
    /// 5: the same, started by the gate.
    HardwareStrobe,
}

/// Which bytes of a count are transferred.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Low,
    High,
    /// Low, then high.
    Both,
}

/// A period that takes over later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Next {
    /// When it takes over.
    at: Tick,
    /// Where the new period counts from; before `at` if it takes over in the middle of a square wave.
    loaded: Tick,
    count: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Waits for a count, or for the gate.
    Idle,
    /// The counting element held `count` at `loaded`, which may still be to come.
    Counting { loaded: Tick, count: u32, next: Option<Next> },
    /// The gate has stopped the count after `elapsed` ticks (modes 0 and 4).
    Paused { elapsed: Tick, count: u32 },
}

/// One counter.
#[derive(Debug)]
pub(super) struct Channel {
    // Wiring.
    gate: bool,

    // Guest-visible state.
    mode: Mode,
    access: Access,
    bcd: bool,
    /// The count register, 1 to 65536 (or 10000); `None` from a control word to the first count.
    count: Option<u32>,
    /// The count register has not reached the counting element.
    unloaded: bool,
    /// The first byte of a two-byte write.
    low_byte: Option<u8>,
    /// The next byte of a two-byte read is the high one.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    phase: Phase,
    /// What the counting element and OUT show while nothing counts.
    held: (u32, bool),
}

/// Ticks of a square wave's high half.
const fn high_half(count: u32) -> Tick {
    count.div_ceil(2) as Tick
}

const fn to_bcd(value: u32) -> u16 {
    let mut left = value % 10_000;
    let mut digits = 0;
    let mut shift = 0;
    while shift < 16 {
        digits |= (left % 10) << shift;
        left /= 10;
        shift += 4;
    }
    digits as u16
}

/// Digits above nine count with their weight, modulo 10000.
const fn from_bcd(digits: u16) -> u32 {
    let digit = digits as u32;
    ((digit >> 12) * 1000 + (digit >> 8 & 15) * 100 + (digit >> 4 & 15) * 10 + (digit & 15)) % 10_000
}

impl Channel {
    /// A counter that waits for its first control word.
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            gate,
            mode: Mode::TerminalCount,
            access: Access::Both,
            bcd: false,
            count: None,
            unloaded: true,
            low_byte: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
            phase: Phase::Idle,
            held: (0, false),
        }
    }

    const fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    const fn is_periodic(&self) -> bool {
        matches!(self.mode, Mode::RateGenerator | Mode::SquareWave)
    }

    /// Ticks since the load and the loaded count, once the load has happened.
    fn progress(&self, now: Tick) -> Option<(Tick, u32)> {
        match self.phase {
            Phase::Idle => None,
            Phase::Paused { elapsed, count } => Some((elapsed, count)),
            Phase::Counting { next: Some(next), .. } if now >= next.at => Some((now - next.loaded, next.count)),
            Phase::Counting { loaded, count, .. } => (now >= loaded).then_some((now - loaded, count)),
        }
    }

    /// The counting element, not yet in BCD.
    fn element(&self, now: Tick) -> u32 {
        let Some((elapsed, count)) = self.progress(now) else {
            return self.held.0;
        };
        let period = Tick::from(count.max(1));
        let value = match self.mode {
            Mode::RateGenerator => period - elapsed % period,
            Mode::SquareWave => {
                let position = elapsed % period;
                let high = high_half(count);
                let in_half = if position < high { position } else { position - high };
                (period & !1) - 2 * in_half
            }
            _ => period - elapsed,
        };
        u32::try_from(value.rem_euclid(Tick::from(self.modulus()))).unwrap_or(0)
    }

    /// The OUT pin.
    pub(super) fn out(&self, now: Tick) -> bool {
        let Some((elapsed, count)) = self.progress(now) else {
            return self.held.1;
        };
        let period = Tick::from(count.max(1));
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => elapsed >= period,
            Mode::RateGenerator => elapsed % period != period - 1,
            Mode::SquareWave => elapsed % period < high_half(count),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != period,
        }
    }

    /// OUT with the low phases that end by themselves left out: what holds between two results of [`Self::next_rise`].
    pub(super) fn resting_level(&self, now: Tick) -> bool {
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => self.out(now),
            _ => true,
        }
    }

    /// The next tick after `now` at which OUT rises by itself.
    pub(super) fn next_rise(&self, now: Tick) -> Option<Tick> {
        let Phase::Counting { mut loaded, mut count, next } = self.phase else {
            return None;
        };
        if let Some(next) = next {
            if now < next.at && next.loaded == next.at {
                return Some(next.at); // The present period ends with a rise.
            }
            (loaded, count) = (next.loaded, next.count);
        }
        let period = Tick::from(count.max(1));
        let rise = match self.mode {
            Mode::TerminalCount | Mode::OneShot => loaded + period,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => loaded + period + 1,
            Mode::RateGenerator | Mode::SquareWave => loaded + ((now - loaded).max(0) / period + 1) * period,
        };
        (rise > now).then_some(rise)
    }

    /// Starts counting at the next tick, from the count register.
    fn load(&mut self, now: Tick) {
        let Some(count) = self.count else {
            return;
        };
        let out = match self.mode {
            Mode::TerminalCount => false,
            Mode::OneShot => self.out(now), // A retriggered pulse stays low.
            _ => true,
        };
        self.held = (self.element(now), out);
        self.unloaded = false;
        self.phase = match self.mode {
            Mode::TerminalCount | Mode::SoftwareStrobe if !self.gate => Phase::Paused { elapsed: 0, count },
            _ => Phase::Counting { loaded: now + 1, count, next: None },
        };
    }

    /// Drives the GATE pin.
    pub(super) fn set_gate(&mut self, gate: bool, now: Tick) {
        if self.gate == gate {
            return;
        }
        self.gate = gate;
        match (self.mode, self.phase) {
            (Mode::TerminalCount | Mode::SoftwareStrobe, Phase::Counting { loaded, count, .. }) if !gate => {
                self.phase = Phase::Paused { elapsed: (now - loaded).max(0), count };
            }
            (Mode::TerminalCount | Mode::SoftwareStrobe, Phase::Paused { elapsed, count }) if gate => {
                self.phase = Phase::Counting { loaded: now - elapsed, count, next: None };
            }
            (Mode::RateGenerator | Mode::SquareWave, _) if !gate => {
                self.held = (self.element(now), true);
                self.phase = Phase::Idle;
            }
            (Mode::TerminalCount | Mode::SoftwareStrobe, _) => {}
            _ if gate => self.load(now),
            _ => {}
        }
    }

    /// A control word, other than the latch and read-back commands.
    pub(super) fn control(&mut self, word: u8, now: Tick) {
        let element = self.element(now);
        self.mode = match word >> 1 & 7 {
            0 => Mode::TerminalCount,
            1 => Mode::OneShot,
            2 | 6 => Mode::RateGenerator,
            3 | 7 => Mode::SquareWave,
            4 => Mode::SoftwareStrobe,
            _ => Mode::HardwareStrobe,
        };
        self.access = match word >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        self.bcd = word & 1 != 0;
        self.count = None;
        self.unloaded = true;
        self.low_byte = None;
        self.read_high = false;
        self.latched_count = None;
        self.latched_status = None;
        self.phase = Phase::Idle;
        self.held = (element % self.modulus(), self.mode != Mode::TerminalCount);
    }

    /// A byte of a count.
    pub(super) fn write(&mut self, byte: u8, now: Tick) {
        let value = match (self.access, self.low_byte.take()) {
            (Access::Low, _) => u16::from(byte),
            (Access::High, _) => u16::from(byte) << 8,
            (Access::Both, Some(low)) => u16::from_be_bytes([byte, low]),
            (Access::Both, None) => {
                self.low_byte = Some(byte);
                if self.mode == Mode::TerminalCount {
                    self.held = (self.element(now), false); // The first byte stops the count.
                    self.phase = Phase::Idle;
                }
                return;
            }
        };
        self.set_count(value, now);
    }

    fn set_count(&mut self, value: u16, now: Tick) {
        let mut count = if self.bcd { from_bcd(value) } else { u32::from(value) };
        if count == 0 {
            count = self.modulus();
        }
        if count == 1 && self.is_periodic() {
            count = 2; // One is illegal here; hardware differs.
        }
        self.count = Some(count);
        self.unloaded = true;
        match self.mode {
            Mode::TerminalCount | Mode::SoftwareStrobe => self.load(now),
            Mode::OneShot | Mode::HardwareStrobe => {} // At the next trigger.
            Mode::RateGenerator | Mode::SquareWave => self.set_period(count, now),
        }
    }

    /// A running period ends first; a square wave changes already at its half.
    fn set_period(&mut self, count: u32, now: Tick) {
        let running = self.progress(now).filter(|_| self.phase != Phase::Idle);
        let Some((elapsed, present)) = running else {
            if self.gate {
                self.load(now);
            }
            return;
        };
        let period = Tick::from(present.max(1));
        let start = now - elapsed % period;
        let half = start + high_half(present);
        let (at, loaded) = match self.mode {
            Mode::SquareWave if now < half => (half, half - high_half(count)),
            _ => (start + period, start + period),
        };
        self.unloaded = false;
        self.phase = Phase::Counting { loaded: start, count: present, next: Some(Next { at, loaded, count }) };
    }

    /// The counter latch command. A latched count stays until it is read.
    pub(super) fn latch_count(&mut self, now: Tick) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.readable(now));
        }
    }

    /// The read-back command's status. A latched status stays until it is read.
    pub(super) fn latch_status(&mut self, now: Tick) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(now));
        }
    }

    fn status(&self, now: Tick) -> u8 {
        let pending = match self.phase {
            Phase::Counting { next: Some(next), .. } => now < next.at,
            Phase::Counting { loaded, .. } => now < loaded,
            _ => false,
        };
        let mode = match self.mode {
            Mode::TerminalCount => 0,
            Mode::OneShot => 1,
            Mode::RateGenerator => 2,
            Mode::SquareWave => 3,
            Mode::SoftwareStrobe => 4,
            Mode::HardwareStrobe => 5,
        };
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        u8::from(self.out(now)) << 7
            | u8::from(self.unloaded || pending) << 6
            | access << 4
            | mode << 1
            | u8::from(self.bcd)
    }

    /// The counting element as the guest sees it.
    fn readable(&self, now: Tick) -> u16 {
        let element = self.element(now);
        if self.bcd { to_bcd(element) } else { (element & 0xffff) as u16 }
    }

    /// A byte of status or count.
    pub(super) fn read(&mut self, now: Tick) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [high, low] = self.latched_count.unwrap_or_else(|| self.readable(now)).to_be_bytes();
        let first_of_two = self.access == Access::Both && !self.read_high;
        let byte = if self.access == Access::Low || first_of_two { low } else { high };
        self.read_high = first_of_two;
        if !first_of_two {
            self.latched_count = None;
        }
        byte
    }
}
