// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the image and its loader left in memory: the launch block, the memory map, the processor count.
//!
//! The launch block is part of the image. The other two come from the host, which may lie: they decide how much memory the
//! guest gets, and must not make Parados hand out its own or use what is not there.

use image_abi::{IMAGE_BASE, LaunchBlock, MAGIC, REGION_LIMIT, Range, flag};
use platform::{Gpa, PageRange, PageSize, RamMap, RamMapError, Reason, Slip};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::mem::Image;

/// The most processors that a VM can have: APIC IDs of 8 bits, of which FFh is everybody.
const MAX_PROCESSORS: u32 = 255;
/// The legacy video area: never memory, whatever the host says.
const VIDEO: (u64, u64) = (0xa_0000, 0xc_0000);
const GIB: u64 = 1 << 30;
const KIB: u64 = 1 << 10;
/// Parados's own memory, besides the image: for any VM, for each processor, for each GiB of the guest's memory.
const BASE_BYTES: u64 = 1100 * KIB;
const PROCESSOR_BYTES: u64 = 64 * KIB;
const GIB_BYTES: u64 = 16 * KIB;
/// The same where the guest may convert pages: two bits for each page, and tables for both addresses of what it has shared.
const CONVERSION_BYTES: u64 = 192 * KIB;
const CONVERSION_GIB_BYTES: u64 = 96 * KIB;

/// IGVM memory map entry (IGVM file format, `IGVM_VHS_MEMORY_MAP_ENTRY`). A count of zero ends the list.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MemoryMapEntry {
    first_page: u64,
    pages: u64,
    kind: u16,
    flags: u16,
    reserved: u32,
}

/// `IgvmMemoryMapEntryType::MEMORY`.
const KIND_MEMORY: u16 = 0;

/// A checked launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// What `igvm-tools` wrote.
    pub block: LaunchBlock,
    /// The guest's memory, without Parados's region and the video area.
    pub ram: RamMap,
    /// Parados's own memory, image included.
    pub region: PageRange,
    /// One past the last byte of memory below 4 GiB.
    pub low_end: u64,
    /// Bytes of memory from 4 GiB on.
    pub high_bytes: u64,
    /// How many processors.
    pub processors: u32,
}

impl Launch {
    /// Checks a launch block together with the bytes of the two parameter areas that it names. On an error the image cannot start.
    pub fn new(block: &LaunchBlock, memory_map: &[u8], processor_count: u32) -> Result<Self, Reason> {
        if block.magic != MAGIC || block.image.start != IMAGE_BASE || block.image.bytes > REGION_LIMIT {
            return Err(Reason::BadLaunchBlock);
        }
        if !(1..=MAX_PROCESSORS).contains(&processor_count) {
            return Err(Reason::BadProcessorCount);
        }
        let all = parse(memory_map)?;
        let low_end = all
            .iter()
            .find(|range| range.contains(Gpa(IMAGE_BASE)))
            .filter(|range| range.start().0 <= 1 << 20)
            .map(|range| range.end().0.min(4 * GIB))
            .ok_or(Reason::BadMemoryMap)?;
        if !all.contains(Gpa(0), VIDEO.0) {
            return Err(Reason::BadMemoryMap);
        }
        let high_bytes =
            all.iter().find(|range| range.contains(Gpa(4 * GIB))).map_or(0, |range| range.end().0 - 4 * GIB);
        let converts = block.has(flag::PAGE_CONVERSION);
        let bytes =
            region_bytes(block.image.bytes, processor_count, all.bytes(), converts).ok_or(Reason::RegionTooSmall)?;
        let region = PageRange::new(Gpa(IMAGE_BASE), Gpa(IMAGE_BASE + bytes)).ok_or(Reason::BadLaunchBlock)?;
        if region.end().0 > low_end {
            return Err(Reason::RegionTooSmall);
        }
        let video = PageRange::new(Gpa(VIDEO.0), Gpa(VIDEO.1)).ok_or(Reason::BadMemoryMap)?;
        let ram = visible(&all, low_end, high_bytes)?.without(video)?.without(withheld(region))?;
        let launch = Self { block: *block, ram, region, low_end, high_bytes, processors: processor_count };
        launch.check_payload()?;
        Ok(launch)
    }

    /// Checks what the loader left in the image's memory.
    #[inline(never)]
    pub fn read(image: &Image) -> Result<Self, Reason> {
        let block = image.block();
        let count = image.bytes(&block.processor_count).first_chunk().ok_or(Reason::BadLaunchBlock)?;
        Self::new(block, image.bytes(&block.memory_map), u32::from_le_bytes(*count))
    }

    /// Bytes that the VM has but the guest does not: what Parados costs.
    pub fn private_bytes(&self) -> u64 {
        self.region.bytes()
    }

