// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts what the code under test takes from the heap, in every program that links this crate.
//!
//! Code on a guest's path must take nothing; a parser no more than in proportion to its input, whatever the input claims.

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs `body` and returns how many bytes it took from the heap in all, given back or not.
pub fn taken<T>(body: impl FnOnce() -> T) -> (T, usize) {
    let region = Region::new(HEAP);
    let value = body();
    (value, region.change().bytes_allocated)
}

/// Runs `body`, which must leave the heap alone.
#[track_caller]
pub fn without_heap<T>(body: impl FnOnce() -> T) -> T {
    let (value, bytes) = taken(body);
    assert_eq!(bytes, 0, "{bytes} bytes taken from the heap on a path where there may be no allocation");
    value
}

/// Runs `body`, which may take `limit` bytes.
#[track_caller]
pub fn at_most<T>(limit: usize, body: impl FnOnce() -> T) -> T {
    let (value, bytes) = taken(body);
    assert!(bytes <= limit, "{bytes} bytes taken from the heap, at most {limit} expected");
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_noticed() {
        let (_, bytes) = taken(|| Box::new([0u8; 1000]));
        assert!(bytes >= 1000);
    }
}
