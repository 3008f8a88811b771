// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines to the host's debug console through the GHCB, as many bytes a request as it holds. A host that does not take a line
//! loses it.

use core::fmt::{self, Write};

use platform::Outbound;
use platform_shared::log::{Channel, Lines, PORT};

use crate::ghcb::port_write_all;

/// The host's console, which collects a line, so that it takes few requests.
#[derive(Debug)]
pub struct GhcbConsole {
    bytes: [u8; 256],
    length: usize,
}

impl Channel for GhcbConsole {
    const NEW: Self = Self { bytes: [0; 256], length: 0 };

    fn flush(&mut self) {
        // Lost if the host does not take it: there is nobody else to tell.
        let _ = port_write_all(PORT, self.bytes.get(..self.length).unwrap_or_default());
        self.length = 0;
    }
}

impl Write for GhcbConsole {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == self.bytes.len() {
                self.flush();
            }
            if let Some(slot) = self.bytes.get_mut(self.length) {
                *slot = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// The lines of all processors.
pub(crate) static LINES: Lines<GhcbConsole> = Lines::new();

/// Writes a line, unless another processor is writing one.
pub fn say(line: Outbound<'_>) -> bool {
    LINES.say(line)
}

/// [`say`] for the processor that dies.
pub fn last_words(line: Outbound<'_>) {
    Lines::<GhcbConsole>::last_words(line);
}
