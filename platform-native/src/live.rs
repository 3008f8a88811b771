// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guest state that stays in the processor while Parados runs, and the VMCB's form of segments.

use platform::{Segment, SegmentAttributes, SegmentRegister, SwitchedMsr};
use specs::svm::VmcbSegment;

/// The number of an MSR that the guest reaches without an exit, so that its value is live in the processor.
pub(crate) const fn live_msr(msr: SwitchedMsr) -> Option<u32> {
    Some(match msr {
        SwitchedMsr::Star => 0xc000_0081,
        SwitchedMsr::Lstar => 0xc000_0082,
        SwitchedMsr::Cstar => 0xc000_0083,
        SwitchedMsr::Sfmask => 0xc000_0084,
        SwitchedMsr::FsBase => 0xc000_0100,
        SwitchedMsr::GsBase => 0xc000_0101,
        SwitchedMsr::KernelGsBase => 0xc000_0102,
        SwitchedMsr::TscAux => 0xc000_0103,
        SwitchedMsr::SysenterCs => 0x174,
        SwitchedMsr::SysenterEsp => 0x175,
        SwitchedMsr::SysenterEip => 0x176,
        SwitchedMsr::Efer | SwitchedMsr::Pat | SwitchedMsr::DebugCtl => return None,
    })
}

/// The MSRs of [`live_msr`], for the permission map.
pub(crate) const LIVE_MSRS: [u32; 11] = [
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
    0x174,
    0x175,
    0x176,
];

/// Whether the segment is in the processor while Parados runs, rather than in the VMCB.
pub(crate) const fn is_live(register: SegmentRegister) -> bool {
    matches!(register, SegmentRegister::Fs | SegmentRegister::Gs | SegmentRegister::Ldtr | SegmentRegister::Tr)
}

pub(crate) fn from_vmcb(segment: VmcbSegment) -> Segment {
    Segment {
        selector: segment.selector,
        attributes: SegmentAttributes::from_bits_retain(segment.attributes),
        limit: segment.limit,
        base: segment.base,
    }
}

pub(crate) fn to_vmcb(segment: Segment) -> VmcbSegment {
    VmcbSegment {
        selector: segment.selector,
        attributes: segment.attributes.bits(),
        limit: segment.limit,
        base: segment.base,
    }
}
