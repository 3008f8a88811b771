// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guest memory: how to reach its contents, and how to change the state of its pages.

use crate::{Gpa, PAGE_SIZE};

/// Through which view a page of guest memory is accessed. Native has one kind of memory and keeps the two apart all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visibility {
    /// Encrypted; the guest's own.
    Private,
    /// Plain; the host reads and writes it as well.
    Shared,
}

/// The state of a 4 KiB page of guest-physical address space, as the page-state table records it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageState {
    /// Assigned by the host but not yet accepted. The first access accepts it.
    Unaccepted = 0,
    /// Private memory of the guest.
    Private = 1,
    /// Shared between guest and host.
    Shared = 2,
    /// No memory: an access is emulated as MMIO.
    Trapped = 3,
    /// Parados's own; never reachable by the guest.
    Own = 4,
}

/// The two sizes of a state change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

impl PageSize {
    /// 4096 or 2 097 152.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => PAGE_SIZE,
            Self::Large => 512 * PAGE_SIZE,
        }
    }
}

/// Whole 4 KiB pages, `start` inclusive, `end` exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    start: Gpa,
    end: Gpa,
}

impl PageRange {
    /// The range from `start` up to `end`, or `None` unless both are page-aligned and in order.
    pub const fn new(start: Gpa, end: Gpa) -> Option<Self> {
        if start.page_offset() == 0 && end.page_offset() == 0 && start.0 <= end.0 {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// The first byte.
    pub const fn start(self) -> Gpa {
        self.start
    }

    /// One past the last byte.
    pub const fn end(self) -> Gpa {
        self.end
    }

    /// Bytes in the range.
    pub const fn bytes(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether `gpa` lies inside.
    pub const fn contains(self, gpa: Gpa) -> bool {
        self.start.0 <= gpa.0 && gpa.0 < self.end.0
    }
}

/// Why an access to guest memory or a change of its state was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryError {
    /// No memory of the guest lies there, or it is in the other view: the caller emulates or faults.
    NotMemory,
    /// The range is not in the state that the change starts from.
    WrongState,
    /// The host refused or lied; the VM cannot go on.
    Host,
    /// Parados has no memory left for the tables that the change needs.
    Exhausted,
}

/// The contents of guest memory. Copies in and copies out only: no reference into memory that someone else can write.
///
/// Native: a direct map. SNP: C=1 and C=0 mappings. TDX: private and shared GPAs. Each call checks the page-state table's
/// verdict first ([`crate::Hold`]), so Parados's own pages and trapped ones are never reached, and neither is a page in the
/// other view. A shared address has [`crate::SHARED_BIT`] set. `WrongState`: the page is changing sides just now.
pub trait GuestMemory {
    /// Copies guest memory at `gpa` into `buffer`. All or nothing.
    fn copy_in(&self, gpa: Gpa, view: Visibility, buffer: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies `data` to guest memory at `gpa`. All or nothing.
    fn copy_out(&self, gpa: Gpa, view: Visibility, data: &[u8]) -> Result<(), MemoryError>;

    /// Atomically replaces the naturally aligned `width`-byte value (1, 2, 4, 8 or 16) at `gpa` by `new` if it is
    /// `current`; returns the value found. `NotMemory` also for a misaligned or odd-sized access.
    fn compare_exchange(
        &self,
        gpa: Gpa,
        view: Visibility,
        width: usize,
        current: u128,
        new: u128,
    ) -> Result<u128, MemoryError>;
}

/// The hardware side of page states. Only the page-state table calls it, in the order that it proves.
///
/// | method | native | SNP | TDX |
/// |---|---|---|---|
/// | `accept` | map in the nested tables | PVALIDATE, zero, RMPADJUST | TDG.MEM.PAGE.ACCEPT, ATTR.WR |
/// | `share` | map at the shared address | rescind, page-state change | MapGPA |
/// | `unshare` | map at the private address | page-state change, PVALIDATE, zero, RMPADJUST | MapGPA, ACCEPT |
/// | `trap` | unmap | left unvalidated | left pending, no L2 alias |
/// | `flush` | new TLB generation | INVLPGB, TLBSYNC | INVEPT through TDG.VP.INVEPT |
///
/// A range is one page of 2 MiB, or some of 4 KiB within one.
pub trait GuestPages {
    /// Makes `range` private memory of the guest, zeroed where the hardware does not keep its contents.
    fn accept(&mut self, range: PageRange, size: PageSize) -> Result<(), MemoryError>;
    /// Makes `range`, which was trapped and flushed, shared with the host, as far as the host goes along: how many bytes,
    /// from its start on. The rest, and after an error all of it, is the guest's private memory again. Contents are lost.
    fn share(&mut self, range: PageRange, size: PageSize) -> Result<u64, MemoryError>;
    /// Takes shared `range` out of the shared view and makes it private, zeroed, as far as the host goes along: how many
    /// bytes, from its start on. The rest, and after an error all of it, stays shared.
    fn unshare(&mut self, range: PageRange, size: PageSize) -> Result<u64, MemoryError>;
    /// Takes `range` from the guest, so that each access exits as a memory fault.
    fn trap(&mut self, range: PageRange, size: PageSize) -> Result<(), MemoryError>;
    /// Drops every translation that any processor may still hold for the guest.
    fn flush(&mut self);
}
