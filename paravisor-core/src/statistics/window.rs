// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures as the guest's administrator reads them: a window of read-only MMIO, for images that allow it.
//!
//! `docs/statistics.md` describes it. MMIO, because a window needs no driver: busybox's `devmem` reads it, and
//! only for whom the guest's kernel lets near physical memory. A CPUID leaf could be read by any program in the guest. A pair of
//! ports needs a write before each read, so that two readers would disturb each other. Nothing in the window has state: a
//! word is made when it is read, and writes are ignored.
//!
//! Hostile party: the guest, which may read any offset in any width.

use platform::Gpa;
use specs::apic;

use super::{BUCKETS, ENTRIES, Events, Kind, Statistics, Top};
use crate::pages::PageCounts;

/// Where the window lies: behind the addresses of interrupt messages, where no PC has anything and no memory can be.
pub(crate) const BASE: u64 = 0xfef0_0000;
/// One page about the machine, and one for each of at most 255 vCPUs.
pub(crate) const BYTES: u64 = 256 * PAGE;
const PAGE: u64 = 4096;
/// "PARASTAT", as bytes in memory.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"PARASTAT");
/// Rises when a word changes its meaning.
pub(crate) const VERSION: u64 = 1;
/// Words of the first page; the counts of page transitions follow, after a reserved word.
pub(crate) const HEADER: [(&str, &str); 7] = [
    ("magic", "\"PARASTAT\""),
    ("version", "1"),
    ("processors", "how many vCPUs there are"),
    ("tsc_hz", "cycles in a second"),
    ("nanoseconds", "since Parados started"),
    ("buckets", "of a histogram"),
    ("entries", "of a table of what was touched most"),
];
pub(crate) const TRANSITIONS: usize = HEADER.len() + 1;

/// Words of a vCPU's page: where each part begins.
pub(crate) const EVENTS: usize = Kind::ALL.len() * BUCKETS;
/// Two words an entry: key and error, then the count.
pub(crate) const PORTS: usize = EVENTS + 32;
pub(crate) const MSRS: usize = PORTS + 2 * ENTRIES;
pub(crate) const MMIO: usize = MSRS + 2 * ENTRIES;
const END: usize = MMIO + 2 * ENTRIES;

const _: () = assert!(Events::NAMES.len() <= PORTS - EVENTS && END as u64 * 8 <= PAGE);
const _: () = assert!(BASE >= apic::LAPIC_BASE + (1 << 20) && BASE + BYTES <= 0xff00_0000);

/// What the first page tells.
pub(crate) struct Header {
    pub(crate) processors: u32,
    pub(crate) tsc_hz: u64,
    pub(crate) nanoseconds: u64,
    pub(crate) pages: PageCounts,
}

/// Whether `gpa` lies in the window.
pub(crate) const fn contains(gpa: Gpa) -> bool {
    gpa.0 >= BASE && gpa.0 < BASE + BYTES
}

/// Reads `width` bytes at `gpa`; words that mean nothing are zero.
pub(crate) fn read<'a>(
    gpa: Gpa,
    width: u8,
    header: impl Fn() -> Header,
    vcpu: impl Fn(u32) -> Option<&'a Statistics>,
) -> u64 {
    let offset = gpa.0.wrapping_sub(BASE);
    let word = |index: u64| {
        let (page, word) = (index * 8 / PAGE, (index * 8 % PAGE / 8) as usize);
        match page.checked_sub(1) {
            None => header().word(word),
            Some(index) => u32::try_from(index).ok().and_then(&vcpu).map_or(0, |vcpu| vcpu.word(word)),
        }
    };
    let shift = 8 * (offset % 8) as u32;
    let low = word(offset / 8) >> shift;
    // An access that crosses a word takes the rest from the next one.
    let crosses = offset % 8 + u64::from(width) > 8;
    let high = if crosses { word(offset / 8 + 1).checked_shl(64 - shift).unwrap_or(0) } else { 0 };
    let mask = u64::MAX.checked_shr(64u32.saturating_sub(8 * u32::from(width))).unwrap_or(0);
    (low | high) & mask
}

impl Header {
    fn word(&self, index: usize) -> u64 {
        let (buckets, entries) = (BUCKETS as u64, ENTRIES as u64);
        let words: [u64; HEADER.len()] =
            [MAGIC, VERSION, self.processors.into(), self.tsc_hz, self.nanoseconds, buckets, entries];
        let pages = index.checked_sub(TRANSITIONS).and_then(|index| self.pages.values().get(index).copied());
        words.get(index).copied().or(pages).unwrap_or(0)
    }
}

impl Statistics {
    /// Word `index` of the vCPU's page.
    fn word(&self, index: usize) -> u64 {
        match index {
            ..EVENTS => Kind::ALL.get(index / BUCKETS).map_or(0, |&kind| self.of(kind).bucket(index % BUCKETS)),
            EVENTS..PORTS => self.events.values().get(index - EVENTS).copied().unwrap_or(0),
            PORTS..MSRS => entry(&self.ports, index - PORTS),
            MSRS..MMIO => entry(&self.msrs, index - MSRS),
            MMIO..END => entry(&self.mmio, index - MMIO),
            _ => 0,
        }
    }
}

fn entry(top: &Top, word: usize) -> u64 {
    let Some(entry) = top.entry(word / 2) else { return 0 };
    if word.is_multiple_of(2) { u64::from(entry.key) | u64::from(entry.error) << 32 } else { entry.count }
}
