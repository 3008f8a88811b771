// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines to the host, of several processors. How bytes get there is the backend's.
//!
//! A line that starts with 1Eh is a record for the tool that started the VM: how it ended, or figures. The guest cannot write
//! one, because every port it touches is emulated. What may be written at all, the type [`Outbound`] decides.

use core::fmt::{Arguments, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use platform::{EndRecord, Outbound, Termination};
use spin::mutex::SpinMutex;

/// Port of the host's debug console for messages.
pub const PORT: u16 = 0xe9;

/// Starts a record.
const RECORD: char = '\x1e';

/// The way to the host. Writing never fails: what the host does not take is lost, and there is nobody else to tell.
pub trait Channel: Write {
    /// One that holds nothing back.
    const NEW: Self;

    /// Sends what it holds back.
    fn flush(&mut self) {}
}

/// The lines of all processors, kept apart.
pub struct Lines<C>(SpinMutex<C>);

impl<C: Channel> Lines<C> {
    /// Nothing written yet.
    #[allow(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> Self {
        Self(SpinMutex::new(C::NEW))
    }

    /// Writes a line, unless another processor is writing one.
    pub fn say(&self, line: Outbound<'_>) -> bool {
        self.0.try_lock().map(|mut channel| write(&mut *channel, format_args!("[parados] {line}\n"))).is_some()
    }

    /// Writes a record: one line of JSON.
    pub fn record(&self, json: Outbound<'_>) {
        write(&mut *self.0.lock(), format_args!("{RECORD}{json}\n"));
    }

    /// [`Self::say`] for the processor that dies: it has silenced the others, and may itself have died with the lock.
    pub fn last_words(line: Outbound<'_>) {
        let mut own = C::NEW;
        write(&mut own, format_args!("[parados] {line}\n"));
    }

    /// Writes the record of how the VM ended, from the processor that has silenced the others: the last line of all.
    pub(crate) fn end(how: Termination) {
        let mut own = C::NEW;
        write(&mut own, format_args!("\n{RECORD}{}\n", Outbound::released(&EndRecord(how))));
    }

    /// Takes the channel for good, from whoever writes a line or died with it. Called by the processor that ends the VM.
    pub(crate) fn silence_others(&self) {
        // Far longer than any line takes.
        const PATIENCE: u32 = 10_000_000;
        static SILENT: AtomicBool = AtomicBool::new(false);
        if SILENT.swap(true, Ordering::AcqRel) {
            return;
        }
        for _ in 0..PATIENCE {
            if let Some(channel) = self.0.try_lock() {
                core::mem::forget(channel);
                break;
            }
            core::hint::spin_loop();
        }
    }
}

fn write(channel: &mut impl Channel, text: Arguments<'_>) {
    // A channel never fails, and what formats itself here neither.
    let _ = channel.write_fmt(text);
    channel.flush();
}
