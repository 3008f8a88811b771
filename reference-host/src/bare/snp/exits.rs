// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every exit of QEMU's SVM turned into what an SNP processor would have done: carry the instruction out, raise #VC, reflect
//! it to VMPL0, or go to the host.

use super::super::exceptions;
use super::devices::{native_cpuid, write_msr};
use super::machine::{Machine, Missing, Privacy, Resolution};
use super::shared::Shared;
use super::switch::Record;
use super::vcpu::{Activity, Flow, GP, PF, Vcpu};
use reference_host::report::End;
use reference_host::snp::C_MASK;
use reference_host::snp::control;
use reference_host::snp::decode::{Instruction, Kind as Code};
use reference_host::snp::deliver::{Supervisor, deliver};
use reference_host::snp::operand::{self, CANDIDATES, Registers};
use reference_host::snp::walk::{Mapping, Paging};
use snp_host::Action;
use snp_model::access::Kind;
use snp_model::exits::{Delivery, delivery, next_rip_is_valid};
use snp_model::{Broken, Rule};
use specs::msr;
use specs::sev::{MSR_GHCB, MSR_SEV_STATUS, MSR_VIRTUAL_TOM, VECTOR_VC, exit as sev_exit, npf};
use specs::svm::{event, exit, ioio};
use specs::vmsa::SevFeatures;

const CR0_PE: u64 = 1 << 0;
const CR0_TS: u64 = 1 << 3;
/// MP, EM, TS.
const CR0_SWITCHES: u64 = 7 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CODE_LONG: u16 = 1 << 9;
const CODE_DEFAULT: u16 = 1 << 10;
/// Intercept of writes of CR0.
const INTERCEPT_CR0_WRITE: u32 = 1 << 16;
/// Intercepts of reads and writes of CR3.
const INTERCEPT_CR3: u32 = 1 << 3 | 1 << (16 + 3);
const DB: u64 = 1;
const UD: u64 = 6;
/// Of a page fault: present, and a reserved bit.
const PF_RESERVED: u32 = 1 << 3 | 1;
const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
/// Where EXITINFO1 of a port access has the segment and the address size.
const IOIO_SEGMENT_SHIFT: u32 = 10;
const IOIO_ADDRESS_SHIFT: u32 = 7;

impl Vcpu {
    pub(super) fn handle(&mut self, shared: &mut Shared) -> Flow {
        let control = self.control();
        let (code, info1, info2) = (control.exit_code, control.exit_info1, control.exit_info2);
        let int_info = control.exit_int_info;
        control.event_injection = 0;
        if core::mem::take(&mut self.unwatched) {
            self.control().intercept_cr |= INTERCEPT_CR0_WRITE;
            let save = self.save();
            save.cr0 = control::possible_cr0(save.cr0);
        }
        let was_impossible = control::leave_impossible_mode(self.save());
        if int_info & event::VALID != 0 && int_info & event::TYPE_MASK != event::TYPE_SOFTWARE {
            // The event's delivery was cut off: once more.
            self.control().event_injection = int_info;
        }
        let debug = code == exit::EXCEPTION_0 + DB;
        if self.is_end_of_shadow(debug) || self.is_end_of_iret(debug) {
            return Ok(());
        }
        let machine = &mut shared.machine;
        match code {
            exit::INTR => self.collect_interrupt(),
            // Another processor's call.
            exit::NMI => exceptions::hear(),
            exit::VINTR | exit::SMI => {}
            exit::IRET => self.iret(),
            exit::NPF => return self.nested_fault(shared, info1, info2),
            exit::MSR => {
                if info1 & 1 != 0 && self.register(RCX) as u32 == MSR_GHCB {
                    shared.counts.ghcb_msr_writes += 1;
                }
                return self.msr(&mut shared.machine, info1);
            }
            exit::VMMCALL => return self.vmmcall(shared),
            exit::HLT => return self.halt(machine),
            exit::SHUTDOWN if self.vmpl == 0 => return Err(End::TripleFault(self.save().rip)),
            exit::SHUTDOWN => return self.hand_up(machine, code, 0, 0),
            exit::CR0_READ..=exit::CR15_WRITE => return self.control_register(machine),
            _ if code == exit::EXCEPTION_0 + UD => return self.undefined(machine),
            _ if code & 0xffff_ffff == exit::INVALID_LOW && was_impossible => {}
            _ if code & 0xffff_ffff == exit::INVALID_LOW => return self.refused_state(machine, int_info),
            _ => return self.exception(machine, code, info1, info2),
        }
        Ok(())
    }

