// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was touched most: a small table of keys with their counts.
//!
//! Four sets of four entries. Within a set it is the algorithm Space-Saving (Metwally, Agrawal, El Abbadi: Efficient
//! Computation of Frequent and Top-k Elements in Data Streams, ICDT 2005): a key that is not there takes the place of the
//! least one and inherits its count, which from then on bounds the error. So a key that makes up more than a quarter of its
//! set's accesses is always there, counts are never too small, and all counts together are all accesses. The most frequent
//! key of a set moves to its front, where one comparison finds it.

use core::sync::atomic::{AtomicU32, Ordering};

use super::Counter;

const WAYS: usize = 4;
const SETS: usize = 4;

/// How many keys a table holds.
pub const ENTRIES: usize = SETS * WAYS;

/// A key of the table. A reader on another processor may see a key with its predecessor's count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The port, MSR or page number.
    pub key: u32,
    /// By how much `count` may be too large.
    pub error: u32,
    /// Accesses.
    pub count: u64,
}

#[derive(Debug, Default)]
#[repr(C)]
struct Slot {
    key: AtomicU32,
    error: AtomicU32,
    count: Counter,
}

impl Slot {
    #[inline(always)]
    fn key(&self) -> u32 {
        self.key.load(Ordering::Relaxed)
    }

    fn get(&self) -> Entry {
        Entry { key: self.key(), error: self.error.load(Ordering::Relaxed), count: self.count.get() }
    }

    fn set(&self, entry: Entry) {
        self.key.store(entry.key, Ordering::Relaxed);
        self.error.store(entry.error, Ordering::Relaxed);
        self.count.set(entry.count);
    }
}

/// A table with one writer.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Top([[Slot; WAYS]; SETS]);

impl Top {
    /// One more access to `key`.
    #[inline(always)]
    pub(crate) fn count(&self, key: u32) {
        // Multiplicative hashing (Knuth, volume 3, 6.4): the upper bits depend on all of the key.
        let hash = key.wrapping_mul(0x9e37_79b1) >> 30;
        #[allow(clippy::indexing_slicing, reason = "two bits are left of the hash, and there are four sets")]
        let set = &self.0[hash as usize];
        let [front, ..] = set;
        if front.key() == key { front.count.count() } else { count_behind(set, key) }
    }

    /// All entries that were ever used.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.slots().map(Slot::get).filter(|entry| entry.count != 0)
    }

    /// Entry `index`, used or not.
    pub(super) fn entry(&self, index: usize) -> Option<Entry> {
        self.slots().nth(index).map(Slot::get)
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter().flatten()
    }
}

/// One more access to a key that is not at the front of its set.
#[cold]
#[inline(never)]
fn count_behind(set: &[Slot; WAYS], key: u32) {
    let [front, ..] = set;
    let known = set.iter().find(|slot| slot.key() == key && slot.count.get() != 0);
    // An empty slot has the least count of all.
    let slot = known.or_else(|| set.iter().min_by_key(|slot| slot.count.get())).unwrap_or(front);
    let mut entry = slot.get();
    if known.is_none() {
        entry = Entry { key, error: u32::try_from(entry.count).unwrap_or(u32::MAX), ..entry };
    }
    entry.count = entry.count.wrapping_add(1);
    let first = front.get();
    if entry.count > first.count {
        slot.set(first);
        front.set(entry);
    } else {
        slot.set(entry);
    }
}
