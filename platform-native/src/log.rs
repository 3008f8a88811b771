// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines to the developer: QEMU's debug console at port E9h, one OUT a byte, no driver that could fail.
//!
//! A line that starts with 1Eh is a record for the tool that started QEMU: how the VM ended, or figures. The guest cannot
//! write one, because every port it touches is emulated.

use core::fmt::{self, Write};

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

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut console = CONSOLE.lock();
        // The console accepts every byte: there is no error to report, and nowhere to report it.
        let _ = writeln!(console, "[parados] {}: {}", word(record.level()), record.args());
    }

    fn flush(&self) {}
}

/// The level as the lines spell it.
const fn word(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "error",
        log::Level::Warn => "warning",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    }
}

/// Lets the `log` macros write to the debug console, up to `level`.
pub(crate) fn initialise(level: log::LevelFilter) {
    static LOGGER: Logger = Logger;
    // A second call finds the logger in place, which is what it wanted.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// Writes a record: one line of JSON for the tool that started QEMU.
pub(crate) fn record(json: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    let _ = writeln!(console, "{}{json}", RECORD as char);
}

/// Writes a line although the lock may be held by a processor that died with it.
pub fn emergency(line: fmt::Arguments<'_>) {
    // The lock is not waited for: this processor may hold it.
    let _ = writeln!(DebugConsole, "[parados] {line}");
}

/// [`record`] for a processor that may hold the lock, or wait for one that died with it: the last line of all.
pub(crate) fn emergency_record(json: fmt::Arguments<'_>) {
    // Far longer than any line takes.
    const PATIENCE: u32 = 10_000_000;
    for _ in 0..PATIENCE {
        if let Some(console) = CONSOLE.try_lock() {
            // Nobody writes after this.
            core::mem::forget(console);
            break;
        }
        core::hint::spin_loop();
    }
    let _ = writeln!(DebugConsole, "\n{}{json}", RECORD as char);
}
