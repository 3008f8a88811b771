// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual processor: a VMCB, the registers beside it, and what QEMU's SVM forgets.
//!
//! QEMU 7.2 saves the interrupt shadow on an exit but drops it on the next VMRUN, and never blocks NMIs by itself
//! (`docs/fidelity.md`); later versions obey the shadow. Both are kept here: while a shadow must hold, or an IRET is to end NMI blocking, the guest runs
//! one instruction under the trap flag before anything is injected.

use core::arch::asm;
use core::ptr::NonNull;

use platform::{
    Control, ControlAccess, DescriptorTable, Direction, Event, Exit, ExitReason, Gpa, Gpr, GuestCpu, InjectionState,
    Instant, Platform, Segment, SegmentAttributes, SegmentRegister, SwitchedMsr, SystemRegisters, TableRegister,
    VcpuState, Waker,
};
use platform_shared::delivery;
use specs::svm::{VmcbSegment, event, exit};
use specs::vmcb::{Misc1, VirtualInterrupt, Vmcb, VmcbControl, VmcbSave};
use svm::GuestRegisters;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

use crate::code_page::CodePage;
use crate::exit::decode;
use crate::intercepts::{ALWAYS_1, ALWAYS_2, ALWAYS_CR, ALWAYS_EXCEPTIONS};
use crate::live::{from_vmcb, is_live, live_msr, to_vmcb};
use crate::machine::Native;
use crate::{apic, vector};

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_NT: u64 = 1 << 14;
const RFLAGS_RF: u64 = 1 << 16;
const RFLAGS_VM: u64 = 1 << 17;
const EFER_LMA: u64 = 1 << 10;
const EFER_SVME: u64 = 1 << 12;
const DR6_SINGLE_STEP: u64 = 1 << 14;
/// XCR0: SSE and AVX state, both of which the YMM registers need (APM vol. 2, 11.5.2).
const XCR0_AVX: u64 = 1 << 1 | 1 << 2;
/// int_state: the instruction at RIP is in an interrupt shadow.
const SHADOW: u64 = 1;
/// The intercept of #DB.
const INTERCEPT_DEBUG: u32 = 1 << 1;
/// The intercept of MOV to CR8 (APM vol. 2, table B-1).
const INTERCEPT_CR8_WRITE: u32 = 1 << (16 + 8);
/// #DB.
const DEBUG_VECTOR: u64 = 1;

/// How soon, in nanoseconds, an NMI looks again whether a return to another task is over.
const TASK_RETURN: u64 = 50_000;

/// The guest's only address-space identifier: there is one guest.
const ASID: u32 = 1;
/// TLB_CONTROL: flush everything at the next entry (APM vol. 2, 15.16.1).
const FLUSH_ALL: u32 = 1;

/// CR4.PKE: protection keys, and the instructions that reach PKRU.
const CR4_PKE: u64 = 1 << 22;

/// CR4's PSE, PGE, SMEP, SMAP and PKE. QEMU empties its TLB, which costs a third of an exit, once more for every switch between
/// host and guest that changes one of them. To Parados they mean nothing: it runs in long mode, marks no page global and
/// maps none for user mode. So its own CR4 follows the guest's. With PKE that also lets it read the guest's PKRU, which is
/// live in the processor.
const MIRRORED: u64 = 1 << 4 | 1 << 7 | 1 << 20 | 1 << 21 | CR4_PKE;

/// No value of CR4's bits: before the first entry.
const NOTHING_MIRRORED: u64 = u64::MAX;

/// A single step that this module asked for, and what the guest's trap flag was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    trap_flag: bool,
    /// The IRET that it steps over, if it is to tell when NMIs are open again.
    iret: Option<u64>,
}

/// What the next entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Run,
    /// The event that is queued, and nothing more: an NMI waits for it.
    DeliverOnly,
    /// Nothing: the guest can take the NMI that waits.
    Window,
}

