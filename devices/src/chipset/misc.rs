// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports that exist to be written: POST codes, and the write that passes the time of one bus cycle.
//!
//! Follows the ICH9 datasheet (316972), section 13.2: port 80h is a DMA page register without a channel, which keeps what
//! is written. Port EDh is the alternative that Linux uses where 80h is taken (`io_delay=0xed`); it does the same here.

use core::ops::RangeInclusive;

use vmm_interface::{Device, Machine, Register};

/// POST codes and Linux's default I/O delay.
pub const DEBUG_PORT: RangeInclusive<u64> = 0x80..=0x80;
/// Linux's other I/O delay.
pub const DELAY_PORT: RangeInclusive<u64> = 0xED..=0xED;

/// One byte that reads back.
#[derive(Debug, Default)]
pub struct DelayPort {
    last: u8,
}

impl Device for DelayPort {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        if at.width == 1 { self.last.into() } else { at.ones() }
    }

    fn write(&mut self, at: Register, value: u64, _: &mut impl Machine) {
        if at.width == 1 {
            self.last = value as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, survives_anything, write};
    use super::*;

    #[test]
    fn any_access_is_answered() {
        survives_anything(&mut DelayPort::default(), 1);
    }

    #[test]
    fn the_last_code_reads_back() {
        let mut port = DelayPort::default();
        write(&mut port, 0, 1, 0x5A);
        assert_eq!(read(&mut port, 0, 1), 0x5A);
    }
}
