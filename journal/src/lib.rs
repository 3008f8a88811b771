// SPDX-License-Identifier: MIT OR Apache-2.0
//! The private log: what Parados remembers of its own doings, in its own memory.
//!
//! ```text
//! log::info!(…) ──line──▶ ┌──────┐ ──▶ the host's console, from images for debugging
//! Journal::emit(event) ─▶ │ ring │ ──▶ the crash record, and whoever reads the memory afterwards
//!        │                └──────┘
//!        └──── events that are Releasable ──▶ the host, from every image
//! ```
//!
//! Writing neither waits nor allocates, on any processor, at any time, also while another one has died in the middle of it;
//! what does not fit is lost and counted. Everything is atomics in one static, so the ring survives a panic as it is.
//!
//! Which events may leave, their types say:
//!
//! ```
//! let journal = journal::Journal::new();
//! let mut told = String::new();
//! journal.tell(&journal::PowerButton { vcpu: 0 }, |line| {
//!     told = line.to_string();
//!     true
//! });
//! assert_eq!(told, "vCPU 0: the host pressed the power button");
//! ```
//!
//! Any other one is only remembered; to tell it does not compile:
//!
//! ```compile_fail,E0277
//! let journal = journal::Journal::new();
//! journal.tell(&journal::UnknownMsr { vcpu: 0, index: 0x10 }, |_| true);
//! ```
//!
//! Levels are per module (per crate, that is) and part of the measured image. `docs/log.md` describes it all.
//!
//! Hostile parties: the guest, which causes most events and could flood the ring, and only the ring; the host, which sees
//! what leaves.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod crash;
mod event;
mod level;
mod ring;
#[cfg(test)]
mod tests;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use crash::{Crash, CrashRecord};
pub use event::*;
pub use level::{Levels, Module};
use platform::{DebugImage, Outbound, Releasable};
use ring::{Entry, Found, Ring};

/// How many entries one drain shows at most: other processors may write faster than the console takes it.
const BATCH: usize = 256;

/// The log of the whole image.
#[derive(Debug)]
pub struct Journal {
    ring: Ring,
    levels: Levels,
    /// The next entry that the console has not seen.
    shown: AtomicU64,
    /// Somebody shows entries already.
    showing: AtomicBool,
    /// What the console never saw, because it was overwritten before.
    missed: AtomicU64,
}

impl Journal {
    /// An empty journal with the default levels.
    #[allow(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> Self {
        Self {
            ring: Ring::new(),
            levels: Levels::new(),
            shown: AtomicU64::new(0),
            showing: AtomicBool::new(false),
            missed: AtomicU64::new(0),
        }
    }

    /// The levels, for changing them.
    pub const fn levels(&self) -> &Levels {
        &self.levels
    }

    /// Entries that were lost before they were written, because their place was being written by another processor.
    pub fn lost(&self) -> u64 {
        self.ring.lost()
    }

    /// Whether anybody wants events of this kind. Two loads and a comparison.
    #[inline]
    pub fn wants<E: Event>(&self) -> bool {
        self.levels.allow(E::MODULE, E::LEVEL)
    }

    /// Remembers an event. It cannot leave an image that is not for debugging.
    #[inline]
    pub fn emit<E: Event>(&self, event: &E) {
        if self.wants::<E>() {
            self.remember(E::MODULE, E::LEVEL, E::CODE, event.words());
        }
    }

    /// Remembers an event and sends it to the host, whatever image this is. `send` may refuse it: a host that does not listen
    /// at once does not get it.
    pub fn tell<E: Event + Releasable>(&self, event: &E, send: impl FnOnce(Outbound<'_>) -> bool) {
        self.emit(event);
        send(Outbound::released(event));
    }

    #[inline(never)]
    fn remember(&self, module: Module, level: log::Level, code: u16, words: [u64; WORDS]) {
        self.ring.push(&Entry::event(module, level, code, words));
    }

    /// Remembers a line of text; the end of a long one is cut off.
    pub fn line(&self, module: Module, level: log::Level, text: fmt::Arguments<'_>) {
        self.ring.push(&Entry::line(module, level, text));
    }

    /// Shows what the console has not seen yet. `send` may refuse a line, which is then tried again later. Returns at once if another processor is at it: that one will show ours too,
    /// or whoever comes next.
    pub fn show(&self, debug: DebugImage, send: impl Fn(Outbound<'_>) -> bool) {
        if self.showing.swap(true, Ordering::Acquire) {
            return;
        }
        let mut next = self.shown.load(Ordering::Relaxed);
        for _ in 0..BATCH {
            let (entry, after) = match self.ring.read(next) {
                Found::Entry(entry) => (Some(entry), next.wrapping_add(1)),
                Found::Gone { oldest } => (None, oldest),
                Found::NotYet => break,
            };
            let sent = match &entry {
                Some(entry) => send(Outbound::debugging(debug, format_args!("{entry}"))),
                None => {
                    let missed = after.wrapping_sub(next);
                    self.missed.fetch_add(missed, Ordering::Relaxed);
                    send(Outbound::debugging(debug, format_args!("warning: {missed} entries of the log were lost")))
                }
            };
            if !sent {
                break;
            }
            next = after;
        }
        self.shown.store(next, Ordering::Relaxed);
        self.showing.store(false, Ordering::Release);
    }

    /// Calls `each` with the last entries, oldest first.
    pub fn last(&self, count: usize, mut each: impl FnMut(&dyn fmt::Display)) {
        for entry in self.ring.last(count) {
            each(&entry);
        }
    }
}

/// What the `log` macros write: lines, under the level of the module that they stand in.
impl log::Log for Journal {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.levels.allow(Module::of(metadata.target()), metadata.level())
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.line(Module::of(record.target()), record.level(), *record.args());
        }
    }

    fn flush(&self) {}
}
