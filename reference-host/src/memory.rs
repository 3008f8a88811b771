// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is the guest's RAM, and what is the host's.
//!
//! The guest has RAM from 0 to 2 GiB and, if it has more, from 4 GiB on (QEMU's `max-ram-below-4g=2G`). QEMU is started with
//! more RAM than that, and what is left at the top is the host's room: no address in it is ever told to the guest.

use crate::report::Stop;

/// 4 KiB.
pub const PAGE: u64 = 4096;
/// The page in which the host lives.
pub const BLOCK: u64 = 2 << 20;
/// Where low RAM ends at the latest.
const LOW_LIMIT: u64 = 2 << 30;
/// Where high RAM begins.
const HIGH_BASE: u64 = 4 << 30;
/// The legacy video and firmware area: RAM in the map, but not on this machine.
const LEGACY: core::ops::Range<u64> = 0xa0000..0x10_0000;
/// How many ranges of RAM a machine can have here.
pub const RAM_RANGES: usize = 8;

/// Bytes of physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    /// How many bytes.
    pub const fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    const fn contains(&self, start: u64, bytes: u64) -> bool {
        match start.checked_add(bytes) {
            Some(end) => self.start <= start && end <= self.end,
            None => false,
        }
    }
}

/// The same with the firmware's copies taken away (see `bare::snp`): only video memory is absent.
const VIDEO: core::ops::Range<u64> = 0xa0000..0xc0000;

/// The guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestMap {
    low: Range,
    high: Range,
    /// What lies within `low` and is not RAM.
    hole: Range,
}

impl GuestMap {
    /// The map of a guest that has `memory` bytes.
    pub const fn new(memory: u64) -> Self {
        let low = if memory < LOW_LIMIT { memory } else { LOW_LIMIT };
        let high = HIGH_BASE.saturating_add(memory - low);
        let hole = Range { start: LEGACY.start, end: LEGACY.end };
        Self { low: Range { start: 0, end: low }, high: Range { start: HIGH_BASE, end: high }, hole }
    }

    /// The same map with RAM from C0000h to FFFFFh.
    pub const fn with_shadow_ram(self) -> Self {
        Self { hole: Range { start: VIDEO.start, end: VIDEO.end }, ..self }
    }

    /// One past the last byte of RAM below 4 GiB, and above.
    pub const fn ends(&self) -> (u64, u64) {
        (self.low.end, self.high.end)
    }

    /// The ranges, without empty ones.
    pub fn ranges(&self) -> impl Iterator<Item = Range> {
        [self.low, self.high].into_iter().filter(|range| range.bytes() > 0)
    }

    /// How many pages the guest has.
    pub const fn pages(&self) -> u64 {
        (self.low.bytes() + self.high.bytes()) / PAGE
    }

    /// Whether all of it is RAM that can be written to on this machine.
    pub fn is_ram(&self, start: u64, bytes: u64) -> bool {
        let Some(end) = start.checked_add(bytes) else { return false };
        let hole = start < self.hole.end && self.hole.start < end;
        !hole && self.ranges().any(|range| range.contains(start, bytes))
    }

    /// Whether the guest has all of it, be it usable or not.
    pub fn contains(&self, start: u64, bytes: u64) -> bool {
        self.ranges().any(|range| range.contains(start, bytes))
    }

    /// The number of the page that holds `gpa`, counted through the ranges.
    fn index(&self, gpa: u64) -> Option<u64> {
        if self.low.contains(gpa, 1) {
            Some(gpa / PAGE)
        } else if self.high.contains(gpa, 1) {
            Some((self.low.bytes() + gpa - self.high.start) / PAGE)
        } else {
            None
        }
    }
}

/// Pages of the guest that the image has filled: one bit each.
pub struct PageSet<'a> {
    map: GuestMap,
    bits: &'a mut [u8],
}

impl<'a> PageSet<'a> {
    /// Bytes of bitmap that a guest needs.
    pub const fn bytes(map: &GuestMap) -> u64 {
        map.pages().div_ceil(8)
    }

    /// An empty set on a bitmap of [`PageSet::bytes`].
    pub fn new(map: GuestMap, bits: &'a mut [u8]) -> Self {
        bits.fill(0);
        Self { map, bits }
    }

    /// Whether the address is in the guest's RAM.
    pub fn knows(&self, gpa: u64) -> bool {
        self.map.is_ram(gpa & !(PAGE - 1), PAGE)
    }

    /// Whether a page is in the set.
    pub fn contains(&self, gpa: u64) -> bool {
        let index = self.map.index(gpa);
        let byte = index.and_then(|index| self.bits.get((index / 8) as usize));
        index.zip(byte).is_some_and(|(index, byte)| byte >> (index % 8) & 1 == 1)
    }

    /// Adds a page; false if it is in the set already, or not the guest's.
    pub fn insert(&mut self, gpa: u64) -> bool {
        let Some(index) = self.map.index(gpa) else { return false };
        let Some(byte) = self.bits.get_mut((index / 8) as usize) else { return false };
        let bit = 1u8 << (index % 8);
        let free = *byte & bit == 0;
        *byte |= bit;
        free
    }
}

/// Where the host puts what it must keep out of the guest's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// 2 MiB for the program itself, aligned to their size.
    pub block: u64,
    /// The IGVM file.
    pub image: Range,
    /// The bitmap of placed pages.
    pub bitmap: Range,
    /// What is left: the larger piece beside the file.
    pub rest: Range,
}

