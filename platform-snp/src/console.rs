// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's devices that carry the guest's two serial lines, by port requests through the GHCB: a 16550 for the terminal, a
//! debug console for the command line.
//!
//! A host that refuses a request loses the byte.

use platform::Console;
use spin::mutex::SpinMutex;

use crate::ghcb::{Refusal, port_read, port_write};

/// COM1 of the host, and its registers as offsets from there (16550 data sheet, table II).
const UART: u16 = 0x3f8;
const DATA: u16 = UART;
const INTERRUPT_ENABLE: u16 = UART + 1;
const FIFO_CONTROL: u16 = UART + 2;
const LINE_CONTROL: u16 = UART + 3;
const MODEM_CONTROL: u16 = UART + 4;
const LINE_STATUS: u16 = UART + 5;
/// The second debug console.
const COMMAND: u16 = 0xea;
/// Line status: a byte has been received; the transmitter takes another byte.
const DATA_READY: u32 = 1 << 0;
const TRANSMIT_EMPTY: u32 = 1 << 5;
/// What a bus without a UART reads as.
const ABSENT: u32 = 0xff;
/// Polls before a byte of output is given up: a stopped terminal must not stop the VM.
const PATIENCE: u32 = 10_000;

/// Keeps the look at the line status together with the byte that follows.
static LOCK: SpinMutex<()> = SpinMutex::new(());

/// Sets the UART up: 8 bits, FIFOs on, DTR, RTS and OUT2 set, interrupt for received bytes.
pub(crate) fn initialise() -> Result<(), Refusal> {
    let _lock = LOCK.lock();
    for (register, value) in [(LINE_CONTROL, 0x03), (FIFO_CONTROL, 0x07), (MODEM_CONTROL, 0x0b), (INTERRUPT_ENABLE, 1)]
    {
        port_write(register, 1, value)?;
    }
    Ok(())
}

/// Sends one byte; drops it if the device does not take it in bounded time.
pub(crate) fn transmit(console: Console, byte: u8) {
    let sent = match console {
        Console::Command => port_write(COMMAND, 1, byte.into()),
        Console::Terminal => {
            let _lock = LOCK.lock();
            let room =
                (0..PATIENCE).any(|_| port_read(LINE_STATUS, 1).is_ok_and(|status| status & TRANSMIT_EMPTY != 0));
            if room { port_write(DATA, 1, byte.into()) } else { Ok(()) }
        }
    };
    // The byte is lost: nobody else could take it.
    let _ = sent;
}

/// The next byte of terminal input.
pub(crate) fn receive(console: Console) -> Option<u8> {
    if console != Console::Terminal {
        return None;
    }
    let _lock = LOCK.lock();
    let status = port_read(LINE_STATUS, 1).ok()?;
    (status != ABSENT && status & DATA_READY != 0).then(|| port_read(DATA, 1).ok()).flatten().map(|byte| byte as u8)
}
