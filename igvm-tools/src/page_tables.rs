// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page tables that an image starts with, made at build time.
//!
//! They map the low 4 GiB to itself (APM vol. 2, section 5.3, 4-level long-mode paging): by 2 MiB pages, readable and
//! writable, never executable; by 4 KiB pages where the image lies, each with its own permission, and in the first 2 MiB,
//! where page 0 is absent so that a null pointer faults, until a platform maps it as the guest's memory. The interrupt
//! controllers' pages are uncached. Accessed and dirty bits are set, so that no processor ever writes to the tables.

use crate::PAGE;
use crate::layout::Access;
use image_abi::IMAGE_BASE;

/// Bits of an entry (APM vol. 2, section 5.4.1).
mod bit {
    pub(super) const PRESENT: u64 = 1 << 0;
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const PWT: u64 = 1 << 3;
    pub(super) const PCD: u64 = 1 << 4;
    pub(super) const ACCESSED: u64 = 1 << 5;
    pub(super) const DIRTY: u64 = 1 << 6;
    pub(super) const LARGE: u64 = 1 << 7;
    pub(super) const NO_EXECUTE: u64 = 1 << 63;
    /// Bits 51 to 12.
    pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

const ENTRIES: u64 = 512;
const LARGE_PAGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// How much is mapped, and by how many page directories.
const MAPPED_GIB: u64 = 4;

/// IOAPIC, HPET and local APIC, and what lies around them.
const UNCACHED: core::ops::Range<u64> = 0xfec0_0000..0xfef0_0000;

/// Root, one directory-pointer table, the directories.
const UPPER_TABLES: u64 = 2 + MAPPED_GIB;

/// How many pages the tables take for an image that ends at an address.
pub(crate) fn pages_for(image_end: u64) -> u64 {
    let regions = image_end.div_ceil(LARGE_PAGE) - IMAGE_BASE / LARGE_PAGE;
    UPPER_TABLES + 1 + regions
}

/// Builds the tables that begin at `root`, for an image that ends at `image_end` and whose pages have the permissions
/// listed (ascending). Pages between listed ones are absent, those after the image are writable; so is all other memory, but
/// for the large page around `absent`.
pub(crate) fn build(root: u64, image_end: u64, regions: &[(u64, u64, Access)], absent: Option<u64>) -> Vec<u8> {
    let table_address = |index: u64| root + index * PAGE;
    let upper = bit::PRESENT | bit::WRITE | bit::ACCESSED;
    let mut tables: Vec<u64> = Vec::new();
    tables.extend(table([table_address(1) | upper]));
    tables.extend(table((0..MAPPED_GIB).map(|index| table_address(2 + index) | upper)));
    let first_image_region = IMAGE_BASE / LARGE_PAGE;
    let image_regions = first_image_region..image_end.div_ceil(LARGE_PAGE);
    for region in 0..MAPPED_GIB * GIB / LARGE_PAGE {
        tables.push(if region == 0 {
            table_address(UPPER_TABLES) | upper
        } else if image_regions.contains(&region) {
            table_address(UPPER_TABLES + 1 + region - first_image_region) | upper
        } else if absent.is_some_and(|absent| absent / LARGE_PAGE == region) {
            0
        } else {
            large_page(region * LARGE_PAGE)
        });
    }
    tables.extend((0..ENTRIES).map(|page| small_page(page * PAGE, low_access(page))));
    for region in image_regions {
        let pages = (0..ENTRIES).map(|page| region * LARGE_PAGE + page * PAGE);
        tables.extend(pages.map(|page| small_page(page, image_access(page, image_end, regions))));
    }
    tables.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// A table of 512 entries of which only the first ones are present.
fn table(entries: impl IntoIterator<Item = u64>) -> impl Iterator<Item = u64> {
    entries.into_iter().chain(std::iter::repeat(0)).take(ENTRIES as usize)
}

fn large_page(address: u64) -> u64 {
    let cache = if UNCACHED.contains(&address) { bit::PCD | bit::PWT } else { 0 };
    small_page(address, Access::Write) | bit::LARGE | cache
}

fn small_page(address: u64, access: Access) -> u64 {
    let present = address | bit::PRESENT | bit::ACCESSED;
    match access {
        Access::Absent => 0,
        Access::Read => present | bit::NO_EXECUTE,
        Access::Execute => present,
        Access::Write => present | bit::WRITE | bit::DIRTY | bit::NO_EXECUTE,
    }
}

fn low_access(page: u64) -> Access {
    if page == 0 { Access::Absent } else { Access::Write }
}

fn image_access(page: u64, image_end: u64, regions: &[(u64, u64, Access)]) -> Access {
    let region = regions.iter().find(|(start, end, _)| (*start..*end).contains(&page));
    match region {
        Some((_, _, access)) => *access,
        None if page >= image_end => Access::Write,
        None => Access::Absent,
    }
}

/// What the tables say about a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The physical address of the page that holds the virtual address.
    pub page: u64,
    /// 4 KiB or 2 MiB; 1 GiB in foreign tables.
    pub bytes: u64,
    /// What may be done there.
    pub writable: bool,
    /// Whether instructions may be fetched from there.
    pub executable: bool,
    /// Whether it is uncached (PCD and PWT).
    pub uncached: bool,
}

/// Walks 4-level tables in memory that `read` gives eight bytes of; `None` where nothing is mapped.
pub fn walk(read: impl Fn(u64) -> Option<u64>, root: u64, address: u64) -> Option<Mapping> {
    let (mut table, mut writable, mut executable) = (root & bit::ADDRESS, true, true);
    for level in (0..4u32).rev() {
        let shift = 12 + 9 * level;
        let entry = read(table + ((address >> shift) % ENTRIES) * 8)?;
        if entry & bit::PRESENT == 0 {
            return None;
        }
        writable &= entry & bit::WRITE != 0;
        executable &= entry & bit::NO_EXECUTE == 0;
        let leaf = level == 0 || (level < 3 && entry & bit::LARGE != 0);
        if leaf {
            let bytes = 1 << shift;
            let page = entry & bit::ADDRESS & !(bytes - 1);
            let uncached = entry & (bit::PCD | bit::PWT) == bit::PCD | bit::PWT;
            return Some(Mapping { page, bytes, writable, executable, uncached });
        }
        table = entry & bit::ADDRESS;
    }
    None
}