    /// QEMU finds the guest's state invalid at a MOV to CR3 where a processor would raise #GP.
    #[cold]
    fn refused_state(&mut self, machine: &mut Machine, int_info: u64) -> Flow {
        let unknown = |rip| Err(End::UnknownExit(exit::INVALID_LOW, 0, rip));
        let rip = self.save().rip;
        // What was to be injected comes back if the entry was refused: then it is not the instruction's fault.
        if int_info & event::VALID != 0 {
            return unknown(rip);
        }
        let instruction = self.decode(machine);
        let Code::MovToControl(3, register) = instruction.kind else { return unknown(rip) };
        self.write_cr3(instruction, register);
        Ok(())
    }

    /// MOV to CR3, without telling whether it is shown with a C-bit that it lacks.
    fn write_cr3(&mut self, instruction: Instruction, register: u8) {
        let value = self.register(register);
        let save = self.save();
        match control::new_cr3(value, save.cr4, save.efer) {
            Some(value) => {
                save.cr3 = value;
                self.skip(instruction);
            }
            None => self.raise(GP, 0),
        }
    }

    /// HLT is an automatic exit. VMPL0 waits for the host; the others wait for VMPL0.
    fn halt(&mut self, machine: &mut Machine) -> Flow {
        self.advance(machine)?;
        if self.vmpl != 0 {
            return self.hand_up(machine, exit::HLT, 0, 0);
        }
        self.collect_interrupt();
        if self.has_pending() { Ok(()) } else { self.wait(machine, Activity::Halted, exit::HLT) }
    }

    /// Lets VMPL0 see to an exit.
    fn hand_up(&mut self, machine: &mut Machine, code: u64, info1: u64, info2: u64) -> Flow {
        self.switch(machine, 0, Some(Record { code, info1, info2, next_rip: 0 }))
    }

    /// An exit that the table in `snp_model::exits` sends to the guest, its more privileged software, or the host.
    pub(super) fn exception(&mut self, machine: &mut Machine, code: u64, info1: u64, info2: u64) -> Flow {
        match delivery(self.features, code, info1) {
            Delivery::Exception => self.raise_vc(machine, code),
            Delivery::Reflected => self.reflect(machine, code, info1, info2),
            Delivery::Host { .. } => {
                let rip = self.save().rip;
                Err(End::UnknownExit(code, info1, rip))
            }
        }
    }

    /// Tells VMPL0 of an exit, with what QEMU leaves out.
    fn reflect(&mut self, machine: &mut Machine, code: u64, info1: u64, info2: u64) -> Flow {
        if self.vmpl == 0 {
            // Nobody is above VMPL0 to reflect to.
            return self.gap(machine, 0x31);
        }
        let (mut info1, mut next_rip) = (info1, 0);
        if next_rip_is_valid(code) {
            let instruction = self.decode(machine);
            if instruction.length == 0 {
                return self.gap(machine, 0x32);
            }
            next_rip = self.save().rip.wrapping_add(instruction.length.into());
            if code == exit::IOIO && info1 & ioio::STRING != 0 {
                let default = if info1 & ioio::IN != 0 { 0 } else { 3 };
                let segment = if info1 & ioio::IN != 0 { default } else { instruction.segment.unwrap_or(default) };
                info1 |= u64::from(segment) << IOIO_SEGMENT_SHIFT;
            }
            if code == exit::IOIO {
                info1 |= self.address_size(instruction.address) << IOIO_ADDRESS_SHIFT;
            }
        }
        self.switch(machine, 0, Some(Record { code, info1, info2, next_rip }))
    }

