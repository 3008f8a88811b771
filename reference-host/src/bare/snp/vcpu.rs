// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual processor: a VMSA in the registers of a VMCB, and every exit of QEMU's SVM turned into what an SNP processor
//! would have done: carry the instruction out, raise #VC, or go to the host.

use super::super::exceptions;
use super::devices::Forwarded;
use super::machine::{Machine, Resolution};
use core::arch::asm;
use core::ptr::NonNull;
use reference_host::report::End;
use reference_host::snp::decode::{self, Instruction, Kind as Code};
use reference_host::snp::deliver::{Supervisor, deliver};
use reference_host::snp::walk::{Mapping, Paging, is_forced_private};
use reference_host::snp::{ASID, C_MASK};
use snp_host::{Action, Host};
use snp_model::access::{Effect, Fault, Kind};
use snp_model::exits::{Delivery, delivery};
use snp_model::instructions::{Caller, Operand, Outcome, pvalidate, rmpadjust, rmpquery};
use snp_model::rmp::{LARGE, Size};
use snp_model::rule::INSTRUCTION_BYTES;
use snp_model::{Broken, Rule, Violation, injection};
use specs::msr;
use specs::sev::{MSR_GHCB, MSR_SEV_STATUS, MSR_VIRTUAL_TOM, VECTOR_VC, exit as sev_exit, npf};
use specs::svm::{Misc1, Misc2, VirtualInterrupt, Vmcb, VmcbControl, VmcbSave, event, exit};
use specs::vmsa::{SevFeatures, Vmsa};
use svm::GuestRegisters;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_SVME: u64 = 1 << 12;
/// EFER bits that a guest may write: SCE, LME, NXE, FFXSR, TCE, and SVME, which it cannot clear.
const EFER_WRITABLE: u64 = 1 | EFER_LME | 1 << 11 | EFER_SVME | 1 << 14 | 1 << 15;
/// CR4's PSE, PGE, SMEP and SMAP. QEMU empties its TLB once more for every switch that changes one of them. They mean
/// nothing to this program, which marks no page global and maps none for user mode; so its own CR4 follows the guest's.
const MIRRORED: u64 = 1 << 4 | 1 << 7 | 1 << 20 | 1 << 21;
const RFLAGS_CF: u64 = 1;
const CODE_LONG: u16 = 1 << 9;
/// Intercepts of control registers: writes of CR0; reads and writes of CR3.
const INTERCEPT_CR0_WRITE: u32 = 1 << 16;
const INTERCEPT_CR3: u32 = 1 << 3 | 1 << (16 + 3);
/// Intercepts of DR7, as KVM without DebugSwap.
const INTERCEPT_DR7: u32 = 1 << 7 | 1 << (16 + 7);
/// #UD: PVALIDATE and its like, which QEMU does not know.
const INTERCEPT_UD: u32 = 1 << 6;
const UD: u64 = 6;
const GP: u64 = 13;
const RAX: u8 = 0;
const RSP: u8 = 4;

const INTERCEPTS_1: Misc1 = Misc1::INTR
    .union(Misc1::NMI)
    .union(Misc1::SMI)
    .union(Misc1::INIT)
    .union(Misc1::RDPMC)
    .union(Misc1::CPUID)
    .union(Misc1::RSM)
    .union(Misc1::INVD)
    .union(Misc1::HLT)
    .union(Misc1::INVLPGA)
    .union(Misc1::IOIO)
    .union(Misc1::MSR)
    .union(Misc1::SHUTDOWN);
const INTERCEPTS_2: Misc2 = Misc2::VMRUN
    .union(Misc2::VMMCALL)
    .union(Misc2::VMLOAD)
    .union(Misc2::VMSAVE)
    .union(Misc2::STGI)
    .union(Misc2::CLGI)
    .union(Misc2::SKINIT)
    .union(Misc2::WBINVD)
    .union(Misc2::MONITOR)
    .union(Misc2::MWAIT)
    .union(Misc2::XSETBV)
    .union(Misc2::RDPRU);

