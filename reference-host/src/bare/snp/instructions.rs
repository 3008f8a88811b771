// SPDX-License-Identifier: MIT OR Apache-2.0
//! SNP's own instructions, which are #UD to QEMU: the operand is found, `snp_model::instructions` says what happens.

use super::machine::Machine;
use super::vcpu::{Flow, GP, Vcpu};
use reference_host::snp::ASID;
use reference_host::snp::decode::{Instruction, Kind as Code};
use snp_host::Hardware;
use snp_model::access::{Effect, Fault};
use snp_model::instructions::{Caller, Operand, Outcome, pvalidate, rmpadjust, rmpquery};
use snp_model::rmp::{Entry, LARGE, Size};
use snp_model::{Broken, Rule};
use specs::sev::{VMPLS, exit as sev_exit, npf};

const RFLAGS_CF: u64 = 1;
const UD: u64 = 6;
/// RAX of INVLPGB: the address counts (APM vol. 3, INVLPGB).
const INVLPGB_ADDRESS: u64 = 1;
const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;

impl Vcpu {
    /// #UD: perhaps one of SNP's instructions.
    pub(super) fn undefined(&mut self, machine: &mut Machine) -> Flow {
        let instruction = self.decode(machine);
        match instruction.kind {
            Code::Pvalidate | Code::Rmpadjust | Code::Rmpquery => self.on_page(machine, instruction),
            // Both are for the most privileged software; together they flush all processors.
            Code::Invlpgb | Code::Tlbsync if self.save().cpl != 0 => {
                self.raise(GP, 0);
                Ok(())
            }
            Code::Invlpgb => {
                // What names an address flushes less than everything, which here is nothing.
                if self.register(RAX) & INVLPGB_ADDRESS == 0 {
                    machine.ledger.invlpgb(self.number);
                }
                self.skip(instruction);
                Ok(())
            }
            Code::Tlbsync => {
                machine.ledger.tlbsync(self.number);
                self.skip(instruction);
                Ok(())
            }
            _ => {
                self.raise(UD, 0);
                Ok(())
            }
        }
    }

    fn on_page(&mut self, machine: &mut Machine, instruction: Instruction) -> Flow {
        let (address, size, target) = (self.register(RAX), self.register(RCX), self.register(RDX));
        let caller = Caller { vmpl: self.vmpl, cpl: self.save().cpl, asid: ASID };
        // An operand that is not mapped is a #PF, which no known software provokes.
        let Ok(mapping) = machine.walk(&self.paging(), address) else { return self.gap(machine, 0x14) };
        let spa = machine.backing(mapping.gpa);
        let before = machine.entry(spa).unwrap_or(Entry::HYPERVISOR);
        let (gpa, private, leaf) = (mapping.gpa, self.privacy().of(&mapping), before.size());
        let operand = Operand { gpa, spa, private, leaf };
        let (rmp, assumptions) = machine.rmp();
        let outcome = match instruction.kind {
            Code::Pvalidate => pvalidate(rmp, assumptions, &caller, &operand, size & 0xffff_ffff, target & 1 != 0),
            Code::Rmpadjust => rmpadjust(rmp, assumptions, &caller, &operand, size, target),
            _ => {
                let query = rmpquery(rmp, assumptions, &caller, &operand, target);
                if let Outcome::Done { eax: 0, .. } = query.outcome {
                    self.set_register(RCX, query.size);
                    self.set_register(RDX, query.target);
                }
                query.outcome
            }
        };
        if let Outcome::Done { eax: 0, carry: false } = outcome
            && instruction.kind != Code::Rmpquery
        {
            self.note_change(machine, gpa, &before);
        }
        self.conclude(machine, instruction, &operand, outcome)
    }

    /// The page's rights may have shrunk: its leaves go, and the ledger remembers.
    fn note_change(&mut self, machine: &mut Machine, gpa: u64, before: &Entry) {
        let Some(after) = machine.entry(gpa).filter(|after| after != before) else { return };
        machine.refresh(gpa, before.size());
        for vmpl in 1..VMPLS as u8 {
            let (had, has) = (before.rights(vmpl), after.rights(vmpl));
            let rescinded = before.validated() && !after.validated();
            machine.ledger.rights_changed(
                self.number,
                vmpl,
                gpa,
                had,
                if rescinded { Default::default() } else { has },
            );
        }
    }

    fn conclude(
        &mut self,
        machine: &mut Machine,
        instruction: Instruction,
        operand: &Operand,
        outcome: Outcome,
    ) -> Flow {
        match outcome {
            Outcome::Done { eax, carry } => {
                self.set_register(RAX, eax.into());
                if instruction.kind == Code::Pvalidate {
                    let save = self.save();
                    save.rflags = save.rflags & !RFLAGS_CF | u64::from(carry);
                }
                self.skip(instruction);
                Ok(())
            }
            Outcome::GeneralProtection(_) => {
                self.raise(GP, 0);
                Ok(())
            }
            Outcome::Fault(Fault { effect: Effect::NotValidated, .. }) => {
                let address = self.register(RAX);
                self.save().cr2 = address;
                self.exception(machine, sev_exit::NOT_VALIDATED, 0, operand.gpa)
            }
            // The host splits the page and the guest tries again.
            Outcome::Fault(Fault { rule: Rule::PageSize, effect: Effect::NestedFault(bits) })
                if bits & npf::SIZE_MISMATCH != 0 && operand.leaf == Size::Large =>
            {
                if machine.psmash(operand.spa & !(LARGE - 1)) == 0 {
                    return Ok(());
                }
                self.gap(machine, 0x15)
            }
            Outcome::Fault(Fault { rule, effect: Effect::NestedFault(bits) }) => {
                Err(self.violation(machine, Broken { rule, gpa: operand.gpa, found: bits }))
            }
        }
    }
}
