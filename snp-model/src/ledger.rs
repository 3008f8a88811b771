// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translations that a processor may still hold: QEMU drops them at every entry and exit, hardware does not.
//!
//! When rights of a page shrink, every processor on which that VMPL has run may hold what is no longer true (APM vol. 2,
//! 15.36.6). Whoever shrank them owes a flush: INVLPGB and TLBSYNC, which reach all processors, or PCPU_ID = 0 in each VMSA
//! that is concerned. Until then that processor must neither run the less privileged VMPL again, nor fall asleep while
//! another one may be running it. What other processors do meanwhile is no fault of theirs: the flush reaches them too.
//!
//! The host's own changes are not in the ledger: KVM flushes with each of them, and what it would not flush it could not be
//! blamed for in a model of its own.

use crate::PROCESSORS;
use crate::rule::{Broken, Rule};
use specs::sev::{VMPLS, VmplRights};

/// One bit a processor.
type Set = u64;
const _: () = assert!(PROCESSORS <= Set::BITS as usize);

/// A flush that a processor owes.
#[derive(Clone, Copy, Debug, Default)]
struct Debt {
    /// The first page whose rights shrank.
    gpa: u64,
    /// Who may hold its translation, by VMPL.
    holders: [Set; VMPLS],
}

/// What has not been flushed.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    /// Where each VMPL has run.
    entered: [Set; VMPLS],
    debts: [Debt; PROCESSORS],
    /// Who has executed INVLPGB, but not TLBSYNC yet.
    broadcasting: Set,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { entered: [0; VMPLS], debts: [Debt::default(); PROCESSORS], broadcasting: 0 }
    }
}

const fn bit(processor: u32) -> Set {
    if processor < Set::BITS { 1 << processor } else { 0 }
}

impl Ledger {
    /// A processor changed a VMPL's rights to a page.
    pub fn rights_changed(&mut self, by: u32, vmpl: u8, gpa: u64, before: VmplRights, after: VmplRights) {
        let entered = self.entered.get(usize::from(vmpl)).copied().unwrap_or(0);
        let Some(debt) = self.debts.get_mut(by as usize) else { return };
        if after.contains(before) || entered == 0 {
            return;
        }
        if debt.holders == [0; VMPLS] {
            debt.gpa = gpa;
        }
        if let Some(holders) = debt.holders.get_mut(usize::from(vmpl)) {
            *holders |= entered;
        }
    }

    /// INVLPGB of everything. It is done when TLBSYNC is.
    pub fn invlpgb(&mut self, by: u32) {
        self.broadcasting |= bit(by);
    }

    /// TLBSYNC: waits for this processor's INVLPGB.
    pub fn tlbsync(&mut self, by: u32) {
        if self.broadcasting & bit(by) != 0 {
            self.broadcasting &= !bit(by);
            self.debts = [Debt::default(); PROCESSORS];
        }
    }

    /// A VMPL's translations on one processor are flushed by its VMSA's PCPU_ID, which is 0 (APM vol. 2, 15.36.15).
    pub fn flush_vmpl(&mut self, processor: u32, vmpl: u8) {
        for debt in &mut self.debts {
            if let Some(holders) = debt.holders.get_mut(usize::from(vmpl)) {
                *holders &= !bit(processor);
            }
        }
    }

    /// A VMPL is about to run.
    pub fn enter(&mut self, processor: u32, vmpl: u8) -> Result<(), Broken> {
        if let Some(entered) = self.entered.get_mut(usize::from(vmpl)) {
            *entered |= bit(processor);
        }
        let debt = self.debts.get(processor as usize).copied().unwrap_or_default();
        match debt.holders.get(usize::from(vmpl)) {
            None | Some(0) => Ok(()),
            Some(_) => Err(Broken { rule: Rule::Flush, gpa: debt.gpa, found: vmpl.into() }),
        }
    }

