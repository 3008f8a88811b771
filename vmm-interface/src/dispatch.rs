// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which device answers at a port or an MMIO address.
//!
//! Built once at start-up, where an overlap is an error; afterwards read-only. Look-up is a binary search behind a
//! one-entry cache, because a driver polls the same register many times.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

/// A port number or a guest-physical address, as a number.
pub type Address = u64;

/// Why a range was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DispatchError {
    /// It shares at least one address with a range registered before.
    Overlap,
    /// Its end lies before its start.
    Empty,
    /// No memory for the table.
    OutOfMemory,
}

#[derive(Clone, Copy, Debug)]
struct Entry<Id> {
    first: Address,
    last: Address,
    id: Id,
}

/// A map from disjoint address ranges to device names.
#[derive(Debug)]
pub struct RangeMap<Id> {
    /// Sorted by `first`, disjoint.
    entries: Vec<Entry<Id>>,
    /// Index of the last hit.
    cached: usize,
}

impl<Id> Default for RangeMap<Id> {
    fn default() -> Self {
        Self { entries: Vec::new(), cached: 0 }
    }
}

impl<Id: Copy> RangeMap<Id> {
    /// Gives `range` to the device `id`.
    pub fn insert(&mut self, range: RangeInclusive<Address>, id: Id) -> Result<(), DispatchError> {
        let (first, last) = range.into_inner();
        if last < first {
            return Err(DispatchError::Empty);
        }
        let at = self.entries.partition_point(|entry| entry.last < first);
        if self.entries.get(at).is_some_and(|next| next.first <= last) {
            return Err(DispatchError::Overlap);
        }
        self.entries.try_reserve(1).map_err(|_| DispatchError::OutOfMemory)?;
        self.entries.insert(at, Entry { first, last, id });
        Ok(())
    }

    /// The device whose range holds all of `width` bytes at `address`, and the offset within that range.
    ///
    /// `None` if no device is there, or if the access crosses a range's border: the caller then splits it into bytes, as
    /// a bus does.
    #[inline]
    pub fn find(&mut self, address: Address, width: u8) -> Option<(Id, u64)> {
        let last = address.checked_add(u64::from(width).checked_sub(1)?)?;
        let holds = |entry: &&Entry<Id>| entry.first <= address && last <= entry.last;
        if let Some(entry) = self.entries.get(self.cached).filter(holds) {
            return Some((entry.id, address - entry.first));
        }
        self.search(address, last)
    }

    #[inline(never)]
    fn search(&mut self, address: Address, last: Address) -> Option<(Id, u64)> {
        let at = self.entries.partition_point(|entry| entry.last < address);
        let entry = self.entries.get(at).filter(|entry| entry.first <= address && last <= entry.last)?;
        self.cached = at;
        Some((entry.id, address - entry.first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> RangeMap<char> {
        let mut map = RangeMap::default();
        map.insert(0x60..=0x60, 'k').unwrap();
        map.insert(0x20..=0x21, 'p').unwrap();
        map.insert(0x3f8..=0x3ff, 'u').unwrap();
        map
    }

    #[test]
    fn an_address_finds_its_device_and_offset() {
        let mut map = map();
        assert_eq!(map.find(0x21, 1), Some(('p', 1)));
        assert_eq!(map.find(0x3f8, 4), Some(('u', 0)));
        assert_eq!(map.find(0x3fd, 1), Some(('u', 5)));
        assert_eq!(map.find(0x22, 1), None);
        assert_eq!(map.find(0, 1), None);
        assert_eq!(map.find(u64::MAX, 1), None);
    }

    #[test]
    fn an_access_across_a_border_finds_nothing() {
        let mut map = map();
        assert_eq!(map.find(0x21, 2), None);
        assert_eq!(map.find(0x1f, 2), None);
        assert_eq!(map.find(0x3ff, 4), None);
        assert_eq!(map.find(u64::MAX, 2), None);
        assert_eq!(map.find(0x20, 0), None);
    }

    #[test]
    fn overlap_is_refused_wherever_it_lies() {
        let mut map = map();
        for range in [0x3f0..=0x3f8, 0x3ff..=0x400, 0x3fa..=0x3fb, 0..=0xffff, 0x60..=0x60] {
            assert_eq!(map.insert(range, 'x'), Err(DispatchError::Overlap));
        }
        assert_eq!(map.insert(0x61..=0x61, 'x'), Ok(()));
        #[allow(clippy::reversed_empty_ranges, reason = "the refused case")]
        let backwards = 5..=4;
        assert_eq!(map.insert(backwards, 'x'), Err(DispatchError::Empty));
    }

    #[test]
    fn the_cache_never_changes_an_answer() {
        let mut warm = map();
        for first in [0x20, 0x60, 0x3f8, 0x100] {
            for second in [0x20, 0x21, 0x60, 0x3ff, 0x100] {
                warm.find(first, 1);
                assert_eq!(warm.find(second, 1), map().find(second, 1));
            }
        }
    }
}
