// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's physical memory map, as firmware would report it (E820).
//!
//! | addresses | what |
//! |---|---|
//! | 0–9FFFFh | RAM; no EBDA is carved out, for nobody would use it |
//! | A0000–BFFFFh | absent (a PC's VGA frame buffer); not listed |
//! | C0000–EFFFFh | RAM pages of the guest, not listed: a scan for option ROMs finds zeros |
//! | F0000–FFFFFh | RAM pages of the guest with the ACPI tables; reserved |
//! | 1 MiB–end of low RAM | RAM, but for what Parados keeps to itself: reserved, and never reachable |
//! | B0000000h, 1 MiB | ECAM; reserved, even where RAM would reach so far |
//! | from 4 GiB | RAM |
//!
//! Entry types are those of ACPI 6.5, section 15, table 15.6. The end of RAM comes from the host; a map that makes no
//! sense is refused before any guest runs.

use core::ops::Range;

use platform::PageRange;

use crate::chipset::{ECAM_BASE, ECAM_BYTES};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Where RAM goes on after the hole for devices.
pub const HIGH_MEMORY: u64 = 4 << 30;
/// One past the last byte that RAM below 4 GiB may have: the IOAPIC follows.
pub const LOW_MEMORY_LIMIT: u64 = 0xFEC0_0000;

/// Conventional memory.
const CONVENTIONAL: Range<u64> = 0..640 * KIB;
/// The area in which the ACPI tables lie.
const FIRMWARE: Range<u64> = 0xF_0000..MIB;
const ECAM: Range<u64> = ECAM_BASE..ECAM_BASE + ECAM_BYTES;

/// What lies in a range, numbered as E820 does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// The guest may use it as memory.
    Ram = 1,
    /// The guest must leave it alone.
    Reserved = 2,
}

/// One line of the map; `start` inclusive, `end` exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What is there.
    pub kind: Kind,
}

/// Why no map was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Low RAM ends below 1 MiB or above [`LOW_MEMORY_LIMIT`], or high RAM passes the end of the address space.
    Size,
    /// More entries than the map holds.
    Full,
}

/// How many entries a map can hold; a Linux zero page takes 128.
pub const CAPACITY: usize = 32;

/// A sorted list of disjoint ranges.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap {
    entries: [Entry; CAPACITY],
    count: usize,
}

impl MemoryMap {
    /// The map of a guest whose RAM ends at `low_end` below 4 GiB and goes on for `high_bytes` from 4 GiB on.
    /// `own` is what Parados keeps: it is reserved wherever it lies.
    pub fn new(low_end: u64, high_bytes: u64, own: &[PageRange]) -> Result<Self, MapError> {
        if !(MIB..=LOW_MEMORY_LIMIT).contains(&low_end) {
            return Err(MapError::Size);
        }
        let high_end = HIGH_MEMORY.checked_add(high_bytes).ok_or(MapError::Size)?;
        let mut map = Self { entries: [Entry { start: 0, end: 0, kind: Kind::Reserved }; CAPACITY], count: 0 };
        map.set(CONVENTIONAL, Kind::Ram)?;
        map.set(MIB..low_end, Kind::Ram)?;
        map.set(HIGH_MEMORY..high_end, Kind::Ram)?;
        map.set(FIRMWARE, Kind::Reserved)?;
        map.set(ECAM, Kind::Reserved)?;
        for range in own {
            map.set(range.start().0..range.end().0, Kind::Reserved)?;
        }
        Ok(map)
    }

    /// The entries, by address.
    pub fn entries(&self) -> &[Entry] {
        self.entries.get(..self.count).unwrap_or_default()
    }

    /// Bytes of RAM that the guest may use.
    pub fn ram_bytes(&self) -> u64 {
        self.entries().iter().filter(|entry| entry.kind == Kind::Ram).map(|entry| entry.end - entry.start).sum()
    }

    /// Makes `range` be of `kind`, whatever was there.
    fn set(&mut self, range: Range<u64>, kind: Kind) -> Result<(), MapError> {
        if range.is_empty() {
            return Ok(());
        }
        let old = *self;
        let mut rebuilt = Self { count: 0, ..old };
        let new = Entry { start: range.start, end: range.end, kind };
        let mut pending = Some(new);
        for entry in old.entries() {
            rebuilt.push(Entry { end: entry.end.min(new.start), ..*entry })?;
            if entry.end > new.start
                && let Some(new) = pending.take()
            {
                rebuilt.push(new)?;
            }
            rebuilt.push(Entry { start: entry.start.max(new.end), ..*entry })?;
        }
        if let Some(new) = pending {
            rebuilt.push(new)?;
        }
        *self = rebuilt;
        Ok(())
    }