/// The physical addresses that a VMCB needs.
pub(super) struct Places {
    pub(super) vmcb: u64,
    pub(super) io_permissions: u64,
    pub(super) msr_permissions: u64,
}

/// A virtual processor.
pub(super) struct Vcpu {
    vmcb: NonNull<Vmcb>,
    physical: u64,
    registers: GuestRegisters,
    features: SevFeatures,
    vmpl: u8,
    ghcb: u64,
    /// The guest's CR3 lacks the C-bit, which hardware ignores there; the VMCB's has it.
    public_root: bool,
    /// Interrupts that the host has acknowledged and the guest has not taken.
    pending: [u64; 4],
    /// The one that the VMCB offers.
    offered: Option<u8>,
    /// Where the last instruction was found.
    code: Option<CodePage>,
    /// The guest's bits of [`MIRRORED`], which our own CR4 shows as well; all ones before the first entry.
    mirrored: u64,
    pub(super) exits: u64,
}

/// A translation of code, kept as a TLB would keep it.
#[derive(Clone, Copy)]
struct CodePage {
    root: u64,
    page: u64,
    gpa: u64,
}

/// What comes after an exit.
type Flow = Result<(), End>;

impl Vcpu {
    /// A processor that starts from a VMSA.
    pub(super) fn new(vmcb: &'static mut Vmcb, places: &Places, vmsa: &Vmsa, ghcb: u64) -> Self {
        let control = &mut vmcb.control;
        control.intercept_cr = INTERCEPT_CR0_WRITE;
        control.intercept_dr = INTERCEPT_DR7;
        control.intercept_exceptions = INTERCEPT_UD;
        control.intercept_misc1 = INTERCEPTS_1.bits();
        control.intercept_misc2 = INTERCEPTS_2.bits();
        control.iopm_base = places.io_permissions;
        control.msrpm_base = places.msr_permissions;
        control.asid = ASID;
        control.nested_paging = 1;
        control.virtual_interrupt = VirtualInterrupt::V_INTR_MASKING.bits();
        let physical = places.vmcb;
        let features = SevFeatures::from_bits_truncate(vmsa.sev_features);
        let mut vcpu = Self {
            vmcb: NonNull::from(vmcb),
            physical,
            registers: GuestRegisters::default(),
            features,
            vmpl: vmsa.vmpl,
            ghcb,
            public_root: false,
            pending: [0; 4],
            offered: None,
            code: None,
            mirrored: u64::MAX,
            exits: 0,
        };
        vcpu.load(vmsa);
        vcpu
    }

    /// What VMRUN loads from a VMSA.
    fn load(&mut self, vmsa: &Vmsa) {
        let save = self.save();
        (save.es, save.cs, save.ss, save.ds, save.fs, save.gs) = (vmsa.es, vmsa.cs, vmsa.ss, vmsa.ds, vmsa.fs, vmsa.gs);
        (save.gdtr, save.ldtr, save.idtr, save.tr) = (vmsa.gdtr, vmsa.ldtr, vmsa.idtr, vmsa.tr);
        (save.cr0, save.cr3, save.cr4, save.efer) = (vmsa.cr0, vmsa.cr3, vmsa.cr4, vmsa.efer);
        (save.dr6, save.dr7, save.rflags, save.rip, save.rsp) = (vmsa.dr6, vmsa.dr7, vmsa.rflags, vmsa.rip, vmsa.rsp);
        (save.star, save.lstar, save.cstar, save.sfmask) = (vmsa.star, vmsa.lstar, vmsa.cstar, vmsa.sfmask);
        (save.kernel_gs_base, save.cr2, save.g_pat) = (vmsa.kernel_gs_base, vmsa.cr2, vmsa.g_pat);
        (save.sysenter_cs, save.sysenter_esp, save.sysenter_eip) =
            (vmsa.sysenter_cs, vmsa.sysenter_esp, vmsa.sysenter_eip);
        (save.cpl, save.rax) = (vmsa.cpl, vmsa.rax);
        let [r8, r9, r10, r11, r12, r13, r14, r15] = vmsa.r8;
        let (rcx, rdx, rbx) = (vmsa.rcx, vmsa.rdx, vmsa.rbx);
        self.registers =
            GuestRegisters([0, rcx, rdx, rbx, 0, vmsa.rbp, vmsa.rsi, vmsa.rdi, r8, r9, r10, r11, r12, r13, r14, r15]);
        // SAFETY: SVM is on, the VMCB is ours, and this program uses none of FS, GS, TR and LDTR.
        unsafe { svm::load_guest_state(self.physical) };
    }

