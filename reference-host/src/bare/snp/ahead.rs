// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exits for which the guest need not be entered, because the host can see them coming: see `reference_host::snp::follow`.

use super::machine::Machine;
use super::vcpu::Vcpu;
use core::array::from_fn;
use reference_host::snp::follow::{Exit, State, follow};
use specs::sev::MSR_GHCB;
use specs::svm::{event, exit};

/// So many in a row; then the guest is entered, and an interrupt that waits at the processor comes in.
const LIMIT: u32 = 64;
const CODE_LONG: u16 = 1 << 9;
const RFLAGS_TF: u64 = 1 << 8;
/// DR7's enable bits.
const BREAKPOINTS: u64 = 0xff;
const RAX: u8 = 0;
const RCX: u8 = 1;
const UD: u64 = 6;

impl Vcpu {
    /// Puts the next exit into the VMCB as if the guest had been entered, and says so, if it is near and nothing stands in
    /// between.
    pub(super) fn anticipate(&mut self, machine: &Machine) -> bool {
        if self.ahead >= LIMIT || !self.is_undisturbed() {
            self.ahead = 0;
            return false;
        }
        let found = self.follow(machine);
        self.ahead = if found.is_some() { self.ahead + 1 } else { 0 };
        found.is_some()
    }

    /// Whether nothing but the guest's own instructions would happen next, and one of those that come in runs was the last.
    fn is_undisturbed(&mut self) -> bool {
        let control = self.control();
        let run = matches!(control.exit_code, exit::VMMCALL | exit::MSR) || control.exit_code == exit::EXCEPTION_0 + UD;
        let event = control.event_injection & event::VALID != 0 || control.interrupt_state != 0;
        let save = self.save();
        let plain = save.cpl == 0
            && save.cs.attributes & CODE_LONG != 0
            && save.rflags & RFLAGS_TF == 0
            && save.dr7 & BREAKPOINTS == 0;
        let waiting = self.has_pending() || self.is_in_shadow();
        // A script counts instructions, or wants time to pass.
        let played = self.ambush.is_some() || self.stall != 0;
        run && plain && !event && !waiting && !played
    }

    fn follow(&mut self, machine: &Machine) -> Option<()> {
        let save = self.save();
        let (root, rip, rflags) = (save.cr3, save.rip, save.rflags);
        // The page that the last exit was found in, by a walk or because its bytes were that exit's.
        let code = self.code.filter(|code| code.holds(root, rip))?;
        let fetch = |address: u64| {
            let mut window = [0; _];
            let within = code.holds(root, address) && address & 0xfff <= 0x1000 - window.len() as u64;
            (within && machine.hardware_read(code.gpa | address & 0xfff, &mut window)).then_some(window)
        };
        let mut state = State { general: from_fn(|number| self.register(number as u8)), rip, rflags };
        let (exit_code, info1) = match follow(&mut state, fetch)? {
            Exit::OnPage => (exit::EXCEPTION_0 + UD, 0),
            Exit::Vmgexit => (exit::VMMCALL, 0),
            // Others need not be intercepted.
            Exit::ReadMsr | Exit::WriteMsr
                if state.general.get(usize::from(RCX)).is_none_or(|&it| it as u32 != MSR_GHCB) =>
            {
                return None;
            }
            Exit::ReadMsr => (exit::MSR, 0),
            Exit::WriteMsr => (exit::MSR, 1),
        };
        (RAX..).zip(state.general).for_each(|(number, value)| self.set_register(number, value));
        let save = self.save();
        (save.rip, save.rflags) = (state.rip, state.rflags);
        let control = self.control();
        (control.exit_code, control.exit_info1, control.exit_info2, control.exit_int_info) = (exit_code, info1, 0, 0);
        Some(())
    }
}
