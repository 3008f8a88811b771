// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's devices that carry the guest's two serial lines: a 16550 for the terminal, a debug console for the command line;
//! and the host's real-time clock. How a port is reached is the backend's.
//!
//! Output is written byte by byte while the UART has room, and given up after a bounded wait. A host that refuses a request
//! loses the byte.

use platform::Console;
use spin::mutex::SpinMutex;

/// COM1, and its registers as offsets from there (16550 data sheet, table II).
const UART: u16 = 0x3f8;
const DATA: u16 = UART;
const INTERRUPT_ENABLE: u16 = UART + 1;
const FIFO_CONTROL: u16 = UART + 2;
const LINE_CONTROL: u16 = UART + 3;
const MODEM_CONTROL: u16 = UART + 4;
const LINE_STATUS: u16 = UART + 5;
/// The second debug console.
const COMMAND: u16 = 0xea;
/// Line status: a byte has been received.
const DATA_READY: u8 = 1 << 0;
/// Line status: the transmitter takes another byte.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// What a bus without a UART reads as.
const ABSENT: u8 = 0xff;
/// The MC146818's register select and data.
const CLOCK_SELECT: u16 = 0x70;
const CLOCK_DATA: u16 = 0x71;

/// The host's ports, a byte at a time.
pub trait Ports {
    /// How often the line status is read before a byte of output is given up: a stopped terminal must not stop the VM.
    const PATIENCE: u32;
    /// Why the host did not do it.
    type Refusal;
    /// IN.
    fn read(&self, port: u16) -> Result<u8, Self::Refusal>;
    /// OUT.
    fn write(&self, port: u16, value: u8) -> Result<(), Self::Refusal>;
}

/// The consoles.
pub struct Consoles<P> {
    ports: P,
    /// Keeps the look at the line status together with the byte that follows.
    terminal: SpinMutex<Terminal>,
}

struct Terminal {
    /// It did not take the last byte, so the next one does not wait: the guest's processors wait for each other here.
    stopped: bool,
}

impl<P: Ports> Consoles<P> {
    /// The consoles behind these ports.
    pub const fn new(ports: P) -> Self {
        Self { ports, terminal: SpinMutex::new(Terminal { stopped: false }) }
    }

    /// Sets the UART up: 8 bits, FIFOs on, DTR, RTS and OUT2 set, interrupt for received bytes.
    pub fn initialise(&self) -> Result<(), P::Refusal> {
        let _terminal = self.terminal.lock();
        self.ports.write(LINE_CONTROL, 0x03)?;
        self.ports.write(FIFO_CONTROL, 0x07)?;
        self.ports.write(MODEM_CONTROL, 0x0b)?;
        self.ports.write(INTERRUPT_ENABLE, 0x01)
    }

    /// Sends one byte; drops it if the device does not take it in bounded time.
    pub fn transmit(&self, console: Console, byte: u8) {
        // A byte that the host refuses is lost: nobody else could take it.
        let _ = match console {
            Console::Command => self.ports.write(COMMAND, byte),
            Console::Terminal => {
                let mut terminal = self.terminal.lock();
                let patience = if terminal.stopped { 1 } else { P::PATIENCE };
                let has_room = |_| self.ports.read(LINE_STATUS).is_ok_and(|status| status & TRANSMIT_EMPTY != 0);
                terminal.stopped = !(0..patience).any(has_room);
                if terminal.stopped { Ok(()) } else { self.ports.write(DATA, byte) }
            }
        };
    }

    /// The next byte of terminal input.
    pub fn receive(&self, console: Console) -> Option<u8> {
        if console != Console::Terminal {
            return None;
        }
        let _terminal = self.terminal.lock();
        let status = self.ports.read(LINE_STATUS).ok()?;
        if status == ABSENT || status & DATA_READY == 0 {
            return None;
        }
        self.ports.read(DATA).ok()
    }

