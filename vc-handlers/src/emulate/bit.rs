// SPDX-License-Identifier: MIT OR Apache-2.0
//! BT, BTS, BTR and BTC (APM vol. 3). Only CF is defined afterwards; the other flags stay as they were.

use super::bits::rflags::CF;
use super::flags::when;
use super::operand::sign_extend;

/// What happens to the selected bit once it is in CF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bit {
    Test,
    Set,
    Reset,
    Complement,
}

impl Bit {
    /// The result and all of RFLAGS.
    pub(super) const fn apply(self, size: u8, value: u64, index: u64, rflags: u64) -> (u64, u64) {
        let bit = 1 << (index & (8 * size as u64 - 1));
        let result = match self {
            Self::Test => value,
            Self::Set => value | bit,
            Self::Reset => value & !bit,
            Self::Complement => value ^ bit,
        };
        (result, rflags & !CF | when(value & bit != 0, CF))
    }
}

/// How far from the operand's address the word lies that holds bit `index`, if a register gives the index: it is signed,
/// and reaches beyond the operand.
pub(super) const fn displacement(size: u8, index: u64) -> u64 {
    let bits = (8 * size as u64).trailing_zeros();
    let words = sign_extend(index, size) as i64 >> bits;
    (words as u64).wrapping_mul(size as u64)
}
