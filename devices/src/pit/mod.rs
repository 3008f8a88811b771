// SPDX-License-Identifier: MIT OR Apache-2.0
//! The 8254 interval timer at ports 40h–43h and the system control port 61h.
//!
//! Follows the Intel 8254 data sheet (231164) and, for port 61h and the wiring, the ICH9 data sheet (316972), sections
//! 13.3 and 13.7.1: channel 0 drives IRQ 0, channel 1 once refreshed memory, channel 2 is the speaker's, gated by port
//! 61h. A PC's firmware leaves channel 0 running; here nothing runs before the guest asks, or
//! [`crate::pc::Pc::start_as_bios`] for it.
//!
//! An interrupt that is served late is delivered once, however many periods have passed. Channel 0's wire is
//! drawn only as far as the interrupt controllers can tell: its low phases in modes 2 to 5 are pulses at their end.
//!
//! Hostile party: the guest. Counts are bounded, every state is a closed formula of the time, and a period shorter than
//! [`MIN_INTERVAL`] costs no more than that one.

mod channel;
#[cfg(test)]
mod tests;

use channel::{Channel, Tick};
use vmm_interface::{Device, Instant, Line, Machine, Register, time};

/// Frequency of the counters' clock: a third of the NTSC colour carrier's quadruple.
const HZ: u64 = 1_193_182;
/// Channel 0's wire.
const TIMER_LINE: Line = Line(0);
/// Asking for interrupts more often than this gets them this often.
pub const MIN_INTERVAL: u64 = 20_000;
/// Memory refresh takes its turn every 18 ticks, 15 µs.
const REFRESH_TICKS: Tick = 18;

mod port61 {
    //! Bits of port 61h, "NMI status and control".

    /// Gate of channel 2.
    pub(super) const GATE: u8 = 1 << 0;
    /// Bits that read as written: gate, speaker data, SERR# and IOCHK# disable.
    pub(super) const WRITABLE: u8 = 0x0f;
    /// Toggles with each refresh.
    pub(super) const REFRESH: u8 = 1 << 4;
    /// Channel 2's OUT.
    pub(super) const OUT2: u8 = 1 << 5;
}

/// The timer chip. Eight-bit registers at offsets 0 to 3; port 61h is reached through its own methods.
#[derive(Debug)]
pub struct Pit {
    channels: [Channel; 3],
    /// The writable bits of port 61h.
    control: u8,
    /// The latest time seen. Another vCPU's clock may lag a little, and must not see a rise twice.
    seen: Tick,
    /// When channel 0 next raises its wire.
    next_rise: Option<Tick>,
    last_rise: Instant,
    deadline: Instant,
}

impl Default for Pit {
    /// A timer with nothing running.
    fn default() -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            control: 0,
            seen: 0,
            next_rise: None,
            last_rise: Instant(0),
            deadline: Instant::NEVER,
        }
    }
}

impl Pit {
    fn tick(&mut self, now: Instant) -> Tick {
        let tick = Tick::try_from(time::ticks(now.0, HZ)).unwrap_or(Tick::MAX / 2);
        self.seen = self.seen.max(tick);
        self.seen
    }

    /// Reads port 61h.
    pub fn read_control(&mut self, machine: &mut impl Machine) -> u8 {
        let now = self.tick(machine.now());
        let [_, _, speaker] = &self.channels;
        let refresh = if now / REFRESH_TICKS % 2 != 0 { port61::REFRESH } else { 0 };
        let out2 = if speaker.out(now) { port61::OUT2 } else { 0 };
        self.control | refresh | out2
    }

    /// Writes port 61h.
    pub fn write_control(&mut self, value: u8, machine: &mut impl Machine) {
        let now = self.tick(machine.now());
        let [_, _, speaker] = &mut self.channels;
        self.control = value & port61::WRITABLE;
        speaker.set_gate(value & port61::GATE != 0, now);
    }

    /// Port 43h.
    fn command(&mut self, word: u8, now: Tick) {
        let select = usize::from(word >> 6);
        match (self.channels.get_mut(select), word >> 4 & 3) {
            (None, _) => self.read_back(word, now),
            (Some(channel), 0) => channel.latch_count(now),
            (Some(channel), _) => channel.control(word, now),
        }
    }

    fn read_back(&mut self, word: u8, now: Tick) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if word & (2 << index) == 0 {
                continue;
            }
            if word & 1 << 5 == 0 {
                channel.latch_count(now);
            }
            if word & 1 << 4 == 0 {
                channel.latch_status(now);
            }
        }
    }

    /// Brings channel 0's wire up to `now` and computes the next deadline.
    fn sync(&mut self, now: Tick, machine: &mut impl Machine) {
        let [timer, ..] = &self.channels;
        if self.next_rise.is_some_and(|rise| rise <= now) {
            machine.set_line(TIMER_LINE, false);
            machine.set_line(TIMER_LINE, true);
            self.last_rise = machine.now();
        }
        machine.set_line(TIMER_LINE, timer.resting_level(now));
        self.next_rise = timer.next_rise(now);
        self.deadline = match self.next_rise.and_then(|rise| u64::try_from(rise).ok()) {
            Some(rise) => Instant(time::nanos(rise, HZ)).max(self.last_rise.after(MIN_INTERVAL)),
            None => Instant::NEVER,
        };
    }
}

impl Device for Pit {
    fn read(&mut self, at: Register, machine: &mut impl Machine) -> u64 {
        let now = self.tick(machine.now());
        let channel = usize::try_from(at.offset).ok().and_then(|index| self.channels.get_mut(index));
        // The control word register cannot be read.
        channel.map_or(0xff, |channel| channel.read(now).into())
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        let [byte, ..] = value.to_le_bytes();
        let now = self.tick(machine.now());
        if at.offset == 1 || at.offset == 2 {
            if let Some(channel) = usize::try_from(at.offset).ok().and_then(|index| self.channels.get_mut(index)) {
                channel.write(byte, now);
            }
            return;
        }
        self.sync(now, machine); // Edges that the write would hide.
        match at.offset {
            0 => {
                let [timer, ..] = &mut self.channels;
                timer.write(byte, now);
            }
            3 => self.command(byte, now),
            _ => {}
        }
        self.sync(now, machine);
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn expire(&mut self, machine: &mut impl Machine) {
        let now = self.tick(machine.now());
        self.sync(now, machine);
    }
}