/// One virtual processor.
pub struct NativeCpu {
    registers: GuestRegisters,
    vmcb: NonNull<Vmcb>,
    /// The VMCB's system-physical address; memory is identity-mapped.
    physical: u64,
    /// An exit left the instruction at this RIP in an interrupt shadow that VMRUN will drop.
    shadow: Option<u64>,
    /// The instruction that is completed next in software starts a shadow.
    begins_shadow: bool,
    /// A shadow or a waiting NMI has to be looked at before the next entry.
    unsettled: bool,
    /// An interrupt window of this class is wanted.
    window: Option<u8>,
    nmi_window: bool,
    /// An NMI is being handled; IRET ends that.
    nmi_blocked: bool,
    step: Option<Step>,
    /// An NMI handler is about to return to another task, from this RIP.
    task_return: Option<u64>,
    /// RIP at the last exit that said that the guest's state is invalid.
    refused: Option<u64>,
    /// The guest's bits of [`MIRRORED`], which Parados's own CR4 shows as well.
    mirrored: u64,
    /// The guest's code page at the last exit whose instruction had to be found.
    code_page: Option<CodePage>,
    pub(crate) armed: Option<Instant>,
    /// A vector that ended a sleep and has not been reported yet.
    pub(crate) taken: Option<u8>,
    pub(crate) native: &'static Native,
    pub(crate) index: u32,
}

impl NativeCpu {
    /// A processor for the VMCB, which is owned from here on. Its state is all zero until [`GuestCpu::restore`].
    pub(crate) fn new(native: &'static Native, index: u32, vmcb: &'static mut Vmcb) -> Self {
        let control = &mut vmcb.control;
        control.intercept_cr = ALWAYS_CR;
        control.intercept_exceptions = ALWAYS_EXCEPTIONS;
        control.intercept_misc1 = ALWAYS_1.bits();
        control.intercept_misc2 = ALWAYS_2.bits();
        control.iopm_base = native.io_permissions();
        control.msrpm_base = native.msr_permissions();
        control.tsc_offset = native.tsc_offset();
        control.asid = ASID;
        control.tlb_control = FLUSH_ALL;
        control.virtual_interrupt = VirtualInterrupt::V_INTR_MASKING.bits();
        control.nested_paging = 1;
        control.nested_cr3 = native.nested_root();
        let physical = core::ptr::from_mut(vmcb).expose_provenance() as u64;
        Self {
            registers: GuestRegisters::default(),
            vmcb: NonNull::from(vmcb),
            physical,
            shadow: None,
            begins_shadow: false,
            unsettled: false,
            window: None,
            nmi_window: false,
            nmi_blocked: false,
            step: None,
            task_return: None,
            refused: None,
            mirrored: NOTHING_MIRRORED,
            code_page: None,
            armed: None,
            taken: None,
            native,
            index,
        }
    }

    fn control(&self) -> &VmcbControl {
        // SAFETY: the VMCB is ours alone; hardware touches it only inside `svm::enter`, which borrows `self` mutably.
        unsafe { &self.vmcb.as_ref().control }
    }

    fn control_mut(&mut self) -> &mut VmcbControl {
        // SAFETY: as in `control`.
        unsafe { &mut self.vmcb.as_mut().control }
    }

    fn saved(&self) -> &VmcbSave {
        // SAFETY: as in `control`.
        unsafe { &self.vmcb.as_ref().save }
    }

    fn saved_mut(&mut self) -> &mut VmcbSave {
        // SAFETY: as in `control`.
        unsafe { &mut self.vmcb.as_mut().save }
    }

    /// Copies FS, GS, TR, LDTR and the system-call MSRs, which live in the processor, into the VMCB.
    fn fetch_live_state(&mut self) {
        // SAFETY: SVM is on (this processor runs guests) and the VMCB is ours.
        unsafe { svm::save_guest_state(self.physical) };
    }

    /// The reverse of [`Self::fetch_live_state`].
    fn load_live_state(&mut self) {
        // SAFETY: SVM is on, the VMCB is ours, and Parados uses none of that state.
        unsafe { svm::load_guest_state(self.physical) };
    }

    fn shadowed(&self) -> bool {
        self.shadow.is_some_and(|rip| rip == self.saved().rip)
    }

    /// Whether something waits that one step must come before.
    fn needs_step(&self) -> bool {
        self.shadowed() && (self.window.is_some() || self.nmi_window)
    }

    fn begin_step(&mut self, iret: Option<u64>) {
        if let Some(step) = &mut self.step {
            step.iret = step.iret.or(iret);
            return;
        }
        let flags = self.saved().rflags;
        self.step = Some(Step { trap_flag: flags & RFLAGS_TF != 0, iret });
        self.saved_mut().rflags = flags | RFLAGS_TF;
        self.control_mut().intercept_exceptions |= INTERCEPT_DEBUG;
    }

