// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translations that a processor may still hold: QEMU drops them at every entry and exit, hardware does not.
//!
//! When rights of a page shrink, the more privileged software must flush (INVLPGB and TLBSYNC, or PCPU_ID = 0) before the
//! less privileged runs again (APM vol. 2, 15.36.6). The ledger remembers, for each VMPL, the first page whose rights have
//! shrunk since the last flush; entering that VMPL with a page in the ledger is a broken rule. The host's own changes are
//! not in it: KVM flushes with each of them, and what it would not flush it could not be blamed for in a model of its own.

use crate::rule::{Broken, Rule};
use specs::sev::{VMPLS, VmplRights};

/// What has not been flushed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger {
    pending: [Option<u64>; VMPLS],
}

impl Ledger {
    /// A VMPL's rights to a page changed.
    pub fn rights_changed(&mut self, vmpl: u8, gpa: u64, before: VmplRights, after: VmplRights) {
        if let (false, Some(slot)) = (after.contains(before), self.pending.get_mut(usize::from(vmpl))) {
            slot.get_or_insert(gpa);
        }
    }

    /// Everything is flushed, on all processors.
    pub fn flush(&mut self) {
        *self = Self::default();
    }

    /// A VMPL's translations are flushed by its VMSA's PCPU_ID, which is 0 (APM vol. 2, 15.36.15).
    pub fn flush_vmpl(&mut self, vmpl: u8) {
        if let Some(slot) = self.pending.get_mut(usize::from(vmpl)) {
            *slot = None;
        }
    }

    /// A VMPL is about to run.
    pub fn enter(&self, vmpl: u8) -> Result<(), Broken> {
        match self.pending.get(usize::from(vmpl)) {
            Some(Some(gpa)) => Err(Broken { rule: Rule::Flush, gpa: *gpa, found: vmpl.into() }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrunk_rights_need_a_flush_before_the_vmpl_runs() {
        let mut ledger = Ledger::default();
        ledger.rights_changed(2, 0x1000, VmplRights::READ, VmplRights::READ | VmplRights::WRITE);
        assert!(ledger.enter(2).is_ok(), "grown rights only fault once more");
        ledger.rights_changed(2, 0x2000, VmplRights::READ | VmplRights::WRITE, VmplRights::READ);
        ledger.rights_changed(2, 0x3000, VmplRights::READ, VmplRights::empty());
        assert_eq!(ledger.enter(2), Err(Broken { rule: Rule::Flush, gpa: 0x2000, found: 2 }));
        assert!(ledger.enter(1).is_ok());
        ledger.flush_vmpl(1);
        assert!(ledger.enter(2).is_err());
        ledger.flush_vmpl(2);
        assert!(ledger.enter(2).is_ok());
        ledger.rights_changed(3, 0x3000, VmplRights::READ, VmplRights::empty());
        ledger.flush();
        assert!(ledger.enter(3).is_ok());
    }
}
