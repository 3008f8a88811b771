// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual processor: its VMSA at VMPL2, and how it is run.
//!
//! The VMSA is Parados's memory. While Parados works on it BUSY is set, so that a host that runs it gets an exit instead of a
//! guest in the middle of a change; it is clear only around the request that runs VMPL2 (APM vol. 2, 15.36.16). A host that has
//! another processor run it by the time that the request comes back is found out by RMPADJUST. With alternate
//! injection the guest takes what stands in its VMSA, whatever the host injects: an event now, or an interrupt that the
//! processor delivers by itself as soon as the guest can take it.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use platform::{
    Control, DescriptorTable, Event, Exception, Exit, ExitReason, Gpr, GuestCpu, InjectionState, Instant, MemoryError,
    MemoryFault, Offer, Reason, Segment, SegmentAttributes, SegmentRegister, SwitchedMsr, SystemRegisters,
    TableRegister, VcpuState, Visibility,
};
use platform_shared::delivery::merge;
use specs::svm::{VmcbSegment, event};
use specs::vmsa::{SevFeatures, Vmsa, vintr};

use crate::accept::{GUEST_VMPL, ensure_stretch};
use crate::acceptance::stretch_of;
use crate::doorbell;
use crate::exit::{Decoded, HANDLED, Record, decode};
use crate::ghcb::{Refusal, SharedPage, run_vmpl};
use crate::local::Local;
use crate::machine::Snp;
use crate::start::mark_vmsa;

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_RF: u64 = 1 << 16;
const EFER_SVME: u64 = 1 << 12;
const DR6_SINGLE_STEP: u64 = 1 << 14;
/// XCR0: SSE and AVX state, both of which the YMM registers need (APM vol. 2, 11.5.2).
const XCR0_AVX: u64 = 1 << 1 | 1 << 2;
/// CR4.PKE: protection keys.
const CR4_PKE: u64 = 1 << 22;
/// V_TPR: the task priority's class.
const TASK_PRIORITY: u64 = 0xf;
/// The exception summary in the x87 status word (APM vol. 1, 6.2.2).
const EXCEPTION_SUMMARY: u16 = 1 << 7;
/// The top of the x87 stack, in the status word; bytes of a register.
const X87_TOP: u16 = 7 << 11;
const X87_REGISTER: usize = 10;
/// #DB.
const DEBUG_VECTOR: u8 = 1;

/// How soon, in nanoseconds, something is looked at again that the processor cannot wait for by itself.
const LOOK_AGAIN: u64 = 50_000;

/// What the guest's VMSA asks of the processor.
pub(crate) const FEATURES: SevFeatures = SevFeatures::SNP_ACTIVE
    .union(SevFeatures::VTOM)
    .union(SevFeatures::REFLECT_VC)
    .union(SevFeatures::ALTERNATE_INJECTION);

/// One virtual processor.
pub struct SnpCpu {
    vmsa: NonNull<Vmsa>,
    local: &'static Local,
    doorbell: &'static SharedPage,
    pub(crate) snp: &'static Snp,
    /// The instruction that is completed next in software starts a shadow.
    begins_shadow: bool,
    /// The interrupt that the VMSA offers.
    offered: Option<u8>,
    /// The one that the guest has taken of it, and that nobody has asked for yet.
    delivered: Option<u8>,
    /// Something waits that the processor cannot be told of.
    window: bool,
    nmi_window: bool,
    /// Where the guest last touched memory that was not validated: RIP and address.
    touched: Option<(u64, u64)>,
    /// The processor has VNMI: it keeps an NMI until the one before has been handled.
    vnmi: bool,
    pub(crate) armed: Option<Instant>,
}

