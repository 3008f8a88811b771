// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's own page tables, walked in software (APM vol. 2, 5.2 and 5.3): long mode, PAE, plain 32-bit paging, or none.
//!
//! Tables are read through the guest's key whatever the C-bit of their address says (APM vol. 2, 15.34.5), so only the
//! leaf's C-bit counts.

use super::{C_BIT, C_MASK};

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000 & !C_MASK;

/// The registers that say how to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The guest-physical address, without the C-bit.
    pub gpa: u64,
    /// Whether the access is private.
    pub private: bool,
    /// Whether it can be written by the supervisor with CR0.WP set.
    pub writable: bool,
    /// Whether CPL 3 reaches it.
    pub user: bool,
    /// Whether it can be executed.
    pub executable: bool,
}

/// Why an address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Not present: a #PF.
    PageFault,
    /// A table lies outside the guest's memory.
    Table(u64),
}

/// Whether all accesses are private because no page table could say otherwise (APM vol. 2, 15.34.5).
pub const fn is_forced_private(cr0: u64, efer: u64) -> bool {
    cr0 & CR0_PG == 0 || efer & EFER_LMA == 0
}

/// Translates `address`. `read` reads eight bytes of the guest's memory.
pub fn walk(paging: &Paging, address: u64, mut read: impl FnMut(u64) -> Option<u64>) -> Result<Mapping, Lost> {
    if paging.cr0 & CR0_PG == 0 {
        let gpa = address & 0xffff_ffff;
        return Ok(Mapping { gpa, private: true, writable: true, user: true, executable: true });
    }
    if paging.efer & EFER_LMA == 0 {
        return legacy(paging, address & 0xffff_ffff, read);
    }
    let mut table = paging.cr3 & ADDRESS;
    let (mut writable, mut user, mut executable) = (true, true, true);
    for level in [4u32, 3, 2, 1] {
        let shift = 12 + 9 * (level - 1);
        let at = table + (address >> shift & 0x1ff) * 8;
        let entry = read(at).ok_or(Lost::Table(at))?;
        if entry & PRESENT == 0 {
            return Err(Lost::PageFault);
        }
        writable &= entry & WRITE != 0;
        user &= entry & USER != 0;
        executable &= entry & NO_EXECUTE == 0;
        if level == 1 || (entry & LARGE != 0 && level < 4) {
            let within = (1u64 << shift) - 1;
            let gpa = entry & ADDRESS & !within | address & within;
            return Ok(Mapping { gpa, private: entry >> C_BIT & 1 != 0, writable, user, executable });
        }
        table = entry & ADDRESS;
    }
    Err(Lost::PageFault)
}

