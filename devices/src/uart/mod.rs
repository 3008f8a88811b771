// SPDX-License-Identifier: MIT OR Apache-2.0
//! A 16550A serial port.
//!
//! Follows the National Semiconductor PC16550D data sheet (TL/C/8652). The line is perfect: what is written leaves at once,
//! so the transmitter is always empty, and the other end always has carrier, is ready, and keeps to eight bits whatever
//! LCR says; the word length counts for loopback and for the length of a character. The interrupt line passes through OUT2,
//! as on every PC's card, and OUT2 is inactive in loopback.
//!
//! Hostile parties: the guest, and the host, which sends what it likes as often as it likes. The receive FIFO is bounded;
//! whoever feeds it asks [`Uart::has_room`] first, and otherwise causes the overrun that a real line would.

mod fifo;
#[cfg(test)]
mod tests;

use fifo::{DEPTH, Fifo};
use vmm_interface::{Console, Device, Instant, Line, Machine, Register};

mod regs {
    //! Bits of the registers (data sheet, table II).

    /// IER: data available, or characters waiting.
    pub(super) const IER_DATA: u8 = 1 << 0;
    /// IER: transmitter empty.
    pub(super) const IER_TRANSMIT: u8 = 1 << 1;
    /// IER: line status.
    pub(super) const IER_LINE: u8 = 1 << 2;
    /// IER: modem status.
    pub(super) const IER_MODEM: u8 = 1 << 3;
    /// IIR: nothing pending.
    pub(super) const IIR_NONE: u8 = 0x01;
    /// IIR sources, the most urgent first.
    pub(super) const IIR_LINE: u8 = 0x06;
    pub(super) const IIR_DATA: u8 = 0x04;
    pub(super) const IIR_TIMEOUT: u8 = 0x0c;
    pub(super) const IIR_TRANSMIT: u8 = 0x02;
    pub(super) const IIR_MODEM: u8 = 0x00;
    /// IIR: the FIFOs are on.
    pub(super) const IIR_FIFO: u8 = 0xc0;
    /// FCR (WO): FIFOs on.
    pub(super) const FCR_ENABLE: u8 = 1 << 0;
    /// FCR (WO): empty the receive FIFO.
    pub(super) const FCR_CLEAR_RECEIVE: u8 = 1 << 1;
    /// LCR: word length less five.
    pub(super) const LCR_LENGTH: u8 = 3;
    /// LCR: more than one stop bit.
    pub(super) const LCR_STOP: u8 = 1 << 2;
    /// LCR: parity bit.
    pub(super) const LCR_PARITY: u8 = 1 << 3;
    /// LCR: send a break.
    pub(super) const LCR_BREAK: u8 = 1 << 6;
    /// LCR: the divisor is at offsets 0 and 1.
    pub(super) const LCR_DIVISOR: u8 = 1 << 7;
    pub(super) const MCR_DTR: u8 = 1 << 0;
    pub(super) const MCR_RTS: u8 = 1 << 1;
    pub(super) const MCR_OUT1: u8 = 1 << 2;
    /// MCR: on a PC, lets the interrupt out.
    pub(super) const MCR_OUT2: u8 = 1 << 3;
    pub(super) const MCR_LOOPBACK: u8 = 1 << 4;
    /// MCR: bits that exist.
    pub(super) const MCR_WRITABLE: u8 = 0x1f;
    /// LSR: data ready.
    pub(super) const LSR_DATA: u8 = 1 << 0;
    /// LSR: a character was lost.
    pub(super) const LSR_OVERRUN: u8 = 1 << 1;
    /// LSR: no stop bit.
    pub(super) const LSR_FRAMING: u8 = 1 << 3;
    /// LSR: break.
    pub(super) const LSR_BREAK: u8 = 1 << 4;
    /// LSR: the transmitter's holding and shift registers are empty.
    pub(super) const LSR_TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;
    /// LSR: an error somewhere in the FIFO.
    pub(super) const LSR_FIFO_ERROR: u8 = 1 << 7;
    /// MSR: ring indicator has ended.
    pub(super) const MSR_RING_ENDED: u8 = 1 << 2;
    pub(super) const MSR_CTS: u8 = 1 << 4;
    pub(super) const MSR_DSR: u8 = 1 << 5;
    pub(super) const MSR_RING: u8 = 1 << 6;
    pub(super) const MSR_DCD: u8 = 1 << 7;
}

/// Nanoseconds of one bit at divisor 1: 115200 baud.
const BIT_NANOS: u64 = 8_681;

/// One serial port. Eight-bit registers at offsets 0 to 7.
#[derive(Debug)]
pub struct Uart {
    // Configuration.
    line: Line,
    console: Console,

