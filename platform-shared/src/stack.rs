// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stacks for processors other than the first, whose stack the image brings along.

use alloc::alloc::{Layout, alloc_zeroed};

use platform::PAGE_SIZE;

use crate::own_tables::{NoTable, unmap};

/// Bytes of a processor's stack, and of the guard below it.
const STACK: usize = 16 << 10;
const GUARD: usize = PAGE_SIZE as usize;

/// The top of a new stack with an absent page below it.
pub fn new() -> Result<u64, NoTable> {
    let layout = Layout::from_size_align(GUARD + STACK, GUARD).map_err(|_| NoTable)?;
    // SAFETY: the layout's size is not zero.
    let bottom = unsafe { alloc_zeroed(layout) };
    if bottom.is_null() {
        return Err(NoTable);
    }
    let bottom = bottom.expose_provenance() as u64;
    unmap(bottom)?;
    Ok(bottom + (GUARD + STACK) as u64)
}