impl Room {
    /// Divides the RAM above the guest's. `ram` is the machine's, `image` is where the boot loader put the file.
    pub fn plan(ram: &[Range], map: &GuestMap, image: Range) -> Result<Self, Stop> {
        if !map.ranges().all(|range| ram.iter().any(|have| have.contains(range.start, range.bytes()))) {
            return Err(Stop::Machine("QEMU has less RAM than memory= promises, or not in the expected place"));
        }
        let fits = |range: &Range| Self::divide(Self::above(range, map), map, image);
        ram.iter().filter_map(fits).next_back().ok_or(Stop::Machine(
            "no room above the guest's RAM: give QEMU the size of the image and 8 MiB more than memory=",
        ))
    }

    /// The part of a range of RAM that is above the guest's.
    fn above(range: &Range, map: &GuestMap) -> Range {
        let start = map.ranges().filter(|guest| guest.start < range.end).map(|guest| guest.end).max().unwrap_or(0);
        Range { start: start.max(range.start), end: range.end }
    }

    fn divide(room: Range, map: &GuestMap, image: Range) -> Option<Self> {
        let block = room.start.checked_next_multiple_of(BLOCK)?;
        let bitmap = block.checked_add(BLOCK)?;
        let bitmap =
            Range { start: bitmap, end: bitmap.checked_add(PageSet::bytes(map))?.checked_next_multiple_of(PAGE)? };
        let rest = Range { start: bitmap.end, end: room.end };
        // A file that is out of the way already stays where it is; any other is moved behind the bitmap. The block and the
        // bitmap must not be written before the file has left, so they may not overlap where it is now.
        let occupied = image.start < bitmap.end && block < image.end;
        let target = if rest.contains(image.start, image.bytes()) {
            image
        } else {
            Range { start: rest.start, end: rest.start.checked_add(image.bytes())? }
        };
        let before = Range { start: rest.start, end: target.start };
        let after = Range { start: target.end.checked_next_multiple_of(PAGE)?, end: room.end & !(PAGE - 1) };
        let rest =
            if before.bytes() > after.bytes() { Range { end: before.end & !(PAGE - 1), ..before } } else { after };
        (!occupied && target.end <= room.end).then_some(Self { block, image: target, bitmap, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn ram_beyond_2_gib_lies_above_4_gib() {
        let map = GuestMap::new(3 * GIB);
        assert!(map.is_ram(2 * GIB - PAGE, PAGE));
        assert!(!map.is_ram(2 * GIB, PAGE));
        assert!(map.is_ram(5 * GIB - PAGE, PAGE));
        assert!(!map.is_ram(5 * GIB - PAGE, 2 * PAGE));
        assert_eq!(GuestMap::new(GIB).ranges().count(), 1);
        assert_eq!(map.pages(), 3 * GIB / PAGE);
    }

    #[test]
    fn nothing_is_placed_in_the_legacy_area() {
        let map = GuestMap::new(GIB);
        assert!(map.is_ram(0x9f000, PAGE));
        assert!(!map.is_ram(0x9f000, 2 * PAGE));
        assert!(!map.is_ram(0xf_f000, PAGE));
        assert!(map.is_ram(0x10_0000, PAGE));
        assert!(!map.is_ram(u64::MAX - 1, PAGE));
    }

    #[test]
    fn a_page_is_placed_once() {
        let map = GuestMap::new(3 * GIB);
        let mut bits = vec![0xff; PageSet::bytes(&map) as usize];
        let mut set = PageSet::new(map, &mut bits);
        assert!(set.insert(2 * GIB - PAGE));
        assert!(!set.insert(2 * GIB - PAGE));
        assert!(set.contains(2 * GIB - PAGE) && !set.contains(2 * GIB - 2 * PAGE) && !set.contains(2 * GIB));
        assert!(set.knows(4 * GIB + 1) && !set.knows(2 * GIB) && !set.knows(5 * GIB) && !set.knows(u64::MAX));
        assert!(set.insert(4 * GIB));
        assert!(!set.insert(4 * GIB) && set.insert(4 * GIB + PAGE));
        assert!(!set.insert(2 * GIB) && !set.insert(5 * GIB));
    }

    #[test]
    fn a_file_above_the_guest_stays_where_it_is() {
        let map = GuestMap::new(GIB);
        let ram = [Range { start: 0, end: GIB + 64 * MIB }];
        let image = Range { start: GIB + 40 * MIB, end: GIB + 60 * MIB };
        let room = Room::plan(&ram, &map, image).unwrap();
        assert_eq!((room.block, room.image), (GIB, image));
        assert_eq!(room.bitmap.start, GIB + 2 * MIB);
    }

    #[test]
    fn a_file_in_guest_ram_is_moved_above_it() {
        let map = GuestMap::new(2 * GIB);
        let ram = [Range { start: 0, end: 2 * GIB }, Range { start: 4 * GIB, end: 4 * GIB + 64 * MIB }];
        let image = Range { start: 2 * GIB - 20 * MIB, end: 2 * GIB - MIB };
        let room = Room::plan(&ram, &map, image).unwrap();
        assert_eq!(room.block, 4 * GIB);
        assert!(room.image.start >= room.bitmap.end && room.image.bytes() == 19 * MIB);
    }

    #[test]
    fn a_file_that_straddles_the_border_needs_space_to_move_up() {
        let map = GuestMap::new(GIB);
        let ram = [Range { start: 0, end: GIB + 64 * MIB }];
        let image = Range { start: GIB - MIB, end: GIB + 63 * MIB };
        assert!(Room::plan(&ram, &map, image).is_err());
    }

    #[test]
    fn less_ram_than_promised_is_refused() {
        let ram = [Range { start: 0, end: GIB }];
        assert!(Room::plan(&ram, &GuestMap::new(2 * GIB), Range::default()).is_err());
        assert!(Room::plan(&ram, &GuestMap::new(GIB), Range::default()).is_err());
    }
}
