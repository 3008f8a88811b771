// SPDX-License-Identifier: MIT OR Apache-2.0
//! PVALIDATE, RMPADJUST and RMPQUERY, from the operand's translation on.
//!
//! Follows APM vol. 3 and vol. 2, 15.36.6, 15.36.7 and table 15-40. The order is: privilege, input, the RMP's checks of an
//! access, sizes, and then what the instruction is about. Where no public source gives an order or a code,
//! [`Assumptions`] has a switch.

use crate::access::{Effect, Fault};
use crate::assumed::{Assumptions, Refusal};
use crate::rmp::{LARGE, Rmp, Size};
use crate::rule::Rule;
use specs::sev::{VmplRights, npf, result, rmpadjust as operand_bits};

/// Who executes the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Of the running VMSA.
    pub vmpl: u8,
    /// Current privilege level.
    pub cpl: u8,
    /// The guest's.
    pub asid: u32,
}

/// The page that RAX names, translated by the guest's tables and the nested ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The guest-physical address, without the C-bit.
    pub gpa: u64,
    /// Where the nested tables lead.
    pub spa: u64,
    /// Mapped with C=1, or below the virtual top of memory.
    pub private: bool,
    /// The size of the nested leaf.
    pub leaf: Size,
}

/// How the instruction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// EAX, and CF for PVALIDATE.
    Done {
        /// The result code.
        eax: u32,
        /// CF: nothing changed.
        carry: bool,
    },
    /// #GP(0).
    GeneralProtection(Rule),
    /// The operand faults like a memory access.
    Fault(Fault),
}

impl Outcome {
    const fn code(eax: u32) -> Self {
        Self::Done { eax, carry: false }
    }

    const fn refused(refusal: Refusal, rule: Rule) -> Self {
        match refusal {
            Refusal::GeneralProtection => Self::GeneralProtection(rule),
            Refusal::Code(code) => Self::code(code),
        }
    }
}

/// What is checked of every operand before its page is looked at.
fn check_operand(assumptions: &Assumptions, caller: &Caller, operand: &Operand, size: u64) -> Result<Size, Outcome> {
    if caller.cpl != 0 {
        return Err(Outcome::GeneralProtection(Rule::InstructionCpl));
    }
    let size = match size {
        0 => Size::Small,
        1 => Size::Large,
        _ => return Err(Outcome::code(result::FAIL_INPUT)),
    };
    if size == Size::Large && !(operand.gpa & !0xfff).is_multiple_of(LARGE) {
        return Err(Outcome::refused(assumptions.misaligned, Rule::AlignedOperand));
    }
    if !operand.private {
        return Err(Outcome::refused(assumptions.shared_operand, Rule::PrivateOperand));
    }
    Ok(size)
}

/// The part of an access's checks that comes before validation, and the sizes (table 15-40).
fn check_page(rmp: &Rmp<'_>, caller: &Caller, operand: &Operand, size: Size) -> Result<(), Outcome> {
    let fault = |rule, more| {
        let bits = npf::RMP | npf::ENCRYPTED | npf::PRESENT | more;
        Err(Outcome::Fault(Fault { rule, effect: Effect::NestedFault(bits) }))
    };
    let entry = rmp.entry(operand.spa).filter(|entry| entry.assigned() && entry.asid() == caller.asid);
    let Some(entry) = entry else { return fault(Rule::GuestOwned, 0) };
    let within = entry.size().bytes() - 1;
    if entry.gpa() != operand.gpa & !within {
        return fault(Rule::ReverseMap, 0);
    }
    if entry.immutable() {
        return fault(Rule::Mutable, 0);
    }
    match (size, entry.size(), operand.leaf) {
        // The host splits the page and the guest tries again.
        (Size::Small, Size::Large, _) => fault(Rule::PageSize, npf::SIZE_MISMATCH),
        // 4 KiB in the table under a 2 MiB leaf fails the check of any access.
        (_, Size::Small, Size::Large) => fault(Rule::PageSize, 0),
        (Size::Large, Size::Small, _) | (Size::Large, _, Size::Small) => Err(Outcome::code(result::FAIL_SIZEMISMATCH)),
        _ => Ok(()),
    }
}

