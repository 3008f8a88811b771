// SPDX-License-Identifier: MIT OR Apache-2.0
//! How VMPLs change places on a processor: the VMSA that ran is stored, the other one is checked and loaded.

use super::devices::{read_msr, write_msr};
use super::machine::Machine;
use super::vcpu::{Activity, Flow, Home, INTERCEPT_CR_WRITE, Vcpu};
use super::vector;
use reference_host::report::End;
use reference_host::snp::{ASID, C_MASK, state};
use snp_model::injection;
use snp_model::rule::Broken;
use snp_model::vmsa::{Entering, Refused, check_page, check_state, check_untouched};
use specs::msr;
use specs::sev::exit as sev_exit;
use specs::svm::{event, exit};
use specs::vmsa::{SevFeatures, Vmsa, vintr};

/// What this hardware has.
const ALLOWED: SevFeatures = SevFeatures::SNP_ACTIVE
    .union(SevFeatures::VTOM)
    .union(SevFeatures::REFLECT_VC)
    .union(SevFeatures::RESTRICTED_INJECTION)
    .union(SevFeatures::ALTERNATE_INJECTION)
    .union(SevFeatures::PREVENT_HOST_IBS)
    .union(SevFeatures::BTB_ISOLATION)
    .union(SevFeatures::IBPB_ON_ENTRY);

/// An exit as the VMSA tells it (APM vol. 2, 15.36.9).
#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) code: u64,
    pub(super) info1: u64,
    pub(super) info2: u64,
    pub(super) next_rip: u64,
}

impl Vcpu {
    /// Runs another VMPL from here on. `record` is the exit, if it is more than the host's own business.
    pub(super) fn switch(&mut self, machine: &mut Machine, to: u8, record: Option<Record>) -> Flow {
        self.leave(machine, record)?;
        self.enter(machine, to)
    }

    /// #VMEXIT: stores the state of the VMPL that ran.
    fn leave(&mut self, machine: &mut Machine, record: Option<Record>) -> Flow {
        self.withdraw_offer();
        let kept = self.end_alternate();
        // SAFETY: SVM is on and the VMCB is ours.
        unsafe { svm::save_guest_state(self.physical) };
        let mut vmsa = self.vmsa;
        let save = *self.save();
        state::store(&save, &self.registers.0, &mut vmsa);
        if self.public_root {
            vmsa.cr3 &= !C_MASK;
        }
        state::fx_to(&vector::save(), &mut vmsa);
        vmsa.tsc_aux = read_msr(msr::TSC_AUX) as u32;
        let control = self.control();
        let (interrupts, shadow) = (control.virtual_interrupt, kept || control.interrupt_state & 1 != 0);
        let requeued = control.event_injection;
        vmsa.vintr_ctrl = self.nmi_bits(state::stored_interrupt_control(vmsa.vintr_ctrl, interrupts, shadow));
        let record = record.unwrap_or(Record { code: exit::INTR, info1: 0, info2: 0, next_rip: 0 });
        (vmsa.exit_code, vmsa.exit_info1, vmsa.exit_info2) = (record.code, record.info1, record.info2);
        vmsa.next_rip = record.next_rip;
        // Nothing is injected twice: what was not delivered is told, and its owner injects it again.
        vmsa.event_injection = 0;
        vmsa.exit_int_info = if requeued & event::VALID != 0 { requeued } else { 0 };
        if vmsa.exit_int_info != 0 && self.features.contains(SevFeatures::ALTERNATE_INJECTION) {
            vmsa.vintr_ctrl |= vintr::BUSY;
        }
        (vmsa.tlb_id, vmsa.pcpu_id) = (1, u64::from(self.number) + 1);
        self.loaded = false;
        self.keep(machine, &vmsa)
    }

    fn keep(&mut self, machine: &mut Machine, vmsa: &Vmsa) -> Flow {
        match self.homes.get(usize::from(self.vmpl)).copied().flatten() {
            Some(Home::Launch) => self.launch = *vmsa,
            Some(Home::Page(gpa)) => {
                machine.rmp().0.set_in_use(gpa, false);
                let found = machine.read_vmsa(gpa);
                let loaded = self.vmsa;
                let untouched = found.map_or(Ok(()), |it| check_untouched(&loaded, &it, gpa, &machine.assumptions));
                if let Err(broken) = untouched {
                    self.broke(machine, broken)?;
                }
                if !machine.write_vmsa(gpa, vmsa) {
                    return self.gap(machine, 0x21);
                }
            }
            None => return self.gap(machine, 0x22),
        }
        Ok(())
    }