    fn control(&mut self) -> &mut VmcbControl {
        // SAFETY: the VMCB is this processor's alone; the hardware touches it only in `svm::enter`, which borrows `self`.
        unsafe { &mut self.vmcb.as_mut().control }
    }

    fn save(&mut self) -> &mut VmcbSave {
        // SAFETY: as in `control`.
        unsafe { &mut self.vmcb.as_mut().save }
    }

    fn register(&mut self, number: u8) -> u64 {
        match number {
            RAX => self.save().rax,
            RSP => self.save().rsp,
            other => self.registers.0.get(usize::from(other)).copied().unwrap_or(0),
        }
    }

    fn set_register(&mut self, number: u8, value: u64) {
        match number {
            RAX => self.save().rax = value,
            RSP => self.save().rsp = value,
            other => {
                if let Some(slot) = self.registers.0.get_mut(usize::from(other)) {
                    *slot = value;
                }
            }
        }
    }

    fn paging(&mut self) -> Paging {
        let save = self.save();
        Paging { cr0: save.cr0, cr3: save.cr3, cr4: save.cr4, efer: save.efer }
    }

    fn forced(&mut self) -> bool {
        let save = self.save();
        is_forced_private(save.cr0, save.efer)
    }

    /// Runs the guest until it ends.
    pub(super) fn run(&mut self, machine: &mut Machine, host: &mut Host, devices: &mut Forwarded) -> End {
        loop {
            let forced = self.forced();
            self.control().nested_cr3 = machine.root(forced);
            self.offer_interrupt();
            self.mirror_cr4();
            if let Err(broken) = injection::check(self.features, self.control().event_injection, 0) {
                return self.violation(machine, broken);
            }
            // SAFETY:
            // 1. `snp::start` has turned SVM on and given the processor its host save area.
            // 2. The VMCB is ours; it intercepts every SVM instruction, all ports and all MSRs but those that VMRUN
            //    switches, and its nested tables hold the guest's RAM and a page of noise alone.
            // 3. GIF is clear and IF set everywhere outside `exceptions::window` and `sleep`.
            unsafe { svm::enter(self.physical, &mut self.registers) };
            self.exits += 1;
            if let Err(end) = self.handle(machine, host, devices) {
                return end;
            }
            if let Some(end) = devices.end {
                return end;
            }
            if let Some(broken) = machine.broken {
                return self.violation(machine, broken);
            }
        }
    }

    /// Gives our own CR4 the guest's paging bits.
    fn mirror_cr4(&mut self) {
        let bits = self.save().cr4 & MIRRORED;
        if bits == self.mirrored {
            return;
        }
        self.mirrored = bits;
        let own: u64;
        // SAFETY: reading CR4 has no effect.
        unsafe { asm!("mov {}, cr4", out(reg) own, options(nomem, nostack, preserves_flags)) };
        let new = own & !MIRRORED | bits;
        // SAFETY: none of these bits changes anything for this program; see `MIRRORED`. The processor has each of them,
        // because the guest has set it.
        unsafe { asm!("mov cr4, {}", in(reg) new, options(nostack, preserves_flags)) };
    }

    /// Offers the highest interrupt that waits.
    fn offer_interrupt(&mut self) {
        if self.offered.is_some() {
            return;
        }
        let highest = self.pending.iter().enumerate().rev().find(|(_, word)| **word != 0);
        let Some((word, bits)) = highest else { return };
        let vector = (word * 64) as u8 + (63 - bits.leading_zeros()) as u8;
        self.offered = Some(vector);
        let keep = self.control().virtual_interrupt & 0xff;
        let request = VirtualInterrupt::V_IRQ | VirtualInterrupt::V_IGN_TPR | VirtualInterrupt::V_INTR_MASKING;
        let priority = u64::from(vector >> 4) << 16;
        self.control().virtual_interrupt = keep | request.bits() | priority | u64::from(vector) << 32;
    }

