// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines to the host's debug console, a byte at a time. A host that does not take a byte loses it.

use core::fmt::{self, Write};

use platform::Outbound;
use platform_shared::log::{Channel, Lines, PORT};
use tdx_guest::tdvmcall::{IoSize, io_write};

/// The host's console.
#[derive(Debug)]
pub struct HostConsole;

impl Write for HostConsole {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The host may take it or not.
        text.bytes().for_each(|byte| drop(io_write(IoSize::Size1, PORT, byte.into())));
        Ok(())
    }
}

impl Channel for HostConsole {
    const NEW: Self = Self;
}

/// The lines of all processors.
pub(crate) static LINES: Lines<HostConsole> = Lines::new();

/// Writes a line, unless another processor is writing one.
pub fn say(line: Outbound<'_>) -> bool {
    LINES.say(line)
}

/// [`say`] for the processor that dies.
pub fn last_words(line: Outbound<'_>) {
    Lines::<HostConsole>::last_words(line);
}
