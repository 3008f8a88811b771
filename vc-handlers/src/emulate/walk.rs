// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a linear to a guest-physical address, through the guest's own page tables (APM vol. 2, chapter 5; SDM vol. 3A,
//! chapter 4): rights, reserved bits, and the accessed and dirty bits.
//!
//! Hostile party: the guest wrote the tables and rewrites them from its other processors. An entry is read once; when
//! setting its A or D bit finds it changed, the walk starts over, a bounded number of times.
//!
//! A table that lies where no memory is reads as all-ones, as absent hardware does. That sets reserved bits, so the
//! guest gets a page fault, also where a device's registers would have made a valid entry.

use platform::{Exception, Gpa, GuestMemory, SystemRegisters, Visibility};

use super::bits::{cr0, cr4, efer, entry, fault_code, rflags};
use super::stop::{self, Result, Stop};
use crate::cpuid::PHYSICAL_BITS;

/// Walks of one translation before the guest is made to execute the instruction again.
const MAX_WALKS: u32 = 8;

/// Bits of an entry that hold a physical address.
const ADDRESS: u64 = (1 << PHYSICAL_BITS) - (1 << 12);
/// Physical-address bits that a processor with this address width must find zero.
const ADDRESS_RESERVED: u64 = (1 << 52) - (1 << PHYSICAL_BITS);

/// What the instruction wants at the address. A read-modify-write is a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Intent {
    Read,
    Write,
    Fetch,
}

/// Whose rights count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Privilege {
    /// The current privilege level's.
    Current,
    /// The supervisor's: descriptor tables and the TSS, whoever makes the processor read them.
    System,
}

/// The entries that a walk used, with their addresses: five at most.
type Path = [Option<(Gpa, u64)>; 5];

/// Translates `linear`.
pub(super) fn translate(
    memory: &impl GuestMemory,
    system: &SystemRegisters,
    linear: u64,
    intent: Intent,
    privilege: Privilege,
) -> Result<Gpa> {
    let Some(format) = Format::of(system) else {
        return Ok(Gpa(linear & 0xffff_ffff));
    };
    // A table that the processor finds by a base and an offset ends at 4 GiB there, and goes on at zero.
    let linear = if let Format::Long { .. } = format { linear } else { linear & 0xffff_ffff };
    let walk =
        Walk { system, format, linear, intent, user: privilege == Privilege::Current && system.cpl == 3, privilege };
    for _ in 0..MAX_WALKS {
        let (gpa, path) = walk.once(memory)?;
        if walk.mark(memory, &path)? {
            return Ok(gpa);
        }
    }
    Err(Stop::Retry)
}

/// The four formats of page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    /// 32-bit entries, two levels.
    Legacy { large: bool },
    /// 64-bit entries, three levels; the four entries of the top one have a form of their own.
    Pae,
    /// 64-bit entries, four or five levels.
    Long { levels: u32 },
}

impl Format {
    fn of(system: &SystemRegisters) -> Option<Self> {
        if system.cr0 & cr0::PG == 0 {
            return None;
        }
        Some(if system.efer & efer::LMA != 0 {
            Self::Long { levels: if system.cr4 & cr4::LA57 != 0 { 5 } else { 4 } }
        } else if system.cr4 & cr4::PAE != 0 {
            Self::Pae
        } else {
            Self::Legacy { large: system.cr4 & cr4::PSE != 0 }
        })
    }

    const fn levels(self) -> u32 {
        match self {
            Self::Legacy { .. } => 2,
            Self::Pae => 3,
            Self::Long { levels } => levels,
        }
    }

    /// Bytes of an entry, and how many address bits select one.
    const fn entry(self) -> (usize, u32) {
        match self {
            Self::Legacy { .. } => (4, 10),
            Self::Pae | Self::Long { .. } => (8, 9),
        }
    }

    const fn root(self, cr3: u64) -> u64 {
        match self {
            Self::Legacy { .. } => cr3 & 0xffff_f000,
            Self::Pae => cr3 & 0xffff_ffe0,
            Self::Long { .. } => cr3 & ADDRESS,
        }
    }