impl SnpCpu {
    /// A processor for the VMSA, which is Parados's memory and owned from here on. `virtual_tom` is where shared addresses begin.
    /// Its state is that of a reset until [`GuestCpu::restore`].
    pub(crate) fn new(
        snp: &'static Snp,
        local: &'static Local,
        doorbell: &'static SharedPage,
        vmsa: &'static mut Vmsa,
        virtual_tom: u64,
        vnmi: bool,
    ) -> Self {
        vmsa.vmpl = GUEST_VMPL;
        vmsa.efer = EFER_SVME;
        vmsa.sev_features = FEATURES.bits();
        vmsa.virtual_tom = virtual_tom;
        vmsa.vintr_ctrl = initial_interrupt_control(vnmi);
        vmsa.exit_code = HANDLED;
        // What the native platform's processor has after a reset, so that guests see no difference.
        (vmsa.xcr0, vmsa.mxcsr, vmsa.x87_fcw, vmsa.x87_ftw) = (1, 0x1f80, 0x37f, 0xffff);
        Self {
            vmsa: NonNull::from(vmsa),
            local,
            doorbell,
            snp,
            begins_shadow: false,
            offered: None,
            delivered: None,
            window: false,
            nmi_window: false,
            touched: None,
            vnmi,
            armed: None,
        }
    }

