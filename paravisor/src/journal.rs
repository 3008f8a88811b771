// SPDX-License-Identifier: MIT OR Apache-2.0
//! The image's log: one journal for all processors, and the crash record beside it.
//!
//! Lines go into the journal and, from an image for debugging, to the host's console, by whichever processor gets there
//! first. Nobody waits.

use core::sync::atomic::{AtomicBool, Ordering};

use image_abi::{LaunchBlock, flag};
use journal::{CrashRecord, Journal};
use platform::DebugImage;

/// What Parados remembers.
#[unsafe(export_name = "PARADOS_JOURNAL")]
pub(crate) static JOURNAL: Journal = Journal::new();

/// What is left of it when it dies.
#[unsafe(export_name = "PARADOS_CRASH")]
pub(crate) static CRASH: CrashRecord = CrashRecord::new();

/// The measured policy says that this is an image for debugging.
static DEBUG: AtomicBool = AtomicBool::new(false);

/// The token that lets lines out, if this is an image for debugging.
pub(crate) fn debug_image() -> Option<DebugImage> {
    DebugImage::from_measured_policy(DEBUG.load(Ordering::Relaxed))
}

/// Obeys the launch block: levels, and whether lines leave.
pub(crate) fn initialise(block: &LaunchBlock) {
    DEBUG.store(block.has(flag::DEBUG_LOG), Ordering::Relaxed);
    JOURNAL.levels().set(block.flags);
    static LOGGER: Logger = Logger;
    // A second call finds the logger in place, which is what it wanted. Levels are the journal's affair.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(log::LevelFilter::Trace);
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        JOURNAL.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        JOURNAL.log(record);
        self.flush();
    }

    fn flush(&self) {
        if let Some(debug) = debug_image() {
            JOURNAL.show(debug, crate::backend::say);
        }
    }
}
