// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to a guest's memory access once its own page tables and the nested ones have let it through: the checks of
//! APM vol. 2, table 15-39, in the order of that table.

use crate::rmp::{Entry, Rmp, Size};
use crate::rule::Rule;
use specs::sev::{VmplRights, npf};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Fetches an instruction.
    Fetch,
    /// Reads or updates one of the guest's page tables.
    TableWalk,
}

/// An access that found a nested mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The guest-physical address, without the C-bit.
    pub gpa: u64,
    /// Where the nested tables lead.
    pub spa: u64,
    /// What it does.
    pub kind: Kind,
    /// The C-bit, or being below the virtual top of memory. Fetches and table walks are private whatever it says.
    pub private: bool,
    /// CPL 3.
    pub user: bool,
    /// Of the running VMSA.
    pub vmpl: u8,
    /// The size of the nested leaf; 1 GiB counts as 2 MiB.
    pub leaf: Size,
}

impl Access {
    /// Whether the processor uses the guest's key.
    pub const fn encrypted(&self) -> bool {
        self.private || matches!(self.kind, Kind::Fetch | Kind::TableWalk)
    }
}

/// Why an access does not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which check failed.
    pub rule: Rule,
    /// What the processor does.
    pub effect: Effect,
}

/// What the processor does about a failed check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// #NPF to the host; the RMP's part of EXITINFO1. Bits 0 to 4, 32 and 33 follow from the access itself.
    NestedFault(u64),
    /// #VC with error code 404h.
    NotValidated,
}

/// Runs the checks. `asid` is the guest's.
pub fn check(rmp: &Rmp<'_>, asid: u32, access: &Access) -> Result<(), Fault> {
    let entry = rmp.entry(access.spa);
    if !access.encrypted() {
        return match (access.kind, entry) {
            (Kind::Write, Some(entry)) if entry.assigned() => Err(nested(Rule::SharedWrite, npf::RMP | npf::PRESENT)),
            _ => Ok(()),
        };
    }
    let bits = npf::RMP | npf::ENCRYPTED | npf::PRESENT;
    // Memory that the table does not cover cannot be guest-owned.
    let entry = entry.filter(|entry| entry.assigned() && entry.asid() == asid);
    let Some(entry) = entry else { return Err(nested(Rule::GuestOwned, bits)) };
    if !reverse_map_fits(&entry, access) {
        return Err(nested(Rule::ReverseMap, bits));
    }
    if entry.immutable() {
        return Err(nested(Rule::Mutable, bits));
    }
    match (access.leaf, entry.size()) {
        (Size::Large, Size::Small) => return Err(nested(Rule::PageSize, bits)),
        (Size::Small, Size::Large) => return Err(nested(Rule::PageSize, bits | npf::SIZE_MISMATCH)),
        _ => {}
    }
    if !entry.validated() {
        return Err(Fault { rule: Rule::Validated, effect: Effect::NotValidated });
    }
    if !entry.rights(access.vmpl).contains(needed(access)) {
        return Err(nested(Rule::VmplRights, bits | npf::VMPL));
    }
    Ok(())
}

const fn nested(rule: Rule, bits: u64) -> Fault {
    Fault { rule, effect: Effect::NestedFault(bits) }
}

fn reverse_map_fits(entry: &Entry, access: &Access) -> bool {
    let within = entry.size().bytes() - 1;
    entry.gpa() == access.gpa & !within
}

/// What an access needs of its VMPL. A table walk reads, and writes accessed and dirty bits.
const fn needed(access: &Access) -> VmplRights {
    match (access.kind, access.user) {
        (Kind::Read, _) => VmplRights::READ,
        (Kind::Write | Kind::TableWalk, _) => VmplRights::READ.union(VmplRights::WRITE),
        (Kind::Fetch, true) => VmplRights::USER_EXECUTE,
        (Kind::Fetch, false) => VmplRights::SUPERVISOR_EXECUTE,
    }
}

/// What a nested leaf may allow, so that everything else faults and comes to [`check`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// Present.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Executable, at any CPL.
    pub execute: bool,
}

