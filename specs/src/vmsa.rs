// SPDX-License-Identifier: MIT OR Apache-2.0
//! The VM save area of SEV-ES and SEV-SNP: one page for each virtual processor and VMPL (APM vol. 2, appendix B, table B-4).
//!
//! Where it and the VMCB's save area both have a field, the field's offset is the same, counted from the area's own start.
//! Reserved ranges are public so that a model can insist on their being zero.

#![allow(missing_docs, reason = "most names are the manual's own")]

use crate::svm::VmcbSegment;
use bitflags::bitflags;
use core::mem::offset_of;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// SEV_FEATURES (APM vol. 2, table B-4, offset 3B0h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SevFeatures: u64 {
        const SNP_ACTIVE = 1 << 0;
        const VTOM = 1 << 1;
        const REFLECT_VC = 1 << 2;
        const RESTRICTED_INJECTION = 1 << 3;
        const ALTERNATE_INJECTION = 1 << 4;
        const DEBUG_SWAP = 1 << 5;
        const PREVENT_HOST_IBS = 1 << 6;
        const BTB_ISOLATION = 1 << 7;
        const VMPL_SSS = 1 << 8;
        const SECURE_TSC = 1 << 9;
        const VMGEXIT_PARAMETER = 1 << 10;
        const PMC_VIRTUALIZATION = 1 << 11;
        const IBS_VIRTUALIZATION = 1 << 12;
        const GUEST_INTERCEPT_CONTROL = 1 << 13;
        const VMSA_REGISTER_PROTECTION = 1 << 14;
        const SMT_PROTECTION = 1 << 15;
        const SECURE_AVIC = 1 << 16;
        const IBPB_ON_ENTRY = 1 << 21;
    }
}

/// VINTR_CTRL (APM vol. 2, table B-4, offset 3B8h). The low word is the VMCB's virtual interrupt control.
pub mod vintr {
    pub const V_TPR: u64 = 0xff;
    pub const V_IRQ: u64 = 1 << 8;
    pub const V_GIF: u64 = 1 << 9;
    pub const INTERRUPT_SHADOW: u64 = 1 << 10;
    pub const V_NMI: u64 = 1 << 11;
    pub const V_NMI_MASK: u64 = 1 << 12;
    pub const PRIORITY: u64 = 0xf << 16;
    pub const V_IGN_TPR: u64 = 1 << 20;
    pub const V_NMI_ENABLE: u64 = 1 << 26;
    pub const VECTOR: u64 = 0xff << 32;
    pub const BUSY: u64 = 1 << 63;
}

/// A VM save area.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Vmsa {
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    pub fs: VmcbSegment,
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    pub tr: VmcbSegment,
    pub pl_ssp: [u64; 4],
    pub u_cet: u64,
    pub reserved_0c8: [u8; 2],
    pub vmpl: u8,
    pub cpl: u8,
    pub reserved_0cc: [u8; 4],
    pub efer: u64,
    pub reserved_0d8: [u8; 104],
    pub xss: u64,
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    pub dr: [u64; 4],
    pub dr_mask: [u64; 4],
    pub reserved_1c0: [u8; 24],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_addr: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    pub reserved_248: [u8; 32],
    pub g_pat: u64,
    pub debug_ctl: u64,
    pub branch_from: u64,
    pub branch_to: u64,
    pub last_exception_from: u64,
    pub last_exception_to: u64,
    pub reserved_298: [u8; 72],
    pub spec_ctrl: u64,
    pub pkru: u32,
    pub tsc_aux: u32,
    pub tsc_scale: u64,
    pub tsc_offset: u64,
    pub reg_prot_nonce: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub secure_avic_control: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// R8 to R15.
    pub r8: [u64; 8],
    pub reserved_380: [u8; 16],
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    pub next_rip: u64,
    pub sev_features: u64,
    pub vintr_ctrl: u64,
    pub exit_code: u64,
    pub virtual_tom: u64,
    pub tlb_id: u64,
    pub pcpu_id: u64,
    pub event_injection: u64,
    pub xcr0: u64,
    pub reserved_3f0: [u8; 16],
    pub x87_dp: u64,
    pub mxcsr: u32,
    pub x87_ftw: u16,
    pub x87_fsw: u16,
    pub x87_fcw: u16,
    pub x87_fop: u16,
    pub x87_ds: u16,
    pub x87_cs: u16,
    pub x87_rip: u64,
    /// Eight registers of ten bytes.
    pub x87: [u8; 80],
    pub xmm: [[u8; 16]; 16],
    /// The upper halves of YMM0 to YMM15.
    pub ymm_high: [[u8; 16]; 16],
    pub lbr_stack: [u8; 256],
    pub lbr_select: u64,
    pub ibs: [u64; 10],
    pub reserved_7c8: [u8; 0x138],
    pub guest_intercepts: [u32; 8],
    pub guest_msr_intercepts: [u64; 4],
    pub reserved_940: [u8; 0x6c0],
}

const_assert_eq!(size_of::<Vmsa>(), 0x1000);
const_assert_eq!(offset_of!(Vmsa, gdtr), 0x060);
const_assert_eq!(offset_of!(Vmsa, pl_ssp), 0x0a0);
const_assert_eq!(offset_of!(Vmsa, vmpl), 0x0ca);
const_assert_eq!(offset_of!(Vmsa, cpl), 0x0cb);
const_assert_eq!(offset_of!(Vmsa, efer), 0x0d0);
const_assert_eq!(offset_of!(Vmsa, xss), 0x140);
const_assert_eq!(offset_of!(Vmsa, rip), 0x178);
const_assert_eq!(offset_of!(Vmsa, rsp), 0x1d8);
const_assert_eq!(offset_of!(Vmsa, rax), 0x1f8);
const_assert_eq!(offset_of!(Vmsa, cr2), 0x240);
const_assert_eq!(offset_of!(Vmsa, g_pat), 0x268);
const_assert_eq!(offset_of!(Vmsa, spec_ctrl), 0x2e0);
const_assert_eq!(offset_of!(Vmsa, tsc_aux), 0x2ec);
const_assert_eq!(offset_of!(Vmsa, reg_prot_nonce), 0x300);
const_assert_eq!(offset_of!(Vmsa, rcx), 0x308);
const_assert_eq!(offset_of!(Vmsa, rbp), 0x328);
const_assert_eq!(offset_of!(Vmsa, r8), 0x340);
const_assert_eq!(offset_of!(Vmsa, exit_info1), 0x390);
const_assert_eq!(offset_of!(Vmsa, sev_features), 0x3b0);
const_assert_eq!(offset_of!(Vmsa, exit_code), 0x3c0);
const_assert_eq!(offset_of!(Vmsa, event_injection), 0x3e0);
const_assert_eq!(offset_of!(Vmsa, xcr0), 0x3e8);
const_assert_eq!(offset_of!(Vmsa, mxcsr), 0x408);
const_assert_eq!(offset_of!(Vmsa, x87), 0x420);
const_assert_eq!(offset_of!(Vmsa, xmm), 0x470);
const_assert_eq!(offset_of!(Vmsa, ymm_high), 0x570);
const_assert_eq!(offset_of!(Vmsa, lbr_select), 0x770);
const_assert_eq!(offset_of!(Vmsa, guest_intercepts), 0x900);
