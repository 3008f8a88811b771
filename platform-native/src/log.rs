// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines to QEMU's debug console, one OUT a byte, no driver that could fail.

use core::fmt::{self, Write};

use platform::Outbound;
use platform_shared::log::{Channel, Lines, PORT};

use crate::port;

/// QEMU's `isa-debugcon`, which takes every byte.
#[derive(Debug)]
pub struct DebugConsole;

impl Write for DebugConsole {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| port::write(PORT, byte));
        Ok(())
    }
}

impl Channel for DebugConsole {
    const NEW: Self = Self;
}

/// The lines of all processors.
pub(crate) static LINES: Lines<DebugConsole> = Lines::new();

/// Writes a line, unless another processor is writing one.
pub fn say(line: Outbound<'_>) -> bool {
    LINES.say(line)
}

/// [`say`] for the processor that dies.
pub fn last_words(line: Outbound<'_>) {
    Lines::<DebugConsole>::last_words(line);
}