    /// Appends an entry that starts at or after the end of the last; an empty one vanishes, a neighbour of the same kind
    /// is joined.
    fn push(&mut self, entry: Entry) -> Result<(), MapError> {
        if entry.start >= entry.end {
            return Ok(());
        }
        let last = self.count.checked_sub(1).and_then(|last| self.entries.get_mut(last));
        if let Some(last) = last
            && last.end == entry.start
            && last.kind == entry.kind
        {
            last.end = entry.end;
            return Ok(());
        }
        *self.entries.get_mut(self.count).ok_or(MapError::Full)? = entry;
        self.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use platform::Gpa;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn pages(start: u64, end: u64) -> PageRange {
        PageRange::new(Gpa(start), Gpa(end)).unwrap()
    }

    fn lines(map: &MemoryMap) -> Vec<(u64, u64, Kind)> {
        map.entries().iter().map(|entry| (entry.start, entry.end, entry.kind)).collect()
    }

    fn check(map: &MemoryMap) {
        assert!(map.entries().iter().all(|entry| entry.start < entry.end));
        assert!(map.entries().windows(2).all(|pair| pair[0].end <= pair[1].start), "sorted and disjoint");
    }

    #[test]
    fn a_one_gibibyte_guest_sees_its_ram_around_parados() {
        let map = MemoryMap::new(GIB, 0, &[pages(128 * MIB, 132 * MIB)]).unwrap();
        let expected = [
            (0, 0xA_0000, Kind::Ram),
            (0xF_0000, MIB, Kind::Reserved),
            (MIB, 128 * MIB, Kind::Ram),
            (128 * MIB, 132 * MIB, Kind::Reserved),
            (132 * MIB, GIB, Kind::Ram),
            (0xB000_0000, 0xB010_0000, Kind::Reserved),
        ];
        assert_eq!(lines(&map), expected);
        assert_eq!(map.ram_bytes(), GIB - 384 * KIB - 4 * MIB);
    }

    #[test]
    fn a_large_guest_has_high_ram_and_a_hole_for_ecam() {
        let map = MemoryMap::new(3 * GIB, 5 * GIB, &[pages(128 * MIB, 132 * MIB)]).unwrap();
        let expected = [
            (132 * MIB, 0xB000_0000, Kind::Ram),
            (0xB000_0000, 0xB010_0000, Kind::Reserved),
            (0xB010_0000, 3 * GIB, Kind::Ram),
            (HIGH_MEMORY, 9 * GIB, Kind::Ram),
        ];
        assert_eq!(lines(&map)[4..], expected);
    }

    #[test]
    fn reserved_ranges_win_wherever_they_lie() {
        let cases: [&[PageRange]; 6] = [
            &[pages(0, MIB)],
            &[pages(GIB - MIB, 2 * GIB)],
            &[pages(5 * MIB, 6 * MIB), pages(6 * MIB, 7 * MIB)],
            &[pages(6 * MIB, 8 * MIB), pages(5 * MIB, 7 * MIB)],
            &[pages(0xAFF0_0000, 0xB020_0000)],
            &[pages(7 * MIB, 7 * MIB)],
        ];
        for own in cases {
            let map = MemoryMap::new(GIB, GIB, own).unwrap();
            check(&map);
            for range in own.iter().filter(|range| range.bytes() != 0) {
                for entry in map.entries().iter().filter(|entry| entry.kind == Kind::Ram) {
                    assert!(entry.end <= range.start().0 || range.end().0 <= entry.start);
                }
            }
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_one_entry() {
        let map = MemoryMap::new(GIB, 0, &[pages(5 * MIB, 6 * MIB), pages(6 * MIB, 7 * MIB)]).unwrap();
        assert!(lines(&map).contains(&(5 * MIB, 7 * MIB, Kind::Reserved)));
    }

    #[test]
    fn an_empty_range_changes_nothing() {
        let plain = MemoryMap::new(GIB, 0, &[]).unwrap();
        assert_eq!(lines(&MemoryMap::new(GIB, 0, &[pages(7 * MIB, 7 * MIB)]).unwrap()), lines(&plain));
    }

    #[test]
    fn impossible_sizes_and_too_many_ranges_are_refused() {
        let refused = |low, high, own: &[PageRange]| MemoryMap::new(low, high, own).unwrap_err();
        assert_eq!(refused(MIB - 1, 0, &[]), MapError::Size);
        assert_eq!(refused(LOW_MEMORY_LIMIT + 1, 0, &[]), MapError::Size);
        assert_eq!(refused(GIB, u64::MAX, &[]), MapError::Size);
        let many: Vec<_> = (1..=CAPACITY as u64).map(|n| pages(4 * n * MIB, (4 * n + 1) * MIB)).collect();
        assert_eq!(refused(GIB, 0, &many), MapError::Full);
    }

    /// Whatever the VM's size: no RAM in the window that the DSDT gives to PCI, and none under the ECAM of the MCFG.
    #[test]
    fn what_acpi_gives_to_devices_is_no_memory() {
        for low_end in [MIB, 256 * MIB, 0xAFFF_F000, 0xB000_0000, 0xB080_0000, 3 * GIB, 0xD001_0000, LOW_MEMORY_LIMIT] {
            for high_bytes in [0, 5 * GIB] {
                let map = MemoryMap::new(low_end, high_bytes, &[]).unwrap();
                let window = crate::acpi::dsdt::memory_window(low_end);
                let ram = |first: u64, last: u64| {
                    let ram = map.entries().iter().filter(|entry| entry.kind == Kind::Ram);
                    ram.clone().any(|entry| entry.start <= last && first < entry.end)
                };
                assert!(
                    window.is_none_or(|(first, last)| !ram(first.into(), last.into())),
                    "{low_end:#x}: {window:x?}"
                );
                assert!(!ram(ECAM.start, ECAM.end - 1), "{low_end:#x}");
                assert!(
                    map.entries().iter().any(|entry| entry.kind == Kind::Reserved && entry.start == ECAM.start),
                    "{low_end:#x}: an operating system takes the MCFG for wrong otherwise"
                );
            }
        }
    }

    #[test]
    fn acpi_tables_lie_in_reserved_memory() {
        let map = MemoryMap::new(GIB, 0, &[]).unwrap();
        let last = crate::acpi::BASE + crate::acpi::BYTES as u64 - 1;
        assert!(
            map.entries()
                .iter()
                .any(|entry| { entry.kind == Kind::Reserved && entry.start <= crate::acpi::BASE && last < entry.end })
        );
    }
}
