// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nested page tables: which guest-physical pages exist, and where they lie (APM vol. 2, 15.25).
//!
//! Entries are U=1 throughout, because the processor treats every guest access as a user access of the nested tables.
//! The guest's own page-table walk counts as a write here, so read-only mappings cannot hold guest page tables.

use bitflags::bitflags;

/// An entry's address bits.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Levels: 4 is the root; a leaf of level n spans 2^(12+9(n-1)) bytes.
const ROOT_LEVEL: u32 = 4;

bitflags! {
    /// What the guest may do with a page besides reading it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Rights: u8 {
        /// Write it.
        const WRITE = 1;
        /// Fetch instructions from it.
        const EXECUTE = 2;
    }
}

/// Why a mapping was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No memory for a table.
    Exhausted,
    /// An address is not a multiple of 4 KiB, or lies beyond the 48 bits of four levels.
    Address,
}

/// Where the tables live.
///
/// # Safety
/// `allocate` returns the system-physical address of a page that is zeroed, 4 KiB aligned and used by nobody else, for
/// ever. `table` turns such an address into a pointer that is valid for reads and writes of 4 KiB.
pub unsafe trait TableMemory {
    /// A fresh, zeroed page.
    fn allocate(&mut self) -> Option<u64>;
    /// How to reach a page given out by [`Self::allocate`].
    fn table(&self, physical: u64) -> *mut [u64; 512];
}

/// A tree of nested page tables.
pub struct NestedTables<M> {
    root: u64,
    memory: M,
    /// 1 GiB leaves may be used.
    huge: bool,
}

impl<M: TableMemory> NestedTables<M> {
    /// An empty tree: nothing exists. `huge` allows 1 GiB leaves, where the processor has them.
    pub fn new(mut memory: M, huge: bool) -> Option<Self> {
        let root = memory.allocate()?;
        Some(Self { root, memory, huge })
    }

    /// The value for nCR3.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// A second root, whose first TiB is that at `gpa` in this tree, now and later, and which has nothing else.
    pub fn root_showing(&mut self, gpa: u64) -> Result<u64, MapError> {
        const SLOTS: u64 = 2;
        let gpa = gpa & !(span(ROOT_LEVEL) - 1);
        if (gpa + (SLOTS - 1) * span(ROOT_LEVEL)) >> 48 != 0 {
            return Err(MapError::Address);
        }
        let root = self.memory.allocate().ok_or(MapError::Exhausted)?;
        for shown in 0..SLOTS {
            let at = gpa + shown * span(ROOT_LEVEL);
            let slot = index(at, ROOT_LEVEL);
            let mut entry = self.read(self.root, slot);
            if entry & PRESENT == 0 {
                self.split(self.root, at, ROOT_LEVEL, entry)?;
                entry = self.read(self.root, slot);
            }
            self.write(root, shown as usize, entry);
        }
        Ok(root)
    }

    /// Maps `bytes` at guest-physical `gpa` to system-physical `target`, with the largest leaves that fit. Replaces what
    /// was there, but for tables: nobody gives their memory back, so they stay and are filled. The caller flushes.
    pub fn map(&mut self, gpa: u64, target: u64, bytes: u64, rights: Rights) -> Result<(), MapError> {
        let mut flags = PRESENT | USER | ACCESSED | DIRTY;
        if rights.contains(Rights::WRITE) {
            flags |= WRITE;
        }
        if !rights.contains(Rights::EXECUTE) {
            flags |= NO_EXECUTE;
        }
        self.fill(gpa, bytes, Some(target), flags)
    }

    /// Removes `bytes` at `gpa`: accesses fault. The caller flushes.
    pub fn unmap(&mut self, gpa: u64, bytes: u64) -> Result<(), MapError> {
        self.fill(gpa, bytes, None, 0)
    }

    /// The leaf that maps `gpa`: its target and whether it can be written and executed.
    pub fn find(&self, gpa: u64) -> Option<(u64, Rights)> {
        let mut table = self.root;
        let mut level = ROOT_LEVEL;
        loop {
            let entry = self.read(table, index(gpa, level));
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 1 || entry & LARGE != 0 {
                let mut rights = Rights::empty();
                rights.set(Rights::WRITE, entry & WRITE != 0);
                rights.set(Rights::EXECUTE, entry & NO_EXECUTE == 0);
                let within = span(level) - 1;
                return Some(((entry & ADDRESS & !within) | (gpa & within), rights));
            }
            table = entry & ADDRESS;
            level -= 1;
        }
    }

