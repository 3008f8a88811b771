// SPDX-License-Identifier: MIT OR Apache-2.0
//! The heap: what the image's region has left. Used while the machine is built; exits allocate nothing.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use platform::PageRange;
use spin::mutex::SpinMutex;

struct LockedHeap(SpinMutex<Heap>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(SpinMutex::new(Heap::empty()));

// SAFETY: `Heap` hands out disjoint, aligned blocks of the memory it was given; the lock serializes its callers.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller returns a block that `alloc` gave out for this layout.
            unsafe { self.0.lock().deallocate(block, layout) };
        }
    }
}

/// Gives the heap its memory.
///
/// # Safety
/// Called once; `range` is mapped at its own address, writable, and used by nothing else.
pub(crate) unsafe fn initialise(range: PageRange) {
    let start = ptr::with_exposed_provenance_mut(range.start().0 as usize);
    // SAFETY: the caller's promise is what `init` asks for.
    unsafe { HEAP.0.lock().init(start, range.bytes() as usize) };
}

/// Bytes still free.
pub(crate) fn free() -> usize {
    HEAP.0.lock().free()
}