    /// Whether an entry of this level may end the walk, if its PS bit is set.
    const fn may_be_large(self, level: u32) -> bool {
        match self {
            Self::Legacy { large } => large && level == 2,
            Self::Pae => level == 2,
            Self::Long { .. } => level == 2 || level == 3,
        }
    }

    /// Whether entries of this level carry rights and an accessed bit: all but the four at the top of a PAE walk.
    const fn has_rights(self, level: u32) -> bool {
        !matches!((self, level), (Self::Pae, 3))
    }

    /// The bits that must be zero in a present entry (APM vol. 2, 5.2 and 5.3).
    const fn reserved(self, level: u32, leaf: bool, no_execute: bool) -> u64 {
        let no_execute = if no_execute { 0 } else { entry::NO_EXECUTE };
        match self {
            // Bits 20:13 of a 4 MiB entry are address bits 39:32.
            Self::Legacy { .. } => (level == 2 && leaf) as u64 * (1 << 21),
            // Bit 5 is reserved too, but QEMU 7.2 keeps an accessed bit there, and sets it. A processor looks at these
            // entries only when CR3 is loaded.
            Self::Pae if level == 3 => ADDRESS_RESERVED | 0xfff << 52 | 0x1c6,
            Self::Pae => ADDRESS_RESERVED | 0x7ff << 52 | no_execute | Self::large_reserved(level, leaf),
            Self::Long { .. } => {
                let top = if level >= 4 { entry::LARGE } else { 0 };
                ADDRESS_RESERVED | no_execute | top | Self::large_reserved(level, leaf)
            }
        }
    }

    /// Address bits below a large page's size; bit 12 is its PAT bit.
    const fn large_reserved(level: u32, leaf: bool) -> u64 {
        match (leaf, level) {
            (true, 2) => (1 << 21) - (1 << 13),
            (true, 3) => (1 << 30) - (1 << 13),
            _ => 0,
        }
    }

    /// The physical address that a leaf entry gives to the start of its page.
    const fn frame(self, value: u64, page: u64) -> u64 {
        match self {
            Self::Legacy { .. } if page > 1 << 12 => (value & 0xffc0_0000) | (value >> 13 & 0xff) << 32,
            _ => value & ADDRESS & !(page - 1),
        }
    }
}

/// One translation to be done.
struct Walk<'a> {
    system: &'a SystemRegisters,
    format: Format,
    linear: u64,
    intent: Intent,
    user: bool,
    privilege: Privilege,
}