    /// A processor is about to sleep at VMPL0.
    pub fn sleep(&self, processor: u32) -> Result<(), Broken> {
        let debt = self.debts.get(processor as usize).copied().unwrap_or_default();
        match debt.holders.iter().position(|holders| holders & !bit(processor) != 0) {
            None => Ok(()),
            Some(vmpl) => Err(Broken { rule: Rule::Flush, gpa: debt.gpa, found: vmpl as u64 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: VmplRights = VmplRights::READ;
    const BOTH: VmplRights = READ.union(VmplRights::WRITE);

    fn running(places: &[(u32, u8)]) -> Ledger {
        let mut ledger = Ledger::default();
        places.iter().for_each(|(processor, vmpl)| ledger.enter(*processor, *vmpl).unwrap());
        ledger
    }

    fn owes(gpa: u64, vmpl: u64) -> Result<(), Broken> {
        Err(Broken { rule: Rule::Flush, gpa, found: vmpl })
    }

    #[test]
    fn shrunk_rights_need_a_flush_before_the_vmpl_runs() {
        let mut ledger = running(&[(0, 1), (0, 2), (0, 3)]);
        ledger.rights_changed(0, 2, 0x1000, READ, BOTH);
        assert!(ledger.enter(0, 2).is_ok(), "grown rights only fault once more");
        ledger.rights_changed(0, 2, 0x2000, BOTH, READ);
        ledger.rights_changed(0, 2, 0x3000, READ, VmplRights::empty());
        assert_eq!(ledger.enter(0, 2), owes(0x2000, 2));
        assert!(ledger.enter(0, 1).is_ok());
        ledger.flush_vmpl(0, 1);
        assert!(ledger.enter(0, 2).is_err());
        ledger.flush_vmpl(0, 2);
        assert!(ledger.enter(0, 2).is_ok());
        ledger.rights_changed(0, 3, 0x3000, READ, VmplRights::empty());
        ledger.invlpgb(0);
        ledger.tlbsync(0);
        assert!(ledger.enter(0, 3).is_ok());
    }

    #[test]
    fn a_vmpl_that_has_never_run_has_no_translations() {
        let mut ledger = Ledger::default();
        ledger.rights_changed(0, 2, 0x1000, BOTH, READ);
        assert!(ledger.enter(0, 2).is_ok());
    }

    #[test]
    fn the_debt_is_the_revokers_and_counts_every_processor() {
        let mut ledger = running(&[(1, 2)]);
        ledger.rights_changed(0, 2, 0x1000, BOTH, READ);
        assert!(ledger.enter(1, 2).is_ok(), "the flush will reach it wherever it is");
        assert_eq!(ledger.enter(0, 2), owes(0x1000, 2));
        assert_eq!(ledger.sleep(0), owes(0x1000, 2));
        assert!(ledger.sleep(1).is_ok());
        ledger.flush_vmpl(0, 2);
        assert!(ledger.sleep(0).is_err(), "the other processor's VMSA was not flushed");
        ledger.flush_vmpl(1, 2);
        assert!(ledger.sleep(0).is_ok() && ledger.enter(0, 2).is_ok());
    }

    #[test]
    fn who_alone_may_hold_translations_may_sleep_on_them() {
        let mut ledger = running(&[(0, 2)]);
        ledger.rights_changed(0, 2, 0x1000, BOTH, READ);
        assert!(ledger.sleep(0).is_ok() && ledger.enter(0, 2).is_err());
    }

    #[test]
    fn tlbsync_waits_for_the_own_broadcast_only() {
        let mut ledger = running(&[(0, 2), (1, 2)]);
        ledger.rights_changed(0, 2, 0x1000, BOTH, READ);
        ledger.tlbsync(0);
        assert!(ledger.enter(0, 2).is_err(), "nothing was broadcast");
        ledger.invlpgb(1);
        ledger.tlbsync(0);
        assert!(ledger.enter(0, 2).is_err(), "another processor's broadcast is under way");
        ledger.tlbsync(1);
        assert!(ledger.enter(0, 2).is_ok());
    }

    #[test]
    fn numbers_that_do_not_exist_are_nobody() {
        let mut ledger = running(&[(0, 2)]);
        ledger.rights_changed(64, 2, 0x1000, BOTH, READ);
        ledger.rights_changed(0, 4, 0x1000, BOTH, READ);
        ledger.invlpgb(99);
        assert!(ledger.enter(0, 2).is_ok() && ledger.enter(0, 9).is_ok() && ledger.sleep(70).is_ok());
    }
}
