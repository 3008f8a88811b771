// SPDX-License-Identifier: MIT OR Apache-2.0
//! Alternate injection's virtual interrupt, where QEMU 7.2 does not do with it what a processor does.
//!
//! It lets a virtual interrupt through whose priority only equals the task priority (hardware wants it higher: APM vol. 2,
//! 15.21.2), so one that is held back is taken out of the VMCB until a MOV to CR8, which exits meanwhile. And VMRUN drops the
//! interrupt shadow: the instruction in it runs under the trap flag, and the interrupt comes after it. The guest's own
//! trap flag takes precedence: then the shadow is lost.

use super::vcpu::Vcpu;
use specs::svm::VirtualInterrupt;
use specs::vmsa::{SevFeatures, Vmsa, vintr};

const RFLAGS_TF: u64 = 1 << 8;
const DR6_SINGLE_STEP: u64 = 1 << 14;
/// Intercept of #DB.
const INTERCEPT_DB: u32 = 1 << 1;
/// Intercept of MOV to CR8 (APM vol. 2, table B-1).
const INTERCEPT_CR8_WRITE: u32 = 1 << (16 + 8);
const TASK_PRIORITY: u64 = 0xf;

/// What is kept of a VMSA with alternate injection while it runs.
#[derive(Clone, Copy, Default)]
pub(super) struct Alternate {
    /// The interrupt is requested, but not in the VMCB just now.
    held: bool,
    /// RIP of the instruction in a shadow.
    shadow: Option<u64>,
}

/// Whether a virtual interrupt may come, by its request and the task priority beside it (APM vol. 2, 15.21.2).
const fn is_open(interrupts: u64) -> bool {
    let priority = (interrupts & vintr::PRIORITY) >> 16;
    interrupts & vintr::V_IGN_TPR != 0 || priority > interrupts & TASK_PRIORITY
}

impl Vcpu {
    /// The VMCB has just been filled from a VMSA.
    pub(super) fn begin_alternate(&mut self, vmsa: &Vmsa) {
        self.alternate = Alternate::default();
        self.control().intercept_exceptions &= !INTERCEPT_DB;
        if !self.features.contains(SevFeatures::ALTERNATE_INJECTION) {
            return;
        }
        if vmsa.vintr_ctrl & vintr::INTERRUPT_SHADOW != 0 && vmsa.rflags & RFLAGS_TF == 0 {
            self.alternate.shadow = Some(vmsa.rip);
            self.save().rflags |= RFLAGS_TF;
            self.control().intercept_exceptions |= INTERCEPT_DB;
        }
        self.judge_request();
    }

    /// Puts the requested interrupt into the VMCB, or takes it out.
    fn judge_request(&mut self) {
        let Alternate { held, shadow } = self.alternate;
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

    /// Whether the next instruction runs under the trap flag.
    pub(super) const fn is_in_shadow(&self) -> bool {
        self.alternate.shadow.is_some()
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
        if core::mem::take(&mut self.alternate.held) {
            self.control().virtual_interrupt |= VirtualInterrupt::V_IRQ.bits();
        }
        shadowed
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