    fn collect_interrupts(&mut self) {
        while let Some(vector) = exceptions::window() {
            self.note_interrupt(vector);
        }
    }

    fn note_interrupt(&mut self, vector: u8) {
        if let Some(word) = self.pending.get_mut(usize::from(vector / 64)) {
            *word |= 1 << (vector % 64);
        }
        // A higher one may have come: choose again.
        if self.offered.take().is_some() {
            self.control().virtual_interrupt &= !VirtualInterrupt::V_IRQ.bits();
        }
    }

    fn handle(&mut self, machine: &mut Machine, host: &mut Host, devices: &mut Forwarded) -> Flow {
        let control = self.control();
        let (code, info1, info2) = (control.exit_code, control.exit_info1, control.exit_info2);
        let (int_info, interrupts) = (control.exit_int_info, control.virtual_interrupt);
        control.event_injection = 0;
        if let Some(vector) = self.offered
            && interrupts & VirtualInterrupt::V_IRQ.bits() == 0
        {
            self.offered = None;
            if let Some(word) = self.pending.get_mut(usize::from(vector / 64)) {
                *word &= !(1 << (vector % 64));
            }
        }
        if int_info & event::VALID != 0 && int_info & event::TYPE_MASK != event::TYPE_SOFTWARE {
            // The event's delivery was cut off: once more.
            self.control().event_injection = int_info;
        }
        match code {
            exit::INTR => self.collect_interrupts(),
            exit::NMI | exit::SMI => {}
            exit::NPF => return self.nested_fault(machine, info1, info2),
            exit::MSR => return self.msr(machine, info1),
            exit::VMMCALL => return self.vmmcall(machine, host, devices),
            exit::HLT => {
                self.advance(machine)?;
                self.sleep();
            }
            exit::SHUTDOWN => return Err(End::TripleFault(self.save().rip)),
            0x00..=0x1f => return self.control_register(machine, code),
            _ if code == exit::EXCEPTION_0 + UD => return self.undefined(machine),
            _ if code & 0xffff_ffff == exit::INVALID_LOW => {
                let rip = self.save().rip;
                return Err(End::UnknownExit(code, info1, rip));
            }
            _ => return self.exception(machine, code, info1),
        }
        Ok(())
    }

    /// HLT: the host waits for something to pass on.
    fn sleep(&mut self) {
        self.collect_interrupts();
        while self.pending == [0; 4] {
            if let Some(vector) = exceptions::sleep() {
                self.note_interrupt(vector);
            }
        }
    }

    /// An exit of the table in `snp_model::exits`: for the guest, its more privileged software, or the host.
    fn exception(&mut self, machine: &mut Machine, code: u64, info1: u64) -> Flow {
        match delivery(self.features, code, info1) {
            Delivery::Exception => self.raise_vc(machine, code),
            Delivery::Reflected => self.gap(machine, code),
            Delivery::Host { .. } => {
                let rip = self.save().rip;
                Err(End::UnknownExit(code, info1, rip))
            }
        }
    }

    fn gap(&mut self, machine: &Machine, found: u64) -> Flow {
        Err(self.violation(machine, Broken { rule: Rule::NotModelled, gpa: 0, found }))
    }

    /// #VC.
    fn raise_vc(&mut self, machine: &mut Machine, code: u64) -> Flow {
        // SAFETY: SVM is on and the VMCB is ours; TR is needed to find the stack.
        unsafe { svm::save_guest_state(self.physical) };
        let (paging, vmpl) = (self.paging(), self.vmpl);
        let mut save = *self.save();
        let delivered = deliver(&mut save, &mut Memory { machine, paging, vmpl }, VECTOR_VC, code);
        match delivered {
            Ok(()) => {
                *self.save() = save;
                Ok(())
            }
            Err(_) => Err(self.violation(machine, Broken { rule: Rule::VcDelivery, gpa: 0, found: code })),
        }
    }