    fn fill(&mut self, gpa: u64, bytes: u64, target: Option<u64>, flags: u64) -> Result<(), MapError> {
        let end = gpa.checked_add(bytes).ok_or(MapError::Address)?;
        if (gpa | bytes | target.unwrap_or(0)) & 0xfff != 0 || end > 1 << 48 {
            return Err(MapError::Address);
        }
        let mut at = gpa;
        while at < end {
            let physical = target.map(|target| target + (at - gpa));
            let level = self.leaf_level(at, end - at, physical.unwrap_or(0));
            self.set_leaf(at, level, physical, flags)?;
            at += span(level);
        }
        Ok(())
    }

    /// The highest level whose leaf fits at `gpa`.
    fn leaf_level(&self, gpa: u64, left: u64, target: u64) -> u32 {
        let top = if self.huge { 3 } else { 2 };
        (2..=top).rev().find(|&level| (gpa | target) & (span(level) - 1) == 0 && left >= span(level)).unwrap_or(1)
    }

    fn set_leaf(&mut self, gpa: u64, leaf: u32, target: Option<u64>, flags: u64) -> Result<(), MapError> {
        let mut table = self.root;
        for level in (leaf + 1..=ROOT_LEVEL).rev() {
            let entry = self.read(table, index(gpa, level));
            table = if entry & PRESENT != 0 && entry & LARGE == 0 {
                entry & ADDRESS
            } else if entry & PRESENT == 0 && target.is_none() {
                return Ok(());
            } else {
                self.split(table, gpa, level, entry)?
            };
        }
        self.overwrite(table, index(gpa, leaf), leaf, target, flags);
        Ok(())
    }

    /// Writes a leaf, or what says the same to the table that is there.
    fn overwrite(&mut self, table: u64, slot: usize, level: u32, target: Option<u64>, flags: u64) {
        let before = self.read(table, slot);
        if level > 1 && before & PRESENT != 0 && before & LARGE == 0 {
            for below in 0..512 {
                let target = target.map(|target| target + below as u64 * span(level - 1));
                self.overwrite(before & ADDRESS, below, level - 1, target, flags);
            }
            return;
        }
        let size = if level > 1 { LARGE } else { 0 };
        self.write(table, slot, target.map_or(0, |target| target | flags | size));
    }

    /// Replaces a hole or a large leaf by a table that says the same.
    fn split(&mut self, table: u64, gpa: u64, level: u32, entry: u64) -> Result<u64, MapError> {
        let below = self.memory.allocate().ok_or(MapError::Exhausted)?;
        if entry & PRESENT != 0 {
            let step = span(level - 1);
            let keep = if level - 1 > 1 { entry } else { entry & !LARGE };
            for slot in 0..512 {
                self.write(below, slot, keep + slot as u64 * step);
            }
        }
        self.write(table, index(gpa, level), below | PRESENT | WRITE | USER | ACCESSED);
        Ok(below)
    }

    fn slot(&self, table: u64, slot: usize) -> *mut u64 {
        // Within the page, whatever `slot` says.
        self.memory.table(table).cast::<u64>().wrapping_add(slot & 511)
    }

    fn read(&self, table: u64, slot: usize) -> u64 {
        // SAFETY: `table` came from `allocate`, so `TableMemory` vouches for the whole page. The processor may set A and D
        // bits at the same time, hence the volatile access.
        unsafe { self.slot(table, slot).read_volatile() }
    }

    fn write(&mut self, table: u64, slot: usize, entry: u64) {
        // SAFETY: as in `read`; `&mut self` keeps other writers out, and the processor sees either entry whole.
        unsafe { self.slot(table, slot).write_volatile(entry) }
    }
}

const fn span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