    /// Ends a step at whatever exit came. Returns whether the exit is the step's own trap, which the guest must not see.
    fn end_step(&mut self, step: Step, code: u64) -> bool {
        self.step = None;
        self.control_mut().intercept_exceptions &= !INTERCEPT_DEBUG;
        // The step put the window off.
        self.update_window();
        if !step.trap_flag {
            self.saved_mut().rflags &= !RFLAGS_TF;
        }
        let own = code == exit::EXCEPTION_0 + DEBUG_VECTOR
            && !step.trap_flag
            && self.saved().dr6 & DR6_SINGLE_STEP != 0
            && self.saved().dr6 & 0xf == 0;
        if own {
            self.saved_mut().dr6 &= !DR6_SINGLE_STEP;
        }
        if let Some(from) = step.iret {
            // An exit may come before the IRET, a kick most of all: then the NMI's handler still runs.
            let executed = own || self.saved().rip != from;
            self.block_nmis(!executed);
        }
        own
    }

    /// Blocks NMIs until the next IRET, or opens them.
    fn block_nmis(&mut self, blocked: bool) {
        self.nmi_blocked = blocked;
        let control = self.control_mut();
        if blocked {
            control.intercept_misc1 |= Misc1::IRET.bits();
        } else {
            control.intercept_misc1 &= !Misc1::IRET.bits();
        }
    }

    /// Everything before VMRUN that is not needed on every entry.
    ///
    /// A window for an NMI is nothing that the hardware has. Whatever exit ends a step, or follows the delivery of what was
    /// queued, may be one after which nobody looks at interrupts; so a waiting NMI is looked at here.
    #[cold]
    fn prepare_entry(&mut self) -> Entry {
        let state = self.injection_state();
        if state.queued || !self.shadowed() {
            // What is queued ends it when it is delivered. A step would leave its trap flag in the frame.
            self.shadow = None;
        }
        let entry = if state.queued {
            if self.nmi_window { Entry::DeliverOnly } else { Entry::Run }
        } else if self.nmi_window && state.nmi {
            Entry::Window
        } else {
            if self.needs_step() {
                self.set_virtual_interrupt(None);
                self.begin_step(None);
            }
            Entry::Run
        };
        self.unsettled = self.shadow.is_some() || self.nmi_window;
        entry
    }

    /// Arranges for an exit as soon as an interrupt of the wanted class can be taken.
    ///
    /// A class that the task priority holds back waits for a write of CR8, not for the virtual interrupt: QEMU lets one
    /// through whose priority only equals V_TPR (hardware wants it higher: APM vol. 2, 15.21.2), which would exit without
    /// end.
    fn update_window(&mut self) {
        let task_priority = (self.control().virtual_interrupt & 0xf) as u8;
        let held = self.window.is_some_and(|class| class <= task_priority);
        let control = self.control_mut();
        control.intercept_cr = ALWAYS_CR | if held { INTERCEPT_CR8_WRITE } else { 0 };
        self.set_virtual_interrupt(self.window.filter(|_| !held));
    }

    /// Drops all translations at the next entry if the nested tables have changed. Whoever changes them kicks this
    /// processor, so it is enough to look after a kick.
    pub(crate) fn obey_flush(&mut self) {
        self.control_mut().tlb_control = FLUSH_ALL;
        self.native.acknowledge_generation(self.index, self.native.generation());
    }

    /// Gives Parados's own CR4 the guest's paging bits, so that neither VMRUN nor #VMEXIT changes any of them.
    #[cold]
    fn mirror_cr4(&mut self) {
        self.mirrored = self.saved().cr4 & MIRRORED;
        let bits = Cr4Flags::from_bits_truncate(self.mirrored);
        let all = Cr4Flags::from_bits_truncate(MIRRORED);
        // SAFETY: none of these bits changes anything for Parados; see `MIRRORED`. The processor has each of them, because the
        // guest has set it.
        unsafe { Cr4::update(|flags| *flags = flags.difference(all) | bits) };
    }

    /// The guest's PKRU; zero before its first instruction with CR4.PKE set, which is what the register starts with.
    fn pkru(&self) -> u32 {
        if self.mirrored == NOTHING_MIRRORED || self.mirrored & CR4_PKE == 0 {
            return 0;
        }
        let pkru: u32;
        // SAFETY: RDPKRU only reads; the processor has it and Parados's CR4.PKE is set, because the guest set its own.
        unsafe { asm!("rdpkru", in("ecx") 0, out("eax") pkru, out("edx") _, options(nomem, nostack, preserves_flags)) };
        pkru
    }

