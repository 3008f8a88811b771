// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boxes that report a full heap instead of panicking.

use alloc::boxed::Box;
use alloc::vec::Vec;

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
