// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's devices that carry the guest's two serial lines: a 16550 for the terminal, a debug console for the command line.
//!
//! Output is written byte by byte while the UART has room, and given up after a bounded wait; input raises an interrupt.

use platform::Console;
use spin::mutex::SpinMutex;

use crate::port;

/// COM1 of QEMU, and its registers as offsets from there (16550 data sheet, table II).
const UART: u16 = 0x3f8;
const DATA: u16 = UART;
const INTERRUPT_ENABLE: u16 = UART + 1;
const FIFO_CONTROL: u16 = UART + 2;
const LINE_CONTROL: u16 = UART + 3;
const MODEM_CONTROL: u16 = UART + 4;
const LINE_STATUS: u16 = UART + 5;
/// QEMU's second `isa-debugcon`.
const COMMAND: u16 = 0xea;
/// Line status: a byte has been received.
const DATA_READY: u8 = 1 << 0;
/// Line status: the transmitter takes another byte.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// Polls before a byte of output is given up: a stopped terminal must not stop the VM.
const PATIENCE: u32 = 100_000;

/// Keeps the look at the line status together with the byte that follows.
static LOCK: SpinMutex<Terminal> = SpinMutex::new(Terminal { stopped: false });

struct Terminal {
    /// It did not take the last byte, so the next one does not wait: the guest's processors wait for each other here.
    stopped: bool,
}

/// Sets the UART up: 8 bits, FIFOs on, DTR, RTS and OUT2 set, interrupt for received bytes.
pub(crate) fn initialise() {
    let _lock = LOCK.lock();
    port::write::<u8>(LINE_CONTROL, 0x03);
    port::write::<u8>(FIFO_CONTROL, 0x07);
    port::write::<u8>(MODEM_CONTROL, 0x0b);
    port::write::<u8>(INTERRUPT_ENABLE, 0x01);
}

/// Sends one byte; drops it if the device does not take it in bounded time.
pub(crate) fn transmit(console: Console, byte: u8) {
    match console {
        Console::Command => port::write(COMMAND, byte),
        Console::Terminal => {
            let mut terminal = LOCK.lock();
            let patience = if terminal.stopped { 1 } else { PATIENCE };
            let room = (0..patience).any(|_| port::read::<u8>(LINE_STATUS) & TRANSMIT_EMPTY != 0);
            terminal.stopped = !room;
            if room {
                port::write(DATA, byte);
            }
        }
    }
}

/// The next byte of terminal input.
pub(crate) fn receive(console: Console) -> Option<u8> {
    /// What a bus without a UART reads as.
    const ABSENT: u8 = 0xff;
    if console != Console::Terminal {
        return None;
    }
    let _lock = LOCK.lock();
    let status = port::read::<u8>(LINE_STATUS);
    (status != ABSENT && status & DATA_READY != 0).then(|| port::read(DATA))
}