    fn set_virtual_interrupt(&mut self, class: Option<u8>) {
        let control = self.control_mut();
        let keep = control.virtual_interrupt & 0xff | VirtualInterrupt::V_INTR_MASKING.bits();
        let request = class.map_or(VirtualInterrupt::empty(), |class| {
            let priority = VirtualInterrupt::from_bits_retain(u64::from(class & 0xf) << 16);
            // Above all priorities that the field can hold.
            let any = if class > 0xf { VirtualInterrupt::V_IGN_TPR } else { VirtualInterrupt::empty() };
            VirtualInterrupt::V_IRQ | priority | any
        });
        control.virtual_interrupt = keep | request.bits();
    }

    fn after_exit(&mut self) -> Exit {
        let control = self.control_mut();
        control.tlb_control = 0;
        let (code, info1, info2) = (control.exit_code, control.exit_info1, control.exit_info2);
        let (int_info, state) = (control.exit_int_info, control.interrupt_state);
        control.event_injection = 0;
        if int_info & event::VALID != 0 {
            self.requeue(int_info);
        }
        let rip = self.saved().rip;
        if state & SHADOW != 0 {
            self.shadow = Some(rip);
            self.unsettled = true;
        }
        if let Some(step) = self.step
            && self.end_step(step, code)
        {
            self.shadow = None;
            return Exit { reason: self.window_reason(), next_rip: 0 };
        }
        if code == exit::IRET {
            return self.iret();
        }
        // With a constant for a code the compiler leads each frequent exit straight to its handler; otherwise it would put an
        // `Exit` together first and take it apart again.
        match code {
            exit::CPUID => self.decode_instruction(exit::CPUID, info1, info2),
            exit::MSR => self.decode_instruction(exit::MSR, info1, info2),
            exit::IOIO => decode(exit::IOIO, info1, info2),
            _ => self.decode_other(code, info1, info2),
        }
    }

    /// Decodes an exit and looks for the next RIP where the last instruction was found.
    #[inline(always)]
    fn decode_instruction(&self, code: u64, info1: u64, info2: u64) -> Exit {
        let mut exit = decode(code, info1, info2);
        if exit.next_rip == 0 {
            exit.next_rip =
                self.code_page.as_ref().and_then(|page| page.next_rip(self.saved(), code, info1)).unwrap_or(0);
        }
        exit
    }

    #[inline(never)]
    fn decode_other(&mut self, code: u64, info1: u64, info2: u64) -> Exit {
        let int_info = self.control().exit_int_info;
        let mut exit = self.decode_instruction(code, info1, info2);
        if code & 0xffff_ffff == exit::INVALID_LOW {
            exit.reason = self.refuse(exit.reason, int_info);
        }
        if let ExitReason::Exception(second) = exit.reason
            && int_info & event::VALID != 0
        {
            self.control_mut().event_injection = 0;
            exit.reason = delivery::merge(int_info, second);
        }
        exit
    }

    /// QEMU reports an invalid state not only for VMRUN but also for a guest's MOV to CR3 that sets reserved bits in long
    /// mode. The handler looks whether that is what stands at RIP, and raises the #GP, which forgets the RIP; if it is not,
    /// the next entry is refused at the same RIP. An entry that is refused leaves what it was to inject undelivered.
    #[cold]
    fn refuse(&mut self, broken: ExitReason, int_info: u64) -> ExitReason {
        if self.leave_impossible_mode() {
            return ExitReason::InterruptWindow;
        }
        let rip = self.saved().rip;
        if int_info & event::VALID != 0 || self.refused.replace(rip) == Some(rip) {
            return broken;
        }
        ExitReason::Control(ControlAccess { register: Control::Cr3, direction: Direction::Write, operand: None })
    }

    /// A processor raises #GP for a code segment with both L and D (APM vol. 2, 4.8.1); QEMU runs it, and refuses it at the
    /// next entry, when all of it is loaded, so that the exit stores it again, but for the privilege level. It goes on as
    /// 64-bit code. Whether that was the case.
    fn leave_impossible_mode(&mut self) -> bool {
        const BOTH: u16 = SegmentAttributes::LONG.union(SegmentAttributes::DEFAULT_BIG).bits();
        let save = self.saved_mut();
        if save.efer & EFER_LMA == 0 || save.cs.attributes & BOTH != BOTH {
            return false;
        }
        save.cs.attributes &= !SegmentAttributes::DEFAULT_BIG.bits();
        save.cpl = (save.ss.attributes >> 5) as u8 & 3;
        true
    }