impl Walk<'_> {
    /// One pass from the root to a leaf, checks included.
    fn once(&self, memory: &impl GuestMemory) -> Result<(Gpa, Path)> {
        let (bytes, index_bits) = self.format.entry();
        let no_execute = self.system.efer & efer::NXE != 0;
        let mut path = Path::default();
        let mut table = self.format.root(self.system.cr3);
        // Rights that every level grants, and those that some level takes away.
        let mut granted = entry::WRITABLE | entry::USER;
        let mut taken = 0;
        let mut level = self.format.levels();
        for slot in &mut path {
            let shift = 12 + index_bits * (level - 1);
            let index = self.linear >> shift & ((1 << index_bits) - 1);
            let at = Gpa(table + index * bytes as u64);
            let value = read_entry(memory, at, bytes)?;
            if value & entry::PRESENT == 0 {
                return Err(self.fault(0));
            }
            let leaf = level == 1 || value & entry::LARGE != 0 && self.format.may_be_large(level);
            if value & self.format.reserved(level, leaf, no_execute) != 0 {
                return Err(self.fault(fault_code::PRESENT | fault_code::RESERVED));
            }
            if self.format.has_rights(level) {
                granted &= value;
                taken |= value & entry::NO_EXECUTE;
                *slot = Some((at, value));
            }
            if leaf {
                self.check(granted, taken, value)?;
                let page = 1_u64 << shift;
                return Ok((Gpa(self.format.frame(value, page) | self.linear & (page - 1)), path));
            }
            table = value & ADDRESS;
            level -= 1;
        }
        // Not reached: each format has a leaf at level 1, and none more than five levels.
        Err(self.fault(fault_code::PRESENT | fault_code::RESERVED))
    }

    /// Whether the rights found suffice (APM vol. 2, 5.6; SDM vol. 3A, 4.6).
    fn check(&self, granted: u64, taken: u64, leaf: u64) -> Result<()> {
        let user_page = granted & entry::USER != 0;
        let protects_supervisor = self.system.cr0 & cr0::WP != 0;
        let mut allowed = !self.user || user_page;
        match self.intent {
            Intent::Fetch => {
                allowed &= taken & entry::NO_EXECUTE == 0;
                allowed &= self.user || !user_page || self.system.cr4 & cr4::SMEP == 0;
            }
            Intent::Read | Intent::Write => {
                let waived = self.privilege == Privilege::Current && self.system.rflags & rflags::AC != 0;
                allowed &= self.user || !user_page || self.system.cr4 & cr4::SMAP == 0 || waived;
                if self.intent == Intent::Write {
                    allowed &= granted & entry::WRITABLE != 0 || !self.user && !protects_supervisor;
                }
            }
        }
        let by_key = self.refused_by_key(leaf, user_page);
        if by_key {
            return Err(self.fault(fault_code::PRESENT | fault_code::KEY));
        }
        if allowed { Ok(()) } else { Err(self.fault(fault_code::PRESENT)) }
    }

    /// Memory protection keys (APM vol. 2, 5.6.7): data accesses to user pages in long mode.
    fn refused_by_key(&self, leaf: u64, user_page: bool) -> bool {
        let long = matches!(self.format, Format::Long { .. });
        if !long || !user_page || self.intent == Intent::Fetch || self.system.cr4 & cr4::PKE == 0 {
            return false;
        }
        let key = leaf >> entry::KEY_SHIFT & 15;
        let rights = self.system.pkru >> (2 * key) & 3;
        let write_protected = self.user || self.system.cr0 & cr0::WP != 0;
        rights & 1 != 0 || rights & 2 != 0 && self.intent == Intent::Write && write_protected
    }

    /// Sets the accessed bits on the way and the leaf's dirty bit. False if an entry changed meanwhile.
    fn mark(&self, memory: &impl GuestMemory, path: &Path) -> Result<bool> {
        let (bytes, _) = self.format.entry();
        let mut used = path.iter().flatten().peekable();
        while let Some(&(at, value)) = used.next() {
            let is_leaf = used.peek().is_none();
            let dirty = if is_leaf && self.intent == Intent::Write { entry::DIRTY } else { 0 };
            let wanted = value | entry::ACCESSED | dirty;
            if wanted == value {
                continue;
            }
            let exchange =
                memory.compare_exchange(at, Visibility::Private, bytes, u128::from(value), u128::from(wanted));
            if stop::memory(exchange, at)? != Some(u128::from(value)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn fault(&self, cause: u32) -> Stop {
        let mut code = cause;
        if self.intent == Intent::Write {
            code |= fault_code::WRITE;
        }
        if self.user {
            code |= fault_code::USER;
        }
        let tells_fetches = self.system.cr4 & cr4::SMEP != 0
            || self.system.efer & efer::NXE != 0 && !matches!(self.format, Format::Legacy { .. });
        if self.intent == Intent::Fetch && tells_fetches {
            code |= fault_code::FETCH;
        }
        Stop::Fault(Exception::page_fault(code, self.linear))
    }
}

fn read_entry(memory: &impl GuestMemory, at: Gpa, bytes: usize) -> Result<u64> {
    let mut value = [0; 8];
    let Some(part) = value.get_mut(..bytes) else { return Ok(u64::MAX) };
    match stop::memory(memory.copy_in(at, Visibility::Private, part), at)? {
        Some(()) => Ok(u64::from_le_bytes(value)),
        None => Ok(u64::MAX),
    }
}