    /// #GP(0) or #UD, as the processor itself would raise it.
    fn raise(&mut self, vector: u64) {
        let with_code = if vector == GP { event::ERROR_CODE_VALID } else { 0 };
        self.control().event_injection = event::VALID | event::TYPE_EXCEPTION | with_code | vector;
    }

    /// The instruction at RIP.
    fn fetch(&mut self, machine: &Machine) -> ([u8; INSTRUCTION_BYTES], usize) {
        let mut bytes = [0; INSTRUCTION_BYTES];
        let paging = self.paging();
        let save = self.save();
        let long = save.cs.attributes & CODE_LONG != 0 && save.efer & EFER_LMA != 0;
        let rip = if long { save.rip } else { save.cs.base.wrapping_add(save.rip) & 0xffff_ffff };
        let first = (4096 - (rip & 0xfff) as usize).min(INSTRUCTION_BYTES);
        let mut length = 0;
        for (at, part) in [(rip, 0..first), (rip.wrapping_add(first as u64), first..INSTRUCTION_BYTES)] {
            let Some(slot) = bytes.get_mut(part.clone()) else { break };
            let Ok(Mapping { gpa, .. }) = machine.walk(&paging, at) else { break };
            if !slot.is_empty() && !machine.hardware_read(gpa, slot) {
                break;
            }
            length = part.end;
        }
        (bytes, length)
    }

    fn decode(&mut self, machine: &Machine) -> Instruction {
        let save = self.save();
        let (long, rip, root) = (save.cs.attributes & CODE_LONG != 0, save.rip, save.cr3);
        let here = |code: &CodePage| code.root == root && code.page == rip & !0xfff;
        let mut window = [0; 8];
        // What the last instruction's page says is believed only if it is an instruction that exits.
        if long
            && let Some(code) = self.code.filter(here)
            && machine.hardware_read(code.gpa | rip & 0xfff, &mut window)
        {
            let found = decode::decode(&window, long);
            if found.length != 0 && rip & 0xfff <= 0xff8 {
                return found;
            }
        }
        let (bytes, length) = self.fetch(machine);
        let page = machine.walk(&self.paging(), rip).ok().filter(|_| long);
        self.code = page.map(|mapping| CodePage { root, page: rip & !0xfff, gpa: mapping.gpa & !0xfff });
        decode::decode(bytes.get(..length).unwrap_or(&[]), long)
    }

    /// Moves RIP past the instruction.
    fn advance(&mut self, machine: &Machine) -> Flow {
        let instruction = self.decode(machine);
        if instruction.length == 0 {
            return self.gap(machine, 0x11);
        }
        self.skip(instruction);
        Ok(())
    }

    fn skip(&mut self, instruction: Instruction) {
        let save = self.save();
        save.rip = save.rip.wrapping_add(instruction.length.into());
    }

    fn violation(&mut self, machine: &Machine, broken: Broken) -> End {
        let (bytes, length) = self.fetch(machine);
        let rip = self.save().rip;
        End::Violation(Violation { broken, vcpu: 0, vmpl: self.vmpl, rip, bytes, length: length as u8 })
    }

    fn nested_fault(&mut self, machine: &mut Machine, info1: u64, info2: u64) -> Flow {
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
        let tagged = info2 & (C_MASK | (C_MASK - 1));
        let (user, forced, vmpl) = (self.save().cpl == 3, self.forced(), self.vmpl);
        match machine.resolve(tagged, kind, user, vmpl, forced) {
            Resolution::Mapped => Ok(()),
            // The host has marked what it emulates with a reserved bit.
            Resolution::Emulated => self.exception(machine, exit::NPF, info1 | npf::RESERVED),
            Resolution::NotValidated => self.exception(machine, sev_exit::NOT_VALIDATED, info1),
            Resolution::PublicTable => self.public_table(machine, tagged),
            Resolution::Broken(broken) => Err(self.violation(machine, broken)),
        }
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
        match machine.expose_table(gpa) {
            Resolution::Broken(broken) => Err(self.violation(machine, broken)),
            _ => Ok(()),
        }
    }