    /// An exit during the delivery of an event: deliver it again. A software interrupt is executed again instead.
    #[cold]
    fn requeue(&mut self, int_info: u64) {
        if int_info & event::TYPE_MASK != event::TYPE_SOFTWARE {
            self.control_mut().event_injection = int_info;
        }
    }

    /// The guest is about to return from an NMI: one instruction later NMIs are open again.
    ///
    /// A return to another task (APM vol. 2, 12.4.3) is not stepped: it would leave the trap flag in the segment of the task
    /// that it leaves, whose next NMI would begin with a #DB. There, NMIs are open after the next exit from elsewhere.
    #[cold]
    fn iret(&mut self) -> Exit {
        self.block_nmis(false);
        let rip = self.saved().rip;
        if returns_to_another_task(self.saved().rflags, self.saved().efer) {
            self.task_return = Some(rip);
        } else {
            self.begin_step(Some(rip));
        }
        // Nothing to handle: the run loop enters again, and the step's trap opens the window.
        Exit { reason: ExitReason::InterruptWindow, next_rip: 0 }
    }

    fn window_reason(&self) -> ExitReason {
        if self.nmi_window { ExitReason::NmiWindow } else { ExitReason::InterruptWindow }
    }

    /// Completes an instruction that ends RF's effect, begins a shadow or is stepped over.
    #[cold]
    fn complete_with_flags(&mut self, next_rip: u64) {
        let begins_shadow = core::mem::take(&mut self.begins_shadow);
        let save = self.saved_mut();
        // RF has kept the instruction's breakpoint from stopping it twice. An element of a repetition is not its end.
        if save.rip != next_rip {
            save.rflags &= !RFLAGS_RF;
        }
        save.rip = next_rip;
        if begins_shadow {
            // It holds back the trap as well; with the trap flag set, the next instruction raises one anyway.
            self.shadow = Some(next_rip);
            self.unsettled = true;
            self.control_mut().interrupt_state |= SHADOW;
        } else if save.rflags & RFLAGS_TF != 0 {
            // The trap that the hardware would have raised after the instruction.
            save.dr6 |= DR6_SINGLE_STEP;
            self.inject(Event::Exception(platform::Exception::DEBUG));
        }
    }

    fn segment_slot(&mut self, register: SegmentRegister) -> &mut VmcbSegment {
        let save = self.saved_mut();
        match register {
            SegmentRegister::Es => &mut save.es,
            SegmentRegister::Cs => &mut save.cs,
            SegmentRegister::Ss => &mut save.ss,
            SegmentRegister::Ds => &mut save.ds,
            SegmentRegister::Fs => &mut save.fs,
            SegmentRegister::Gs => &mut save.gs,
            SegmentRegister::Ldtr => &mut save.ldtr,
            SegmentRegister::Tr => &mut save.tr,
        }
    }
}

/// Whether an IRET goes back to the task that the NT flag tells of; long mode has no such thing.
const fn returns_to_another_task(rflags: u64, efer: u64) -> bool {
    rflags & (RFLAGS_NT | RFLAGS_VM) == RFLAGS_NT && efer & EFER_LMA == 0
}

impl GuestCpu for NativeCpu {
    fn run(&mut self) -> Exit {
        if self.unsettled {
            match self.prepare_entry() {
                Entry::Run => {}
                // An interrupt of the host's that is pending at VMRUN is an exit as soon as the event is delivered.
                Entry::DeliverOnly => self.native.host().kick(self.index),
                Entry::Window => return Exit { reason: ExitReason::NmiWindow, next_rip: 0 },
            }
        }
        if self.saved().cr4 & MIRRORED != self.mirrored {
            self.mirror_cr4();
        }
        // SAFETY:
        // 1. `start` turned SVM on and gave this processor its host save area.
        // 2. The VMCB is ours; its intercepts are `ALWAYS_1`, `ALWAYS_2` and full permission maps, and its nested tables
        //    hold the guest's own memory alone.
        // 3. GIF is clear and IF set everywhere outside `interrupts::window` and `sleep`.
        unsafe { svm::enter(self.physical, &mut self.registers) };
        if self.control().exit_code == exit::VINTR {
            apic::look_again();
        }
        self.after_exit()
    }

