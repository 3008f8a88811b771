// SPDX-License-Identifier: MIT OR Apache-2.0
//! Alternate injection's virtual interrupt, where QEMU 7.2 does not do with it what a processor does.
//!
//! It lets a virtual interrupt through whose priority only equals the task priority (hardware wants it higher: APM vol. 2,
//! 15.21.2), so one that is held back is taken out of the VMCB until a MOV to CR8, which exits meanwhile. And VMRUN drops the
//! interrupt shadow: the instruction in it runs under the trap flag, and the interrupt comes after it. The guest's own
//! trap flag takes precedence: then the shadow is lost.
//!
//! VNMI (15.21.10) it has not at all: an NMI that waits in the VMSA is injected as soon as NMIs are not masked, IRET exits while
//! they are, and runs under the trap flag as well, because NMIs are open only behind it. A return to another task (12.4.3) does
//! not: it would leave the trap flag in the segment of the task that it leaves. Behind it NMIs are open with the next exit.

use super::vcpu::Vcpu;
use reference_host::snp::state::returns_to_task;
use specs::svm::event;
use specs::vmcb::{Misc1, VirtualInterrupt};
use specs::vmsa::{SevFeatures, Vmsa, vintr};

const RFLAGS_TF: u64 = 1 << 8;
const DR6_SINGLE_STEP: u64 = 1 << 14;
/// Intercept of #DB.
const INTERCEPT_DB: u32 = 1 << 1;
/// Intercept of MOV to CR8 (APM vol. 2, table B-1).
const INTERCEPT_CR8_WRITE: u32 = 1 << (16 + 8);
const TASK_PRIORITY: u64 = 0xf;
const NMI_VECTOR: u64 = 2;

/// What is kept of a VMSA with alternate injection while it runs.
#[derive(Clone, Copy, Default)]
pub(super) struct Alternate {
    /// The interrupt is requested, but not in the VMCB just now.
    held: bool,
    /// RIP of the instruction in a shadow.
    shadow: Option<u64>,
    /// The NMI that waits, and whether one is being handled.
    nmi: Nmi,
}

/// VNMI: what the VMSA says, brought up to date.
#[derive(Clone, Copy, Default)]
struct Nmi {
    enabled: bool,
    waits: bool,
    masked: bool,
    /// RIP of the IRET that is under way, and whether under the trap flag.
    iret: Option<(u64, bool)>,
}

/// Whether a virtual interrupt may come, by its request and the task priority beside it (APM vol. 2, 15.21.2).
const fn is_open(interrupts: u64) -> bool {
    let priority = (interrupts & vintr::PRIORITY) >> 16;
    interrupts & vintr::V_IGN_TPR != 0 || priority > interrupts & TASK_PRIORITY
}

impl Vcpu {
    /// The VMCB has just been filled from a VMSA.
    pub(super) fn begin_alternate(&mut self) {
        self.alternate = Alternate::default();
        let control = self.control();
        control.intercept_exceptions &= !INTERCEPT_DB;
        control.intercept_misc1 &= !Misc1::IRET.bits();
        if !self.features.contains(SevFeatures::ALTERNATE_INJECTION) {
            return;
        }
        let &mut Vmsa { vintr_ctrl, event_injection, .. } = self.vmsa();
        if vintr_ctrl & vintr::INTERRUPT_SHADOW != 0 {
            self.begin_shadow();
        }
        self.judge_request();
        let bit = |bit: u64| vintr_ctrl & bit != 0;
        let enabled = bit(vintr::V_NMI_ENABLE);
        let injected = event_injection & (event::VALID | event::TYPE_MASK) == event::VALID | event::TYPE_NMI;
        let masked = enabled && (bit(vintr::V_NMI_MASK) || injected);
        self.alternate.nmi = Nmi { enabled, waits: enabled && bit(vintr::V_NMI), masked, iret: None };
        self.intercept_iret();
    }

    /// Lets the instruction at RIP run under the trap flag.
    fn begin_shadow(&mut self) {
        if self.save().rflags & RFLAGS_TF == 0 && !returns_to_task(self.save()) {
            self.alternate.shadow = Some(self.save().rip);
            self.save().rflags |= RFLAGS_TF;
            self.control().intercept_exceptions |= INTERCEPT_DB;
        }
    }

    /// Before an entry that follows an exit of the same VMPL: the shadow in which it came still holds.
    pub(super) fn keep_shadow(&mut self) {
        let Alternate { shadow, nmi: Nmi { iret, .. }, .. } = self.alternate;
        let alternate = self.features.contains(SevFeatures::ALTERNATE_INJECTION);
        let control = self.control();
        let holds = control.interrupt_state & 1 != 0 && control.event_injection & event::VALID == 0;
        if alternate && holds && shadow.is_none() && iret.is_none() {
            self.begin_shadow();
            self.judge_request();
        }
    }

    /// IRET exits while an NMI is being handled, but for the one that is under way.
    fn intercept_iret(&mut self) {
        let Nmi { masked, iret, .. } = self.alternate.nmi;
        let control = self.control();
        control.intercept_misc1 &= !Misc1::IRET.bits();
        if masked && iret.is_none() {
            control.intercept_misc1 |= Misc1::IRET.bits();
        }
    }

