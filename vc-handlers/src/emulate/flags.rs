// SPDX-License-Identifier: MIT OR Apache-2.0
//! The status flags of results, and the conditions that read them (APM vol. 1, 3.1.4).

use iced_x86::ConditionCode;

use super::bits::rflags::{CF, OF, PF, SF, ZF};
use super::operand::mask;

/// `flag` if `condition` holds.
pub(super) const fn when(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

/// The top bit of a value of `size` bytes.
pub(super) const fn sign(value: u64, size: u8) -> bool {
    value & (mask(size) ^ mask(size) >> 1) != 0
}

/// SF, ZF and PF of a result of `size` bytes.
pub(super) const fn of_result(result: u64, size: u8) -> u64 {
    when(result & mask(size) == 0, ZF)
        | when(sign(result, size), SF)
        | when((result as u8).count_ones().is_multiple_of(2), PF)
}

/// Whether `flags` fulfil a condition.
pub(super) fn holds(condition: ConditionCode, flags: u64) -> bool {
    let set = |flag| flags & flag != 0;
    let less = set(SF) != set(OF);
    match condition {
        ConditionCode::o => set(OF),
        ConditionCode::no => !set(OF),
        ConditionCode::b => set(CF),
        ConditionCode::ae => !set(CF),
        ConditionCode::e => set(ZF),
        ConditionCode::ne => !set(ZF),
        ConditionCode::be => set(CF) || set(ZF),
        ConditionCode::a => !set(CF) && !set(ZF),
        ConditionCode::s => set(SF),
        ConditionCode::ns => !set(SF),
        ConditionCode::p => set(PF),
        ConditionCode::np => !set(PF),
        ConditionCode::l => less,
        ConditionCode::ge => !less,
        ConditionCode::le => less || set(ZF),
        ConditionCode::g => !less && !set(ZF),
        ConditionCode::None => true,
    }
}
