// SPDX-License-Identifier: MIT OR Apache-2.0
//! The keyboard controller at ports 60h and 64h: present, with nothing plugged in.
//!
//! Follows the IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller", and the 8042
//! of the PC/AT before it. A guest finds a working controller with a keyboard connector and no auxiliary channel:
//!
//! - A byte for the keyboard is answered by FEh with the time-out bit, as the controller does when no device clocks the
//!   byte out. A driver gives up at once; silence would cost it its own time-out.
//! - The auxiliary channel does not exist. Its test reports a clock line stuck low, and the loop-back command answers
//!   without the auxiliary flag, which is how a driver learns it without waiting.
//! - The reset line works, by the output port and by the pulse commands. The A20 bit reads back and masks nothing, see
//!   [`super::SystemControl`].

use core::ops::RangeInclusive;

use vmm_interface::{Device, Lifecycle, Line, Machine, Register};

/// Range of [`I8042::data_port`].
pub const DATA_PORT: RangeInclusive<u64> = 0x60..=0x60;
/// Range of [`I8042::command_port`].
pub const COMMAND_PORT: RangeInclusive<u64> = 0x64..=0x64;

/// The keyboard interrupt. The auxiliary one (12) is never raised.
const KEYBOARD: Line = Line(1);

mod status {
    pub(super) const OUTPUT_FULL: u8 = 1 << 0;
    pub(super) const SYSTEM: u8 = 1 << 2;
    pub(super) const COMMAND: u8 = 1 << 3;
    pub(super) const NOT_LOCKED: u8 = 1 << 4;
    pub(super) const TIMEOUT: u8 = 1 << 6;
}

/// The command byte: RAM byte 0.
mod command_byte {
    pub(super) const KEYBOARD_INTERRUPT: u8 = 1 << 0;
    pub(super) const SYSTEM: u8 = 1 << 2;
    pub(super) const KEYBOARD_OFF: u8 = 1 << 4;
    pub(super) const AUXILIARY_OFF: u8 = 1 << 5;
}

mod output_port {
    pub(super) const NOT_RESET: u8 = 1 << 0;
    pub(super) const A20: u8 = 1 << 1;
    pub(super) const KEYBOARD_FULL: u8 = 1 << 4;
    /// Pins without a function, pulled up.
    pub(super) const PULLED_UP: u8 = 0xCC;
}

mod answer {
    pub(super) const SELF_TEST_PASSED: u8 = 0x55;
    pub(super) const INTERFACE_GOOD: u8 = 0x00;
    pub(super) const CLOCK_STUCK_LOW: u8 = 0x01;
    pub(super) const NO_PASSWORD: u8 = 0xF1;
    pub(super) const RESEND: u8 = 0xFE;
}

/// Input port: keyboard not locked, everything else pulled up but the reserved low bits.
const INPUT_PORT: u8 = 0xF0;

/// Where the next byte written to port 60h goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Keyboard,
    Ram(u8),
    OutputPort,
    /// Back into the output buffer.
    Loop,
    Auxiliary,
}

/// The controller. [`Self::data_port`] and [`Self::command_port`] are its two devices.
#[derive(Debug)]
pub struct I8042 {
    ram: [u8; 32],
    output_port: u8,
    /// The last byte put out; port 60h repeats it.
    output: u8,
    output_full: bool,
    timed_out: bool,
    last_write_was_command: bool,
    destination: Destination,
}

impl Default for I8042 {
    /// The controller as firmware leaves it when no keyboard answers: both channels off, self-test passed.
    fn default() -> Self {
        let mut ram = [0; 32];
        ram[0] = command_byte::SYSTEM | command_byte::KEYBOARD_OFF | command_byte::AUXILIARY_OFF;
        Self {
            ram,
            output_port: output_port::PULLED_UP | output_port::A20 | output_port::NOT_RESET,
            output: 0,
            output_full: false,
            timed_out: false,
            last_write_was_command: true,
            destination: Destination::Keyboard,
        }
    }
}

