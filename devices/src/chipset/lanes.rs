// SPDX-License-Identifier: MIT OR Apache-2.0
//! Register blocks seen as bytes: a wide access is the same as its bytes, lowest address first.

use vmm_interface::Register;

/// Reads each byte of the access through `byte`, which gets the offset within the range.
pub(super) fn read(at: Register, mut byte: impl FnMut(u64) -> u8) -> u64 {
    let mut value = 0;
    for lane in 0..u64::from(at.width.min(8)) {
        value |= u64::from(byte(at.offset.saturating_add(lane))) << (8 * lane);
    }
    value
}

/// Hands each byte of the access to `byte`, with its offset within the range.
pub(super) fn write(at: Register, value: u64, mut byte: impl FnMut(u64, u8)) {
    for lane in 0..u64::from(at.width.min(8)) {
        byte(at.offset.saturating_add(lane), (value >> (8 * lane)) as u8);
    }
}
