// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for the generator: it only grows, and goes back to where it was after each case.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};

const BYTES: usize = 2 << 20;

static mut ARENA: [u128; BYTES / 16] = [0; BYTES / 16];
static USED: AtomicUsize = AtomicUsize::new(0);

/// Hands out pieces of the arena.
struct Bump;

// SAFETY: pieces do not overlap until `release`, whose caller answers for that; there is one processor.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = USED.load(Ordering::Relaxed).next_multiple_of(layout.align());
        let Some(end) = start.checked_add(layout.size()).filter(|end| *end <= BYTES) else {
            return core::ptr::null_mut();
        };
        USED.store(end, Ordering::Relaxed);
        (&raw mut ARENA).cast::<u8>().wrapping_add(start)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Bump = Bump;

/// Where the heap stands.
pub(crate) fn mark() -> usize {
    USED.load(Ordering::Relaxed)
}

/// Takes back what was handed out since `mark`.
///
/// # Safety
/// Nothing that was allocated since is used any more.
pub(crate) unsafe fn release(mark: usize) {
    USED.store(mark, Ordering::Relaxed);
}
