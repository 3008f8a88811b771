// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addition, subtraction and bitwise logic with their flags (APM vol. 3).
//!
//! AF is undefined after bitwise logic; processors clear it, and so do we.

use super::bits::rflags::{AF, CF, OF, STATUS};
use super::flags::{of_result, sign, when};
use super::operand::mask;

/// Instructions with two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Binary {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    /// Subtracts, and keeps the flags alone.
    Cmp,
    /// Like AND, and keeps the flags alone.
    Test,
}

impl Binary {
    /// Whether the first operand receives the result.
    pub(super) const fn writes(self) -> bool {
        !matches!(self, Self::Cmp | Self::Test)
    }

    /// The result and all of RFLAGS.
    pub(super) const fn apply(self, size: u8, left: u64, right: u64, rflags: u64) -> (u64, u64) {
        let carry = rflags & CF;
        let (result, status) = match self {
            Self::Add => add(size, left, right, 0),
            Self::Adc => add(size, left, right, carry),
            Self::Sub | Self::Cmp => subtract(size, left, right, 0),
            Self::Sbb => subtract(size, left, right, carry),
            Self::And | Self::Test => logic(size, left & right),
            Self::Or => logic(size, left | right),
            Self::Xor => logic(size, left ^ right),
        };
        (result, rflags & !STATUS | status)
    }
}

/// Instructions with one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unary {
    Inc,
    Dec,
    Not,
    Neg,
}

impl Unary {
    /// The result and all of RFLAGS. INC and DEC keep CF; NOT keeps every flag.
    pub(super) const fn apply(self, size: u8, value: u64, rflags: u64) -> (u64, u64) {
        let (result, status, kept) = match self {
            Self::Inc => {
                let (result, status) = add(size, value, 1, 0);
                (result, status, CF)
            }
            Self::Dec => {
                let (result, status) = subtract(size, value, 1, 0);
                (result, status, CF)
            }
            Self::Not => (!value & mask(size), 0, STATUS),
            Self::Neg => {
                let (result, status) = subtract(size, 0, value, 0);
                (result, status, 0)
            }
        };
        let changed = STATUS & !kept;
        (result, rflags & !changed | status & changed)
    }
}

const fn add(size: u8, left: u64, right: u64, carry: u64) -> (u64, u64) {
    let (left, right) = (left & mask(size), right & mask(size));
    let result = left.wrapping_add(right).wrapping_add(carry) & mask(size);
    // The carry out of each bit position.
    let carries = left & right | (left | right) & !result;
    let overflow = (left ^ result) & (right ^ result);
    (result, arithmetic(size, result, carries, overflow))
}

const fn subtract(size: u8, left: u64, right: u64, borrow: u64) -> (u64, u64) {
    let (left, right) = (left & mask(size), right & mask(size));
    let result = left.wrapping_sub(right).wrapping_sub(borrow) & mask(size);
    // The borrow out of each bit position.
    let borrows = !left & right | (!left | right) & result;
    let overflow = (left ^ right) & (left ^ result);
    (result, arithmetic(size, result, borrows, overflow))
}

const fn arithmetic(size: u8, result: u64, carries: u64, overflow: u64) -> u64 {
    of_result(result, size)
        | when(sign(carries, size), CF)
        | when(carries & 8 != 0, AF)
        | when(sign(overflow, size), OF)
}

const fn logic(size: u8, result: u64) -> (u64, u64) {
    (result & mask(size), of_result(result, size))
}
