// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest's memory as the loader sees it, of any size, which keeps only pages that were written and watches every write.

use std::collections::{BTreeMap, BTreeSet};

use std::cell::RefCell;

use platform::{Gpa, GuestMemory, MemoryError, Visibility};
use reference_host::loader::{GuestRam, OutsideRam};

const PAGE: u64 = 4096;
/// The legacy video and firmware area.
const LEGACY: core::ops::Range<u64> = 0xa_0000..0x10_0000;

/// Sparse memory: from 0 to 2 GiB, and what is left from 4 GiB on.
#[derive(Debug)]
pub(crate) struct SparseRam {
    bytes: u64,
    pages: BTreeMap<u64, Vec<u8>>,
    /// Pages that were written or zeroed as a whole, and how often.
    pub(crate) claimed: BTreeSet<u64>,
    /// The page that was filled twice, if one was.
    pub(crate) twice: Option<u64>,
    /// A write that was let through by nobody's right.
    pub(crate) astray: Option<u64>,
}

impl SparseRam {
    /// The memory of a guest with so many bytes, a multiple of the page size.
    pub(crate) fn new(bytes: u64) -> Self {
        let (pages, claimed) = Default::default();
        Self { bytes, pages, claimed, twice: None, astray: None }
    }

    /// Whether the guest has all of these bytes.
    fn has(&self, gpa: u64, bytes: u64) -> bool {
        let Some(end) = gpa.checked_add(bytes) else { return false };
        let low = self.bytes.min(2 << 30);
        let high = (4 << 30) + (self.bytes - low);
        (end <= low || gpa >= 4 << 30 && end <= high) && !(gpa < LEGACY.end && LEGACY.start < end)
    }

    fn note(&mut self, gpa: u64, bytes: u64) {
        if !self.has(gpa, bytes) {
            self.astray.get_or_insert(gpa);
            return;
        }
        if gpa.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) {
            for page in (gpa..gpa + bytes).step_by(PAGE as usize) {
                if !self.claimed.insert(page) {
                    self.twice.get_or_insert(page);
                }
            }
        } else if (gpa / PAGE..=(gpa + bytes.max(1) - 1) / PAGE).any(|page| !self.claimed.contains(&(page * PAGE))) {
            // A parameter outside of every area.
            self.astray.get_or_insert(gpa);
        }
    }

    fn store(&mut self, gpa: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let mut at = gpa;
        while !rest.is_empty() {
            let offset = (at % PAGE) as usize;
            let (head, tail) = rest.split_at(rest.len().min(PAGE as usize - offset));
            let page = self.pages.entry(at & !(PAGE - 1)).or_insert_with(|| vec![0; PAGE as usize]);
            page[offset..offset + head.len()].copy_from_slice(head);
            at += head.len() as u64;
            rest = tail;
        }
    }

    /// Bytes of the guest, zero where nothing was written.
    pub(crate) fn get(&self, gpa: u64, length: usize) -> Vec<u8> {
        (gpa..gpa + length as u64)
            .map(|at| self.pages.get(&(at & !(PAGE - 1))).map_or(0, |page| page[(at % PAGE) as usize]))
            .collect()
    }

    /// Whether the page at `gpa` holds `content`.
    pub(crate) fn page_is(&self, gpa: u64, content: &[u8]) -> bool {
        match self.pages.get(&gpa) {
            Some(page) => page == content,
            None => content.iter().all(|byte| *byte == 0),
        }
    }
}

impl GuestRam for SparseRam {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), OutsideRam> {
        self.note(gpa, bytes.len() as u64);
        if !self.has(gpa, bytes.len() as u64) {
            return Err(OutsideRam);
        }
        self.store(gpa, bytes);
        Ok(())
    }

    fn zero(&mut self, gpa: u64, bytes: u64) -> Result<(), OutsideRam> {
        self.note(gpa, bytes);
        if self.has(gpa, bytes) { Ok(()) } else { Err(OutsideRam) }
    }

    fn read(&self, gpa: u64) -> Result<u64, OutsideRam> {
        if !self.has(gpa, 8) {
            return Err(OutsideRam);
        }
        Ok(u64::from_le_bytes(self.get(gpa, 8).try_into().expect("eight bytes")))
    }
}

/// The same memory once the guest has it, as Parados sees it.
#[derive(Debug)]
pub(crate) struct SparseGuest(RefCell<SparseRam>);

impl SparseGuest {
    pub(crate) fn new(ram: SparseRam) -> Self {
        Self(RefCell::new(ram))
    }

    /// Changes a byte.
    pub(crate) fn flip(&self, gpa: u64) {
        let mut ram = self.0.borrow_mut();
        let byte = ram.get(gpa, 1)[0];
        ram.store(gpa, &[byte ^ 0x40]);
    }
}

impl GuestMemory for SparseGuest {
    fn copy_in(&self, gpa: Gpa, _: Visibility, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let ram = self.0.borrow();
        if !ram.has(gpa.0, buffer.len() as u64) {
            return Err(MemoryError::NotMemory);
        }
        buffer.copy_from_slice(&ram.get(gpa.0, buffer.len()));
        Ok(())
    }

    fn copy_out(&self, gpa: Gpa, _: Visibility, data: &[u8]) -> Result<(), MemoryError> {
        let mut ram = self.0.borrow_mut();
        if !ram.has(gpa.0, data.len() as u64) {
            return Err(MemoryError::NotMemory);
        }
        ram.store(gpa.0, data);
        Ok(())
    }

    fn compare_exchange(&self, _: Gpa, _: Visibility, _: usize, _: u128, _: u128) -> Result<u128, MemoryError> {
        Err(MemoryError::NotMemory)
    }
}
