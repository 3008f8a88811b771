// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines for `cargo xtask test hostile` on a serial port that the victims garble: each is marked, carries a check sum, and
//! is written after the port was set up again.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use guests::instructions::{in_byte, out_byte, time_stamp};

const COM1: u16 = 0x3f8;

static TAKEN: AtomicBool = AtomicBool::new(false);
/// How long the warden waits for a victim that may have been stopped inside, in TSC ticks.
static PATIENCE: AtomicU64 = AtomicU64::new(0);

pub(crate) fn initialise(patience: u64) {
    PATIENCE.store(patience, SeqCst);
}

/// Keeps a victim's access to the serial port out of the warden's lines.
pub(crate) struct Guard(bool);

/// For an access to these ports; takes nothing if they are not the serial port's.
pub(crate) fn guard(port: u16, width: u16) -> Guard {
    let last = u32::from(port) + u32::from(width);
    let ours = last > u32::from(COM1) && port < COM1 + 8;
    if ours {
        while TAKEN.swap(true, SeqCst) {
            core::hint::spin_loop();
        }
    }
    Guard(ours)
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0 {
            TAKEN.store(false, SeqCst);
        }
    }
}

struct Port {
    sum: u32,
}

impl Port {
    fn byte(byte: u8) {
        // Bounded: a port that stays busy loses the line, and the line's check sum tells.
        for _ in 0..10_000 {
            if in_byte(COM1 + 5) & 0x20 != 0 {
                break;
            }
        }
        out_byte(COM1, byte);
    }
}

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.sum = guests::coverage::checked(self.sum, byte);
            Self::byte(byte);
        }
        Ok(())
    }
}

/// Writes one line; for the warden alone.
pub(crate) fn line(arguments: fmt::Arguments<'_>) {
    let end = time_stamp() + PATIENCE.load(SeqCst);
    while TAKEN.swap(true, SeqCst) && time_stamp() < end {
        core::hint::spin_loop();
    }
    // 115,200 baud, eight bits, no interrupts, FIFO, no loop-back.
    for (offset, value) in [(3, 0x80), (0, 1), (1, 0), (3, 3), (1, 0), (2, 7), (4, 3)] {
        out_byte(COM1 + offset, value);
    }
    let mut port = Port { sum: 0 };
    for byte in *b"\n@H " {
        Port::byte(byte);
    }
    // The port cannot fail.
    let _ = port.write_fmt(arguments);
    let sum = port.sum;
    let _ = write!(port, " #{sum:08x}");
    Port::byte(b'\n');
    TAKEN.store(false, SeqCst);
}

/// Formats and writes a line.
#[macro_export]
macro_rules! tell {
    ($($argument:tt)*) => { $crate::console::line(format_args!($($argument)*)) };
}