    /// From the end of the image to the end of the region: the heap.
    pub fn heap(&self) -> PageRange {
        let start = Gpa(self.block.image.end().next_multiple_of(PageSize::Small.bytes()));
        PageRange::new(start, self.region.end()).unwrap_or(self.region)
    }

    fn check_payload(&self) -> Result<(), Reason> {
        let fits = |range: &Range| range.bytes == 0 || self.ram.contains(Gpa(range.start), range.bytes);
        let all = self.block.payload.iter().chain([&self.block.initrd]);
        if all.into_iter().all(fits) { Ok(()) } else { Err(Reason::PayloadTooLarge) }
    }
}

/// What the guest does not get of Parados's region.
fn withheld(region: PageRange) -> PageRange {
    if Slip::Generous.is_planted() {
        let end = Gpa(region.end().0 - PageSize::Small.bytes());
        return PageRange::new(region.start(), end).unwrap_or(region);
    }
    region
}

/// How many bytes Parados takes for a VM, whose guest may convert pages or not: a multiple of 2 MiB, `None` if it is more than
/// [`REGION_LIMIT`].
pub fn region_bytes(image: u64, processors: u32, memory: u64, converts: bool) -> Option<u64> {
    let (once, per_gib) = if converts { (CONVERSION_BYTES, CONVERSION_GIB_BYTES) } else { (0, 0) };
    let base = image + BASE_BYTES + once + u64::from(processors) * PROCESSOR_BYTES;
    let need = base + memory.div_ceil(GIB) * (GIB_BYTES + per_gib);
    let bytes = need.next_multiple_of(PageSize::Large.bytes());
    (bytes <= REGION_LIMIT).then_some(bytes)
}

/// The host's memory map, checked for order and overlap.
fn parse(bytes: &[u8]) -> Result<RamMap, Reason> {
    let mut map = RamMap::default();
    let (entries, _) = bytes.as_chunks::<{ size_of::<MemoryMapEntry>() }>();
    for entry in entries {
        let entry = MemoryMapEntry::read_from_bytes(entry).map_err(|_| Reason::BadMemoryMap)?;
        if entry.pages == 0 {
            break;
        }
        if entry.kind != KIND_MEMORY {
            continue;
        }
        let page = PageSize::Small.bytes();
        let start = entry.first_page.checked_mul(page).ok_or(Reason::BadMemoryMap)?;
        let end = entry.pages.checked_mul(page).and_then(|bytes| start.checked_add(bytes));
        let range = PageRange::new(Gpa(start), Gpa(end.ok_or(Reason::BadMemoryMap)?));
        map.push(range.ok_or(Reason::BadMemoryMap)?)?;
    }
    Ok(map)
}