const fn index(gpa: u64, level: u32) -> usize {
    (gpa >> (12 + 9 * (level - 1))) as usize & 511
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pages(Vec<Box<[u64; 512]>>);

    // SAFETY: boxes never move and are never freed while the test holds the vector.
    unsafe impl TableMemory for Pages {
        fn allocate(&mut self) -> Option<u64> {
            #[repr(align(4096))]
            struct Page([u64; 512]);
            let page = Box::leak(Box::new(Page([0; 512])));
            self.0.push(Box::new([0; 512]));
            Some(core::ptr::from_mut(&mut page.0) as u64)
        }

        fn table(&self, physical: u64) -> *mut [u64; 512] {
            physical as *mut [u64; 512]
        }
    }

    fn tables() -> NestedTables<Pages> {
        NestedTables::new(Pages(Vec::new()), true).unwrap()
    }

    const ALL: Rights = Rights::all();

    #[test]
    fn every_mapped_byte_is_found_and_nothing_else() {
        let mut tables = tables();
        tables.map(0x1000, 0x1000, 0x3fff_f000, ALL).unwrap();
        tables.map(0x4000_0000, 0x4000_0000, 0x8000_0000, ALL).unwrap();
        for gpa in [0x1000, 0x1f_ffff, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xbfff_ffff] {
            assert_eq!(tables.find(gpa), Some((gpa, ALL)), "{gpa:#x}");
        }
        for gpa in [0, 0xfff, 0xc000_0000, 1 << 40] {
            assert_eq!(tables.find(gpa), None, "{gpa:#x}");
        }
    }

    #[test]
    fn a_hole_in_a_large_page_leaves_its_neighbours() {
        let mut tables = tables();
        tables.map(0, 0, 1 << 31, ALL).unwrap();
        tables.unmap(0x800_1000, 0x1000).unwrap();
        assert_eq!(tables.find(0x800_0fff), Some((0x800_0fff, ALL)));
        assert_eq!(tables.find(0x800_1000), None);
        assert_eq!(tables.find(0x800_2000), Some((0x800_2000, ALL)));
        assert_eq!(tables.find(0x7fff_ffff), Some((0x7fff_ffff, ALL)));
    }

    #[test]
    fn large_leaves_are_used_where_they_fit() {
        let mut tables = tables();
        tables.map(0, 0, 4 << 30, ALL).unwrap();
        assert_eq!(tables.memory.0.len(), 2, "a root and one table of 1 GiB leaves");
        tables.huge = false;
        tables.map(1 << 39, 0, 2 << 30, ALL).unwrap();
        assert_eq!(tables.memory.0.len(), 5, "one more table of 1 GiB slots, two of 2 MiB leaves");
    }

    /// Memory ran out when a guest had small pages made and a large one put in their place often enough.
    #[test]
    fn what_replaces_a_table_takes_no_memory() {
        let mut tables = tables();
        tables.map(0x1000, 0x1000, 0x1000, ALL).unwrap();
        let made = tables.memory.0.len();
        for target in [0, 1 << 30] {
            tables.map(0, target, 1 << 21, ALL).unwrap();
            assert_eq!(tables.find(0x1f_ffff), Some((target + 0x1f_ffff, ALL)));
            tables.map(0x5000, 0x9000, 0x1000, Rights::WRITE).unwrap();
            assert_eq!(tables.find(0x5001), Some((0x9001, Rights::WRITE)));
            tables.unmap(0, 1 << 21).unwrap();
            assert!((0..512).all(|page| tables.find(page << 12).is_none()));
            tables.map(0, 0, 1 << 30, ALL).unwrap();
            assert_eq!(tables.find(0x3fff_ffff), Some((0x3fff_ffff, ALL)));
            tables.unmap(0, 1 << 30).unwrap();
        }
        assert_eq!(tables.memory.0.len(), made);
    }

    #[test]
    fn rights_reach_the_leaf() {
        let mut tables = tables();
        tables.map(0x1000, 0x9000, 0x1000, Rights::empty()).unwrap();
        assert_eq!(tables.find(0x1234), Some((0x9234, Rights::empty())));
    }

    #[test]
    fn a_second_root_follows_the_first() {
        let mut tables = tables();
        let second = tables.root_showing(1 << 47).unwrap();
        tables.map((1 << 47) + 0x5000, 0x7000, 0x1000, ALL).unwrap();
        tables.map(0x6000, 0x6000, 0x1000, ALL).unwrap();
        tables.map((1 << 47) + (1 << 39) + 0x5000, 0x8000, 0x1000, ALL).unwrap();
        tables.root = second;
        assert_eq!(tables.find(0x5008), Some((0x7008, ALL)));
        assert_eq!(tables.find((1 << 39) + 0x5008), Some((0x8008, ALL)));
        assert_eq!(tables.find(0x6000), None);
        assert_eq!(tables.find((1 << 47) + 0x5000), None);
        assert_eq!(tables.root_showing(1 << 48), Err(MapError::Address));
    }

    #[test]
    fn odd_addresses_are_refused() {
        let mut tables = tables();
        assert_eq!(tables.map(1, 0, 0x1000, ALL), Err(MapError::Address));
        assert_eq!(tables.map(0, 0, 0x800, ALL), Err(MapError::Address));
        assert_eq!(tables.map((1 << 48) - 0x1000, 0, 0x2000, ALL), Err(MapError::Address));
        assert_eq!(tables.unmap(u64::MAX - 0xfff, 0x2000), Err(MapError::Address));
    }
}