    /// The doorbell of the processor that runs this one.
    pub(crate) const fn doorbell(&self) -> &'static SharedPage {
        self.doorbell
    }

    fn vmsa(&self) -> &Vmsa {
        // SAFETY: the VMSA is ours alone; hardware touches it only inside `enter`, which sees to that, while nobody borrows it.
        unsafe { self.vmsa.as_ref() }
    }

    fn vmsa_mut(&mut self) -> &mut Vmsa {
        // SAFETY: as in `vmsa`.
        unsafe { self.vmsa.as_mut() }
    }

    /// VINTR_CTRL, which the processor reads while it decides whether to enter.
    fn interrupt_control(&self) -> &AtomicU64 {
        // SAFETY: the field is valid for the VMSA's life, which is for ever, and aligned.
        let field = unsafe { &raw mut (*self.vmsa.as_ptr()).vintr_ctrl };
        // SAFETY: as above; all accesses that may race with the processor's go through here.
        unsafe { AtomicU64::from_ptr(field) }
    }

    /// Runs VMPL2 once; false if the doorbell had rung before, and what ends the VM as an error.
    fn enter(&mut self) -> Result<bool, ExitReason> {
        self.interrupt_control().fetch_and(!vintr::BUSY, Ordering::AcqRel);
        let ran = run_vmpl(self.local, self.doorbell, GUEST_VMPL);
        self.interrupt_control().fetch_or(vintr::BUSY, Ordering::AcqRel);
        // BUSY keeps processors out. A host may have let one in before, on which the guest would go on while its state is changed
        // here: RMPADJUST refuses a VMSA that is in use.
        if mark_vmsa(self.vmsa.addr().get() as u64).is_err() {
            return Err(ExitReason::Broken(Reason::SecondRun, 0));
        }
        ran.map_err(refused)
    }

    /// What the last exit left. The code is overwritten, so that it is found once.
    fn take_record(&mut self) -> Record {
        let vmsa = self.vmsa_mut();
        let code = core::mem::replace(&mut vmsa.exit_code, HANDLED);
        let (info1, info2) = (vmsa.exit_info1, vmsa.exit_info2);
        let int_info = core::mem::replace(&mut vmsa.exit_int_info, 0);
        let record = Record { code, info1, info2, next_rip: vmsa.next_rip, rip: vmsa.rip };
        if let Some(event) = to_inject_again(int_info) {
            vmsa.event_injection = event;
        }
        if vmsa.vintr_ctrl & vintr::V_IRQ == 0 {
            // What was offered is gone: the guest has taken it.
            self.delivered = self.offered.take().or(self.delivered);
        }
        record
    }

    fn handle(&mut self, record: &Record) -> Option<Exit> {
        match decode(record) {
            Decoded::Exit(exit @ Exit { reason: ExitReason::Exception(second), .. }) => Some(self.merged(exit, second)),
            Decoded::Exit(exit) => Some(exit),
            Decoded::Back(exit, rip) => {
                self.vmsa_mut().rip = rip;
                Some(exit)
            }
            Decoded::Nothing => Some(HOST_INTERRUPT),
            Decoded::Withheld { fault, validated } => self.first_touch(record, fault, validated),
        }
    }

    /// An exception that only a host's intercept, or a debugger's, brings here: what the processor would have made of it if another
    /// event was being delivered.
    #[cold]
    fn merged(&mut self, exit: Exit, second: Exception) -> Exit {
        match core::mem::take(&mut self.vmsa_mut().event_injection) {
            first if first & event::VALID != 0 => Exit { reason: merge(first, second), ..exit },
            _ => exit,
        }
    }

    /// The guest touched memory that it may not. If it waits to be accepted, it is, and the instruction starts over. What is
    /// validated and accepted, Parados has taken from the guest, or never given to it. What is accepted and no longer validated
    /// the host has taken, unless another processor has accepted it since the fault: then the fault does not come again.
    #[cold]
    fn first_touch(&mut self, record: &Record, fault: MemoryFault, validated: bool) -> Option<Exit> {
        let gpa = fault.gpa.unwrap_or_default();
        let (acceptance, stretch) = (self.snp.acceptance(), stretch_of(gpa));
        let emulate = Some(Exit { reason: ExitReason::Memory(fault), next_rip: 0 });
        let broken = Some(Exit { reason: ExitReason::Broken(Reason::GuestMemory, gpa.0), next_rip: 0 });
        let accepted = acceptance.is_accepted(stretch);
        if !acceptance.ram().contains(gpa, 1) {
            return emulate;
        }
        match acceptance.views().map(|views| views.side(gpa)) {
            // It changes sides just now: whoever does that gets on without this processor.
            Some(None) => return None,
            // The guest has shared it, and there is nothing at its private address.
            Some(Some(Visibility::Shared)) => return emulate,
            None | Some(Some(Visibility::Private)) => {}
        }
        if validated && accepted {
            return emulate;
        }
        let place = (record.rip, gpa.0);
        if accepted && self.touched.replace(place) == Some(place) {
            return broken;
        }
        match ensure_stretch(acceptance, stretch) {
            Ok(()) => None,
            Err(MemoryError::NotMemory) => emulate,
            Err(_) => broken,
        }
    }

    fn set_interrupt_bits(&mut self, clear: u64, set: u64) {
        let vmsa = self.vmsa_mut();
        vmsa.vintr_ctrl = vmsa.vintr_ctrl & !clear | set;
    }

    /// Whether an NMI is being handled, or will be with the next entry. With VNMI alone.
    fn handles_nmi(&self) -> bool {
        let vmsa = self.vmsa();
        let injected = event::VALID | event::TYPE_NMI;
        vmsa.vintr_ctrl & vintr::V_NMI_MASK != 0 || vmsa.event_injection & (event::VALID | event::TYPE_MASK) == injected
    }

    fn shadowed(&self) -> bool {
        self.vmsa().vintr_ctrl & vintr::INTERRUPT_SHADOW != 0
    }

    fn segment_slot(&mut self, register: SegmentRegister) -> &mut VmcbSegment {
        let vmsa = self.vmsa_mut();
        match register {
            SegmentRegister::Es => &mut vmsa.es,
            SegmentRegister::Cs => &mut vmsa.cs,
            SegmentRegister::Ss => &mut vmsa.ss,
            SegmentRegister::Ds => &mut vmsa.ds,
            SegmentRegister::Fs => &mut vmsa.fs,
            SegmentRegister::Gs => &mut vmsa.gs,
            SegmentRegister::Ldtr => &mut vmsa.ldtr,
            SegmentRegister::Tr => &mut vmsa.tr,
        }
    }

    /// Where an MSR is that has 64 bits of its own in the VMSA: all but EFER, which has SVME besides, and TSC_AUX, which has 32.
    fn msr_slot(&mut self, msr: SwitchedMsr) -> Option<&mut u64> {
        let vmsa = self.vmsa_mut();
        Some(match msr {
            SwitchedMsr::Star => &mut vmsa.star,
            SwitchedMsr::Lstar => &mut vmsa.lstar,
            SwitchedMsr::Cstar => &mut vmsa.cstar,
            SwitchedMsr::Sfmask => &mut vmsa.sfmask,
            SwitchedMsr::KernelGsBase => &mut vmsa.kernel_gs_base,
            SwitchedMsr::FsBase => &mut vmsa.fs.base,
            SwitchedMsr::GsBase => &mut vmsa.gs.base,
            SwitchedMsr::SysenterCs => &mut vmsa.sysenter_cs,
            SwitchedMsr::SysenterEsp => &mut vmsa.sysenter_esp,
            SwitchedMsr::SysenterEip => &mut vmsa.sysenter_eip,
            SwitchedMsr::Pat => &mut vmsa.g_pat,
            SwitchedMsr::DebugCtl => &mut vmsa.debug_ctl,
            SwitchedMsr::Efer | SwitchedMsr::TscAux => return None,
        })
    }

    /// What each MMX instruction but EMMS does to the x87 state (APM vol. 1, 5.14.2): no register is empty, and the stack's top is
    /// register 0. The registers are taken to lie from the top on, as FXSAVE has them (*assumed*).
    fn begin_mmx(&self) {
        // SAFETY: the VMSA is ours alone, and no reference to it outlives the method that made it.
        let vmsa = unsafe { &mut *self.vmsa.as_ptr() };
        let top = usize::from(vmsa.x87_fsw & X87_TOP) >> X87_TOP.trailing_zeros();
        vmsa.x87.rotate_right(top * X87_REGISTER);
        (vmsa.x87_fsw, vmsa.x87_ftw) = (vmsa.x87_fsw & !X87_TOP, 0);
    }

    /// When the timer has to come at the latest.
    pub(crate) fn timer_deadline(&self, deadline: Instant, now: Instant) -> Instant {
        if self.window || self.nmi_window { deadline.min(now.after(LOOK_AGAIN)) } else { deadline }
    }
}