/// The part of the host's map that the guest's own map shows: low memory and what follows 4 GiB.
fn visible(all: &RamMap, low_end: u64, high_bytes: u64) -> Result<RamMap, RamMapError> {
    let mut map = RamMap::default();
    for range in all.iter() {
        let low = PageRange::new(range.start(), range.end().min(Gpa(low_end)).max(range.start()));
        let high_end = Gpa(4 * GIB + high_bytes);
        let high = PageRange::new(
            range.start().max(Gpa(4 * GIB)).min(range.end()),
            range.end().min(high_end).max(range.start().max(Gpa(4 * GIB)).min(range.end())),
        );
        for part in [low, high].into_iter().flatten() {
            map.push(part)?;
        }
    }
    Ok(map)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use image_abi::{Digest, PAYLOAD_DIGESTS, PAYLOAD_RANGES, PLACED_RANGES};

    const MIB: u64 = 1 << 20;

    pub(crate) fn block() -> LaunchBlock {
        LaunchBlock {
            magic: MAGIC,
            image: Range { start: IMAGE_BASE, bytes: 600 * KIB },
            text: Range::default(),
            rodata: Range::default(),
            page_tables: Range::default(),
            stack: Range::default(),
            memory_map: Range::default(),
            processor_count: Range::default(),
            setup_header: Range::default(),
            command_line: Range::default(),
            initrd: Range::default(),
            entry: 0,
            payload_kind: 0,
            flags: 0,
            payload: [Range::default(); PAYLOAD_RANGES],
            placed: [Range::default(); PLACED_RANGES],
            cpuid_page: Range::default(),
            secrets_page: Range::default(),
            mailbox: Range::default(),
            td_attributes: 0,
            digests: [Digest::NONE; PAYLOAD_DIGESTS],
        }
    }

    pub(crate) fn map(ranges: &[(u64, u64, u16)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(start, end, kind) in ranges {
            bytes.extend((start >> 12).to_le_bytes());
            bytes.extend(((end - start) >> 12).to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 6]);
        }
        bytes.extend([0; 24]);
        bytes
    }

    fn ram(launch: &Launch) -> Vec<(u64, u64)> {
        launch.ram.iter().map(|range| (range.start().0, range.end().0)).collect()
    }

    #[test]
    fn the_guest_gets_all_but_the_video_area_and_our_region() {
        let launch = Launch::new(&block(), &map(&[(0, GIB, 0)]), 2).unwrap();
        let end = launch.region.end().0;
        assert_eq!(ram(&launch), [(0, 0xa_0000), (0xc_0000, IMAGE_BASE), (end, GIB)]);
        assert!(launch.private_bytes() <= 4 * MIB);
    }

    #[test]
    fn memory_above_four_gib_counts() {
        let launch = Launch::new(&block(), &map(&[(0, 2 * GIB, 0), (4 * GIB, 7 * GIB, 0)]), 1).unwrap();
        assert_eq!((launch.low_end, launch.high_bytes), (2 * GIB, 3 * GIB));
        assert_eq!(ram(&launch).last(), Some(&(4 * GIB, 7 * GIB)));
    }

    #[test]
    fn reserved_entries_and_islands_are_not_memory() {
        let map = map(&[(0, GIB, 0), (GIB, GIB + MIB, 1), (2 * GIB, 2 * GIB + MIB, 0), (5 * GIB, 6 * GIB, 0)]);
        let launch = Launch::new(&block(), &map, 1).unwrap();
        assert_eq!((launch.low_end, launch.high_bytes), (GIB, 0));
        assert_eq!(ram(&launch).last(), Some(&(launch.region.end().0, GIB)));
    }

    #[test]
    fn a_host_that_lies_about_memory_is_refused() {
        for bad in [
            &[][..],
            &[(GIB, 2 * GIB, 0)],
            &[(0, 0x9_0000, 0)],
            &[(0, 128 * MIB, 0)],
            &[(0, GIB, 0), (MIB, 2 * GIB, 0)],
            &[(GIB, 2 * GIB, 0), (0, MIB, 0)],
        ] {
            assert_eq!(Launch::new(&block(), &map(bad), 1).err(), Some(Reason::BadMemoryMap), "{bad:x?}");
        }
        let tight = map(&[(0, 129 * MIB, 0)]);
        assert_eq!(Launch::new(&block(), &tight, 1).err(), Some(Reason::RegionTooSmall));
        let mut overflow = map(&[]);
        overflow[..16].fill(0xff);
        assert_eq!(Launch::new(&block(), &overflow, 1).err(), Some(Reason::BadMemoryMap));
    }

    #[test]
    fn impossible_processor_counts_are_refused() {
        for count in [0, 256, u32::MAX] {
            let error = Launch::new(&block(), &map(&[(0, GIB, 0)]), count).err();
            assert_eq!(error, Some(Reason::BadProcessorCount));
        }
        assert!(Launch::new(&block(), &map(&[(0, GIB, 0)]), 255).is_ok());
    }

    #[test]
    fn a_payload_outside_memory_is_refused() {
        for range in [
            Range { start: 900 * MIB, bytes: 200 * MIB },
            Range { start: IMAGE_BASE + MIB, bytes: 1 },
            Range { start: u64::MAX - 10, bytes: 20 },
        ] {
            let mut block = block();
            block.initrd = range;
            let error = Launch::new(&block, &map(&[(0, GIB, 0)]), 1).err();
            assert_eq!(error, Some(Reason::PayloadTooLarge), "{range:x?}");
        }
    }

    #[test]
    fn a_foreign_launch_block_is_refused() {
        let mut foreign = block();
        foreign.magic[0] = 0;
        assert_eq!(Launch::new(&foreign, &map(&[(0, GIB, 0)]), 1).err(), Some(Reason::BadLaunchBlock));
        let mut huge = block();
        huge.image.bytes = REGION_LIMIT + 1;
        assert_eq!(Launch::new(&huge, &map(&[(0, GIB, 0)]), 1).err(), Some(Reason::BadLaunchBlock));
    }

    #[test]
    fn our_region_stays_within_its_limit() {
        assert_eq!(region_bytes(512 * KIB, 2, GIB, false), Some(2 * MIB));
        assert_eq!(region_bytes(512 * KIB, 2, GIB, true), Some(2 * MIB));
        assert_eq!(region_bytes(512 * KIB, 2, 3 * GIB, false), Some(2 * MIB));
        assert_eq!(region_bytes(512 * KIB, 2, 3 * GIB, true), Some(4 * MIB));
        assert!(region_bytes(512 * KIB, 255, 64 * GIB, true).is_some());
        assert_eq!(region_bytes(REGION_LIMIT, 1, GIB, false), None);
    }
}