    /// VMRUN: checks and loads a VMPL's state. A VMSA that its owner holds gives way to VMPL0, as a host would do it.
    pub(super) fn enter(&mut self, machine: &mut Machine, vmpl: u8) -> Flow {
        let home = self.homes.get(usize::from(vmpl)).copied().flatten();
        let (vmsa, page) = match home {
            Some(Home::Launch) => (self.launch, None),
            Some(Home::Page(gpa)) => match machine.read_vmsa(gpa) {
                Some(vmsa) => (vmsa, Some(gpa)),
                None => return self.gap(machine, 0x23),
            },
            None => return self.gap(machine, 0x24),
        };
        let entry = page.and_then(|gpa| machine.entry(gpa));
        let spa = page.unwrap_or(0);
        // ALLOWED_SEV_FEATURES is what the guest has told its host.
        let told = self.allowed.get(usize::from(vmpl)).copied().unwrap_or(0);
        let allowed = ALLOWED.intersection(SevFeatures::from_bits_truncate(told));
        let entering = Entering { entry, spa, asid: ASID, vmpl, allowed, event_injection: 0 };
        let checked = if page.is_some() { check_page(&entering) } else { Ok(()) };
        match checked.and_then(|()| check_state(&vmsa, &entering, &machine.assumptions)) {
            Ok(()) => {}
            Err(Refused { exit_code: sev_exit::BUSY, .. }) if vmpl != 0 => return self.enter(machine, 0),
            Err(Refused { broken, .. }) => return Err(self.refused(machine, &vmsa, vmpl, broken)),
        }
        if vmsa.pcpu_id == 0 {
            machine.ledger.flush_vmpl(self.number, vmpl);
        }
        if let Err(broken) = machine.ledger.enter(self.number, vmpl) {
            self.broke(machine, broken)?;
        }
        if !machine.make_view(vmpl) {
            return self.gap(machine, 0x25);
        }
        if let Some(gpa) = page {
            machine.rmp().0.set_in_use(gpa, true);
        }
        self.load(&vmsa, vmpl);
        Ok(())
    }

    fn refused(&mut self, machine: &Machine, vmsa: &Vmsa, vmpl: u8, broken: Broken) -> End {
        // What is reported is the VMSA that was to run, not the one that ran.
        self.vmpl = vmpl;
        self.save().rip = vmsa.rip;
        self.violation(machine, broken)
    }

    fn load(&mut self, vmsa: &Vmsa, vmpl: u8) {
        (self.loaded, self.activity) = (true, Activity::Running);
        self.vmpl = vmpl;
        self.vmsa = *vmsa;
        self.features = SevFeatures::from_bits_truncate(vmsa.sev_features);
        self.public_root = false;
        let mut registers = [0; 16];
        state::load(vmsa, self.save(), &mut registers);
        self.registers.0 = registers;
        let injected = injection::source(self.features, 0, vmsa.event_injection);
        let control = self.control();
        control.intercept_cr = INTERCEPT_CR_WRITE;
        control.virtual_interrupt = state::interrupt_control(vmsa);
        control.event_injection = injected;
        control.interrupt_state = 0;
        self.begin_alternate(vmsa);
        // SAFETY: SVM is on, the VMCB is ours, and this program uses none of FS, GS, TR and LDTR.
        unsafe { svm::load_guest_state(self.physical) };
        // SAFETY: QEMU only keeps the value for RDTSCP, which this program does not execute.
        unsafe { write_msr(msr::TSC_AUX, vmsa.tsc_aux.into()) };
        let mut area = [0; state::FX_BYTES];
        state::fx_from(vmsa, &mut area);
        vector::load(&area);
    }

    /// Waits for an interrupt, or for a start-up. A processor that waits does not hold its VMSA.
    pub(super) fn wait(&mut self, machine: &mut Machine, activity: Activity, code: u64) -> Flow {
        if let Err(broken) = machine.ledger.sleep(self.number) {
            self.broke(machine, broken)?;
        }
        // What the host itself keeps nobody can see, so it may stay where it is.
        if matches!(self.homes.get(usize::from(self.vmpl)), Some(Some(Home::Page(_)))) {
            self.leave(machine, Some(Record { code, info1: 0, info2: 0, next_rip: 0 }))?;
        }
        self.activity = activity;
        Ok(())
    }

    /// The wait is over.
    pub(super) fn wake(&mut self, machine: &mut Machine) -> Flow {
        if !self.loaded {
            return self.enter(machine, self.vmpl);
        }
        self.activity = Activity::Running;
        Ok(())
    }

    /// A new VMSA for a VMPL of this processor. VMPL0's, and that of the VMPL that runs, are entered at once; another one when
    /// it is asked for.
    pub(super) fn adopt(&mut self, machine: &mut Machine, vmpl: u8, gpa: u64, features: u64) -> Flow {
        let at_once = vmpl == 0 || (vmpl == self.vmpl && self.activity != Activity::Stopped);
        if at_once && self.loaded {
            self.leave(machine, None)?;
        }
        let slots = (self.homes.get_mut(usize::from(vmpl)), self.allowed.get_mut(usize::from(vmpl)));
        let (Some(home), Some(allowed)) = slots else { return self.gap(machine, 0x26) };
        (*home, *allowed) = (Some(Home::Page(gpa)), features);
        if vmpl == 0 {
            self.restricted = features & SevFeatures::RESTRICTED_INJECTION.bits() != 0;
        }
        if at_once { self.enter(machine, vmpl) } else { Ok(()) }
    }

    /// A VMPL loses its VMSA. If it ran, VMPL0 goes on, and without VMPL0 nothing does.
    pub(super) fn abandon(&mut self, machine: &mut Machine, vmpl: u8) -> Flow {
        let ran = vmpl == self.vmpl && self.activity != Activity::Stopped;
        if ran && self.loaded {
            self.leave(machine, None)?;
        }
        if let Some(home) = self.homes.get_mut(usize::from(vmpl)) {
            *home = None;
        }
        match (ran, vmpl) {
            (true, 0) => self.activity = Activity::Stopped,
            (true, _) => return self.enter(machine, 0),
            _ => {}
        }
        Ok(())
    }
}