impl I8042 {
    /// Port 60h.
    pub fn data_port(&mut self) -> I8042DataPort<'_> {
        I8042DataPort(self)
    }

    /// Port 64h.
    pub fn command_port(&mut self) -> I8042CommandPort<'_> {
        I8042CommandPort(self)
    }

    fn status(&self) -> u8 {
        let mut value = status::NOT_LOCKED;
        for (on, bit) in [
            (self.output_full, status::OUTPUT_FULL),
            (self.ram[0] & command_byte::SYSTEM != 0, status::SYSTEM),
            (self.last_write_was_command, status::COMMAND),
            (self.timed_out, status::TIMEOUT),
        ] {
            value |= if on { bit } else { 0 };
        }
        value
    }

    fn read_data(&mut self) -> u8 {
        self.output_full = false;
        self.timed_out = false;
        self.output
    }

    fn command(&mut self, command: u8, machine: &mut impl Machine) {
        self.last_write_was_command = true;
        self.destination = Destination::Keyboard;
        match command {
            0x20..=0x3F => self.put_out(self.ram.get(usize::from(command & 0x1F)).copied().unwrap_or(0)),
            0x60..=0x7F => self.destination = Destination::Ram(command & 0x1F),
            0xA4 => self.put_out(answer::NO_PASSWORD),
            0xA7 => self.ram[0] |= command_byte::AUXILIARY_OFF,
            0xA8 => self.ram[0] &= !command_byte::AUXILIARY_OFF,
            0xA9 => self.put_out(answer::CLOCK_STUCK_LOW),
            0xAA => self.self_test(),
            0xAB => self.put_out(answer::INTERFACE_GOOD),
            0xAD => self.ram[0] |= command_byte::KEYBOARD_OFF,
            0xAE => self.ram[0] &= !command_byte::KEYBOARD_OFF,
            0xC0 => self.put_out(INPUT_PORT),
            0xD0 => self.put_out(self.output_port()),
            0xD1 => self.destination = Destination::OutputPort,
            0xD2 | 0xD3 => self.destination = Destination::Loop,
            0xD4 => self.destination = Destination::Auxiliary,
            // A20 off and on, by one command each.
            0xDD => self.output_port &= !output_port::A20,
            0xDF => self.output_port |= output_port::A20,
            // Test inputs: both clock lines low.
            0xE0 => self.put_out(0),
            // Pulses those of the output port's low four pins whose bit is clear. Only the reset pin feels a pulse.
            0xF0..=0xFF if command & output_port::NOT_RESET == 0 => machine.request(Lifecycle::Reset),
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8, machine: &mut impl Machine) {
        self.last_write_was_command = false;
        match core::mem::replace(&mut self.destination, Destination::Keyboard) {
            Destination::Keyboard => {
                // Sending to the keyboard opens its channel.
                self.ram[0] &= !command_byte::KEYBOARD_OFF;
                self.no_answer();
            }
            Destination::Ram(index) => {
                if let Some(byte) = self.ram.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
            Destination::OutputPort => {
                self.output_port = value | output_port::PULLED_UP;
                if value & output_port::NOT_RESET == 0 {
                    machine.request(Lifecycle::Reset);
                }
            }
            Destination::Loop => self.put_out(value),
            Destination::Auxiliary => self.no_answer(),
        }
    }

    fn self_test(&mut self) {
        self.ram[0] |= command_byte::SYSTEM | command_byte::KEYBOARD_OFF | command_byte::AUXILIARY_OFF;
        self.put_out(answer::SELF_TEST_PASSED);
    }

    /// The controller sent a byte and nobody was there.
    fn no_answer(&mut self) {
        self.put_out(answer::RESEND);
        self.timed_out = true;
    }

    fn put_out(&mut self, value: u8) {
        self.output = value;
        self.output_full = true;
        self.timed_out = false;
    }

    fn output_port(&self) -> u8 {
        let full = if self.output_full { output_port::KEYBOARD_FULL } else { 0 };
        self.output_port & !output_port::KEYBOARD_FULL | full
    }

    fn sync(&self, machine: &mut impl Machine) {
        let enabled = self.ram[0] & command_byte::KEYBOARD_INTERRUPT != 0;
        machine.set_line(KEYBOARD, self.output_full && enabled);
    }
}

/// Port 60h of an [`I8042`].
#[derive(Debug)]
pub struct I8042DataPort<'a>(&'a mut I8042);

impl Device for I8042DataPort<'_> {
    fn read(&mut self, at: Register, machine: &mut impl Machine) -> u64 {
        if at.width != 1 {
            return at.ones();
        }
        let value = self.0.read_data();
        self.0.sync(machine);
        value.into()
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        if at.width == 1 {
            self.0.write_data(value as u8, machine);
            self.0.sync(machine);
        }
    }
}

/// Port 64h of an [`I8042`]: reads status, takes commands.
#[derive(Debug)]
pub struct I8042CommandPort<'a>(&'a mut I8042);