/// Paging without long mode: all accesses are private, and there is no C-bit.
fn legacy(paging: &Paging, address: u64, mut read: impl FnMut(u64) -> Option<u64>) -> Result<Mapping, Lost> {
    let pae = paging.cr4 & CR4_PAE != 0;
    let (bytes, bits) = if pae { (8, 9) } else { (4, 10) };
    let mut entry_at = |at: u64| {
        let word = read(at & !7).ok_or(Lost::Table(at))?;
        Ok(if pae { word } else { word >> (at % 8 * 8) & 0xffff_ffff })
    };
    let mut table = paging.cr3 & if pae { 0xffff_ffe0 } else { 0xffff_f000 };
    if pae {
        let pointer = entry_at(table + (address >> 30) * 8)?;
        if pointer & PRESENT == 0 {
            return Err(Lost::PageFault);
        }
        table = pointer & ADDRESS;
    }
    let (mut writable, mut user, mut executable) = (true, true, true);
    for level in [2u32, 1] {
        let shift = 12 + bits * (level - 1);
        let entry = entry_at(table + (address >> shift & ((1 << bits) - 1)) * bytes)?;
        if entry & PRESENT == 0 {
            return Err(Lost::PageFault);
        }
        writable &= entry & WRITE != 0;
        user &= entry & USER != 0;
        executable &= !pae || entry & NO_EXECUTE == 0;
        let large = level == 2 && entry & LARGE != 0 && (pae || paging.cr4 & CR4_PSE != 0);
        if level == 1 || large {
            let within = (1u64 << shift) - 1;
            let gpa = entry & ADDRESS & !within | address & within;
            return Ok(Mapping { gpa, private: true, writable, user, executable });
        }
        table = entry & ADDRESS;
    }
    Err(Lost::PageFault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const LONG: Paging = Paging { cr0: CR0_PG | 1, cr3: 0x1000, cr4: 0x20, efer: EFER_LMA | 1 << 8 };
    const C: u64 = C_MASK;

    fn tables() -> BTreeMap<u64, u64> {
        let all = PRESENT | WRITE | USER;
        [
            (0x1000, 0x2000 | all | C),
            (0x2000, 0x3000 | all),
            (0x2008, 0x4000_0000 | all | LARGE | C),
            (0x3000, 0x4000 | all | C),
            (0x3008, 0x20_0000 | all | LARGE),
            (0x4000, 0x5000 | PRESENT | C | NO_EXECUTE),
        ]
        .into()
    }

    fn to(address: u64) -> Result<Mapping, Lost> {
        let tables = tables();
        walk(&LONG, address, |at| tables.get(&at).copied().or((at < 0x8000).then_some(0)))
    }

    #[test]
    fn the_leafs_c_bit_decides() {
        let leaf = to(0x123).unwrap();
        assert_eq!(
            (leaf.gpa, leaf.private, leaf.writable, leaf.user, leaf.executable),
            (0x5123, true, false, false, false)
        );
        let large = to(0x20_1234).unwrap();
        assert_eq!((large.gpa, large.private, large.writable), (0x20_1234, false, true));
        let huge = to(0x4123_4567).unwrap();
        assert_eq!((huge.gpa, huge.private), (0x4123_4567, true));
    }

    #[test]
    fn holes_and_stray_tables_are_told_apart() {
        assert_eq!(to(0x1000), Err(Lost::PageFault));
        let wild = Paging { cr3: 0x9000_0000, ..LONG };
        assert_eq!(walk(&wild, 0, |_| None), Err(Lost::Table(0x9000_0000)));
    }

    #[test]
    fn older_paging_is_private_throughout() {
        let tables: BTreeMap<u64, u64> = [
            // 32-bit: directory entries 0 and 1 in one word, a table, a 4 MiB page.
            (0x1000, 0x2000 | 3 | (0x40_0000 | 0x83) << 32),
            (0x2000, 0x7000u64 << 32 | 3 << 32),
            // PAE: pointers, a directory with a 2 MiB page.
            (0x3000, 0x4000 | 1),
            (0x4008, 0x20_0000 | 0x83 | NO_EXECUTE),
        ]
        .into();
        let read = |at| Some(tables.get(&at).copied().unwrap_or(0));
        let plain = Paging { cr0: CR0_PG | 1, cr3: 0x1000, cr4: CR4_PSE, efer: 0 };
        let small = walk(&plain, 0x1234, read).unwrap();
        assert_eq!((small.gpa, small.private, small.writable), (0x7234, true, true));
        assert_eq!(walk(&plain, 0x41_2345, read).unwrap().gpa, 0x41_2345);
        assert_eq!(walk(&plain, 0x80_0000, read), Err(Lost::PageFault));
        let pae = Paging { cr3: 0x3000, cr4: CR4_PAE, ..plain };
        let large = walk(&pae, 0x20_1234, read).unwrap();
        assert_eq!((large.gpa, large.private, large.executable), (0x20_1234, true, false));
        assert_eq!(walk(&pae, 0x4000_0000, read), Err(Lost::PageFault));
    }

    #[test]
    fn without_paging_everything_is_private() {
        let flat = walk(&Paging { cr0: 1, ..LONG }, 0x1_0000_1234, |_| None).unwrap();
        assert_eq!((flat.gpa, flat.private), (0x1234, true));
        assert!(is_forced_private(1, 0) && is_forced_private(CR0_PG | 1, 0) && !is_forced_private(CR0_PG, EFER_LMA));
    }
}