/// The leaf for a page in the private view of a VMPL.
pub fn private_leaf(rmp: &Rmp<'_>, asid: u32, vmpl: u8, gpa: u64, spa: u64, leaf: Size) -> Leaf {
    let allowed = |kind, user| check(rmp, asid, &Access { gpa, spa, kind, private: true, user, vmpl, leaf }).is_ok();
    Leaf {
        read: allowed(Kind::Read, false),
        write: allowed(Kind::Write, false),
        // A leaf cannot tell user from supervisor mode; where the rights differ, fetches fault and are judged one by one.
        execute: allowed(Kind::Fetch, false) && allowed(Kind::Fetch, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assumed::Assumptions;
    use crate::instructions::{Caller, Operand, pvalidate, rmpadjust};
    use crate::rmp::{Covered, LARGE, PAGE, State};

    const COVERED: [Covered; 3] =
        [Covered { start: 0, end: 4 * LARGE }, Covered { start: 0, end: 0 }, Covered { start: 0, end: 0 }];
    const GUEST: u32 = 1;

    fn with_table(test: impl FnOnce(&mut Rmp<'_>)) {
        let mut entries = vec![Entry::default(); Rmp::entries_for(&COVERED) as usize];
        test(&mut Rmp::new(&mut entries, COVERED).unwrap());
    }

    fn state(gpa: u64, size: Size) -> State {
        State { assigned: true, size, immutable: false, gpa, asid: GUEST }
    }

    fn private(at: u64, kind: Kind) -> Access {
        Access { gpa: at, spa: at, kind, private: true, user: false, vmpl: 0, leaf: Size::Small }
    }

    const KINDS: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Fetch, Kind::TableWalk];

    fn rule(rmp: &Rmp<'_>, access: &Access) -> Option<Rule> {
        check(rmp, GUEST, access).err().map(|fault| fault.rule)
    }

    #[test]
    fn a_validated_page_of_ones_own_is_open_to_vmpl0() {
        with_table(|rmp| {
            rmp.launch(PAGE, &state(PAGE, Size::Small), false);
            for kind in KINDS {
                assert_eq!(check(rmp, GUEST, &private(PAGE + 8, kind)), Ok(()), "{kind:?}");
            }
        });
    }

    #[test]
    fn a_hypervisors_page_is_not_private() {
        with_table(|rmp| {
            for kind in KINDS {
                assert_eq!(rule(rmp, &private(PAGE, kind)), Some(Rule::GuestOwned), "{kind:?}");
            }
            let Err(Fault { effect, .. }) = check(rmp, GUEST, &private(PAGE, Kind::Read)) else { panic!() };
            assert_eq!(effect, Effect::NestedFault(npf::RMP | npf::ENCRYPTED | npf::PRESENT));
            assert_eq!(rule(rmp, &private(1 << 40, Kind::Read)), Some(Rule::GuestOwned), "not covered");
        });
    }

    #[test]
    fn another_guests_page_is_not_ones_own() {
        with_table(|rmp| {
            rmp.launch(PAGE, &State { asid: 2, ..state(PAGE, Size::Small) }, false);
            assert_eq!(rule(rmp, &private(PAGE, Kind::Read)), Some(Rule::GuestOwned));
        });
    }

    #[test]
    fn a_page_moved_elsewhere_fails_the_reverse_map() {
        with_table(|rmp| {
            rmp.launch(PAGE, &state(PAGE, Size::Small), false);
            rmp.launch(2 * PAGE, &state(2 * PAGE, Size::Small), false);
            let moved = Access { gpa: PAGE, spa: 2 * PAGE, ..private(0, Kind::Read) };
            assert_eq!(rule(rmp, &moved), Some(Rule::ReverseMap));
            let within =
                Access { gpa: LARGE + PAGE, spa: LARGE + 2 * PAGE, leaf: Size::Large, ..private(0, Kind::Read) };
            rmp.launch(LARGE, &state(LARGE, Size::Large), false);
            assert_eq!(check(rmp, GUEST, &within), Ok(()), "one entry speaks for the whole page");
        });
    }

    #[test]
    fn the_firmwares_page_is_closed() {
        with_table(|rmp| {
            rmp.rmpupdate(PAGE, &State { immutable: true, ..state(PAGE, Size::Small) });
            assert_eq!(rule(rmp, &private(PAGE, Kind::Read)), Some(Rule::Mutable));
        });
    }

    #[test]
    fn sizes_must_agree_and_only_one_way_is_reported_as_mismatch() {
        with_table(|rmp| {
            rmp.launch(LARGE, &state(LARGE, Size::Large), false);
            let Err(Fault { rule, effect: Effect::NestedFault(bits) }) = check(rmp, GUEST, &private(LARGE, Kind::Read))
            else {
                panic!()
            };
            assert_eq!((rule, bits & npf::SIZE_MISMATCH), (Rule::PageSize, npf::SIZE_MISMATCH));
            rmp.launch(0, &state(0, Size::Small), false);
            let large = Access { leaf: Size::Large, ..private(0, Kind::Read) };
            let Err(Fault { rule, effect: Effect::NestedFault(bits) }) = check(rmp, GUEST, &large) else { panic!() };
            assert_eq!((rule, bits & npf::SIZE_MISMATCH), (Rule::PageSize, 0));
        });
    }

    #[test]
    fn a_page_that_is_not_validated_is_the_guests_business() {
        with_table(|rmp| {
            rmp.rmpupdate(PAGE, &state(PAGE, Size::Small));
            let fault = check(rmp, GUEST, &private(PAGE, Kind::Write)).unwrap_err();
            assert_eq!(fault, Fault { rule: Rule::Validated, effect: Effect::NotValidated });
            // The VMPL is asked last: VMPL3 has no right here, and learns of the validation first.
            let below = Access { vmpl: 3, ..private(PAGE, Kind::Write) };
            assert_eq!(rule(rmp, &below), Some(Rule::Validated));
        });
    }

    #[test]
    fn a_vmpl_does_what_it_was_given() {
        use VmplRights as R;
        with_table(|rmp| {
            rmp.launch(PAGE, &state(PAGE, Size::Small), false);
            let cases = [
                (R::empty(), [false; 5]),
                (R::READ, [true, false, false, false, false]),
                (R::READ | R::WRITE, [true, true, true, false, false]),
                (R::READ | R::USER_EXECUTE, [true, false, false, true, false]),
                (R::SUPERVISOR_EXECUTE, [false, false, false, false, true]),
            ];
            for (rights, expected) in cases {
                rmp.entry_mut(PAGE).unwrap().set_rights(2, rights);
                let tries = [
                    (Kind::Read, false),
                    (Kind::Write, false),
                    (Kind::TableWalk, false),
                    (Kind::Fetch, true),
                    (Kind::Fetch, false),
                ];
                let got = tries
                    .map(|(kind, user)| check(rmp, GUEST, &Access { vmpl: 2, user, ..private(PAGE, kind) }).is_ok());
                assert_eq!(got, expected, "{rights:?}");
            }
            let fault = check(rmp, GUEST, &Access { vmpl: 2, ..private(PAGE, Kind::Read) }).unwrap_err();
            assert!(matches!(fault.effect, Effect::NestedFault(bits) if bits & npf::VMPL != 0));
        });
    }

    #[test]
    fn shared_reads_are_free_and_shared_writes_are_not() {
        with_table(|rmp| {
            rmp.launch(PAGE, &state(PAGE, Size::Small), false);
            let shared = |at, kind| Access { private: false, ..private(at, kind) };
            assert_eq!(check(rmp, GUEST, &shared(PAGE, Kind::Read)), Ok(()));
            assert_eq!(rule(rmp, &shared(PAGE, Kind::Write)), Some(Rule::SharedWrite));
            assert_eq!(check(rmp, GUEST, &shared(0, Kind::Write)), Ok(()));
        });
    }

    #[test]
    fn fetches_and_table_walks_are_private_whatever_the_c_bit_says() {
        with_table(|rmp| {
            for kind in [Kind::Fetch, Kind::TableWalk] {
                let shared = Access { private: false, ..private(0, kind) };
                assert_eq!(rule(rmp, &shared), Some(Rule::GuestOwned), "{kind:?}");
            }
        });
    }

    proptest::proptest! {
        /// Whatever a nested leaf lets through, the checks would have let through as well.
        #[test]
        fn a_leaf_never_allows_more_than_the_checks(
            steps in proptest::collection::vec((0u8..6, 0u64..1024, 0u8..4, 0u8..32), 0..40),
        ) {
            with_table(|rmp| {
                let assumptions = Assumptions::LIKELY;
                for (step, page, vmpl, rights) in steps {
                    let at = page * PAGE;
                    let size = if step & 1 == 0 { Size::Small } else { Size::Large };
                    let head = at & !(size.bytes() - 1);
                    let operand = Operand { gpa: head, spa: head, private: true, leaf: rmp.entry(head).unwrap().size() };
                    let caller = Caller { vmpl: 0, cpl: 0, asid: GUEST };
                    match step {
                        0 | 1 => { rmp.rmpupdate(head, &state(head, size)); }
                        2 => { pvalidate(rmp, &assumptions, &caller, &operand, 0, true); }
                        3 => { pvalidate(rmp, &assumptions, &caller, &operand, 1, true); }
                        4 => { rmpadjust(rmp, &assumptions, &caller, &operand, 0, u64::from(vmpl) | u64::from(rights) << 8); }
                        _ => { rmp.psmash(head); }
                    }
                }
                for page in 0..1024 {
                    for vmpl in 0..4 {
                        let at = page * PAGE;
                        let size = rmp.entry(at).unwrap().size();
                        let leaf = private_leaf(rmp, GUEST, vmpl, at, at, size);
                        for (allowed, kind) in [(leaf.read, Kind::Read), (leaf.write, Kind::Write), (leaf.execute, Kind::Fetch)] {
                            for user in [false, true] {
                                let access = Access { vmpl, user, leaf: size, ..private(at, kind) };
                                if allowed {
                                    assert_eq!(check(rmp, GUEST, &access), Ok(()));
                                }
                            }
                        }
                    }
                }
            });
        }
    }
}
