// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multiplication and division (APM vol. 3).
//!
//! Undefined flags: after a multiplication SF, ZF and PF are those of the low half and AF is clear; a division changes
//! none.

use super::bits::rflags::{CF, OF, STATUS};
use super::flags::{of_result, when};
use super::operand::{mask, sign_extend};

/// The product as (low, high) halves of `size` bytes, and all of RFLAGS.
pub(super) const fn multiply(size: u8, signed: bool, left: u64, right: u64, rflags: u64) -> (u64, u64, u64) {
    let product = if signed {
        (sign_extend(left, size) as i64 as i128 * sign_extend(right, size) as i64 as i128) as u128
    } else {
        (left & mask(size)) as u128 * (right & mask(size)) as u128
    };
    let low = product as u64 & mask(size);
    let high = (product >> (8 * size as u32)) as u64 & mask(size);
    // The upper half says nothing that the lower does not.
    let plain = if signed { sign_extend(low, size) as i64 as i128 as u128 == product } else { high == 0 };
    let status = of_result(low, size) | when(!plain, CF | OF);
    (low, high, rflags & !STATUS | status)
}

/// Quotient and remainder of high:low by `divisor`, or `None` for #DE.
pub(super) fn divide(size: u8, signed: bool, high: u64, low: u64, divisor: u64) -> Option<(u64, u64)> {
    let bits = 8 * u32::from(size);
    let dividend = u128::from(high & mask(size)) << bits | u128::from(low & mask(size));
    if signed {
        let unused = 128 - 2 * bits;
        let dividend = (dividend << unused) as i128 >> unused;
        let divisor = i128::from(sign_extend(divisor, size) as i64);
        let quotient = dividend.checked_div(divisor)?;
        let remainder = dividend.checked_rem(divisor)?;
        let fits = i128::from(sign_extend(quotient as u64, size) as i64) == quotient;
        fits.then_some((quotient as u64 & mask(size), remainder as u64 & mask(size)))
    } else {
        let divisor = u128::from(divisor & mask(size));
        let quotient = dividend.checked_div(divisor)?;
        let remainder = dividend.checked_rem(divisor)?;
        (quotient <= u128::from(mask(size))).then_some((quotient as u64, remainder as u64))
    }
}
