// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the guest's memory lies, as a short sorted list.

use crate::{Gpa, PageRange, Reason};

/// The most ranges that a map holds: a PC's memory has two or three, and each hole adds one.
pub const RAM_RANGES: usize = 16;

/// Disjoint, sorted ranges of guest memory. Adjacent ranges are merged.
#[derive(Clone, Copy, Debug, Default)]
pub struct RamMap {
    ranges: [Option<PageRange>; RAM_RANGES],
}

/// A range that does not fit into a [`RamMap`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RamMapError {
    /// It lies below or over the end of the last one.
    Unsorted,
    /// More than [`RAM_RANGES`] ranges.
    TooMany,
}

impl From<RamMapError> for Reason {
    fn from(_: RamMapError) -> Self {
        Self::BadMemoryMap
    }
}

impl RamMap {
    /// Appends `range`, which must not start before the last one's end. Empty ranges vanish.
    pub fn push(&mut self, range: PageRange) -> Result<(), RamMapError> {
        if range.bytes() == 0 {
            return Ok(());
        }
        for slot in &mut self.ranges {
            let Some(last) = slot else {
                *slot = Some(range);
                return Ok(());
            };
            if range.start() < last.end() {
                return Err(RamMapError::Unsorted);
            }
            if range.start() == last.end() {
                *slot = PageRange::new(last.start(), range.end());
                return Ok(());
            }
        }
        Err(RamMapError::TooMany)
    }

    /// The same map without `hole`.
    pub fn without(&self, hole: PageRange) -> Result<Self, RamMapError> {
        let mut map = Self::default();
        for range in self.iter() {
            let below = PageRange::new(range.start(), range.end().min(hole.start()).max(range.start()));
            let above = PageRange::new(range.start().max(hole.end()).min(range.end()), range.end());
            for part in [below, above].into_iter().flatten() {
                map.push(part)?;
            }
        }
        Ok(map)
    }

    /// The ranges from low to high.
    pub fn iter(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.ranges.iter().map_while(|range| *range)
    }

    /// Whether all of `bytes` bytes at `gpa` are memory. An empty access never is.
    pub fn contains(&self, gpa: Gpa, bytes: u64) -> bool {
        let Some(last) = bytes.checked_sub(1).and_then(|rest| gpa.checked_add(rest)) else { return false };
        self.iter().any(|range| range.start() <= gpa && last < range.end())
    }

    /// All bytes of memory.
    pub fn bytes(&self) -> u64 {
        self.iter().map(PageRange::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::new(Gpa(start), Gpa(end)).unwrap()
    }

    fn map(ranges: &[(u64, u64)]) -> RamMap {
        let mut map = RamMap::default();
        for &(start, end) in ranges {
            map.push(range(start, end)).unwrap();
        }
        map
    }

    #[test]
    fn adjacent_ranges_become_one() {
        let map = map(&[(0, 0x1000), (0x1000, 0x3000), (0x4000, 0x5000)]);
        assert_eq!(map.iter().collect::<Vec<_>>(), [range(0, 0x3000), range(0x4000, 0x5000)]);
        assert_eq!(map.bytes(), 0x4000);
    }

    #[test]
    fn overlap_and_disorder_are_refused() {
        let mut map = map(&[(0x4000, 0x8000)]);
        assert_eq!(map.push(range(0x7000, 0x9000)), Err(RamMapError::Unsorted));
        assert_eq!(map.push(range(0, 0x1000)), Err(RamMapError::Unsorted));
    }

    #[test]
    fn a_full_map_refuses_more() {
        let mut map = RamMap::default();
        for n in 0..RAM_RANGES as u64 {
            map.push(range(n * 0x2000, n * 0x2000 + 0x1000)).unwrap();
        }
        assert_eq!(map.push(range(0x10_0000, 0x10_1000)), Err(RamMapError::TooMany));
    }

    #[test]
    fn a_hole_cuts_wherever_it_lies() {
        let map = map(&[(0x2000, 0x6000), (0x8000, 0x9000)]);
        let cut = |start, end| map.without(range(start, end)).unwrap().iter().collect::<Vec<_>>();
        assert_eq!(cut(0x3000, 0x4000), [range(0x2000, 0x3000), range(0x4000, 0x6000), range(0x8000, 0x9000)]);
        assert_eq!(cut(0, 0x3000), [range(0x3000, 0x6000), range(0x8000, 0x9000)]);
        assert_eq!(cut(0x5000, 0x8000), [range(0x2000, 0x5000), range(0x8000, 0x9000)]);
        assert_eq!(cut(0, 0x10000), []);
        assert_eq!(cut(0x6000, 0x8000), [range(0x2000, 0x6000), range(0x8000, 0x9000)]);
    }

    #[test]
    fn an_access_is_memory_only_if_all_of_it_is() {
        let map = map(&[(0x1000, 0x2000)]);
        assert!(map.contains(Gpa(0x1000), 0x1000));
        assert!(!map.contains(Gpa(0x1fff), 2));
        assert!(!map.contains(Gpa(0xfff), 1));
        assert!(!map.contains(Gpa(0x1000), 0));
        assert!(!map.contains(Gpa(u64::MAX), 2));
    }
}
