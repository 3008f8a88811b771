// SPDX-License-Identifier: MIT OR Apache-2.0
//! What no public source states: one switch each. Software that depends on a switch depends on a guess, so tests pass with
//! each of them both ways.

/// What an instruction does that the processor will not carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// #GP(0).
    GeneralProtection,
    /// A result code in EAX.
    Code(u32),
}

/// The switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumptions {
    /// PVALIDATE at a VMPL other than 0.
    pub pvalidate_below_vmpl0: Refusal,
    /// PVALIDATE or RMPADJUST whose operand is mapped shared.
    pub shared_operand: Refusal,
    /// A 2 MiB operand that is not aligned.
    pub misaligned: Refusal,
    /// RMPADJUST of a page that is not validated: a refusal; `None` is a #VC (404h).
    pub adjust_unvalidated: Option<Refusal>,
    /// RMPADJUST of a VMSA that is in use is refused; otherwise it is carried out.
    pub adjust_in_use_fails: bool,
    /// RMPQUERY of a VMPL that is not below the own one answers FAIL_PERMISSION; otherwise it answers the truth.
    pub query_upwards_fails: bool,
    /// CF after a PVALIDATE that failed.
    pub carry_after_failure: bool,
    /// Whether reserved bytes of a VMSA must be zero.
    pub reserved_must_be_zero: bool,
    /// Writing a VMSA while a processor runs it is a mistake; otherwise the exit silently overwrites it.
    pub running_vmsa_is_closed: bool,
}

impl Assumptions {
    /// What seems likeliest.
    pub const LIKELY: Self = Self {
        pvalidate_below_vmpl0: Refusal::Code(specs::sev::result::FAIL_PERMISSION),
        shared_operand: Refusal::Code(specs::sev::result::FAIL_INPUT),
        misaligned: Refusal::Code(specs::sev::result::FAIL_INPUT),
        adjust_unvalidated: None,
        adjust_in_use_fails: true,
        query_upwards_fails: true,
        carry_after_failure: false,
        reserved_must_be_zero: true,
        running_vmsa_is_closed: true,
    };

    /// Every switch the other way.
    pub const CONTRARY: Self = Self {
        pvalidate_below_vmpl0: Refusal::GeneralProtection,
        shared_operand: Refusal::GeneralProtection,
        misaligned: Refusal::GeneralProtection,
        adjust_unvalidated: Some(Refusal::Code(specs::sev::result::FAIL_INPUT)),
        adjust_in_use_fails: false,
        query_upwards_fails: false,
        carry_after_failure: true,
        reserved_must_be_zero: false,
        running_vmsa_is_closed: false,
    };
}
