// SPDX-License-Identifier: MIT OR Apache-2.0
//! BT, BTS, BTR and BTC, BSF and BSR (APM vol. 3). Only CF is defined after the first four, and only ZF after the others;
//! the other flags stay as they were.

use super::bits::rflags::{CF, ZF};
use super::flags::when;
use super::operand::{mask, sign_extend};

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

/// From which end a set bit is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scan {
    /// BSF.
    Forward,
    /// BSR.
    Reverse,
}

impl Scan {
    /// The number of the bit, or `None` if none is set (processors then leave the destination as it was), and all of
    /// RFLAGS.
    pub(super) const fn apply(self, size: u8, value: u64, rflags: u64) -> (Option<u64>, u64) {
        let value = value & mask(size);
        let found = match (value, self) {
            (0, _) => None,
            (_, Self::Forward) => Some(value.trailing_zeros() as u64),
            (_, Self::Reverse) => Some(value.ilog2() as u64),
        };
        (found, rflags & !ZF | when(value == 0, ZF))
    }
}

/// How far from the operand's address the word lies that holds bit `index`, if a register gives the index: it is signed,
/// and reaches beyond the operand.
pub(super) const fn displacement(size: u8, index: u64) -> u64 {
    let bits = (8 * size as u64).trailing_zeros();
    let words = sign_extend(index, size) as i64 >> bits;
    (words as u64).wrapping_mul(size as u64)
}