    /// 1, 2 or 4 for 16, 32 or 64 bits.
    fn address_size(&mut self, prefix: bool) -> u64 {
        let save = self.save();
        let long = save.efer & EFER_LMA != 0 && save.cs.attributes & CODE_LONG != 0;
        match (long, save.cs.attributes & CODE_DEFAULT != 0, prefix) {
            (true, _, false) => 4,
            (true, _, true) | (false, true, false) | (false, false, true) => 2,
            (false, true, true) | (false, false, false) => 1,
        }
    }

    /// #VC.
    fn raise_vc(&mut self, machine: &mut Machine, code: u64) -> Flow {
        // SAFETY: SVM is on and the VMCB is ours; TR is needed to find the stack.
        unsafe { svm::save_guest_state(self.physical) };
        let (paging, vmpl, privacy) = (self.paging(), self.vmpl, self.privacy());
        match deliver(self.save(), &mut Memory { machine, paging, vmpl, privacy }, VECTOR_VC, code) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.violation(machine, Broken { rule: Rule::VcDelivery, gpa: 0, found: code })),
        }
    }

    fn nested_fault(&mut self, shared: &mut Shared, info1: u64, info2: u64) -> Flow {
        let machine = &mut shared.machine;
        let kind = if info1 & npf::TABLE_WALK != 0 {
            Kind::TableWalk
        } else if info1 & npf::FETCH != 0 {
            Kind::Fetch
        } else if info1 & npf::WRITE != 0 {
            Kind::Write
        } else {
            Kind::Read
        };
        // QEMU leaves address bits above those of a four-level walk in place.
        let address = info2 & (C_MASK | (C_MASK - 1));
        let user = self.save().cpl == 3;
        let missing = Missing { address, kind, user, vmpl: self.vmpl, privacy: self.privacy() };
        let gpa = address & (C_MASK - 1);
        match machine.resolve(&missing) {
            Resolution::Mapped => Ok(()),
            Resolution::Watched => self.step_in_sight(shared, (kind != Kind::Write).then_some(gpa)),
            // The host has marked what it emulates with a reserved bit.
            Resolution::Emulated => self.exception(machine, exit::NPF, info1 | npf::RESERVED, gpa),
            Resolution::NotValidated => {
                self.set_fault_address(machine, kind, gpa);
                self.exception(machine, sev_exit::NOT_VALIDATED, info1, gpa)
            }
            Resolution::VmplFault(bits) if self.vmpl != 0 => {
                self.hand_up(machine, exit::NPF, info1 & !npf::PRESENT | bits, gpa)
            }
            Resolution::VmplFault(bits) => {
                Err(self.violation(machine, Broken { rule: Rule::VmplRights, gpa: address, found: bits }))
            }
            Resolution::ReservedBit => {
                self.set_fault_address(machine, kind, gpa);
                let code = PF_RESERVED | if info1 & npf::WRITE != 0 { 2 } else { 0 } | if user { 4 } else { 0 };
                self.raise(PF, code);
                Ok(())
            }
            Resolution::PublicTable => self.public_table(machine, address),
            // Memory that the guest was never given: the host asks its more privileged software.
            Resolution::Broken(Broken { rule: Rule::GuestOwned, found, .. }) if self.vmpl != 0 => {
                self.hand_up(machine, exit::NPF, info1 & !npf::PRESENT | found, gpa)
            }
            Resolution::Broken(broken) => self.mismatch(machine, broken),
        }
    }

    /// CR2, as far as the instruction tells: the address that leads to where the fault was.
    fn set_fault_address(&mut self, machine: &Machine, kind: Kind, gpa: u64) {
        let paging = self.paging();
        let leads =
            |address: u64| machine.walk(&paging, address).is_ok_and(|mapping| mapping.gpa & !0xfff == gpa & !0xfff);
        let mut candidates = [None; CANDIDATES];
        if kind == Kind::Fetch {
            candidates = [Some(self.save().rip), None, None, None];
        } else if self.save().cs.attributes & CODE_LONG != 0 {
            let (bytes, length) = self.fetch(machine);
            let general = self.general_registers();
            let save = self.save();
            let (rip, fs, gs) = (save.rip, save.fs.base, save.gs.base);
            let registers = Registers { general: &general, rip, fs, gs };
            candidates = operand::candidates(bytes.get(..length).unwrap_or(&[]), &registers);
        }
        // An access may begin in the page before.
        let found = candidates.into_iter().flatten().flat_map(|address| [address, (address | 0xfff).wrapping_add(1)]);
        if let Some(address) = found.into_iter().find(|address| leads(*address)) {
            self.save().cr2 = address & !0xfff | gpa & 0xfff;
        }
    }

    /// An access that goes to the host as #NPF. KVM takes it for a wish, and converts the page.
    fn mismatch(&mut self, machine: &mut Machine, broken: Broken) -> Flow {
        let wish = match broken.rule {
            Rule::GuestOwned => true,
            Rule::SharedWrite => false,
            _ => return Err(self.violation(machine, broken)),
        };
        self.broke(machine, broken)?;
        if machine.convert_for(broken.gpa, wish) {
            return Ok(());
        }
        Err(self.violation(machine, broken))
    }

    /// A page table whose address lacks the C-bit. For the root, which is what early code gets wrong, the VMCB's CR3 gets the
    /// bit and the guest does not see it.
    fn public_table(&mut self, machine: &mut Machine, gpa: u64) -> Flow {
        let save = self.save();
        if save.cr3 & C_MASK == 0 && save.cr3 & 0x000f_ffff_ffff_f000 == gpa & !0xfff {
            save.cr3 |= C_MASK;
            self.public_root = true;
            self.control().intercept_cr |= INTERCEPT_CR3;
            return Ok(());
        }
        match machine.expose_table(gpa, self.vmpl) {
            Resolution::Broken(broken) => Err(self.violation(machine, broken)),
            _ => Ok(()),
        }
    }

    fn control_register(&mut self, machine: &mut Machine) -> Flow {
        let instruction = self.decode(machine);
        match instruction.kind {
            Code::MovFromControl(3, register) if self.public_root => {
                let value = self.save().cr3 & !C_MASK;
                self.set_register(register, value);
            }
            Code::MovToControl(3, register) if self.public_root => {
                self.public_root = false;
                self.control().intercept_cr &= !INTERCEPT_CR3;
                self.write_cr3(instruction, register);
                return Ok(());
            }
            Code::MovToControl(0, register) => {
                let value = self.register(register);
                if !self.write_cr0(value) {
                    self.raise(GP, 0);
                    return Ok(());
                }
            }
            Code::MovToControl(4, register) => {
                let value = self.register(register);
                let save = self.save();
                let known = control::cr4_bits(native_cpuid);
                if !control::takes_cr4(value, save.cr4, save.cr3, save.efer, known) {
                    self.raise(GP, 0);
                    return Ok(());
                }
                save.cr4 = value;
            }
            Code::Lmsw(operand) => return self.load_status_word(machine, operand, instruction),
            Code::MovToControl(8, register) => {
                let value = self.register(register);
                if !self.write_task_priority(value) {
                    self.raise(GP, 0);
                    return Ok(());
                }
            }
            Code::Clts => self.save().cr0 &= !CR0_TS,
            _ => return self.gap(machine, 0x12),
        }
        self.skip(instruction);
        Ok(())
    }

    /// LMSW: the low four bits of CR0, of which PE can only be set (APM vol. 3).
    fn load_status_word(&mut self, machine: &mut Machine, operand: Option<u8>, instruction: Instruction) -> Flow {
        let (word, instruction) = match operand {
            Some(register) => (self.register(register), instruction),
            // Below a virtual top of memory CR0 says nothing about what is private, and LMSW changes no paging: QEMU executes it,
            // with all faults of its operand. Until the next exit it executes MOV to CR0 as well.
            None if self.features.contains(SevFeatures::VTOM) => {
                self.unwatched = true;
                self.control().intercept_cr &= !INTERCEPT_CR0_WRITE;
                return Ok(());
            }
            None => {
                let found = self.memory_operand(machine).and_then(|(address, length)| {
                    let mut word = [0; 2];
                    let paging = self.paging();
                    for (at, slot) in (address..).zip(&mut word) {
                        let gpa = machine.walk(&paging, at).ok()?.gpa;
                        machine.hardware_read(gpa, core::slice::from_mut(slot)).then_some(())?;
                    }
                    Some((u64::from(u16::from_le_bytes(word)), Instruction { length, ..instruction }))
                });
                let Some(found) = found else { return self.gap(machine, 0x13) };
                found
            }
        };
        let value = self.save().cr0 & !CR0_SWITCHES | word & (CR0_SWITCHES | CR0_PE);
        if self.write_cr0(value) {
            self.skip(instruction);
        } else {
            self.raise(GP, 0);
        }
        Ok(())
    }

    /// Address and length of a 64-bit instruction's operand.
    fn memory_operand(&mut self, machine: &Machine) -> Option<(u64, u8)> {
        if self.save().cs.attributes & CODE_LONG == 0 {
            return None;
        }
        let (bytes, length) = self.fetch(machine);
        let general = self.general_registers();
        let save = self.save();
        let (rip, fs, gs) = (save.rip, save.fs.base, save.gs.base);
        operand::memory_operand(bytes.get(..length)?, &Registers { general: &general, rip, fs, gs })
    }

    /// All general registers in encoding order; FS and GS are in the VMCB then, too.
    fn general_registers(&mut self) -> [u64; 16] {
        // SAFETY: SVM is on and the VMCB is ours; FS and GS are not in it otherwise.
        unsafe { svm::save_guest_state(self.physical) };
        let mut general = [0; 16];
        (0u8..).zip(&mut general).for_each(|(number, slot)| *slot = self.register(number));
        general
    }

    /// MOV to CR0 (APM vol. 2, 3.1.1 and 14.6); false is a #GP.
    fn write_cr0(&mut self, value: u64) -> bool {
        let save = self.save();
        let long = save.efer & EFER_LMA != 0 && save.cs.attributes & CODE_LONG != 0;
        let value = if long { value } else { value & 0xffff_ffff };
        let (protected, paged) = (value & CR0_PE != 0, value & CR0_PG != 0);
        if value != control::possible_cr0(value) || (paged && !protected) {
            return false;
        }
        if paged && save.cr0 & CR0_PG == 0 && save.efer & EFER_LME != 0 {
            if save.cr4 & CR4_PAE == 0 {
                return false;
            }
            save.efer |= EFER_LMA;
        }
        if !paged && save.cr0 & CR0_PG != 0 {
            if long {
                return false;
            }
            save.efer &= !EFER_LMA;
        }
        save.cr0 = value | CR0_ET;
        true
    }

    fn msr(&mut self, machine: &mut Machine, info1: u64) -> Flow {
        let number = self.register(RCX) as u32;
        let write = info1 & 1 != 0;
        let value = self.register(RAX) & 0xffff_ffff | self.register(RDX) << 32;
        let result = match (number, write) {
            (MSR_GHCB, true) => {
                self.set_ghcb(value);
                None
            }
            (MSR_GHCB, false) => Some(self.ghcb()),
            // Never intercepted: it says what the running VMSA has.
            (MSR_SEV_STATUS, false) => Some(snp_model::vmsa::sev_status(self.features.bits())),
            (MSR_SEV_STATUS, true) | (MSR_VIRTUAL_TOM, _) => {
                self.raise(GP, 0);
                return Ok(());
            }
            (msr::EFER, true) => {
                let save = self.save();
                let Some(new) = control::new_efer(value, save.efer, save.cr0) else {
                    self.raise(GP, 0);
                    return Ok(());
                };
                save.efer = new;
                None
            }
            (msr::EFER, false) => Some(self.save().efer),
            (msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE | msr::LSTAR | msr::CSTAR, true) => {
                if !control::is_canonical(value) {
                    self.raise(GP, 0);
                    return Ok(());
                }
                // SAFETY: VMRUN leaves these registers alone, and this program uses none of them: they are the guest's, also now.
                unsafe { write_msr(number, value) };
                None
            }
            _ => return self.exception(machine, exit::MSR, info1, 0),
        };
        if let Some(value) = result {
            self.set_register(RAX, value & 0xffff_ffff);
            self.set_register(RDX, value >> 32);
        }
        self.advance(machine)
    }

    fn ghcb(&self) -> u64 {
        self.ghcb.get(usize::from(self.vmpl)).copied().unwrap_or(0)
    }

    fn set_ghcb(&mut self, value: u64) {
        if let Some(slot) = self.ghcb.get_mut(usize::from(self.vmpl)) {
            *slot = value;
        }
    }

    fn vmmcall(&mut self, shared: &mut Shared) -> Flow {
        let Shared { machine, host, devices, counts, .. } = shared;
        let instruction = self.decode(machine);
        if instruction.kind != Code::Vmgexit {
            return self.exception(machine, exit::VMMCALL, 0, 0);
        }
        // An automatic exit: RIP is past the instruction when the host sees it.
        self.skip(instruction);
        if self.vmpl != 0 && self.features.contains(SevFeatures::REFLECT_VC) {
            // Software that is not to know of the host has nothing to say to it.
            return self.hand_up(machine, sev_exit::VMGEXIT, 0, 0);
        }
        counts.requests += 1;
        let mut value = self.ghcb();
        let action = host.vmgexit(self.number, self.vmpl, &mut value, machine, devices);
        self.set_ghcb(value);
        if let Some(consequence) = host.take_consequence() {
            let runs_next = if let Action::Run(vmpl) = action { vmpl } else { self.vmpl };
            self.plot(machine, consequence, runs_next);
        }
        match action {
            Action::Resume => Ok(()),
            Action::Halt => self.wait(machine, Activity::Halted, sev_exit::VMGEXIT),
            Action::Terminate(set, code) => Err(End::GivenUp(set, code)),
            Action::Run(0) => self.hand_up(machine, sev_exit::VMGEXIT, 0, 0),
            // It comes back at once, and finds out why.
            Action::Run(_) if host.waits_at_door(self.number, self.vmpl, machine) => Ok(()),
            Action::Run(vmpl) => self.switch(machine, vmpl, None),
            Action::Create(creation) => {
                shared.create(&creation);
                Ok(())
            }
            Action::Signal(signal) => {
                shared.signal(&signal);
                Ok(())
            }
            Action::NmiComplete => {
                self.nmi_complete();
                Ok(())
            }
            Action::Hold => self.wait(machine, Activity::Held, sev_exit::VMGEXIT),
        }
    }
}