/// PVALIDATE: `size` is ECX, `validate` is EDX.
pub fn pvalidate(
    rmp: &mut Rmp<'_>,
    assumptions: &Assumptions,
    caller: &Caller,
    operand: &Operand,
    size: u64,
    validate: bool,
) -> Outcome {
    let failed = |outcome| match outcome {
        Outcome::Done { eax, .. } => Outcome::Done { eax, carry: assumptions.carry_after_failure },
        other => other,
    };
    let checked = check_operand(assumptions, caller, operand, size).and_then(|size| {
        if caller.vmpl != 0 {
            return Err(Outcome::refused(assumptions.pvalidate_below_vmpl0, Rule::PvalidateVmpl));
        }
        check_page(rmp, caller, operand, size)
    });
    if let Err(outcome) = checked {
        return failed(outcome);
    }
    match rmp.entry_mut(operand.spa) {
        Some(entry) => Outcome::Done { eax: result::SUCCESS, carry: !entry.set_validated(validate) },
        None => failed(Outcome::code(result::FAIL_INPUT)),
    }
}

/// RMPADJUST: `size` is RCX, `target` is RDX.
pub fn rmpadjust(
    rmp: &mut Rmp<'_>,
    assumptions: &Assumptions,
    caller: &Caller,
    operand: &Operand,
    size: u64,
    target: u64,
) -> Outcome {
    let size = match check_operand(assumptions, caller, operand, size) {
        Ok(size) => size,
        Err(outcome) => return outcome,
    };
    let vmpl = (target & operand_bits::VMPL) as u8;
    let bits = (target >> operand_bits::RIGHTS_SHIFT) as u8;
    let Some(rights) = VmplRights::from_bits(bits) else { return Outcome::code(result::FAIL_INPUT) };
    if usize::from(vmpl) >= specs::sev::VMPLS
        || (rights.contains(VmplRights::WRITE) && !rights.contains(VmplRights::READ))
    {
        return Outcome::code(result::FAIL_INPUT);
    }
    if vmpl <= caller.vmpl {
        return Outcome::code(result::FAIL_PERMISSION);
    }
    if let Err(outcome) = check_page(rmp, caller, operand, size) {
        return outcome;
    }
    let Some(entry) = rmp.entry_mut(operand.spa) else { return Outcome::code(result::FAIL_INPUT) };
    if !entry.validated() {
        return match assumptions.adjust_unvalidated {
            Some(refusal) => Outcome::refused(refusal, Rule::AdjustValidated),
            None => Outcome::Fault(Fault { rule: Rule::Validated, effect: Effect::NotValidated }),
        };
    }
    if !entry.rights(caller.vmpl).contains(rights) {
        return Outcome::code(result::FAIL_PERMISSION);
    }
    if entry.in_use() && assumptions.adjust_in_use_fails {
        return Outcome::code(result::FAIL_INUSE);
    }
    // Only VMPL0 makes and unmakes VMSAs; for others the bit means nothing (APM vol. 2, 15.36.7).
    if caller.vmpl == 0 {
        let vmsa = target & operand_bits::VMSA != 0;
        if vmsa && size == Size::Large {
            return Outcome::code(result::FAIL_INPUT);
        }
        entry.set_vmsa(vmsa);
    }
    entry.set_rights(vmpl, rights);
    Outcome::code(result::SUCCESS)
}

/// What RMPQUERY finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// How it ends.
    pub outcome: Outcome,
    /// RCX: the page's size.
    pub size: u64,
    /// RDX: rights and VMSA bit, as RMPADJUST takes them.
    pub target: u64,
}

