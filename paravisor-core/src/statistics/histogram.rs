// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long exits took, as powers of two.

use super::Counter;

/// Bucket n counts what took at least 2^n and less than 2^(n+1) cycles; bucket 0 also what took none.
pub const BUCKETS: usize = u32::BITS as usize;

/// A histogram with one writer. The sum of its buckets is the number of exits, so nothing else counts them.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Histogram([Counter; BUCKETS]);

impl Histogram {
    /// One more exit, which took `cycles`.
    #[inline(always)]
    pub(crate) fn record(&self, cycles: u32) {
        #[allow(clippy::indexing_slicing, reason = "the logarithm of 32 bits is below 32")]
        self.0[(cycles | 1).ilog2() as usize].count();
    }

    /// The number of exits.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, bucket| sum.wrapping_add(bucket.get()))
    }

    /// The number of exits in a bucket; none in one that does not exist.
    pub fn bucket(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, Counter::get)
    }
}