/// VINTR_CTRL of a processor that has been reset, held by its owner.
const fn initial_interrupt_control(vnmi: bool) -> u64 {
    vintr::BUSY | vintr::V_GIF | if vnmi { vintr::V_NMI_ENABLE } else { 0 }
}

/// Nothing about the guest changed.
const HOST_INTERRUPT: Exit = Exit { reason: ExitReason::HostInterrupt, next_rip: 0 };

/// The event whose delivery an exit cut off, if it has to be injected again. Software interrupts, #BP and #OF are executed
/// again instead: the processor refuses their injection (APM vol. 2, 15.36.9).
fn to_inject_again(int_info: u64) -> Option<u64> {
    const SOFTWARE_EXCEPTIONS: [u64; 2] = [3, 4];
    let (kind, vector) = (int_info & event::TYPE_MASK, int_info & 0xff);
    let software =
        kind == event::TYPE_SOFTWARE || kind == event::TYPE_EXCEPTION && SOFTWARE_EXCEPTIONS.contains(&vector);
    (int_info & event::VALID != 0 && !software).then_some(int_info)
}

/// EVENT_INJ for an event.
fn injection(event: Event) -> u64 {
    event::VALID
        | match event {
            Event::Interrupt(vector) => event::TYPE_INTERRUPT | u64::from(vector),
            Event::Nmi => event::TYPE_NMI | 2,
            Event::Exception(Exception { vector, error_code, .. }) => {
                let code = error_code.map_or(0, |code| event::ERROR_CODE_VALID | u64::from(code) << 32);
                event::TYPE_EXCEPTION | u64::from(vector) | code
            }
        }
}

/// VINTR_CTRL for an interrupt that is offered.
const fn request(Offer { vector, over_priority }: Offer) -> u64 {
    let ignore = if over_priority { vintr::V_IGN_TPR } else { 0 };
    vintr::V_IRQ | ignore | (vector as u64 >> 4) << 16 | (vector as u64) << 32
}

fn from_vmsa(segment: VmcbSegment) -> Segment {
    Segment {
        selector: segment.selector,
        attributes: SegmentAttributes::from_bits_retain(segment.attributes),
        limit: segment.limit,
        base: segment.base,
    }
}