    // Guest-visible state.
    interrupt_enable: u8,
    fifo_enabled: bool,
    /// Characters that make an interrupt.
    trigger: usize,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: u16,
    received: Fifo,
    /// Overrun, parity, framing and break, until LSR is read.
    errors: u8,
    /// The upper half of MSR.
    modem: u8,
    /// The lower half of MSR, until it is read.
    modem_changes: u8,
    /// The transmitter's interrupt, until IIR is read.
    transmit_pending: bool,
    /// Characters wait below the trigger level for four character times.
    timed_out: bool,
    /// When that will be, if nothing moves.
    timeout: Instant,
    deadline: Instant,
}

impl Uart {
    /// A port after reset.
    pub fn new(console: Console, line: Line) -> Self {
        Self {
            line,
            console,
            interrupt_enable: 0,
            fifo_enabled: false,
            trigger: 1,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            divisor: 1,
            received: Fifo::default(),
            errors: 0,
            modem: regs::MSR_CTS | regs::MSR_DSR | regs::MSR_DCD,
            modem_changes: 0,
            transmit_pending: false,
            timed_out: false,
            timeout: Instant::NEVER,
            deadline: Instant::NEVER,
        }
    }

    /// Whether [`Self::receive`] would take a byte. False in loopback, where the line is cut.
    pub const fn has_room(&self) -> bool {
        !self.is_looped() && self.received.len() < self.depth()
    }

    /// A byte comes from the line. False if it is lost, for lack of room (an overrun, which the guest sees) or in loopback.
    pub fn receive(&mut self, byte: u8, machine: &mut impl Machine) -> bool {
        if self.is_looped() {
            return false;
        }
        let taken = self.push(byte, 0, machine.now());
        self.sync(machine);
        taken
    }

    const fn is_looped(&self) -> bool {
        self.modem_control & regs::MCR_LOOPBACK != 0
    }

    const fn depth(&self) -> usize {
        if self.fifo_enabled { DEPTH } else { 1 }
    }

    const fn divisor_is_selected(&self) -> bool {
        self.line_control & regs::LCR_DIVISOR != 0
    }

    /// RBR.
    fn read_data(&mut self, now: Instant) -> u8 {
        let byte = self.received.pop().unwrap_or(0);
        self.errors |= self.received.take_errors();
        self.timed_out = false;
        self.timeout = now.after(4 * self.character_nanos());
        byte
    }

    /// THR.
    fn write_data(&mut self, byte: u8, machine: &mut impl Machine) {
        self.transmit_pending = false;
        self.sync(machine);
        if self.is_looped() {
            let mask = 0xff >> (3 - (self.line_control & regs::LCR_LENGTH));
            self.push(byte & mask, 0, machine.now());
        } else {
            machine.transmit(self.console, byte);
        }
        self.transmit_pending = true;
    }

    /// IER. An empty transmitter interrupts as soon as it may.
    const fn write_interrupt_enable(&mut self, value: u8) {
        let risen = value & !self.interrupt_enable;
        self.interrupt_enable = value & 0x0f;
        self.transmit_pending |= risen & regs::IER_TRANSMIT != 0;
    }

    /// IIR. Reading it ends the transmitter's interrupt if that is what it told.
    fn read_interrupt_identity(&mut self) -> u8 {
        let source = self.interrupt();
        if source == regs::IIR_TRANSMIT {
            self.transmit_pending = false;
        }
        source | if self.fifo_enabled { regs::IIR_FIFO } else { 0 }
    }

    /// FCR.
    fn write_fifo_control(&mut self, value: u8) {
        let enabled = value & regs::FCR_ENABLE != 0;
        if enabled != self.fifo_enabled || enabled && value & regs::FCR_CLEAR_RECEIVE != 0 {
            self.received.clear();
            self.timed_out = false;
        }
        self.fifo_enabled = enabled;
        self.trigger = match value >> 6 {
            _ if !enabled => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        };
    }

    /// LCR.
    fn write_line_control(&mut self, value: u8, now: Instant) {
        let breaks = value & !self.line_control & regs::LCR_BREAK != 0;
        self.line_control = value;
        if breaks && self.is_looped() {
            self.push(0, regs::LSR_BREAK | regs::LSR_FRAMING, now);
        }
    }

    /// MCR. In loopback its outputs are the modem inputs.
    fn write_modem_control(&mut self, value: u8) {
        self.modem_control = value & regs::MCR_WRITABLE;
        let wired = [
            (regs::MCR_RTS, regs::MSR_CTS),
            (regs::MCR_DTR, regs::MSR_DSR),
            (regs::MCR_OUT1, regs::MSR_RING),
            (regs::MCR_OUT2, regs::MSR_DCD),
        ];
        let modem = if self.is_looped() {
            wired.into_iter().filter(|(out, _)| value & out != 0).fold(0, |all, (_, input)| all | input)
        } else {
            regs::MSR_CTS | regs::MSR_DSR | regs::MSR_DCD
        };
        let changed = self.modem ^ modem;
        self.modem_changes |= (changed & !regs::MSR_RING) >> 4;
        if changed & self.modem & regs::MSR_RING != 0 {
            self.modem_changes |= regs::MSR_RING_ENDED;
        }
        self.modem = modem;
    }

