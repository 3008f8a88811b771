// SPDX-License-Identifier: MIT OR Apache-2.0
//! A seeded generator, so that a failing case can be run again from its seed.

/// Xorshift with a final multiplication.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator whose whole output follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.word();
        random.word();
        random
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.word() >> 16) % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `values`.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    /// An operand: often one that lies at the edge of some size.
    pub fn operand(&mut self) -> u64 {
        let word = self.word();
        match word >> 60 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (word & 63),
            3 => (1 << (word & 63)) - 1,
            4 => word & 0xff,
            5 => self.pick(&[0x7f, 0x80, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, 1 << 63, (1 << 63) - 1]),
            6 => (word & 0xff).wrapping_neg(),
            _ => word,
        }
    }
}