    fn control_register(&mut self, machine: &mut Machine, _: u64) -> Flow {
        let instruction = self.decode(machine);
        match instruction.kind {
            Code::MovFromControl(3, register) if self.public_root => {
                let value = self.save().cr3 & !C_MASK;
                self.set_register(register, value);
            }
            Code::MovToControl(3, register) if self.public_root => {
                let value = self.register(register);
                self.save().cr3 = value;
                self.public_root = false;
                self.control().intercept_cr &= !INTERCEPT_CR3;
            }
            Code::MovToControl(0, register) => {
                let value = self.register(register);
                if !self.write_cr0(value) {
                    self.raise(GP);
                    return Ok(());
                }
            }
            Code::Clts => self.save().cr0 &= !(1 << 3),
            _ => return self.gap(machine, 0x12),
        }
        self.skip(instruction);
        Ok(())
    }

    /// MOV to CR0 (APM vol. 2, 3.1.1 and 14.6); false is a #GP.
    fn write_cr0(&mut self, value: u64) -> bool {
        let save = self.save();
        let value =
            if save.efer & EFER_LMA != 0 && save.cs.attributes & CODE_LONG != 0 { value } else { value & 0xffff_ffff };
        let (protected, paged) = (value & CR0_PE != 0, value & CR0_PG != 0);
        if value >> 32 != 0 || (paged && !protected) || value & 3 << 29 == 1 << 29 {
            return false;
        }
        if paged && save.cr0 & CR0_PG == 0 && save.efer & EFER_LME != 0 {
            if save.cr4 & CR4_PAE == 0 {
                return false;
            }
            save.efer |= EFER_LMA;
        }
        if !paged && save.cr0 & CR0_PG != 0 {
            if save.cs.attributes & CODE_LONG != 0 && save.efer & EFER_LMA != 0 {
                return false;
            }
            save.efer &= !EFER_LMA;
        }
        save.cr0 = value | CR0_ET;
        true
    }

    fn msr(&mut self, machine: &mut Machine, info1: u64) -> Flow {
        let number = self.register(1) as u32;
        let write = info1 & 1 != 0;
        let value = self.register(RAX) & 0xffff_ffff | self.register(2) << 32;
        let result = match (number, write) {
            (MSR_GHCB, true) => {
                self.ghcb = value;
                None
            }
            (MSR_GHCB, false) => Some(self.ghcb),
            // Never intercepted: it says what the running VMSA has.
            (MSR_SEV_STATUS, false) => Some(snp_model::vmsa::sev_status(self.features.bits())),
            (MSR_SEV_STATUS, true) | (MSR_VIRTUAL_TOM, _) => {
                self.raise(GP);
                return Ok(());
            }
            (msr::EFER, true) => {
                if value & !(EFER_WRITABLE | EFER_LMA) != 0 {
                    self.raise(GP);
                    return Ok(());
                }
                let save = self.save();
                save.efer = value & EFER_WRITABLE & !EFER_LMA | save.efer & EFER_LMA | EFER_SVME;
                None
            }
            (msr::EFER, false) => Some(self.save().efer),
            _ => return self.exception(machine, exit::MSR, info1),
        };
        if let Some(value) = result {
            self.set_register(RAX, value & 0xffff_ffff);
            self.set_register(2, value >> 32);
        }
        self.advance(machine)
    }

    fn vmmcall(&mut self, machine: &mut Machine, host: &mut Host, devices: &mut Forwarded) -> Flow {
        let instruction = self.decode(machine);
        if instruction.kind != Code::Vmgexit {
            return self.exception(machine, exit::VMMCALL, 0);
        }
        // An automatic exit: RIP is past the instruction when the host sees it.
        self.skip(instruction);
        let mut value = self.ghcb;
        let action = host.vmgexit(0, self.vmpl, &mut value, machine, devices);
        self.ghcb = value;
        match action {
            Action::Resume => Ok(()),
            Action::Halt => {
                self.sleep();
                Ok(())
            }
            Action::Terminate(set, code) => Err(End::GivenUp(set, code)),
            Action::Hold | Action::Run(_) | Action::Create(_) => self.gap(machine, 0x13),
        }
    }

