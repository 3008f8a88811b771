// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring: many writers, no lock, no waiting.
//!
//! A writer takes the next ticket and with it a slot. The slot's state says whose turn it is: odd, `2·ticket + 1`, while that
//! ticket's writer is at it; even, `2·ticket + 2`, when it has finished. A writer that finds its slot occupied (it was so slow,
//! or the other one is, that the ring went round) drops its entry and counts it. A reader compares the state before and after,
//! as with a sequence lock (Boehm: Can Seqlocks Get Along With Programming Language Memory Models?, MSPC 2012): the
//! words are atomics, so a torn read is no undefined behaviour, only refused.
//!
//! A processor that dies while it writes leaves its slot odd for good: the ring is one slot smaller then, nothing else.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering, fence};

use log::Level;

use crate::event::{self, WORDS};
use crate::level::Module;

/// Slots of the ring.
pub(crate) const SLOTS: usize = 128;
/// Words of an entry's contents; with the state, 256 bytes a slot.
pub(crate) const CONTENTS: usize = 31;
/// Bytes of a line.
const TEXT: usize = (CONTENTS - 1) * 8;

/// One entry by value: a head, and an event's words or a line's bytes.
///
/// | bits of the head | |
/// |---|---|
/// | 15:0 | the event's code, 0 for a line |
/// | 23:16 | level |
/// | 31:24 | module |
/// | 39:32 | bytes of the line |
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(pub(crate) [u64; CONTENTS]);

impl Entry {
    fn new(module: Module, level: Level, low: u16, length: u8) -> Self {
        let mut contents = [0; CONTENTS];
        let [head, ..] = &mut contents;
        *head = u64::from(low) | (level as u64) << 16 | (module as u64) << 24 | u64::from(length) << 32;
        Self(contents)
    }

    pub(crate) fn event(module: Module, level: Level, code: u16, words: [u64; WORDS]) -> Self {
        let mut entry = Self::new(module, level, code, 0);
        entry.0.iter_mut().skip(1).zip(words).for_each(|(to, from)| *to = from);
        entry
    }

    pub(crate) fn line(module: Module, level: Level, text: fmt::Arguments<'_>) -> Self {
        let mut line = Line { bytes: [0; TEXT], used: 0 };
        // A line that is too long is cut, which is no error.
        let _ = line.write_fmt(text);
        let mut entry = Self::new(module, level, 0, line.used as u8);
        let (words, _) = line.bytes.as_chunks();
        entry.0.iter_mut().skip(1).zip(words).for_each(|(to, from)| *to = u64::from_le_bytes(*from));
        entry
    }

    /// The head's fields; the entry may have been read from a ring that something else has overwritten.
    fn head(&self) -> (u16, &'static str, &'static str, usize) {
        let [head, ..] = self.0;
        let [low, high, level, module, length, ..] = head.to_le_bytes();
        let level = image_abi::log_level::NAMES.get(usize::from(level)).copied().unwrap_or("?");
        let module = Module::ALL.get(usize::from(module)).map_or("?", |module| module.name());
        (u16::from_le_bytes([low, high]), level, module, usize::from(length))
    }
}

/// As the console shows it: level, module, text.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, level, module, length) = self.head();
        write!(f, "{level}: {module}: ")?;
        let [_, words @ ..] = &self.0;
        if code != 0 {
            return event::describe(code, words, f);
        }
        let mut bytes = [0; TEXT];
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        chunks.iter_mut().zip(words).for_each(|(to, from)| *to = from.to_le_bytes());
        // A line is cut between characters, so all of it is text.
        f.write_str(core::str::from_utf8(bytes.get(..length).unwrap_or_default()).unwrap_or("?"))
    }
}

/// Text of bounded length.
struct Line {
    bytes: [u8; TEXT],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.used..).unwrap_or_default();
        let fits = text.floor_char_boundary(room.len());
        let (text, left) = text.as_bytes().split_at_checked(fits).unwrap_or_default();
        room.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        self.used += text.len();
        // What comes after a cut must not appear.
        if left.is_empty() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[derive(Debug)]