    /// A register of the host's real-time clock; all ones if the host has none. Two processors that read it at once get each
    /// other's.
    pub fn clock_register(&self, register: u8) -> u8 {
        // The upper bit of the select masks NMIs; it is clear.
        let selected = self.ports.write(CLOCK_SELECT, register & 0x7f);
        selected.and_then(|()| self.ports.read(CLOCK_DATA)).unwrap_or(ABSENT)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A host with a 16550 and a clock, and all that it was asked.
    #[derive(Default)]
    struct Host {
        status: u8,
        input: u8,
        select: u8,
        refuses: bool,
        log: Vec<(u16, Option<u8>)>,
    }

    impl Ports for RefCell<Host> {
        const PATIENCE: u32 = 50;
        type Refusal = ();

        fn read(&self, port: u16) -> Result<u8, ()> {
            let mut host = self.borrow_mut();
            host.log.push((port, None));
            match port {
                _ if host.refuses => Err(()),
                LINE_STATUS => Ok(host.status),
                DATA => Ok(host.input),
                CLOCK_DATA => Ok(host.select + 1),
                _ => Ok(ABSENT),
            }
        }

        fn write(&self, port: u16, value: u8) -> Result<(), ()> {
            let mut host = self.borrow_mut();
            host.log.push((port, Some(value)));
            if port == CLOCK_SELECT {
                host.select = value;
            }
            if host.refuses { Err(()) } else { Ok(()) }
        }
    }

    fn consoles(status: u8) -> Consoles<RefCell<Host>> {
        Consoles::new(RefCell::new(Host { status, input: b'i', ..Host::default() }))
    }

    fn asked(consoles: &Consoles<RefCell<Host>>) -> Vec<(u16, Option<u8>)> {
        core::mem::take(&mut consoles.ports.borrow_mut().log)
    }

    #[test]
    fn a_byte_waits_for_room() {
        let consoles = consoles(TRANSMIT_EMPTY);
        consoles.transmit(Console::Terminal, b'x');
        assert_eq!(asked(&consoles), [(LINE_STATUS, None), (DATA, Some(b'x'))]);
        consoles.transmit(Console::Command, b'y');
        assert_eq!(asked(&consoles), [(COMMAND, Some(b'y'))]);
    }

    #[test]
    fn a_stopped_terminal_is_waited_for_once() {
        let consoles = consoles(0);
        consoles.transmit(Console::Terminal, b'x');
        assert_eq!(asked(&consoles).len(), 50, "all of the patience, and the byte is dropped");
        consoles.transmit(Console::Terminal, b'x');
        assert_eq!(asked(&consoles).len(), 1);
        consoles.ports.borrow_mut().status = TRANSMIT_EMPTY;
        consoles.transmit(Console::Terminal, b'y');
        assert_eq!(asked(&consoles), [(LINE_STATUS, None), (DATA, Some(b'y'))], "it goes on");
        consoles.ports.borrow_mut().status = 0;
        consoles.transmit(Console::Terminal, b'x');
        assert_eq!(asked(&consoles).len(), 50, "it has earned patience again");
    }

    #[test]
    fn input_is_what_the_status_announces() {
        assert_eq!(consoles(DATA_READY).receive(Console::Terminal), Some(b'i'));
        assert_eq!(consoles(DATA_READY).receive(Console::Command), None);
        assert_eq!(consoles(TRANSMIT_EMPTY).receive(Console::Terminal), None);
        assert_eq!(consoles(ABSENT).receive(Console::Terminal), None, "no UART at all");
    }

    #[test]
    fn a_host_that_refuses_loses_bytes_and_has_no_clock() {
        let consoles = consoles(DATA_READY | TRANSMIT_EMPTY);
        assert_eq!(consoles.clock_register(0x89), 0x0a, "the NMI mask stays clear");
        consoles.ports.borrow_mut().refuses = true;
        consoles.transmit(Console::Command, b'x');
        consoles.transmit(Console::Terminal, b'x');
        assert_eq!(consoles.receive(Console::Terminal), None);
        assert_eq!(consoles.clock_register(0), ABSENT);
        assert_eq!(consoles.initialise(), Err(()));
    }
}