    /// Before an entry: injects the NMI that waits, if it may come.
    pub(super) fn judge_nmi(&mut self) {
        let Alternate { shadow, nmi: Nmi { waits, masked, .. }, .. } = self.alternate;
        if !waits || masked || shadow.is_some() || self.control().event_injection & event::VALID != 0 {
            return;
        }
        self.control().event_injection = event::VALID | event::TYPE_NMI | NMI_VECTOR;
        (self.alternate.nmi.waits, self.alternate.nmi.masked) = (false, true);
        self.intercept_iret();
    }

    /// An IRET while NMIs are masked: they are open behind it.
    pub(super) fn iret(&mut self) {
        let rip = self.save().rip;
        if returns_to_task(self.save()) {
            self.alternate.nmi.iret = Some((rip, false));
        } else if self.save().rflags & RFLAGS_TF != 0 || self.alternate.shadow.is_some() {
            // Somebody counts instructions already.
            self.alternate.nmi.masked = false;
        } else {
            self.alternate.nmi.iret = Some((rip, true));
            self.save().rflags |= RFLAGS_TF;
            self.control().intercept_exceptions |= INTERCEPT_DB;
        }
        self.intercept_iret();
    }

    /// After an exit: whether it was nothing but the end of an IRET that opens NMIs.
    pub(super) fn is_end_of_iret(&mut self, debug: bool) -> bool {
        let Some((rip, traps)) = self.alternate.nmi.iret else { return false };
        let stepped = traps && debug && self.save().dr6 & DR6_SINGLE_STEP != 0;
        if stepped || self.save().rip != rip {
            // Its own trap flag the IRET has loaded from the stack.
            (self.alternate.nmi.iret, self.alternate.nmi.masked) = (None, false);
            if traps {
                self.control().intercept_exceptions &= !INTERCEPT_DB;
            }
            self.intercept_iret();
        }
        if stepped {
            self.save().dr6 &= !DR6_SINGLE_STEP;
        }
        stepped
    }

    /// Puts the requested interrupt into the VMCB, or takes it out.
    fn judge_request(&mut self) {
        let Alternate { held, shadow, .. } = self.alternate;
        let control = self.control();
        let requested = held || control.virtual_interrupt & vintr::V_IRQ != 0;
        let held = requested && (shadow.is_some() || !is_open(control.virtual_interrupt));
        let request = VirtualInterrupt::V_IRQ.bits();
        control.virtual_interrupt = control.virtual_interrupt & !request | if requested && !held { request } else { 0 };
        control.intercept_cr &= !INTERCEPT_CR8_WRITE;
        if requested {
            control.intercept_cr |= INTERCEPT_CR8_WRITE;
        }
        self.alternate.held = held;
    }

    /// After an exit: whether it was nothing but the end of a shadow.
    pub(super) fn is_end_of_shadow(&mut self, debug: bool) -> bool {
        let Some(rip) = self.alternate.shadow else { return false };
        let stepped = debug && self.save().dr6 & DR6_SINGLE_STEP != 0;
        if stepped || self.save().rip != rip {
            self.end_step();
            self.judge_request();
        }
        if stepped {
            self.save().dr6 &= !DR6_SINGLE_STEP;
        }
        stepped
    }

    /// Whether the next instruction runs under the trap flag, or an NMI waits.
    pub(super) const fn is_in_shadow(&self) -> bool {
        let Alternate { shadow, nmi: Nmi { waits, iret, .. }, .. } = self.alternate;
        shadow.is_some() || waits || iret.is_some()
    }

    fn end_step(&mut self) {
        self.alternate.shadow = None;
        self.save().rflags &= !RFLAGS_TF;
        self.control().intercept_exceptions &= !INTERCEPT_DB;
    }

    /// The VMSA is about to be stored: puts everything back. Whether a shadow holds.
    pub(super) fn end_alternate(&mut self) -> bool {
        let shadowed = self.alternate.shadow.is_some();
        if shadowed {
            self.end_step();
        }
        if let Some((_, true)) = self.alternate.nmi.iret.take() {
            // It has not been executed: it exits again the next time.
            self.save().rflags &= !RFLAGS_TF;
            self.control().intercept_exceptions &= !INTERCEPT_DB;
        }
        if core::mem::take(&mut self.alternate.held) {
            self.control().virtual_interrupt |= VirtualInterrupt::V_IRQ.bits();
        }
        shadowed
    }

    /// VNMI's bits as the VMSA gets them.
    pub(super) const fn nmi_bits(&self, vmsa: u64) -> u64 {
        let Nmi { enabled, waits, masked, .. } = self.alternate.nmi;
        if !enabled {
            return vmsa;
        }
        let bits = if waits { vintr::V_NMI } else { 0 } | if masked { vintr::V_NMI_MASK } else { 0 };
        vmsa & !(vintr::V_NMI | vintr::V_NMI_MASK) | bits
    }

    /// MOV to CR8; false is a #GP.
    pub(super) fn write_task_priority(&mut self, value: u64) -> bool {
        if value & !TASK_PRIORITY != 0 {
            return false;
        }
        let control = self.control();
        control.virtual_interrupt = control.virtual_interrupt & !0xff | value;
        self.judge_request();
        true
    }
}
