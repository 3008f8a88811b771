// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hostile host's scripts need of the processor: single steps, by which instructions are counted and the accesses to a
//! watched page seen one by one. `snp_host::hostile` says what happens when.
//!
//! A step is the trap flag and an intercept of #DB. The processor keeps the lock meanwhile, so all others stand still. The
//! guest could see the flag with PUSHF; an attack that this would spoil is not among the scripts.

use super::machine::Machine;
use super::shared::{Shared, quiesce};
use super::vcpu::{Flow, Vcpu};
use core::arch::x86_64::_rdtsc;
use reference_host::report::End;
use snp_host::hostile::{Consequence, Injection};
use snp_model::{Broken, Rule, injection};
use specs::svm::{event, exit};
use specs::vmcb::VirtualInterrupt;

const RFLAGS_TF: u64 = 1 << 8;
/// #DB.
const INTERCEPT_DB: u32 = 1 << 1;
const DB: u64 = 1;
/// An instruction exits for each of its operands at most, and for its own page: a few times.
const ATTEMPTS: usize = 8;

/// What a hostile host injects, and when.
#[derive(Clone, Copy)]
pub(super) struct Ambush {
    /// So many more instructions of this VMPL. An interrupt may bring another one in between, which is let pass: what strikes
    /// VMPL2 has no business at VMPL0.
    left: u32,
    vmpl: u8,
    what: Injection,
}

impl Vcpu {
    /// Takes note of what a script wants; `vmpl` is the one that runs next.
    pub(super) fn plot(&mut self, machine: &mut Machine, consequence: Consequence, vmpl: u8) {
        match consequence {
            Consequence::Stall(cycles) => self.stall = cycles,
            // VMPLs of a processor have one VMCB here.
            Consequence::TurnBack(cycles) => {
                let control = self.control();
                control.tsc_offset = control.tsc_offset.wrapping_sub(cycles);
            }
            Consequence::Watch(gpa, change) => machine.watch(gpa, change),
            Consequence::Inject(left, what) => self.ambush = Some(Ambush { left, vmpl, what }),
        }
    }

    /// Lets the time pass that a script wants.
    pub(super) fn dawdle(&mut self) {
        if self.stall == 0 {
            return;
        }
        // SAFETY: RDTSC has no requirement; CR4.TSD does not bind ring 0.
        let now = || unsafe { _rdtsc() };
        let begun = now();
        while now().wrapping_sub(begun) < self.stall {
            core::hint::spin_loop();
        }
        self.stall = 0;
    }

    /// Whether the VMPL runs whose instructions are counted.
    pub(super) fn is_near_ambush(&self) -> bool {
        self.ambush.is_some_and(|ambush| ambush.vmpl == self.vmpl)
    }

    /// One step nearer to the instruction boundary where a script strikes.
    pub(super) fn approach(&mut self, shared: &mut Shared) -> Flow {
        match self.ambush {
            Some(Ambush { left: 0, what, .. }) => {
                self.ambush = None;
                self.strike(shared, what)
            }
            Some(ambush) => {
                if self.step(shared)? {
                    self.ambush = Some(Ambush { left: ambush.left - 1, ..ambush });
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn strike(&mut self, shared: &mut Shared, what: Injection) -> Flow {
        let Shared { machine, host, .. } = shared;
        let forged = match what {
            Injection::Entry if self.vmpl != 0 => return self.switch(machine, 0, None),
            Injection::Entry => return Ok(()),
            Injection::Run(vmpl) => {
                let exists = self.homes.get(usize::from(vmpl)).is_some_and(Option::is_some);
                if !exists || self.vmpl != 0 {
                    return Ok(());
                }
                self.switch(machine, vmpl, None)?;
                if self.vmpl != vmpl {
                    return Ok(());
                }
                // VMPL0 is about to change what runs now.
                let found = self.vmsa().vintr_ctrl;
                return self.broke(machine, Broken { rule: Rule::VmsaBusy, gpa: 0, found });
            }
            Injection::Doorbell(vector) => {
                let posted = host.post(self.number, 0, vector, machine);
                return self.announce(machine, posted);
            }
            Injection::Interrupt(vector) => event::VALID | event::TYPE_INTERRUPT | u64::from(vector),
            Injection::Exception(vector, code) => {
                let with_code = code.map_or(0, |code| event::ERROR_CODE_VALID | u64::from(code) << 32);
                event::VALID | event::TYPE_EXCEPTION | with_code | u64::from(vector)
            }
        };
        injection::check(self.features, forged, 0).map_err(|broken| self.violation(machine, broken))?;
        self.control().event_injection = injection::source(self.features, forged, 0);
        Ok(())
    }

    /// One instruction that accesses the watched page; `read` is where it reads there.
    pub(super) fn step_in_sight(&mut self, shared: &mut Shared, read: Option<u64>) -> Flow {
        shared.machine.open_watch();
        let stepped = self.step(shared);
        let done = matches!(stepped, Ok(true));
        shared.machine.close_watch(read.filter(|_| done));
        stepped.map(|_| ())
    }

    /// Executes one instruction; false if it exited instead. Other exits are handled as always.
    fn step(&mut self, shared: &mut Shared) -> Result<bool, End> {
        quiesce(self.number);
        self.close_window();
        self.control().virtual_interrupt |= VirtualInterrupt::V_INTR_MASKING.bits();
        let save = self.save();
        let (flags, dr6) = (save.rflags & RFLAGS_TF, save.dr6);
        let exceptions = self.control().intercept_exceptions;
        // An event's frame would keep the trap flag: it comes with the next entry.
        let event = core::mem::take(&mut self.control().event_injection);
        let stepped = self.attempt_step(shared, exceptions, flags, dr6)?;
        let control = self.control();
        if control.event_injection & event::VALID == 0 {
            control.event_injection = event;
        }
        Ok(stepped)
    }

    fn attempt_step(&mut self, shared: &mut Shared, exceptions: u32, flags: u64, dr6: u64) -> Result<bool, End> {
        for _ in 0..ATTEMPTS {
            self.save().rflags |= RFLAGS_TF;
            self.control().intercept_exceptions = exceptions | INTERCEPT_DB;
            let privacy = self.privacy();
            self.control().nested_cr3 = shared.machine.root(self.vmpl, privacy);
            // No interrupt cuts the step short.
            self.vmrun(false);
            let save = self.save();
            save.rflags = save.rflags & !RFLAGS_TF | flags;
            self.control().intercept_exceptions = exceptions;
            if self.control().exit_code == exit::EXCEPTION_0 + DB {
                self.save().dr6 = dr6;
                self.control().event_injection = 0;
                shared.counts.exits += 1;
                return Ok(true);
            }
            let again = matches!(self.control().exit_code, exit::NPF | exit::NMI | exit::INTR);
            let rip = self.save().rip;
            self.conclude_exit(shared)?;
            // A nested fault that was only a missing leaf leaves everything as it was.
            if !again || self.save().rip != rip {
                return Ok(false);
            }
        }
        Ok(false)
    }
}