fn to_vmsa(segment: Segment) -> VmcbSegment {
    VmcbSegment {
        selector: segment.selector,
        attributes: segment.attributes.bits(),
        limit: segment.limit,
        base: segment.base,
    }
}

impl GuestCpu for SnpCpu {
    fn run(&mut self) -> Exit {
        loop {
            if doorbell::has_rung(self.doorbell) {
                return HOST_INTERRUPT;
            }
            match self.enter() {
                Ok(true) => {}
                Ok(false) => return HOST_INTERRUPT,
                Err(reason) => return Exit { reason, next_rip: 0 },
            }
            let record = self.take_record();
            if let Some(exit) = self.handle(&record) {
                self.touched = None;
                return exit;
            }
        }
    }

    fn take_delivered(&mut self) -> Option<u8> {
        self.delivered.take()
    }

    const DELIVERS: bool = true;

    fn offer_interrupt(&mut self, offer: Option<Offer>) -> bool {
        self.offered = offer.map(|offer| offer.vector);
        let all = vintr::V_IRQ | vintr::V_IGN_TPR | vintr::PRIORITY | vintr::VECTOR;
        self.set_interrupt_bits(all, offer.map_or(0, request));
        offer.is_some()
    }

    fn gpr(&self, register: Gpr) -> u64 {
        let vmsa = self.vmsa();
        let [r8, r9, r10, r11, r12, r13, r14, r15] = vmsa.r8;
        match register {
            Gpr::Rax => vmsa.rax,
            Gpr::Rcx => vmsa.rcx,
            Gpr::Rdx => vmsa.rdx,
            Gpr::Rbx => vmsa.rbx,
            Gpr::Rsp => vmsa.rsp,
            Gpr::Rbp => vmsa.rbp,
            Gpr::Rsi => vmsa.rsi,
            Gpr::Rdi => vmsa.rdi,
            Gpr::R8 => r8,
            Gpr::R9 => r9,
            Gpr::R10 => r10,
            Gpr::R11 => r11,
            Gpr::R12 => r12,
            Gpr::R13 => r13,
            Gpr::R14 => r14,
            Gpr::R15 => r15,
        }
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        let vmsa = self.vmsa_mut();
        let [r8, r9, r10, r11, r12, r13, r14, r15] = &mut vmsa.r8;
        *match register {
            Gpr::Rax => &mut vmsa.rax,
            Gpr::Rcx => &mut vmsa.rcx,
            Gpr::Rdx => &mut vmsa.rdx,
            Gpr::Rbx => &mut vmsa.rbx,
            Gpr::Rsp => &mut vmsa.rsp,
            Gpr::Rbp => &mut vmsa.rbp,
            Gpr::Rsi => &mut vmsa.rsi,
            Gpr::Rdi => &mut vmsa.rdi,
            Gpr::R8 => r8,
            Gpr::R9 => r9,
            Gpr::R10 => r10,
            Gpr::R11 => r11,
            Gpr::R12 => r12,
            Gpr::R13 => r13,
            Gpr::R14 => r14,
            Gpr::R15 => r15,
        } = value;
    }

    fn rip(&self) -> u64 {
        self.vmsa().rip
    }

    fn rflags(&self) -> u64 {
        self.vmsa().rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.vmsa_mut().rflags = value;
    }

    fn complete_instruction(&mut self, next_rip: u64) {
        let begins_shadow = core::mem::take(&mut self.begins_shadow);
        let vmsa = self.vmsa_mut();
        if vmsa.rip != next_rip {
            vmsa.rflags &= !RFLAGS_RF;
        }
        vmsa.rip = next_rip;
        vmsa.vintr_ctrl &= !vintr::INTERRUPT_SHADOW;
        if begins_shadow {
            vmsa.vintr_ctrl |= vintr::INTERRUPT_SHADOW;
        } else if vmsa.rflags & RFLAGS_TF != 0 {
            // The trap that the processor would have raised after the instruction.
            vmsa.dr6 |= DR6_SINGLE_STEP;
            self.inject(Event::Exception(Exception::DEBUG));
        }
    }

