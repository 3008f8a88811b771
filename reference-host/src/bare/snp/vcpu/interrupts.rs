// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's interrupts and other processors' NMIs on their way to the guest: injected, or posted to VMPL0's doorbell.
//!
//! The local APIC is the guest's own, so what is taken from it is what the guest takes: nothing before the guest can, and never
//! two at a time (`docs/fidelity.md`, "What stood still").

use super::super::super::exceptions;
use super::super::machine::Machine;
use super::{Flow, NMI, RFLAGS_IF, Vcpu};
use snp_host::Host;
use snp_host::doorbell::Posted;
use snp_model::injection;
use specs::sev::VECTOR_HV;
use specs::svm::event;
use specs::vmcb::{Misc1, VirtualInterrupt};
use specs::vmsa::SevFeatures;

impl Vcpu {
    pub(in super::super) const fn has_pending(&self) -> bool {
        self.nmi_pending || self.held.is_some()
    }

    /// Hands the interrupt that waits to the guest, in the way that its injection mode allows.
    pub(super) fn pass_interrupts_on(&mut self, machine: &mut Machine, host: &mut Host) -> Flow {
        self.pass_nmi_on(machine, host)?;
        if self.restricted {
            return self.held.map_or(Ok(()), |vector| self.ring(machine, host, vector));
        }
        // A VMPL with alternate injection has interrupts from its more privileged software alone.
        if self.features.contains(SevFeatures::ALTERNATE_INJECTION) {
            return Ok(());
        }
        // The machine's interrupts are this guest's: they make exits when it can take them, and not before.
        self.control().virtual_interrupt &= !VirtualInterrupt::V_INTR_MASKING.bits();
        let Some(vector) = self.held else { return Ok(()) };
        if self.is_open() {
            self.close_window();
            self.held = None;
            self.control().event_injection = event::VALID | event::TYPE_INTERRUPT | u64::from(vector);
        } else {
            self.open_window();
        }
        Ok(())
    }

    /// Whether the guest would take an interrupt now.
    fn is_open(&mut self) -> bool {
        let control = self.control();
        let busy = control.event_injection & event::VALID != 0 || control.interrupt_state & 1 != 0;
        !busy && self.save().rflags & RFLAGS_IF != 0
    }

    fn open_window(&mut self) {
        self.window = true;
        let control = self.control();
        control.virtual_interrupt |= VirtualInterrupt::window().bits();
        control.intercept_misc1 |= Misc1::VINTR.bits();
    }

    pub(in super::super) fn close_window(&mut self) {
        if core::mem::take(&mut self.window) {
            let control = self.control();
            control.virtual_interrupt &= !VirtualInterrupt::window().bits();
            control.intercept_misc1 &= !Misc1::VINTR.bits();
        }
    }

    fn pass_nmi_on(&mut self, machine: &mut Machine, host: &mut Host) -> Flow {
        if !self.nmi_pending || self.control().event_injection & event::VALID != 0 {
            return Ok(());
        }
        if self.restricted {
            let posted = host.post_nmi(self.number, 0, machine);
            // Without a doorbell there is nobody to tell.
            self.nmi_pending = false;
            return self.announce(machine, posted);
        }
        if !self.nmi_blocked && !self.features.contains(SevFeatures::ALTERNATE_INJECTION) {
            (self.nmi_pending, self.nmi_blocked) = (false, true);
            self.control().event_injection = event::VALID | event::TYPE_NMI | NMI;
        }
        Ok(())
    }

    /// The guest says that it has handled its NMI.
    pub(in super::super) fn nmi_complete(&mut self) {
        self.nmi_blocked = false;
    }

    /// Posts a vector to VMPL0's doorbell. VMPL0 then runs, whoever ran before.
    fn ring(&mut self, machine: &mut Machine, host: &mut Host, vector: u8) -> Flow {
        if self.control().event_injection & event::VALID != 0 {
            return Ok(());
        }
        let posted = host.post(self.number, 0, vector, machine);
        if matches!(posted, Posted::Quiet | Posted::Signal) {
            self.held = None;
        }
        self.announce(machine, posted)
    }

    /// Runs VMPL0, with an #HV if it wants to be told of what is at its door.
    pub(in super::super) fn announce(&mut self, machine: &mut Machine, posted: Posted) -> Flow {
        if posted == Posted::Nowhere {
            return Ok(());
        }
        if self.vmpl != 0 {
            self.switch(machine, 0, None)?;
        }
        if posted == Posted::Signal {
            let hv = event::VALID | event::TYPE_EXCEPTION | u64::from(VECTOR_HV);
            injection::check(self.features, hv, 0).map_err(|broken| self.violation(machine, broken))?;
            self.control().event_injection = hv;
        }
        Ok(())
    }

    /// Acknowledges an interrupt, if there is one, room for it, and nothing else that is to be injected first.
    pub(in super::super) fn collect_interrupt(&mut self) {
        if self.held.is_none() && self.control().event_injection & event::VALID == 0 {
            self.held = exceptions::window();
        }
    }
}
