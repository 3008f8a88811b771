// SPDX-License-Identifier: MIT OR Apache-2.0
//! Seeded mutations, for the smoke run: the same inputs on every machine, from a corpus and a number.
//!
//! Not a fuzzer: nothing here sees coverage. A corpus that a fuzzer grew makes up for that.

/// xorshift64*.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator whose whole output follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 32) as usize % bound
    }
}

/// Values at which comparisons change their mind.
const EDGES: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0xfff,
    0x1000,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 63,
    u64::MAX,
];

/// One of `corpus`, changed in one to eight places; at most `longest` bytes.
pub fn mutate(corpus: &[Vec<u8>], longest: usize, random: &mut Random) -> Vec<u8> {
    let mut data = if corpus.is_empty() { Vec::new() } else { corpus[random.below(corpus.len())].clone() };
    for _ in 0..1 << random.below(4) {
        change(&mut data, corpus, random);
    }
    data.truncate(longest);
    data
}

fn change(data: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    if data.is_empty() {
        data.extend((0..1 + random.below(64)).map(|_| random.next() as u8));
        return;
    }
    let at = random.below(data.len());
    match random.below(8) {
        0 => data[at] ^= 1 << random.below(8),
        1 | 2 => data[at] = random.next() as u8,
        3 => {
            let bytes = EDGES[random.below(EDGES.len())].to_le_bytes();
            let width = 1 << random.below(4);
            data.iter_mut().skip(at).zip(&bytes[..width]).for_each(|(to, from)| *to = *from);
        }
        4 => {
            let step = (random.below(17) as u8).wrapping_sub(8);
            data[at] = data[at].wrapping_add(step);
        }
        5 => {
            let length = (1 + random.below(8)).min(data.len() - at);
            data.drain(at..at + length);
        }
        6 => {
            let fresh: Vec<u8> = (0..1 + random.below(8)).map(|_| random.next() as u8).collect();
            data.splice(at..at, fresh);
        }
        _ => {
            // Part of another input, over or between what is here.
            let other = &corpus[random.below(corpus.len().max(1)).min(corpus.len().saturating_sub(1))..];
            let Some(other) = other.first().filter(|other| !other.is_empty()) else { return };
            let from = random.below(other.len());
            let length = (1 + random.below(32)).min(other.len() - from);
            let part = other[from..from + length].to_vec();
            let over = if random.below(2) == 0 { length.min(data.len() - at) } else { 0 };
            data.splice(at..at + over, part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let corpus = [b"one".to_vec(), b"another".to_vec(), vec![]];
        let run = |seed| -> Vec<Vec<u8>> {
            let mut random = Random::new(seed);
            (0..200).map(|_| mutate(&corpus, 20, &mut random)).collect()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(3).iter().all(|input| input.len() <= 20));
    }
}