    fn begin_shadow(&mut self) {
        self.begins_shadow = true;
    }

    fn set_rip(&mut self, rip: u64) {
        self.vmsa_mut().rip = rip;
    }

    fn control(&self, register: Control) -> u64 {
        let vmsa = self.vmsa();
        match register {
            Control::Cr0 => vmsa.cr0,
            Control::Cr2 => vmsa.cr2,
            Control::Cr3 => vmsa.cr3,
            Control::Cr4 => vmsa.cr4,
            Control::Cr8 => vmsa.vintr_ctrl & TASK_PRIORITY,
        }
    }

    fn set_control(&mut self, register: Control, value: u64) {
        let vmsa = self.vmsa_mut();
        match register {
            Control::Cr0 => vmsa.cr0 = value,
            Control::Cr2 => vmsa.cr2 = value,
            Control::Cr3 => vmsa.cr3 = value,
            Control::Cr4 => vmsa.cr4 = value,
            Control::Cr8 => return self.set_interrupt_bits(vintr::V_TPR, value & TASK_PRIORITY),
        }
        if register != Control::Cr2 {
            // A new place for the processor, which then has no translations of this VMSA's (APM vol. 2, 15.36.15).
            vmsa.pcpu_id = 0;
        }
    }

    fn debug(&self, number: u8) -> u64 {
        let vmsa = self.vmsa();
        match number & 7 {
            4 | 6 => vmsa.dr6,
            5 | 7 => vmsa.dr7,
            low => vmsa.dr.get(usize::from(low)).copied().unwrap_or_default(),
        }
    }

    fn set_debug(&mut self, number: u8, value: u64) {
        let vmsa = self.vmsa_mut();
        match number & 7 {
            4 | 6 => vmsa.dr6 = value,
            5 | 7 => vmsa.dr7 = value,
            low => {
                if let Some(slot) = vmsa.dr.get_mut(usize::from(low)) {
                    *slot = value;
                }
            }
        }
    }

    fn xcr0(&self) -> u64 {
        self.vmsa().xcr0
    }

    fn set_xcr0(&mut self, value: u64) {
        self.vmsa_mut().xcr0 = value;
    }

    fn segment(&self, register: SegmentRegister) -> Segment {
        let vmsa = self.vmsa();
        from_vmsa(match register {
            SegmentRegister::Es => vmsa.es,
            SegmentRegister::Cs => vmsa.cs,
            SegmentRegister::Ss => vmsa.ss,
            SegmentRegister::Ds => vmsa.ds,
            SegmentRegister::Fs => vmsa.fs,
            SegmentRegister::Gs => vmsa.gs,
            SegmentRegister::Ldtr => vmsa.ldtr,
            SegmentRegister::Tr => vmsa.tr,
        })
    }

    fn set_segment(&mut self, register: SegmentRegister, value: Segment) {
        *self.segment_slot(register) = to_vmsa(value);
    }

    fn descriptor_table(&self, register: TableRegister) -> DescriptorTable {
        let slot = match register {
            TableRegister::Gdtr => self.vmsa().gdtr,
            TableRegister::Idtr => self.vmsa().idtr,
        };
        DescriptorTable { base: slot.base, limit: slot.limit as u16 }
    }

    fn set_descriptor_table(&mut self, register: TableRegister, value: DescriptorTable) {
        let slot = match register {
            TableRegister::Gdtr => &mut self.vmsa_mut().gdtr,
            TableRegister::Idtr => &mut self.vmsa_mut().idtr,
        };
        *slot = VmcbSegment { limit: u32::from(value.limit), base: value.base, ..VmcbSegment::default() };
    }

