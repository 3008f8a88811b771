// SPDX-License-Identifier: MIT OR Apache-2.0
//! What holds for the whole of one instruction: the mode and the privilege level.

use platform::{GuestCpu, Segment, SegmentAttributes, SegmentRegister, SystemRegisters};

use super::bits::{cr0, cr4, efer, rflags};

/// The size of the code segment, which decides how bytes decode (APM vol. 2, 1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CodeSize {
    Bits16,
    Bits32,
    Bits64,
}

/// System registers and mode, read once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) system: SystemRegisters,
    pub(super) code: Segment,
    pub(super) size: CodeSize,
}

impl Context {
    pub(super) fn of(cpu: &impl GuestCpu) -> Self {
        let system = cpu.system();
        let code = cpu.segment(SegmentRegister::Cs);
        let size = if system.efer & efer::LMA != 0 && code.attributes.contains(SegmentAttributes::LONG) {
            CodeSize::Bits64
        } else if code.attributes.contains(SegmentAttributes::DEFAULT_BIG) {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        };
        Self { system, code, size }
    }

    pub(super) fn is_64bit(&self) -> bool {
        self.size == CodeSize::Bits64
    }

    /// Real mode or virtual-8086 mode: segments have no types.
    pub(super) fn is_untyped(&self) -> bool {
        self.is_real() || self.system.rflags & rflags::VM != 0 && self.system.efer & efer::LMA == 0
    }

    pub(super) fn is_real(&self) -> bool {
        self.system.cr0 & cr0::PE == 0
    }

    pub(super) fn is_user(&self) -> bool {
        self.system.cpl == 3
    }

    /// Cuts an instruction pointer to what this mode can hold.
    pub(super) fn truncate_rip(&self, rip: u64) -> u64 {
        if self.is_64bit() { rip } else { rip & 0xffff_ffff }
    }

    /// Whether `linear` is canonical (APM vol. 2, 5.3.1). Outside long mode nothing is refused.
    pub(super) fn is_canonical(&self, linear: u64) -> bool {
        let width = if self.system.cr4 & cr4::LA57 != 0 { 57 } else { 48 };
        let unused = 64 - width;
        ((linear << unused) as i64 >> unused) as u64 == linear
    }
}