    fn remember_code_page(&mut self, gpa: Gpa) {
        self.code_page = CodePage::new(self.saved(), gpa, self.native.ram());
    }

    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rax => self.saved().rax,
            Gpr::Rsp => self.saved().rsp,
            #[allow(clippy::indexing_slicing, reason = "a register number is below 16")]
            other => self.registers.0[other as usize],
        }
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rax => self.saved_mut().rax = value,
            Gpr::Rsp => self.saved_mut().rsp = value,
            #[allow(clippy::indexing_slicing, reason = "a register number is below 16")]
            other => self.registers.0[other as usize] = value,
        }
    }

    fn rip(&self) -> u64 {
        self.saved().rip
    }

    fn rflags(&self) -> u64 {
        self.saved().rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.saved_mut().rflags = value;
    }

    fn complete_instruction(&mut self, next_rip: u64) {
        if self.shadow.take().is_some() {
            // QEMU 10 and real processors obey it on VMRUN: it would hold for the next instruction too.
            self.control_mut().interrupt_state &= !SHADOW;
        }
        if self.begins_shadow || self.saved().rflags & (RFLAGS_TF | RFLAGS_RF) != 0 {
            return self.complete_with_flags(next_rip);
        }
        self.saved_mut().rip = next_rip;
    }

    fn begin_shadow(&mut self) {
        self.begins_shadow = true;
    }

    fn set_rip(&mut self, rip: u64) {
        self.saved_mut().rip = rip;
    }

    fn control(&self, register: Control) -> u64 {
        match register {
            Control::Cr0 => self.saved().cr0,
            Control::Cr2 => self.saved().cr2,
            Control::Cr3 => self.saved().cr3,
            Control::Cr4 => self.saved().cr4,
            Control::Cr8 => self.control().virtual_interrupt & 0xf,
        }
    }

    fn set_control(&mut self, register: Control, value: u64) {
        match register {
            Control::Cr0 => self.saved_mut().cr0 = value,
            Control::Cr2 => self.saved_mut().cr2 = value,
            Control::Cr3 => self.saved_mut().cr3 = value,
            Control::Cr4 => self.saved_mut().cr4 = value,
            Control::Cr8 => {
                let control = self.control_mut();
                control.virtual_interrupt = control.virtual_interrupt & !0xff | value & 0xf;
            }
        }
    }

    fn debug(&self, number: u8) -> u64 {
        let value: u64;
        match number & 7 {
            // SAFETY: reading a breakpoint address, which is the guest's while Parados runs, has no effect.
            0 => unsafe { asm!("mov {}, dr0", out(reg) value) },
            // SAFETY: as above.
            1 => unsafe { asm!("mov {}, dr1", out(reg) value) },
            // SAFETY: as above.
            2 => unsafe { asm!("mov {}, dr2", out(reg) value) },
            // SAFETY: as above.
            3 => unsafe { asm!("mov {}, dr3", out(reg) value) },
            4 | 6 => value = self.saved().dr6,
            _ => value = self.saved().dr7,
        }
        value
    }

    fn set_debug(&mut self, number: u8, value: u64) {
        match number & 7 {
            // SAFETY: every exit clears DR7, so a breakpoint address has no effect on Parados.
            0 => unsafe { asm!("mov dr0, {}", in(reg) value) },
            // SAFETY: as above.
            1 => unsafe { asm!("mov dr1, {}", in(reg) value) },
            // SAFETY: as above.
            2 => unsafe { asm!("mov dr2, {}", in(reg) value) },
            // SAFETY: as above.
            3 => unsafe { asm!("mov dr3, {}", in(reg) value) },
            4 | 6 => self.saved_mut().dr6 = value,
            _ => self.saved_mut().dr7 = value,
        }
    }

    fn xcr0(&self) -> u64 {
        if !self.native.has_xsave() {
            return 1;
        }
        let (low, high): (u32, u32);
        // SAFETY: the processor has XSAVE and Parados's CR4.OSXSAVE is set.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high) };
        u64::from(high) << 32 | u64::from(low)
    }

    fn set_xcr0(&mut self, value: u64) {
        if self.native.has_xsave() {
            // SAFETY: as in `xcr0`; the caller has checked the value, and Parados itself uses none of that state.
            unsafe { asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32) };
        }
    }

    fn segment(&self, register: SegmentRegister) -> Segment {
        if is_live(register) {
            // SAFETY: SVM is on and the VMCB is ours; nothing borrows it at this point.
            unsafe { svm::save_guest_state(self.physical) };
        }
        let save = self.saved();
        from_vmcb(match register {
            SegmentRegister::Es => save.es,
            SegmentRegister::Cs => save.cs,
            SegmentRegister::Ss => save.ss,
            SegmentRegister::Ds => save.ds,
            SegmentRegister::Fs => save.fs,
            SegmentRegister::Gs => save.gs,
            SegmentRegister::Ldtr => save.ldtr,
            SegmentRegister::Tr => save.tr,
        })
    }

    fn set_segment(&mut self, register: SegmentRegister, value: Segment) {
        let live = is_live(register);
        if live {
            self.fetch_live_state();
        }
        *self.segment_slot(register) = to_vmcb(value);
        if live {
            self.load_live_state();
        }
    }

    fn descriptor_table(&self, register: TableRegister) -> DescriptorTable {
        let slot = match register {
            TableRegister::Gdtr => self.saved().gdtr,
            TableRegister::Idtr => self.saved().idtr,
        };
        DescriptorTable { base: slot.base, limit: slot.limit as u16 }
    }

    fn set_descriptor_table(&mut self, register: TableRegister, value: DescriptorTable) {
        let slot = match register {
            TableRegister::Gdtr => &mut self.saved_mut().gdtr,
            TableRegister::Idtr => &mut self.saved_mut().idtr,
        };
        *slot = VmcbSegment { limit: u32::from(value.limit), base: value.base, ..VmcbSegment::default() };
    }

    fn system(&self) -> SystemRegisters {
        let save = self.saved();
        SystemRegisters {
            cr0: save.cr0,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: save.efer & !EFER_SVME,
            rflags: save.rflags,
            cpl: save.cpl & 3,
            pkru: self.pkru(),
        }
    }

    fn switched_msr(&mut self, msr: SwitchedMsr) -> u64 {
        match (live_msr(msr), msr) {
            // SAFETY: these MSRs exist on every processor with SVM and reading them has no effect.
            (Some(number), _) => unsafe { Msr::new(number).read() },
            (None, SwitchedMsr::Efer) => self.saved().efer & !EFER_SVME,
            (None, SwitchedMsr::Pat) => self.saved().g_pat,
            (None, _) => self.saved().debug_ctl,
        }
    }

    fn set_switched_msr(&mut self, msr: SwitchedMsr, value: u64) {
        match (live_msr(msr), msr) {
            // SAFETY: the caller has checked the value, and Parados uses none of these MSRs.
            (Some(number), _) => unsafe { Msr::new(number).write(value) },
            (None, SwitchedMsr::Efer) => self.saved_mut().efer = value | EFER_SVME,
            (None, SwitchedMsr::Pat) => self.saved_mut().g_pat = value,
            (None, _) => self.saved_mut().debug_ctl = value,
        }
    }

    fn vector(&self, number: u8) -> [u8; 32] {
        if self.xcr0() & XCR0_AVX == XCR0_AVX {
            // SAFETY: XCR0 can have AVX only on a processor with AVX and XSAVE, where Parados sets CR4.OSXSAVE.
            return unsafe { vector::ymm(number) };
        }
        let mut value = [0; 32];
        value.iter_mut().zip(vector::xmm(number)).for_each(|(to, from)| *to = from);
        value
    }

    fn set_xmm(&mut self, number: u8, value: [u8; 16]) {
        vector::set_xmm(number, &value);
    }

    fn set_ymm(&mut self, number: u8, value: [u8; 32]) {
        if self.xcr0() & XCR0_AVX == XCR0_AVX {
            // SAFETY: as in `vector`.
            unsafe { vector::set_ymm(number, &value) };
        }
    }

    fn x87_exception(&self) -> bool {
        vector::x87_exception()
    }

    fn mmx(&self, number: u8) -> Option<u64> {
        Some(vector::mmx(number))
    }

    fn set_mmx(&mut self, number: u8, value: u64) {
        vector::set_mmx(number, value);
    }

    fn injection_state(&self) -> InjectionState {
        let queued = self.control().event_injection & event::VALID != 0;
        let open = !queued && self.step.is_none() && !self.shadowed();
        InjectionState {
            queued,
            interrupts: open && self.saved().rflags & RFLAGS_IF != 0,
            nmi: open && !self.nmi_blocked && !self.returns_to_task(),
        }
    }

    fn inject(&mut self, event: Event) {
        let field = match event {
            Event::Interrupt(vector) => event::TYPE_INTERRUPT | u64::from(vector),
            Event::Nmi => {
                self.block_nmis(true);
                self.task_return = None;
                event::TYPE_NMI | 2
            }
            Event::Exception(exception) => {
                self.refused = None;
                if let Some(address) = exception.fault_address {
                    self.saved_mut().cr2 = address;
                }
                // Only #DB is ever a trap here; a double fault's image does not matter.
                if u64::from(exception.vector) != DEBUG_VECTOR {
                    self.saved_mut().rflags |= RFLAGS_RF;
                }
                let code = exception.error_code.map_or(0, |code| event::ERROR_CODE_VALID | u64::from(code) << 32);
                event::TYPE_EXCEPTION | u64::from(exception.vector) | code
            }
        };
        self.control_mut().event_injection = event::VALID | field;
    }

    fn request_interrupt_window(&mut self, class: Option<u8>) {
        self.window = class;
        self.update_window();
    }

    fn request_nmi_window(&mut self, wanted: bool) {
        self.nmi_window = wanted;
        self.unsettled |= wanted;
    }

    fn save(&mut self) -> VcpuState {
        self.fetch_live_state();
        let gprs = Gpr::ALL.map(|register| self.gpr(register));
        let save = self.saved();
        VcpuState {
            gprs,
            rip: save.rip,
            rflags: save.rflags,
            cr0: save.cr0,
            cr2: save.cr2,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: save.efer & !EFER_SVME,
            pat: save.g_pat,
            dr6: save.dr6,
            dr7: save.dr7,
            segments: [save.es, save.cs, save.ss, save.ds, save.fs, save.gs, save.ldtr, save.tr].map(from_vmcb),
            gdtr: DescriptorTable { base: save.gdtr.base, limit: save.gdtr.limit as u16 },
            idtr: DescriptorTable { base: save.idtr.base, limit: save.idtr.limit as u16 },
        }
    }

    fn restore(&mut self, state: &VcpuState) {
        (self.shadow, self.step, self.nmi_blocked, self.nmi_window) = (None, None, false, false);
        self.unsettled = false;
        self.task_return = None;
        // What is live and no part of `state` stays as it is.
        self.fetch_live_state();
        self.window = None;
        self.update_window();
        let control = self.control_mut();
        control.event_injection = 0;
        control.intercept_exceptions = ALWAYS_EXCEPTIONS;
        control.intercept_misc1 = ALWAYS_1.bits();
        let [es, cs, ss, ds, fs, gs, ldtr, tr] = state.segments.map(to_vmcb);
        let table = |table: DescriptorTable| VmcbSegment {
            limit: u32::from(table.limit),
            base: table.base,
            ..VmcbSegment::default()
        };
        let save = self.saved_mut();
        (save.es, save.cs, save.ss, save.ds) = (es, cs, ss, ds);
        (save.fs, save.gs, save.ldtr, save.tr) = (fs, gs, ldtr, tr);
        (save.gdtr, save.idtr) = (table(state.gdtr), table(state.idtr));
        save.cpl = (ss.attributes >> 5) as u8 & 3;
        (save.cr0, save.cr2, save.cr3, save.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        save.efer = state.efer | EFER_SVME;
        (save.dr6, save.dr7) = (state.dr6, state.dr7);
        (save.rflags, save.rip) = (state.rflags, state.rip);
        save.g_pat = state.pat;
        for (register, value) in Gpr::ALL.into_iter().zip(state.gprs) {
            self.set_gpr(register, value);
        }
        self.load_live_state();
    }
}

impl NativeCpu {
    /// Whether the IRET that leaves an NMI handler for another task may not have been executed yet.
    fn returns_to_task(&self) -> bool {
        self.task_return == Some(self.saved().rip)
    }

    /// The deadline for the timer: an NMI that waits for a return to another task wants an exit soon.
    pub(crate) fn timer_deadline(&self, deadline: Instant) -> Instant {
        if self.returns_to_task() && self.nmi_window {
            return deadline.min(self.native.now().after(TASK_RETURN));
        }
        deadline
    }
}

#[cfg(test)]
mod tests;