    fn system(&self) -> SystemRegisters {
        let vmsa = self.vmsa();
        SystemRegisters {
            cr0: vmsa.cr0,
            cr3: vmsa.cr3,
            cr4: vmsa.cr4,
            efer: vmsa.efer & !EFER_SVME,
            rflags: vmsa.rflags,
            cpl: vmsa.cpl & 3,
            pkru: if vmsa.cr4 & CR4_PKE != 0 { vmsa.pkru } else { 0 },
        }
    }

    fn switched_msr(&mut self, msr: SwitchedMsr) -> u64 {
        match msr {
            SwitchedMsr::Efer => self.vmsa().efer & !EFER_SVME,
            SwitchedMsr::TscAux => self.vmsa().tsc_aux.into(),
            other => self.msr_slot(other).map_or(0, |slot| *slot),
        }
    }

    fn set_switched_msr(&mut self, msr: SwitchedMsr, value: u64) {
        match msr {
            SwitchedMsr::Efer => {
                let vmsa = self.vmsa_mut();
                (vmsa.efer, vmsa.pcpu_id) = (value | EFER_SVME, 0);
            }
            SwitchedMsr::TscAux => self.vmsa_mut().tsc_aux = value as u32,
            other => {
                if let Some(slot) = self.msr_slot(other) {
                    *slot = value;
                }
            }
        }
    }

    fn vector(&self, number: u8) -> [u8; 32] {
        let vmsa = self.vmsa();
        let half = |from: &[[u8; 16]; 16]| from.get(usize::from(number)).copied().unwrap_or_default();
        let high = if vmsa.xcr0 & XCR0_AVX == XCR0_AVX { half(&vmsa.ymm_high) } else { [0; 16] };
        let mut value = [0; 32];
        value.iter_mut().zip(half(&vmsa.xmm).into_iter().chain(high)).for_each(|(to, from)| *to = from);
        value
    }

    fn set_xmm(&mut self, number: u8, value: [u8; 16]) {
        if let Some(slot) = self.vmsa_mut().xmm.get_mut(usize::from(number)) {
            *slot = value;
        }
    }

    fn set_ymm(&mut self, number: u8, value: [u8; 32]) {
        let vmsa = self.vmsa_mut();
        let (low, high) = value.split_at(16);
        for (half, bytes) in [(&mut vmsa.xmm, low), (&mut vmsa.ymm_high, high)] {
            if let Some(slot) = half.get_mut(usize::from(number)) {
                slot.copy_from_slice(bytes);
            }
        }
    }

    fn x87_exception(&self) -> bool {
        self.vmsa().x87_fsw & EXCEPTION_SUMMARY != 0
    }