/// RMPQUERY: `target` is RDX.
pub fn rmpquery(rmp: &Rmp<'_>, assumptions: &Assumptions, caller: &Caller, operand: &Operand, target: u64) -> Query {
    let ended = |outcome| Query { outcome, size: 0, target };
    if let Err(outcome) = check_operand(assumptions, caller, operand, 0) {
        return ended(outcome);
    }
    let vmpl = (target & operand_bits::VMPL) as u8;
    if usize::from(vmpl) >= specs::sev::VMPLS {
        return ended(Outcome::code(result::FAIL_INPUT));
    }
    if vmpl <= caller.vmpl && assumptions.query_upwards_fails {
        return ended(Outcome::code(result::FAIL_PERMISSION));
    }
    // The page is looked at in its own size, so no size can be wrong.
    let own = rmp.entry(operand.spa).map_or(Size::Small, |entry| entry.size());
    let operand = Operand { leaf: own, ..*operand };
    match check_page(rmp, caller, &operand, own) {
        Err(outcome) => ended(outcome),
        Ok(()) => match rmp.entry(operand.spa) {
            None => ended(Outcome::code(result::FAIL_INPUT)),
            Some(entry) => Query {
                outcome: Outcome::code(result::SUCCESS),
                size: u64::from(own == Size::Large),
                target: u64::from(vmpl)
                    | u64::from(entry.rights(vmpl).bits()) << operand_bits::RIGHTS_SHIFT
                    | if entry.vmsa() { operand_bits::VMSA } else { 0 },
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rmp::{Covered, Entry, PAGE, State};

    const COVERED: [Covered; 3] =
        [Covered { start: 0, end: 4 * LARGE }, Covered { start: 0, end: 0 }, Covered { start: 0, end: 0 }];
    const VMPL0: Caller = Caller { vmpl: 0, cpl: 0, asid: 1 };
    const LIKELY: Assumptions = Assumptions::LIKELY;
    const BOTH: [Assumptions; 2] = [Assumptions::LIKELY, Assumptions::CONTRARY];

    fn with_table(test: impl Fn(&mut Rmp<'_>)) {
        let mut entries = vec![Entry::default(); Rmp::entries_for(&COVERED) as usize];
        let mut rmp = Rmp::new(&mut entries, COVERED).unwrap();
        for page in [1, 2, 3] {
            rmp.rmpupdate(page * PAGE, &state(page * PAGE, Size::Small));
        }
        rmp.rmpupdate(LARGE, &state(LARGE, Size::Large));
        test(&mut rmp);
    }

    fn state(gpa: u64, size: Size) -> State {
        State { assigned: true, size, immutable: false, gpa, asid: 1 }
    }

    fn small(at: u64) -> Operand {
        Operand { gpa: at, spa: at, private: true, leaf: Size::Small }
    }

    fn large(at: u64) -> Operand {
        Operand { leaf: Size::Large, ..small(at) }
    }

    const fn done(eax: u32, carry: bool) -> Outcome {
        Outcome::Done { eax, carry }
    }

    fn faults_as(outcome: Outcome, rule: Rule, bit: u64) -> bool {
        matches!(outcome, Outcome::Fault(Fault { rule: found, effect: Effect::NestedFault(bits) })
            if found == rule && bits & bit == bit)
    }

    #[test]
    fn carry_says_that_nothing_changed() {
        with_table(|rmp| {
            for (validate, carry) in [(true, false), (true, true), (false, false), (false, true)] {
                assert_eq!(pvalidate(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, validate), done(0, carry));
            }
            assert_eq!(pvalidate(rmp, &LIKELY, &VMPL0, &large(LARGE), 1, true), done(0, false));
            assert!(rmp.entry(LARGE + 77 * PAGE).unwrap().validated());
        });
    }

    #[test]
    fn pvalidate_is_vmpl0s_at_cpl0() {
        with_table(|rmp| {
            for assumptions in BOTH {
                let user = Caller { cpl: 3, ..VMPL0 };
                let outcome = pvalidate(rmp, &assumptions, &user, &small(PAGE), 0, true);
                assert_eq!(outcome, Outcome::GeneralProtection(Rule::InstructionCpl));
                let below = Caller { vmpl: 1, ..VMPL0 };
                let outcome = pvalidate(rmp, &assumptions, &below, &small(PAGE), 0, true);
                assert_ne!(outcome, done(0, false));
                assert!(!rmp.entry(PAGE).unwrap().validated());
            }
            let below = Caller { vmpl: 1, ..VMPL0 };
            assert_eq!(pvalidate(rmp, &LIKELY, &below, &small(PAGE), 0, true), done(result::FAIL_PERMISSION, false));
            assert_eq!(
                pvalidate(rmp, &Assumptions::CONTRARY, &below, &small(PAGE), 0, true),
                Outcome::GeneralProtection(Rule::PvalidateVmpl)
            );
        });
    }

    #[test]
    fn sizes_follow_table_15_40() {
        with_table(|rmp| {
            let mismatch = done(result::FAIL_SIZEMISMATCH, false);
            assert_eq!(pvalidate(rmp, &LIKELY, &VMPL0, &small(0x0), 2, true), done(result::FAIL_INPUT, false));
            rmp.rmpupdate(0, &state(0, Size::Small));
            assert_eq!(pvalidate(rmp, &LIKELY, &VMPL0, &small(0), 1, true), mismatch, "4 KiB in the RMP");
            assert_eq!(pvalidate(rmp, &LIKELY, &VMPL0, &small(LARGE), 1, true), mismatch, "4 KiB in the nested tables");
            let outcome = pvalidate(rmp, &LIKELY, &VMPL0, &large(LARGE + PAGE), 0, true);
            assert!(faults_as(outcome, Rule::PageSize, npf::SIZE_MISMATCH), "{outcome:?}");
            assert!(!rmp.entry(LARGE).unwrap().validated());
        });
    }

    #[test]
    fn a_large_operand_is_aligned() {
        with_table(|rmp| {
            let odd = large(LARGE + PAGE);
            assert_eq!(pvalidate(rmp, &LIKELY, &VMPL0, &odd, 1, true), done(result::FAIL_INPUT, false));
            assert_eq!(
                pvalidate(rmp, &Assumptions::CONTRARY, &VMPL0, &odd, 1, true),
                Outcome::GeneralProtection(Rule::AlignedOperand)
            );
            let inside = large(LARGE + 5);
            assert_eq!(pvalidate(rmp, &LIKELY, &VMPL0, &inside, 1, true), done(0, false), "bits 11:0 do not matter");
        });
    }

    #[test]
    fn the_operand_is_private() {
        with_table(|rmp| {
            let shared = Operand { private: false, ..small(PAGE) };
            assert_eq!(pvalidate(rmp, &LIKELY, &VMPL0, &shared, 0, true), done(result::FAIL_INPUT, false));
            assert_eq!(
                rmpadjust(rmp, &Assumptions::CONTRARY, &VMPL0, &shared, 0, 1),
                Outcome::GeneralProtection(Rule::PrivateOperand)
            );
        });
    }

    #[test]
    fn an_operand_that_is_not_the_guests_goes_to_the_host() {
        with_table(|rmp| {
            for assumptions in BOTH {
                let outcome = pvalidate(rmp, &assumptions, &VMPL0, &small(9 * PAGE), 0, true);
                assert!(faults_as(outcome, Rule::GuestOwned, npf::RMP | npf::ENCRYPTED), "{outcome:?}");
                let moved = Operand { gpa: PAGE, ..small(2 * PAGE) };
                assert!(faults_as(pvalidate(rmp, &assumptions, &VMPL0, &moved, 0, true), Rule::ReverseMap, npf::RMP));
            }
            rmp.rmpupdate(9 * PAGE, &State { immutable: true, ..state(9 * PAGE, Size::Small) });
            assert!(faults_as(rmpadjust(rmp, &LIKELY, &VMPL0, &small(9 * PAGE), 0, 1), Rule::Mutable, npf::RMP));
        });
    }

    #[test]
    fn carry_after_a_failure_is_a_guess() {
        with_table(|rmp| {
            for assumptions in BOTH {
                let Outcome::Done { eax, carry } = pvalidate(rmp, &assumptions, &VMPL0, &small(PAGE), 2, true) else {
                    panic!()
                };
                assert_eq!((eax, carry), (result::FAIL_INPUT, assumptions.carry_after_failure));
            }
        });
    }

    fn adjust(rmp: &mut Rmp<'_>, caller: &Caller, vmpl: u8, rights: VmplRights) -> Outcome {
        rmpadjust(rmp, &LIKELY, caller, &small(PAGE), 0, u64::from(vmpl) | u64::from(rights.bits()) << 8)
    }

    #[test]
    fn rights_go_downwards_and_never_grow() {
        use VmplRights as R;
        with_table(|rmp| {
            pvalidate(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, true);
            assert_eq!(adjust(rmp, &VMPL0, 0, R::READ), done(result::FAIL_PERMISSION, false));
            assert_eq!(adjust(rmp, &VMPL0, 1, R::READ), done(0, false));
            let vmpl1 = Caller { vmpl: 1, ..VMPL0 };
            assert_eq!(adjust(rmp, &vmpl1, 1, R::READ), done(result::FAIL_PERMISSION, false));
            assert_eq!(adjust(rmp, &vmpl1, 2, R::READ | R::WRITE), done(result::FAIL_PERMISSION, false));
            assert_eq!(adjust(rmp, &vmpl1, 2, R::READ), done(0, false));
            assert_eq!(rmp.entry(PAGE).unwrap().rights(2), R::READ);
        });
    }

    #[test]
    fn illegal_rights_and_vmpls_are_bad_input() {
        with_table(|rmp| {
            pvalidate(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, true);
            assert_eq!(adjust(rmp, &VMPL0, 1, VmplRights::WRITE), done(result::FAIL_INPUT, false));
            assert_eq!(adjust(rmp, &VMPL0, 4, VmplRights::READ), done(result::FAIL_INPUT, false));
            let stray = rmpadjust(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, 1 | 0x80 << 8);
            assert_eq!(stray, done(result::FAIL_INPUT, false));
        });
    }

    #[test]
    fn only_vmpl0_makes_a_vmsa() {
        with_table(|rmp| {
            pvalidate(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, true);
            let make = operand_bits::VMSA;
            assert_eq!(rmpadjust(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, 1 | make), done(0, false));
            assert!(rmp.entry(PAGE).unwrap().vmsa());
            let vmpl1 = Caller { vmpl: 1, ..VMPL0 };
            assert_eq!(rmpadjust(rmp, &LIKELY, &vmpl1, &small(PAGE), 0, 2), done(0, false));
            assert!(rmp.entry(PAGE).unwrap().vmsa(), "the bit is ignored below VMPL0");
            assert_eq!(rmpadjust(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, 1), done(0, false));
            assert!(!rmp.entry(PAGE).unwrap().vmsa());
        });
    }

    #[test]
    fn a_page_must_be_validated_to_be_adjusted() {
        with_table(|rmp| {
            let outcome = adjust(rmp, &VMPL0, 1, VmplRights::READ);
            assert_eq!(outcome, Outcome::Fault(Fault { rule: Rule::Validated, effect: Effect::NotValidated }));
            let contrary = rmpadjust(rmp, &Assumptions::CONTRARY, &VMPL0, &small(PAGE), 0, 1 | 1 << 8);
            assert_eq!(contrary, done(result::FAIL_INPUT, false));
            assert!(rmp.entry(PAGE).unwrap().rights(1).is_empty());
        });
    }

    #[test]
    fn a_running_vmsa_is_in_use() {
        with_table(|rmp| {
            pvalidate(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, true);
            rmp.set_in_use(PAGE, true);
            assert_eq!(adjust(rmp, &VMPL0, 1, VmplRights::READ), done(result::FAIL_INUSE, false));
            let contrary = rmpadjust(rmp, &Assumptions::CONTRARY, &VMPL0, &small(PAGE), 0, 1 | 1 << 8);
            assert_eq!(contrary, done(0, false));
        });
    }

    #[test]
    fn a_query_tells_what_was_granted() {
        with_table(|rmp| {
            pvalidate(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, true);
            rmpadjust(rmp, &LIKELY, &VMPL0, &small(PAGE), 0, 1 | 3 << 8 | operand_bits::VMSA);
            let query = rmpquery(rmp, &LIKELY, &VMPL0, &small(PAGE), 1);
            assert_eq!(query, Query { outcome: done(0, false), size: 0, target: 1 | 3 << 8 | operand_bits::VMSA });
            assert_eq!(rmpquery(rmp, &LIKELY, &VMPL0, &large(LARGE), 3).size, 1);
            let upwards = rmpquery(rmp, &LIKELY, &VMPL0, &small(PAGE), 0).outcome;
            assert_eq!(upwards, done(result::FAIL_PERMISSION, false));
            assert_eq!(rmpquery(rmp, &Assumptions::CONTRARY, &VMPL0, &small(PAGE), 0).outcome, done(0, false));
            assert_eq!(rmpquery(rmp, &LIKELY, &VMPL0, &small(PAGE), 9).outcome, done(result::FAIL_INPUT, false));
        });
    }
}
