// SPDX-License-Identifier: MIT OR Apache-2.0
//! The heap: what the image's region has left. Used while the machine is built; exits allocate nothing.
//!
//! So it is a mark that rises. What is built is kept for ever, but for the few buffers that grow, and those are mostly the
//! last thing on the heap: they grow, shrink and go in place. A general allocator, which looks for room among what was freed,
//! took two thirds of all instructions of the start.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr;

use platform::PageRange;
use spin::mutex::SpinMutex;

/// The addresses that are still free.
struct Free(Range<usize>);

impl Free {
    /// The address of a new block.
    fn take(&mut self, layout: Layout) -> Option<usize> {
        let start = self.0.start.checked_next_multiple_of(layout.align())?;
        let end = start.checked_add(layout.size()).filter(|end| *end <= self.0.end)?;
        self.0.start = end;
        Some(start)
    }

    /// Changes the size of the block at `start`, if it is the last one and there is room.
    fn resize(&mut self, start: usize, old: usize, new: usize) -> bool {
        let end = start.checked_add(new).filter(|end| *end <= self.0.end);
        match end {
            Some(end) if start.checked_add(old) == Some(self.0.start) => {
                self.0.start = end;
                true
            }
            _ => false,
        }
    }
}

struct Heap(SpinMutex<Free>);

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: Heap = Heap(SpinMutex::new(Free(0..0)));

// SAFETY: a block lies between the old mark and the new one and is aligned as asked, so that no two overlap: the mark falls
// only by what the last block gives back. The lock serializes the callers.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().take(layout).map_or(ptr::null_mut(), ptr::with_exposed_provenance_mut)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.0.lock().resize(block.addr(), layout.size(), 0);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.0.lock().resize(block.addr(), layout.size(), size) {
            return block;
        }
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        // SAFETY: the caller asks for more than nothing.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both blocks are the caller's and at least this long, and the new one lies apart from the old.
            unsafe { ptr::copy_nonoverlapping(block, new, layout.size().min(size)) };
        }
        new
    }
}

/// Gives the heap its memory.
///
/// # Safety
/// Called once; `range` is mapped at its own address, writable, and used by nothing else.
pub(crate) unsafe fn initialise(range: PageRange) {
    HEAP.0.lock().0 = range.start().0 as usize..range.end().0 as usize;
}

/// Bytes still free.
pub(crate) fn free() -> usize {
    HEAP.0.lock().0.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn blocks_are_aligned_and_apart_until_nothing_is_left() {
        let mut free = Free(0x1001..0x2000);
        let mut end = 0x1001;
        for size in 1..20 {
            let start = free.take(layout(size, 64)).unwrap();
            assert!(start.is_multiple_of(64) && start >= end, "{size} bytes at {start:#x}");
            end = start + size;
        }
        assert_eq!(free.take(layout(0x1000, 1)), None);
        assert_eq!(free.take(layout(isize::MAX as usize, 1)), None);
        assert!(free.take(layout(0x2000 - end, 1)).is_some());
        assert_eq!(free.take(layout(1, 1)), None);
    }

    #[test]
    fn only_the_last_block_changes_in_place_and_only_within_the_heap() {
        let mut free = Free(0..0x1000);
        let first = free.take(layout(16, 8)).unwrap();
        let last = free.take(layout(16, 8)).unwrap();
        assert!(!free.resize(first, 16, 8), "another block follows");
        assert!(free.resize(last, 16, 1024));
        assert!(free.resize(last, 1024, 0));
        assert!(free.resize(first, 16, 0x1000));
        assert!(!free.resize(first, 0x1000, 0x1001));
        assert!(!free.resize(first, 0x1000, usize::MAX));
    }
}
