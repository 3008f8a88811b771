// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines to the host: QEMU's debug console at port E9h, one OUT a byte, no driver that could fail.
//!
//! A line that starts with 1Eh is a record for the tool that started QEMU: how the VM ended, or figures. The guest cannot
//! write one, because every port it touches is emulated. What may be written at all, the type [`Outbound`] decides.

use core::fmt::{self, Write};

use platform::{EndRecord, Outbound, Termination};
use spin::mutex::SpinMutex;

use crate::port;

/// QEMU's `isa-debugcon` for messages.
const PORT: u16 = 0xe9;

/// Starts a record.
const RECORD: u8 = 0x1e;

struct DebugConsole;

impl Write for DebugConsole {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            port::write(PORT, byte);
        }
        Ok(())
    }
}

/// Keeps the lines of several processors apart.
static CONSOLE: SpinMutex<DebugConsole> = SpinMutex::new(DebugConsole);

/// Writes a line, unless another processor is writing one. The console accepts every byte: there is no error to report.
pub fn say(line: Outbound<'_>) -> bool {
    CONSOLE.try_lock().is_some_and(|mut console| writeln!(console, "[parados] {line}").is_ok())
}

/// Writes a record: one line of JSON for the tool that started QEMU.
pub(crate) fn record(json: Outbound<'_>) {
    let mut console = CONSOLE.lock();
    let _ = writeln!(console, "{}{json}", RECORD as char);
}

/// [`say`] for the processor that dies: it has silenced the others, and may itself have died with the lock.
pub fn last_words(line: Outbound<'_>) {
    let _ = writeln!(DebugConsole, "[parados] {line}");
}

/// Takes the console for good. Called by the processor that ends the VM.
pub(crate) fn silence_others() {
    platform_shared::log::silence_others(&CONSOLE);
}

/// Writes the record of how the VM ended, from the processor that has silenced the others: the last line of all.
pub(crate) fn end(how: Termination) {
    let _ = writeln!(DebugConsole, "\n{}{}", RECORD as char, Outbound::released(&EndRecord(how)));
}
