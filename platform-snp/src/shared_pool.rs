// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bounded pool of pages that Parados itself shares with the host: the other processors' GHCBs and doorbells, buffers for what the
//! host carries. The host makes all of them shared at once, at the start, by a list of page-state changes; nothing is converted
//! later, and nobody gives a page back.
//!
//! Hostile party: the host, which may refuse. A pool that is not whole is none.

use alloc::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};

use platform::{Gpa, PAGE_SIZE, PageRange, PageSize};
use platform_shared::own_tables;
use specs::ghcb::page_state;

use crate::accept::rescind_own;
use crate::ghcb::SharedPage;
use crate::local;
use crate::page_state::change;
use crate::start::StartError;

/// Pages for other purposes than a processor's: a message to the firmware and its answer.
pub(crate) const BUFFERS: u64 = 2;

/// What is left of it.
struct Pool {
    next: AtomicU64,
    end: AtomicU64,
}

static POOL: Pool = Pool { next: AtomicU64::new(0), end: AtomicU64::new(0) };

impl Pool {
    /// The next page; `None` if there is none left.
    fn take(&self) -> Option<u64> {
        let end = self.end.load(Ordering::Acquire);
        let one = |next: u64| (next < end).then_some(next + PAGE_SIZE);
        self.next.fetch_update(Ordering::AcqRel, Ordering::Acquire, one).ok()
    }

    fn fill(&self, start: u64, bytes: u64) {
        self.next.store(start, Ordering::Release);
        self.end.store(start + bytes, Ordering::Release);
    }
}

/// Makes the pool, with so many pages of the heap. Once, on the boot processor, which has a GHCB.
pub(crate) fn make(pages: u64) -> Result<(), StartError> {
    let bytes = pages * PAGE_SIZE;
    let layout = Layout::from_size_align(bytes as usize, PAGE_SIZE as usize).map_err(|_| StartError::OutOfMemory)?;
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the layout's size is not zero.
    let block = unsafe { alloc::alloc::alloc_zeroed(layout) };
    if block.is_null() {
        return Err(StartError::OutOfMemory);
    }
    let start = block.expose_provenance() as u64;
    let range = PageRange::new(Gpa(start), Gpa(start + bytes)).ok_or(StartError::OutOfMemory)?;
    for page in (start..start + bytes).step_by(PAGE_SIZE as usize) {
        // SAFETY: the pages are fresh, and nothing uses them yet.
        unsafe { rescind_own(Gpa(page))? };
    }
    if change(range, PageSize::Small, page_state::SHARED)? != bytes {
        return Err(StartError::Pages);
    }
    for page in (start..start + bytes).step_by(PAGE_SIZE as usize) {
        own_tables::share(page).map_err(|_| StartError::OutOfMemory)?;
    }
    POOL.fill(start, bytes);
    Ok(())
}

/// A page of the pool, for ever.
pub(crate) fn take() -> Result<&'static SharedPage, StartError> {
    POOL.take().and_then(local::page).ok_or(StartError::OutOfMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_given_out_once_and_there_is_an_end() {
        let pool = Pool { next: AtomicU64::new(0), end: AtomicU64::new(0) };
        assert_eq!(pool.take(), None, "before there is one");
        pool.fill(0x5000, 2 * PAGE_SIZE);
        assert_eq!([(); 4].map(|()| pool.take()), [Some(0x5000), Some(0x6000), None, None]);
    }
}
