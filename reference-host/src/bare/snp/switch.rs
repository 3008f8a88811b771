// SPDX-License-Identifier: MIT OR Apache-2.0
//! How VMPLs change places on a processor: the VMSA that ran is stored, the other one is checked and loaded.

use super::devices::{read_msr, write_msr};
use super::machine::Machine;
use super::vcpu::{Activity, Flow, Home, INTERCEPT_CR_WRITE, Vcpu};
use super::vector::Area;
use reference_host::report::End;
use reference_host::snp::{ASID, C_MASK, state};
use snp_model::injection;
use snp_model::rule::Broken;
use snp_model::vmsa::{Entering, Refused, check_page, check_state, check_untouched};
use specs::msr;
use specs::sev::exit as sev_exit;
use specs::svm::{event, exit};
use specs::vmsa::{SevFeatures, vintr};

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
        let Some(home) = self.homes.get(usize::from(self.vmpl)).copied().flatten() else {
            return self.gap(machine, 0x22);
        };
        if let Home::Page(gpa) = home {
            let elsewhere = self.vmpl != 0 && core::mem::take(&mut machine.occupied);
            machine.rmp().0.set_in_use(gpa, elsewhere);
            let differs = |loaded: &[u8]| machine.vmsa_differs(gpa, loaded);
            if let Err(broken) = check_untouched(self.vmsa(), differs, gpa, &machine.assumptions) {
                self.broke(machine, broken)?;
            }
        }
        self.close_window();
        let kept = self.end_alternate();
        // SAFETY: SVM is on and the VMCB is ours.
        unsafe { svm::save_guest_state(self.physical) };
        let public_root = self.public_root;
        let (save, registers, vmsa) = self.state();
        state::store(save, &registers.0, vmsa);
        if public_root {
            vmsa.cr3 &= !C_MASK;
        }
        let mut area = Area::ZEROED;
        area.save();
        state::fx_to(&area.0, vmsa);
        vmsa.tsc_aux = read_msr(msr::TSC_AUX) as u32;
        self.store_events(kept, record.unwrap_or(Record { code: exit::INTR, info1: 0, info2: 0, next_rip: 0 }));
        self.loaded = false;
        match home {
            Home::Page(gpa) if !machine.write_vmsa(gpa, self.vmsa()) => self.gap(machine, 0x21),
            _ => Ok(()),
        }
    }

    /// What the VMSA tells of interrupts and of the exit. `kept` is a shadow that still holds.
    fn store_events(&mut self, kept: bool, record: Record) {
        let control = self.control();
        let (interrupts, shadow) = (control.virtual_interrupt, kept || control.interrupt_state & 1 != 0);
        let requeued = control.event_injection;
        let stored = state::stored_interrupt_control(self.vmsa().vintr_ctrl, interrupts, shadow);
        let (stored, number) = (self.nmi_bits(stored), self.number);
        let alternate = self.features.contains(SevFeatures::ALTERNATE_INJECTION);
        let vmsa = self.vmsa();
        vmsa.vintr_ctrl = stored;
        (vmsa.exit_code, vmsa.exit_info1, vmsa.exit_info2) = (record.code, record.info1, record.info2);
        vmsa.next_rip = record.next_rip;
        // Nothing is injected twice: what was not delivered is told, and its owner injects it again.
        vmsa.event_injection = 0;
        vmsa.exit_int_info = if requeued & event::VALID != 0 { requeued } else { 0 };
        if vmsa.exit_int_info != 0 && alternate {
            vmsa.vintr_ctrl |= vintr::BUSY;
        }
        (vmsa.tlb_id, vmsa.pcpu_id) = (1, u64::from(number) + 1);
    }

    /// VMRUN: checks and loads a VMPL's state. A VMSA that its owner holds gives way to VMPL0, as a host would do it.
    pub(super) fn enter(&mut self, machine: &mut Machine, vmpl: u8) -> Flow {
        let home = self.homes.get(usize::from(vmpl)).copied().flatten();
        self.launch_runs = matches!(home, Some(Home::Launch));
        let page = match home {
            Some(Home::Launch) => None,
            Some(Home::Page(gpa)) if machine.read_vmsa(gpa, self.vmsa()) => Some(gpa),
            Some(Home::Page(_)) => return self.gap(machine, 0x23),
            None => return self.gap(machine, 0x24),
        };
        let entry = page.and_then(|gpa| machine.entry(gpa));
        let spa = page.unwrap_or(0);
        // ALLOWED_SEV_FEATURES is what the guest has told its host.
        let told = self.allowed.get(usize::from(vmpl)).copied().unwrap_or(0);
        let allowed = ALLOWED.intersection(SevFeatures::from_bits_truncate(told));
        let entering = Entering { entry, spa, asid: ASID, vmpl, allowed, event_injection: 0 };
        let checked = if page.is_some() { check_page(&entering) } else { Ok(()) };
        match checked.and_then(|()| check_state(self.vmsa(), &entering, &machine.assumptions)) {
            Ok(()) => {}
            Err(Refused { exit_code: sev_exit::BUSY, .. }) if vmpl != 0 => return self.enter(machine, 0),
            Err(Refused { broken, .. }) => return Err(self.refused(machine, vmpl, broken)),
        }
        if self.vmsa().pcpu_id == 0 {
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
        self.load(vmpl);
        Ok(())
    }

    fn refused(&mut self, machine: &Machine, vmpl: u8, broken: Broken) -> End {
        // What is reported is the VMSA that was to run, not the one that ran.
        self.vmpl = vmpl;
        self.save().rip = self.vmsa().rip;
        self.violation(machine, broken)
    }

    /// Loads the VMSA that is checked.
    fn load(&mut self, vmpl: u8) {
        (self.loaded, self.activity) = (true, Activity::Running);
        self.vmpl = vmpl;
        self.features = SevFeatures::from_bits_truncate(self.vmsa().sev_features);
        self.public_root = false;
        let (save, registers, vmsa) = self.state();
        state::load(vmsa, save, &mut registers.0);
        let mut area = Area::ZEROED;
        state::fx_from(vmsa, &mut area.0);
        area.load();
        // SAFETY: QEMU only keeps the value for RDTSCP, which this program does not execute.
        unsafe { write_msr(msr::TSC_AUX, vmsa.tsc_aux.into()) };
        let interrupts = state::interrupt_control(vmsa);
        let wanted = vmsa.event_injection;
        let injected = injection::source(self.features, 0, wanted);
        let control = self.control();
        control.intercept_cr = INTERCEPT_CR_WRITE;
        control.virtual_interrupt = interrupts;
        control.event_injection = injected;
        control.interrupt_state = 0;
        self.begin_alternate();
        // SAFETY: SVM is on, the VMCB is ours, and this program uses none of FS, GS, TR and LDTR.
        unsafe { svm::load_guest_state(self.physical) };
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