    fn mmx(&self, number: u8) -> Option<u64> {
        self.begin_mmx();
        let bytes = self.vmsa().x87.get(usize::from(number) * X87_REGISTER..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }

    fn set_mmx(&mut self, number: u8, value: u64) {
        self.begin_mmx();
        let register = self.vmsa_mut().x87.get_mut(usize::from(number) * X87_REGISTER..).unwrap_or_default();
        // Sign and exponent become ones (APM vol. 1, 5.4.2).
        let bytes = value.to_le_bytes().into_iter().chain([0xff; 2]);
        register.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    fn injection_state(&self) -> InjectionState {
        let vmsa = self.vmsa();
        let injected = vmsa.event_injection & event::VALID != 0;
        let open = !injected && !self.shadowed();
        // With VNMI, one that waits while another is handled is the latched one, and a further one is the same.
        let handled = self.vnmi && self.handles_nmi();
        // One that only waits for a shadow to end is as good as queued: HLT in that shadow does not sleep.
        let waits = self.vnmi && !handled && vmsa.vintr_ctrl & vintr::V_NMI != 0;
        let nmi = handled || if self.vnmi && !waits { !injected } else { open };
        InjectionState { queued: injected || waits, interrupts: open && !waits && vmsa.rflags & RFLAGS_IF != 0, nmi }
    }

    fn inject(&mut self, event: Event) {
        if self.vnmi && event == Event::Nmi {
            // The processor delivers it when it may (APM vol. 2, 15.21.10). Of two that wait the first is injected, which masks the
            // second until its handler has returned.
            if self.vmsa().vintr_ctrl & vintr::V_NMI == 0 || self.handles_nmi() {
                return self.set_interrupt_bits(0, vintr::V_NMI);
            }
        }
        let vmsa = self.vmsa_mut();
        vmsa.event_injection = injection(event);
        if let Event::Exception(exception) = event {
            if let Some(address) = exception.fault_address {
                vmsa.cr2 = address;
            }
            // Only #DB is ever a trap here; a double fault's image does not matter.
            if exception.vector != DEBUG_VECTOR {
                vmsa.rflags |= RFLAGS_RF;
            }
        }
    }

    /// The intercept that would tell is the host's to set, so nobody relies on it: what cannot be offered is looked at again
    /// soon.
    fn request_interrupt_window(&mut self, class: Option<u8>) {
        self.window = class.is_some();
    }

    fn request_nmi_window(&mut self, wanted: bool) {
        self.nmi_window = wanted;
    }

    fn save(&mut self) -> VcpuState {
        let gprs = Gpr::ALL.map(|register| self.gpr(register));
        let vmsa = self.vmsa();
        VcpuState {
            gprs,
            rip: vmsa.rip,
            rflags: vmsa.rflags,
            cr0: vmsa.cr0,
            cr2: vmsa.cr2,
            cr3: vmsa.cr3,
            cr4: vmsa.cr4,
            efer: vmsa.efer & !EFER_SVME,
            pat: vmsa.g_pat,
            dr6: vmsa.dr6,
            dr7: vmsa.dr7,
            segments: [vmsa.es, vmsa.cs, vmsa.ss, vmsa.ds, vmsa.fs, vmsa.gs, vmsa.ldtr, vmsa.tr].map(from_vmsa),
            gdtr: DescriptorTable { base: vmsa.gdtr.base, limit: vmsa.gdtr.limit as u16 },
            idtr: DescriptorTable { base: vmsa.idtr.base, limit: vmsa.idtr.limit as u16 },
        }
    }

    fn restore(&mut self, state: &VcpuState) {
        (self.offered, self.delivered, self.window, self.nmi_window) = (None, None, false, false);
        self.begins_shadow = false;
        let vnmi = self.vnmi;
        let [es, cs, ss, ds, fs, gs, ldtr, tr] = state.segments.map(to_vmsa);
        self.set_descriptor_table(TableRegister::Gdtr, state.gdtr);
        self.set_descriptor_table(TableRegister::Idtr, state.idtr);
        let vmsa = self.vmsa_mut();
        vmsa.event_injection = 0;
        vmsa.exit_int_info = 0;
        vmsa.exit_code = HANDLED;
        vmsa.vintr_ctrl = initial_interrupt_control(vnmi);
        vmsa.pcpu_id = 0;
        (vmsa.es, vmsa.cs, vmsa.ss, vmsa.ds) = (es, cs, ss, ds);
        (vmsa.fs, vmsa.gs, vmsa.ldtr, vmsa.tr) = (fs, gs, ldtr, tr);
        vmsa.cpl = (ss.attributes >> 5) as u8 & 3;
        (vmsa.cr0, vmsa.cr2, vmsa.cr3, vmsa.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        vmsa.efer = state.efer | EFER_SVME;
        (vmsa.dr6, vmsa.dr7) = (state.dr6, state.dr7);
        (vmsa.rflags, vmsa.rip) = (state.rflags, state.rip);
        vmsa.g_pat = state.pat;
        for (register, value) in Gpr::ALL.into_iter().zip(state.gprs) {
            self.set_gpr(register, value);
        }
    }
}

/// A host that does not run the guest.
#[cold]
fn refused(refusal: Refusal) -> ExitReason {
    let detail = match refusal {
        Refusal::Answer(info1, info2) => info1 << 32 | info2 & 0xffff_ffff,
        Refusal::NoGhcb | Refusal::Exception | Refusal::MissingField(_) => 0,
    };
    ExitReason::Broken(Reason::InvalidGuestState, detail)
}

#[cfg(test)]
pub(crate) mod tests;