    /// LSR. Reading it clears the errors.
    fn read_line_status(&mut self) -> u8 {
        let errors = core::mem::take(&mut self.errors);
        let in_fifo = errors & !regs::LSR_OVERRUN != 0 || self.received.has_errors();
        regs::LSR_TRANSMITTER_EMPTY
            | errors
            | if self.received.is_empty() { 0 } else { regs::LSR_DATA }
            | if in_fifo && self.fifo_enabled { regs::LSR_FIFO_ERROR } else { 0 }
    }

    /// MSR. Reading it clears the changes.
    const fn read_modem_status(&mut self) -> u8 {
        let status = self.modem | self.modem_changes;
        self.modem_changes = 0;
        status
    }

    /// Puts a character into the receiver.
    fn push(&mut self, byte: u8, errors: u8, now: Instant) -> bool {
        let room = self.received.len() < self.depth();
        if !room {
            self.errors |= regs::LSR_OVERRUN;
            if self.fifo_enabled {
                return false;
            }
            self.received.clear(); // Without FIFOs the new character replaces the old one.
        }
        let first = self.received.is_empty();
        self.received.push(byte, errors);
        if first {
            self.errors |= self.received.take_errors();
        }
        self.timeout = now.after(4 * self.character_nanos());
        room
    }

    fn character_nanos(&self) -> u64 {
        let lcr = self.line_control;
        let bits = 7
            + u64::from(lcr & regs::LCR_LENGTH)
            + u64::from(lcr & regs::LCR_PARITY != 0)
            + u64::from(lcr & regs::LCR_STOP != 0);
        bits * u64::from(self.divisor.max(1)) * BIT_NANOS
    }

    /// The most urgent enabled interrupt, as IIR tells it.
    fn interrupt(&self) -> u8 {
        let enabled = |bit: u8| self.interrupt_enable & bit != 0;
        if enabled(regs::IER_LINE) && self.errors != 0 {
            regs::IIR_LINE
        } else if enabled(regs::IER_DATA) && self.received.len() >= self.trigger {
            regs::IIR_DATA
        } else if enabled(regs::IER_DATA) && self.timed_out {
            regs::IIR_TIMEOUT
        } else if enabled(regs::IER_TRANSMIT) && self.transmit_pending {
            regs::IIR_TRANSMIT
        } else if enabled(regs::IER_MODEM) && self.modem_changes != 0 {
            regs::IIR_MODEM
        } else {
            regs::IIR_NONE
        }
    }

    /// Brings the character timeout up to date, drives the interrupt line, and sets the deadline.
    fn sync(&mut self, machine: &mut impl Machine) {
        let waiting = self.fifo_enabled && !self.received.is_empty() && !self.timed_out;
        self.timed_out |= waiting && machine.now() >= self.timeout;
        let counts = waiting && !self.timed_out && self.interrupt_enable & regs::IER_DATA != 0;
        self.deadline = if counts && self.received.len() < self.trigger { self.timeout } else { Instant::NEVER };
        let connected = self.modem_control & (regs::MCR_OUT2 | regs::MCR_LOOPBACK) == regs::MCR_OUT2;
        machine.set_line(self.line, connected && self.interrupt() != regs::IIR_NONE);
    }
}

impl Device for Uart {
    fn read(&mut self, at: Register, machine: &mut impl Machine) -> u64 {
        let [divisor_high, divisor_low] = self.divisor.to_be_bytes();
        self.sync(machine); // A timeout may have passed.
        let value = match (at.offset, self.divisor_is_selected()) {
            (0, true) => divisor_low,
            (1, true) => divisor_high,
            (0, false) => self.read_data(machine.now()),
            (1, false) => self.interrupt_enable,
            (2, _) => self.read_interrupt_identity(),
            (3, _) => self.line_control,
            (4, _) => self.modem_control,
            (5, _) => self.read_line_status(),
            (6, _) => self.read_modem_status(),
            (7, _) => self.scratch,
            _ => 0xff,
        };
        self.sync(machine);
        value.into()
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        let [byte, ..] = value.to_le_bytes();
        let [divisor_high, divisor_low] = self.divisor.to_be_bytes();
        match (at.offset, self.divisor_is_selected()) {
            (0, true) => self.divisor = u16::from_be_bytes([divisor_high, byte]),
            (1, true) => self.divisor = u16::from_be_bytes([byte, divisor_low]),
            (0, false) => self.write_data(byte, machine),
            (1, false) => self.write_interrupt_enable(byte),
            (2, _) => self.write_fifo_control(byte),
            (3, _) => self.write_line_control(byte, machine.now()),
            (4, _) => self.write_modem_control(byte),
            (7, _) => self.scratch = byte,
            _ => {} // LSR and MSR cannot be written.
        }
        self.sync(machine);
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn expire(&mut self, machine: &mut impl Machine) {
        self.sync(machine);
    }
}
