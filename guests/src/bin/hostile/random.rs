// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stream of numbers from which everything follows: the same seed, part and victim give the same numbers.

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) struct Random(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mixed(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

impl Random {
    pub(crate) fn new(seed: u64, part: u64, victim: u64) -> Self {
        Self(mixed(mixed(mixed(seed.wrapping_add(GOLDEN)) ^ part) ^ victim))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mixed(self.0)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        from.get(self.below(from.len() as u64) as usize).copied().unwrap_or_default()
    }

    /// A value as attackers like them: borders, single bits, small numbers, and plain noise.
    pub(crate) fn value(&mut self) -> u64 {
        let noise = self.next();
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (noise & 63),
            3 => !(1 << (noise & 63)),
            4 => noise & 0xff,
            5 => noise & noise >> 32,
            _ => noise,
        }
    }
}