/// The guest's memory as the processor reaches it when it raises an exception.
struct Memory<'a> {
    machine: &'a mut Machine,
    paging: Paging,
    vmpl: u8,
    privacy: Privacy,
}

impl Supervisor for Memory<'_> {
    fn read(&mut self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        let first = (4096 - (address & 0xfff) as usize).min(8);
        for (at, part) in [(address, 0..first), (address.wrapping_add(first as u64), first..8)] {
            let slot = word.get_mut(part)?;
            if slot.is_empty() {
                break;
            }
            let mapping = self.machine.walk(&self.paging, at).ok()?;
            if !self.machine.hardware_read(mapping.gpa, slot) {
                return None;
            }
        }
        Some(u64::from_le_bytes(word))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Option<()> {
        let first = (4096 - (address & 0xfff) as usize).min(bytes.len());
        let (low, high) = bytes.split_at_checked(first)?;
        for (at, part) in [(address, low), (address.wrapping_add(first as u64), high)] {
            if part.is_empty() {
                break;
            }
            let mapping = self.machine.walk(&self.paging, at).ok().filter(|mapping| mapping.writable)?;
            let mapping = Mapping { private: self.privacy.of(&mapping), ..mapping };
            if !self.machine.processor_write(&mapping, self.vmpl, part) {
                return None;
            }
        }
        Some(())
    }
}
