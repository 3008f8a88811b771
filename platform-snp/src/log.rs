// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines to the host: port E9h through the GHCB, as many bytes a request as it holds.
//!
//! A line that starts with 1Eh is a record for the tool that started the VM: how it ended, or figures. What may be written at
//! all, the type [`Outbound`] decides. A host that does not take a line loses it.

use core::fmt::{self, Write};

use platform::{EndRecord, Outbound, Termination};
use spin::mutex::SpinMutex;

use crate::ghcb::port_write_all;

/// The debug console for messages.
const PORT: u16 = 0xe9;

/// Starts a record.
const RECORD: u8 = 0x1e;

/// Collects a line, so that it takes few requests.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; 256], length: 0 }
    }

    fn flush(&mut self) {
        // Lost if the host does not take it: there is nobody else to tell.
        let _ = port_write_all(PORT, self.bytes.get(..self.length).unwrap_or_default());
        self.length = 0;
    }
}

impl Write for Line {
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

/// Keeps the lines of several processors apart.
static CONSOLE: SpinMutex<Line> = SpinMutex::new(Line::new());

fn write(line: &mut Line, text: fmt::Arguments<'_>) {
    // `write_str` never fails, and what formats itself here neither.
    let _ = line.write_fmt(text);
    line.flush();
}

/// Writes a line, unless another processor is writing one.
pub fn say(text: Outbound<'_>) -> bool {
    CONSOLE.try_lock().map(|mut line| write(&mut line, format_args!("[parados] {text}\n"))).is_some()
}

/// Writes a record: one line of JSON.
pub(crate) fn record(json: Outbound<'_>) {
    write(&mut CONSOLE.lock(), format_args!("{}{json}\n", RECORD as char));
}

/// [`say`] for the processor that dies: it has silenced the others, and may itself have died with the lock.
pub fn last_words(text: Outbound<'_>) {
    write(&mut Line::new(), format_args!("[parados] {text}\n"));
}

/// Takes the console for good. Called by the processor that ends the VM.
pub(crate) fn silence_others() {
    platform_shared::log::silence_others(&CONSOLE);
}

/// Writes the record of how the VM ended, from the processor that has silenced the others: the last line of all.
pub(crate) fn end(how: Termination) {
    write(&mut Line::new(), format_args!("\n{}{}\n", RECORD as char, Outbound::released(&EndRecord(how))));
}
