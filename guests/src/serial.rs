// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text on COM1 (16550A, 3F8h), by polling.

use crate::instructions::{in_byte, out_byte};
use core::fmt;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
/// Line status: the transmitter takes another byte.
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// COM1 as a text writer.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while in_byte(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
            out_byte(COM1, byte);
        }
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // The port cannot fail.
        let _ = writeln!($crate::serial::Serial, $($argument)*);
    }};
}
