// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crash record: what is left of Parados when it dies, at a fixed place in a fixed form.
//!
//! For whoever can read the memory: a debugger, or a dump of a VM whose policy allows one. The image's symbol is
//! `PARADOS_CRASH`; `docs/log.md` has the layout. The first processor that dies writes it, and nobody after it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use platform::{OWN_REGISTERS, OwnRegisters, Reason};

use crate::Journal;
use crate::ring::{CONTENTS, Entry};

/// "PARACRSH", as bytes in memory.
const MAGIC: u64 = u64::from_le_bytes(*b"PARACRSH");
/// Rises when the layout changes.
const VERSION: u64 = 2;
const FILE_WORDS: usize = 8;
const MESSAGE_WORDS: usize = 24;
const EVENTS: usize = 16;

/// Why and where.
#[derive(Clone, Copy)]
pub struct Crash<'a> {
    /// The reason that the host is told.
    pub reason: Reason,
    /// Its detail.
    pub detail: u64,
    /// Source file, line and column, where there are any.
    pub location: Option<(&'a str, u32, u32)>,
    /// What the panic says.
    pub message: fmt::Arguments<'a>,
    /// In the order of [`OWN_REGISTERS`].
    pub registers: OwnRegisters,
}

/// The record.
#[derive(Debug)]
#[repr(C)]
pub struct CrashRecord {
    /// Zero until the rest is complete.
    magic: AtomicU64,
    version: AtomicU64,
    reason: AtomicU64,
    detail: AtomicU64,
    line: AtomicU64,
    column: AtomicU64,
    file: [AtomicU64; FILE_WORDS],
    message: [AtomicU64; MESSAGE_WORDS],
    registers: [AtomicU64; OWN_REGISTERS.len()],
    /// How many entries of the journal were lost because two processors wrote in one place.
    lost: AtomicU64,
    /// How many were made at all: what is more than the ring has slots was overwritten.
    made: AtomicU64,
    /// The journal's last entries, oldest first, as they stand in its slots.
    events: [[AtomicU64; CONTENTS]; EVENTS],
    /// How many processors came this way.
    deaths: AtomicUsize,
}

impl CrashRecord {
    /// No crash yet.
    #[allow(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> Self {
        Self {
            magic: AtomicU64::new(0),
            version: AtomicU64::new(0),
            reason: AtomicU64::new(0),
            detail: AtomicU64::new(0),
            line: AtomicU64::new(0),
            column: AtomicU64::new(0),
            file: [const { AtomicU64::new(0) }; FILE_WORDS],
            message: [const { AtomicU64::new(0) }; MESSAGE_WORDS],
            registers: [const { AtomicU64::new(0) }; OWN_REGISTERS.len()],
            lost: AtomicU64::new(0),
            made: AtomicU64::new(0),
            events: [const { [const { AtomicU64::new(0) }; CONTENTS] }; EVENTS],
            deaths: AtomicUsize::new(0),
        }
    }

    /// All of it, as a debugger would see it.
    #[cfg(test)]
    pub(crate) fn words(&self) -> Vec<u64> {
        let head = [&self.magic, &self.version, &self.reason, &self.detail, &self.line, &self.column];
        let all = head.into_iter().chain(&self.file).chain(&self.message).chain(&self.registers);
        let all = all.chain([&self.lost, &self.made]).chain(self.events.iter().flatten());
        all.map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Writes the record. False if there is one already: the first death is the one that matters, and a second one on the
    /// same processor means that writing the first killed it.
    pub fn write(&self, crash: &Crash<'_>, journal: &Journal) -> bool {
        if self.deaths.fetch_add(1, Ordering::AcqRel) != 0 {
            return false;
        }
        let set = |slot: &AtomicU64, value: u64| slot.store(value, Ordering::Relaxed);
        set(&self.version, VERSION);
        set(&self.reason, crash.reason.code().into());
        set(&self.detail, crash.detail);
        if let Some((file, line, column)) = crash.location {
            set(&self.line, line.into());
            set(&self.column, column.into());
            // The end of a path says more than its beginning.
            let from = file.ceil_char_boundary(file.len().saturating_sub(FILE_WORDS * 8));
            write_text(&self.file, format_args!("{}", file.get(from..).unwrap_or(file)));
        }
        self.registers.iter().zip(crash.registers).for_each(|(slot, value)| set(slot, value));
        set(&self.lost, journal.lost());
        set(&self.made, journal.ring.made());
        for (slots, Entry(contents)) in self.events.iter().zip(journal.ring.last(EVENTS)) {
            slots.iter().zip(contents).for_each(|(slot, value)| set(slot, value));
        }
        // Last, because it runs code of whoever panicked.
        write_text(&self.message, crash.message);
        self.magic.store(MAGIC, Ordering::Release);
        true
    }
}

/// Writes text into words, as much as fits.
fn write_text(words: &[AtomicU64], text: fmt::Arguments<'_>) {
    struct Words<'a> {
        words: &'a [AtomicU64],
        at: usize,
    }
    impl Write for Words<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for byte in text.bytes() {
                let word = self.words.get(self.at / 8).ok_or(fmt::Error)?;
                word.fetch_or(u64::from(byte) << (8 * (self.at % 8)), Ordering::Relaxed);
                self.at += 1;
            }
            Ok(())
        }
    }
    // What does not fit is cut, which is no error.
    let _ = Words { words, at: 0 }.write_fmt(text);
}