#[repr(C)]
struct Slot {
    state: AtomicU64,
    contents: [AtomicU64; CONTENTS],
}

impl Slot {
    const fn new() -> Self {
        Self { state: AtomicU64::new(0), contents: [const { AtomicU64::new(0) }; CONTENTS] }
    }
}

const fn writing(ticket: u64) -> u64 {
    ticket.wrapping_mul(2).wrapping_add(1)
}

const fn written(ticket: u64) -> u64 {
    ticket.wrapping_mul(2).wrapping_add(2)
}

/// What is at a ticket.
#[allow(clippy::large_enum_variant, reason = "it lives for one line of the console, and nothing can be allocated")]
#[derive(Debug)]
pub(crate) enum Found {
    Entry(Entry),
    /// It was overwritten or never written; `oldest` is the next one worth trying.
    Gone {
        oldest: u64,
    },
    /// Nobody has written it yet.
    NotYet,
}

#[derive(Debug)]
#[repr(C)]
pub(crate) struct Ring {
    next: AtomicU64,
    lost: AtomicU64,
    slots: [Slot; SLOTS],
}

impl Ring {
    pub(crate) const fn new() -> Self {
        Self { next: AtomicU64::new(0), lost: AtomicU64::new(0), slots: [const { Slot::new() }; SLOTS] }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Entries that were made, whatever became of them.
    pub(crate) fn made(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    fn slot(&self, ticket: u64) -> &Slot {
        #[allow(clippy::indexing_slicing, reason = "a remainder of the number of slots")]
        &self.slots[(ticket % SLOTS as u64) as usize]
    }

    pub(crate) fn push(&self, entry: &Entry) {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let slot = self.slot(ticket);
        let before = slot.state.load(Ordering::Relaxed);
        let free = before.is_multiple_of(2) && before < writing(ticket);
        let taken = || slot.state.compare_exchange(before, writing(ticket), Ordering::Relaxed, Ordering::Relaxed);
        if !free || taken().is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A reader that sees one of the new words sees the odd state when it looks again.
        fence(Ordering::Release);
        for (to, from) in slot.contents.iter().zip(entry.0) {
            to.store(from, Ordering::Relaxed);
        }
        slot.state.store(written(ticket), Ordering::Release);
    }

    /// The entry of a ticket.
    pub(crate) fn read(&self, ticket: u64) -> Found {
        let next = self.next.load(Ordering::Acquire);
        let oldest = next.saturating_sub(SLOTS as u64);
        if ticket < oldest {
            return Found::Gone { oldest };
        }
        if ticket >= next {
            return Found::NotYet;
        }
        match self.copy(ticket) {
            Some(entry) => Found::Entry(entry),
            // Its writer is still at it, or has given up. Once there is a later one, it is not waited for.
            None if ticket + 1 < next => Found::Gone { oldest: ticket + 1 },
            None => Found::NotYet,
        }
    }

    fn copy(&self, ticket: u64) -> Option<Entry> {
        let slot = self.slot(ticket);
        if slot.state.load(Ordering::Acquire) != written(ticket) {
            return None;
        }
        let mut contents = [0; CONTENTS];
        for (to, from) in contents.iter_mut().zip(&slot.contents) {
            *to = from.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        (slot.state.load(Ordering::Relaxed) == written(ticket)).then_some(Entry(contents))
    }

    /// What a processor leaves that dies between taking its slot and finishing.
    #[cfg(test)]
    pub(crate) fn die(&self) {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        self.slot(ticket).state.store(writing(ticket), Ordering::Relaxed);
    }

    /// The last entries, oldest first; without those that are being written.
    pub(crate) fn last(&self, count: usize) -> impl Iterator<Item = Entry> {
        let next = self.next.load(Ordering::Acquire);
        (next.saturating_sub(count.min(SLOTS) as u64)..next).filter_map(|ticket| self.copy(ticket))
    }
}
