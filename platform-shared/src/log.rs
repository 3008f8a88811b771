// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last word on a console that several processors share.

use core::sync::atomic::{AtomicBool, Ordering};

use spin::mutex::SpinMutex;

/// Takes the console for good, from whoever writes a line or died with it. Called by the processor that ends the VM.
pub fn silence_others<T>(console: &SpinMutex<T>) {
    // Far longer than any line takes.
    const PATIENCE: u32 = 10_000_000;
    static SILENT: AtomicBool = AtomicBool::new(false);
    if SILENT.swap(true, Ordering::AcqRel) {
        return;
    }
    for _ in 0..PATIENCE {
        if let Some(console) = console.try_lock() {
            core::mem::forget(console);
            break;
        }
        core::hint::spin_loop();
    }
}
