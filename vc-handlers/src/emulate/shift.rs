// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shifts and rotates (APM vol. 3).
//!
//! Where the manuals leave a flag undefined: AF is cleared by shifts; OF after more than one step is that of the last
//! step. A 16-bit SHLD or SHRD by more than 16 shifts in the destination's own bits after the source's.

use super::bits::rflags::{CF, OF, STATUS};
use super::flags::{of_result, sign, when};
use super::operand::{mask, sign_extend};

/// Shifts and rotates of one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shift {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

/// Which way a double shift goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Left,
    Right,
}

/// The part of a count that counts.
const fn masked(size: u8, count: u64) -> u32 {
    (count & if size == 8 { 63 } else { 31 }) as u32
}

impl Shift {
    /// The result and all of RFLAGS. A count of zero changes nothing.
    pub(super) fn apply(self, size: u8, value: u64, count: u64, rflags: u64) -> (u64, u64) {
        let count = masked(size, count);
        let value = value & mask(size);
        if count == 0 {
            return (value, rflags);
        }
        match self {
            Self::Rol | Self::Ror | Self::Rcl | Self::Rcr => self.rotate(size, value, count, rflags),
            Self::Shl | Self::Shr | Self::Sar => self.shift(size, value, count, rflags),
        }
    }

    fn rotate(self, size: u8, value: u64, count: u32, rflags: u64) -> (u64, u64) {
        let bits = 8 * u32::from(size);
        let carry = rflags & CF;
        // RCL and RCR rotate through a register that has CF as one more bit at its top.
        let width = if matches!(self, Self::Rcl | Self::Rcr) { bits + 1 } else { bits };
        let ring = if width > bits { u128::from(value) | u128::from(carry) << bits } else { u128::from(value) };
        let steps = count % width;
        let left = if matches!(self, Self::Rol | Self::Rcl) { steps } else { (width - steps) % width };
        let turned = (ring << left | ring >> (width - left)) & ((1 << width) - 1);
        let result = turned as u64 & mask(size);
        let carry = match self {
            Self::Rol => result & 1 != 0,
            Self::Ror => sign(result, size),
            _ => turned >> bits & 1 != 0,
        };
        let overflow = match self {
            Self::Rol | Self::Rcl => sign(result, size) != carry,
            _ => sign(result ^ result << 1, size),
        };
        (result, rflags & !(CF | OF) | when(carry, CF) | when(overflow, OF))
    }

    fn shift(self, size: u8, value: u64, count: u32, rflags: u64) -> (u64, u64) {
        let wide = match self {
            Self::Sar => sign_extend(value, size),
            _ => value,
        };
        // The value before the last step; that step gives CF and OF.
        let before = match self {
            Self::Shl => wide << (count - 1),
            Self::Sar => (wide as i64 >> (count - 1)) as u64,
            _ => wide >> (count - 1),
        };
        let (result, carry, overflow) = match self {
            Self::Shl => {
                let result = before << 1;
                (result, sign(before, size), sign(before ^ result, size))
            }
            Self::Sar => ((before as i64 >> 1) as u64, before & 1 != 0, false),
            _ => (before >> 1, before & 1 != 0, sign(before, size)),
        };
        let status = of_result(result, size) | when(carry, CF) | when(overflow, OF);
        (result & mask(size), rflags & !STATUS | status)
    }
}

impl Side {
    /// SHLD or SHRD: the result and all of RFLAGS.
    pub(super) fn apply(self, size: u8, value: u64, source: u64, count: u64, rflags: u64) -> (u64, u64) {
        let count = masked(size, count);
        let (value, source) = (value & mask(size), source & mask(size));
        if count == 0 {
            return (value, rflags);
        }
        let bits = 8 * u32::from(size);
        let (result, before) = match self {
            Self::Left => {
                let shifted = |count: u32| double_left(bits, value, source, count);
                (shifted(count), shifted(count - 1))
            }
            Self::Right => {
                let shifted = |count: u32| double_right(bits, value, source, count);
                (shifted(count), shifted(count - 1))
            }
        };
        let carry = match self {
            Self::Left => sign(before, size),
            Self::Right => before & 1 != 0,
        };
        let status = of_result(result, size) | when(carry, CF) | when(sign(before ^ result, size), OF);
        (result & mask(size), rflags & !STATUS | status)
    }
}

/// The top `bits` of value:source:value shifted left.
fn double_left(bits: u32, value: u64, source: u64, count: u32) -> u64 {
    if bits == 16 {
        let joined = u128::from(value) << 32 | u128::from(source) << 16 | u128::from(value);
        return (joined << count >> 32) as u64 & 0xffff;
    }
    let joined = u128::from(value) << bits | u128::from(source);
    (joined << count >> bits) as u64
}

/// The low `bits` of value:source:value shifted right.
fn double_right(bits: u32, value: u64, source: u64, count: u32) -> u64 {
    if bits == 16 {
        let joined = u128::from(value) << 32 | u128::from(source) << 16 | u128::from(value);
        return (joined >> count) as u64 & 0xffff;
    }
    let joined = u128::from(source) << bits | u128::from(value);
    (joined >> count) as u64
}
