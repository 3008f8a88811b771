// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT, SIGTERM and SIGHUP end a run in order: the guest if it can, then QEMU, the temporary files, and we.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// SIGTERM's number.
pub(crate) const TERMINATION: u8 = SIGTERM as u8;

fn pending() -> &'static Arc<AtomicUsize> {
    static PENDING: OnceLock<Arc<AtomicUsize>> = OnceLock::new();
    PENDING.get_or_init(|| {
        let pending = Arc::new(AtomicUsize::new(0));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            // If it cannot be caught, the signal keeps its default effect.
            let _ = signal_hook::flag::register_usize(signal, Arc::clone(&pending), signal.unsigned_abs() as usize);
        }
        pending
    })
}

/// From now on signals are only noted.
pub(crate) fn catch() {
    pending();
}

/// Whether SIGTERM came and nothing else did; that one counts as obeyed from now on.
pub(crate) fn take_termination() -> bool {
    pending().compare_exchange(SIGTERM.unsigned_abs() as usize, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// The signal that asked us to end, if one did.
pub(crate) fn caught() -> Option<u8> {
    u8::try_from(pending().load(Ordering::Relaxed)).ok().filter(|&signal| signal != 0)
}