    /// #UD: perhaps one of SNP's instructions.
    fn undefined(&mut self, machine: &mut Machine) -> Flow {
        let instruction = self.decode(machine);
        let (size, target) = (self.register(1), self.register(2));
        let address = self.register(RAX);
        let caller = Caller { vmpl: self.vmpl, cpl: self.save().cpl, asid: ASID };
        match instruction.kind {
            Code::Pvalidate => {
                let Some(operand) = self.operand(machine, address) else { return self.lost(machine) };
                let (rmp, assumptions) = machine.rmp();
                let validate = target & 1 != 0;
                let outcome = pvalidate(rmp, assumptions, &caller, &operand, size & 0xffff_ffff, validate);
                self.conclude(machine, instruction, &operand, outcome, true)
            }
            Code::Rmpadjust => {
                let Some(operand) = self.operand(machine, address) else { return self.lost(machine) };
                let (rmp, assumptions) = machine.rmp();
                let outcome = rmpadjust(rmp, assumptions, &caller, &operand, size, target);
                self.conclude(machine, instruction, &operand, outcome, false)
            }
            Code::Rmpquery => {
                let Some(operand) = self.operand(machine, address) else { return self.lost(machine) };
                let (rmp, assumptions) = machine.rmp();
                let query = rmpquery(rmp, assumptions, &caller, &operand, target);
                if let Outcome::Done { eax: 0, .. } = query.outcome {
                    self.set_register(1, query.size);
                    self.set_register(2, query.target);
                }
                self.conclude(machine, instruction, &operand, query.outcome, false)
            }
            _ => {
                self.raise(UD);
                Ok(())
            }
        }
    }

    /// The page that an instruction names.
    fn operand(&mut self, machine: &Machine, address: u64) -> Option<Operand> {
        let mapping = machine.walk(&self.paging(), address).ok()?;
        let leaf = machine.entry(mapping.gpa).map_or(Size::Small, |entry| entry.size());
        Some(Operand { gpa: mapping.gpa, spa: mapping.gpa, private: mapping.private, leaf })
    }

    /// An operand that is not mapped: a #PF, which no public boot code provokes.
    fn lost(&mut self, machine: &Machine) -> Flow {
        self.gap(machine, 0x14)
    }

    fn conclude(
        &mut self,
        machine: &mut Machine,
        instruction: Instruction,
        operand: &Operand,
        outcome: Outcome,
        carry_counts: bool,
    ) -> Flow {
        match outcome {
            Outcome::Done { eax, carry } => {
                self.set_register(RAX, eax.into());
                if carry_counts {
                    let save = self.save();
                    save.rflags = save.rflags & !RFLAGS_CF | u64::from(carry);
                }
                if eax == 0 && !carry {
                    machine.refresh(operand.spa, operand.leaf);
                }
                self.skip(instruction);
                Ok(())
            }
            Outcome::GeneralProtection(_) => {
                self.raise(GP);
                Ok(())
            }
            Outcome::Fault(Fault { effect: Effect::NotValidated, .. }) => {
                self.exception(machine, sev_exit::NOT_VALIDATED, 0)
            }
            // The host splits the page and the guest tries again.
            Outcome::Fault(Fault { rule: Rule::PageSize, effect: Effect::NestedFault(bits) })
                if bits & npf::SIZE_MISMATCH != 0 =>
            {
                use snp_host::Hardware;
                let head = operand.spa & !(LARGE - 1);
                if machine.psmash(head) == 0 {
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

/// The guest's memory as the processor reaches it when it raises an exception.
struct Memory<'a> {
    machine: &'a mut Machine,
    paging: Paging,
    vmpl: u8,
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
            if !self.machine.processor_write(&mapping, self.vmpl, part) {
                return None;
            }
        }
        Some(())
    }
}
