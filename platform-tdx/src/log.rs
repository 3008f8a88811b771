// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines to the host: port E9h, a byte at a time.
//!
//! A line that starts with 1Eh is a record for the tool that started the VM: how it ended. What may be written at all, the type
//! [`Outbound`] decides. A host that does not take a byte loses it.

use core::fmt::{self, Write};

use platform::{EndRecord, Outbound, Termination};
use spin::mutex::SpinMutex;

use crate::tdcall::port_write;

/// The debug console for messages.
const PORT: u16 = 0xe9;

/// Starts a record.
const RECORD: u8 = 0x1e;

struct Line;

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| port_write(PORT, byte));
        Ok(())
    }
}

/// Keeps the lines of several processors apart.
static CONSOLE: SpinMutex<Line> = SpinMutex::new(Line);

fn write(line: &mut Line, text: fmt::Arguments<'_>) {
    // `write_str` never fails, and what formats itself here neither.
    let _ = line.write_fmt(text);
}

/// Writes a line, unless another processor is writing one.
pub fn say(text: Outbound<'_>) -> bool {
    CONSOLE.try_lock().map(|mut line| write(&mut line, format_args!("[parados] {text}\n"))).is_some()
}

/// [`say`] for the processor that dies: it has silenced the others, and may itself have died with the lock.
pub fn last_words(text: Outbound<'_>) {
    write(&mut Line, format_args!("[parados] {text}\n"));
}

/// Takes the console for good. Called by the processor that ends the VM.
pub(crate) fn silence_others() {
    platform_shared::log::silence_others(&CONSOLE);
}

/// Writes the record of how the VM ended, from the processor that has silenced the others: the last line of all.
pub(crate) fn end(how: Termination) {
    write(&mut Line, format_args!("\n{}{}\n", RECORD as char, Outbound::released(&EndRecord(how))));
}