impl Device for I8042CommandPort<'_> {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        if at.width == 1 { self.0.status().into() } else { at.ones() }
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        if at.width == 1 {
            self.0.command(value as u8, machine);
            self.0.sync(machine);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, survives_anything, write};
    use super::*;
    use crate::fake::FakeMachine;

    fn command(controller: &mut I8042, value: u8) -> Option<Lifecycle> {
        write(&mut controller.command_port(), 0, 1, value.into())
    }

    fn data(controller: &mut I8042, value: u8) -> Option<Lifecycle> {
        write(&mut controller.data_port(), 0, 1, value.into())
    }

    fn status(controller: &mut I8042) -> u64 {
        read(&mut controller.command_port(), 0, 1)
    }

    /// Sends a command and takes its answer.
    fn ask(controller: &mut I8042, value: u8) -> u64 {
        command(controller, value);
        assert_eq!(status(controller) & 1, 1, "an answer to {value:#x}");
        let answer = read(&mut controller.data_port(), 0, 1);
        assert_eq!(status(controller) & 1, 0, "it was taken");
        answer
    }

    #[test]
    fn any_access_is_answered() {
        let mut controller = I8042::default();
        survives_anything(&mut controller.data_port(), 1);
        survives_anything(&mut controller.command_port(), 1);
        for first in 0..=255 {
            for second in [0, 1, 0x5A, 0xFF] {
                command(&mut controller, first);
                data(&mut controller, second);
                read(&mut controller.data_port(), 0, 1);
            }
        }
    }

    #[test]
    fn controller_starts_idle_and_unlocked() {
        assert_eq!(status(&mut I8042::default()), 0x1C);
    }

    #[test]
    fn self_tests_pass() {
        let mut controller = I8042::default();
        assert_eq!(ask(&mut controller, 0xAA), 0x55);
        assert_eq!(ask(&mut controller, 0xAB), 0x00);
    }

    #[test]
    fn command_byte_is_read_back_and_follows_the_channel_commands() {
        let mut controller = I8042::default();
        assert_eq!(ask(&mut controller, 0x20), 0x34);
        command(&mut controller, 0x60);
        data(&mut controller, 0x47);
        assert_eq!(status(&mut controller) & 0x09, 0, "no answer, and the last write was data");
        assert_eq!(ask(&mut controller, 0x20), 0x47);
        for (value, expected) in [(0xAD, 0x57), (0xA7, 0x77), (0xAE, 0x67), (0xA8, 0x47)] {
            command(&mut controller, value);
            assert_eq!(ask(&mut controller, 0x20), expected);
        }
    }

    #[test]
    fn drivers_learn_at_once_that_there_is_no_auxiliary_channel() {
        let mut controller = I8042::default();
        command(&mut controller, 0xD3);
        data(&mut controller, 0x5A);
        assert_eq!(status(&mut controller) & 0x21, 0x01, "answered, without the auxiliary flag");
        assert_eq!(ask(&mut controller, 0xA9), 0x01);
    }

    #[test]
    fn a_byte_for_the_absent_keyboard_times_out_and_interrupts_if_enabled() {
        let mut controller = I8042::default();
        let mut machine = FakeMachine::default();
        let port = Register { offset: 0, width: 1 };
        controller.data_port().write(port, 0xF2, &mut machine);
        assert_eq!(controller.command_port().read(port, &mut machine), 0x55);
        assert!(!machine.levels[1]);
        controller.command_port().write(port, 0x60, &mut machine);
        controller.data_port().write(port, 0x45, &mut machine);
        assert!(machine.levels[1], "enabled while full");
        assert_eq!(controller.data_port().read(port, &mut machine), 0xFE);
        assert!(!machine.levels[1]);
        assert_eq!(controller.command_port().read(port, &mut machine) & 0x41, 0);
    }

    #[test]
    fn output_port_keeps_a20_and_resets_when_its_reset_pin_falls() {
        let mut controller = I8042::default();
        assert_eq!(ask(&mut controller, 0xD0), 0xCF);
        command(&mut controller, 0xD1);
        assert_eq!(data(&mut controller, 0xDD), None);
        assert_eq!(ask(&mut controller, 0xD0), 0xCD);
        command(&mut controller, 0xDF);
        assert_eq!(ask(&mut controller, 0xD0), 0xCF);
        command(&mut controller, 0xD1);
        assert_eq!(data(&mut controller, 0xFE), Some(Lifecycle::Reset));
    }

    #[test]
    fn pulse_commands_reset_only_with_the_reset_pin_among_them() {
        for value in 0xF0..=0xFF_u8 {
            let expected = (value & 1 == 0).then_some(Lifecycle::Reset);
            assert_eq!(command(&mut I8042::default(), value), expected, "{value:#x}");
        }
    }

    #[test]
    fn a_new_command_cancels_the_parameter_that_the_last_one_waited_for() {
        let mut controller = I8042::default();
        command(&mut controller, 0xD1);
        command(&mut controller, 0xAD);
        assert_eq!(data(&mut controller, 0x00), None);
    }

    #[test]
    fn only_byte_accesses_reach_the_controller() {
        let mut controller = I8042::default();
        assert_eq!(read(&mut controller.command_port(), 0, 2), 0xFFFF);
        assert_eq!(write(&mut controller.command_port(), 0, 2, 0xFE), None);
    }
}
