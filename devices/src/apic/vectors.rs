// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of interrupt vectors in the layout of ISR, TMR and IRR (SDM vol. 3A, 11.8.4).

use specs::apic::VectorBits;

/// Where `vector` lies: which of the eight words, and its bit there.
pub(super) const fn position(vector: u8) -> (u8, u32) {
    (vector >> 5, 1 << (vector & 31))
}

/// A word of the set. `word` is 0–7; there are no others, so none is empty.
pub(super) fn word(set: &VectorBits, word: u8) -> u32 {
    set.get(usize::from(word)).map_or(0, |slot| slot.value)
}

/// Adds the vectors of `bits` in word `word`.
pub(super) fn insert_bits(set: &mut VectorBits, word: u8, bits: u32) {
    if let Some(slot) = set.get_mut(usize::from(word)) {
        slot.value |= bits;
    }
}

/// Removes the vectors of `bits` in word `word`.
pub(super) fn remove_bits(set: &mut VectorBits, word: u8, bits: u32) {
    if let Some(slot) = set.get_mut(usize::from(word)) {
        slot.value &= !bits;
    }
}

/// Whether `vector` is in the set.
pub(super) fn contains(set: &VectorBits, vector: u8) -> bool {
    let (at, bit) = position(vector);
    word(set, at) & bit != 0
}

/// Which words of a set are not empty, so that its highest vector is found without a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Summary(u8);

impl Summary {
    /// Whether the set is empty.
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// To be called after word `at` changed.
    pub(super) fn update(&mut self, set: &VectorBits, at: u8) {
        let flag = 1 << (at & 7);
        if word(set, at) != 0 {
            self.0 |= flag;
        } else {
            self.0 &= !flag;
        }
    }

    /// The highest vector of the set.
    pub(super) fn highest(self, set: &VectorBits) -> Option<u8> {
        let at = self.0.checked_ilog2()? as u8;
        let bit = word(set, at).checked_ilog2()? as u8;
        Some(at << 5 | bit)
    }
}
