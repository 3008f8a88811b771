// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boxes that report a full heap instead of panicking, and what else is made at the start and kept.

use alloc::boxed::Box;
use alloc::vec::Vec;

use platform::{Gpa, MemoryError, PageViews, ViewWord};

/// A box; `None` if the heap is full.
pub fn boxed<T>(value: T) -> Option<Box<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(1).ok()?;
    room.push(value);
    // A vector of one element without spare room is a boxed slice of one element.
    let slice: Box<[T]> = room.into_boxed_slice();
    let array: Box<[T; 1]> = slice.try_into().ok()?;
    let pointer = Box::into_raw(array).cast::<T>();
    // SAFETY: `[T; 1]` and `T` have the same layout, and the pointer came from a box of the former.
    Some(unsafe { Box::from_raw(pointer) })
}

/// The sides of all pages below `end`, all of them private.
pub fn page_views(end: u64) -> Result<PageViews, MemoryError> {
    let count = PageViews::words(Gpa(end)).ok_or(MemoryError::NotMemory)?;
    let mut words = Vec::new();
    words.try_reserve_exact(count).map_err(|_| MemoryError::Exhausted)?;
    words.resize_with(count, || ViewWord::new(0));
    Ok(PageViews::new(words.leak()))
}
