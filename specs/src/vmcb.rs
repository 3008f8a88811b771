// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hypervisor runs a guest with by VMRUN: the VMCB, its intercepts and the MSRs that go with it (APM vol. 2, chapter 15 and
//! appendix B). Only for those who do so: an SNP image has its guest run by the host.

#![allow(missing_docs, reason = "most names are the manual's own")]

use bitflags::bitflags;
use core::mem::offset_of;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::svm::VmcbSegment;

/// VM_CR: bit 4 (SVMDIS) says that firmware disabled SVM. APM vol. 2, 15.30.1.
pub const MSR_VM_CR: u32 = 0xc001_0114;
/// VM_HSAVE_PA: where VMRUN saves the host's state. APM vol. 2, 15.30.4.
pub const MSR_VM_HSAVE_PA: u32 = 0xc001_0117;
/// VM_CR.SVMDIS.
pub const VM_CR_SVMDIS: u64 = 1 << 4;
/// Bytes in the I/O permission map: one bit a port, and room for accesses past the last. APM vol. 2, 15.10.1.
pub const IOPM_BYTES: usize = 12 << 10;
/// Bytes in the MSR permission map: two bits an MSR. APM vol. 2, 15.11.
pub const MSRPM_BYTES: usize = 8 << 10;

bitflags! {
    /// Intercept vector 3, offset 00Ch (APM vol. 2, table B-1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Misc1: u32 {
        const INTR = 1 << 0;
        const NMI = 1 << 1;
        const SMI = 1 << 2;
        const INIT = 1 << 3;
        const VINTR = 1 << 4;
        const IDTR_WRITE = 1 << 10;
        const GDTR_WRITE = 1 << 11;
        const LDTR_WRITE = 1 << 12;
        const TR_WRITE = 1 << 13;
        const RDTSC = 1 << 14;
        const RDPMC = 1 << 15;
        const CPUID = 1 << 18;
        const RSM = 1 << 19;
        const IRET = 1 << 20;
        const INVD = 1 << 22;
        const PAUSE = 1 << 23;
        const HLT = 1 << 24;
        const INVLPGA = 1 << 26;
        const IOIO = 1 << 27;
        const MSR = 1 << 28;
        const TASK_SWITCH = 1 << 29;
        const FERR_FREEZE = 1 << 30;
        const SHUTDOWN = 1 << 31;
    }

    /// Intercept vector 4, offset 010h (APM vol. 2, table B-1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Misc2: u32 {
        const VMRUN = 1 << 0;
        const VMMCALL = 1 << 1;
        const VMLOAD = 1 << 2;
        const VMSAVE = 1 << 3;
        const STGI = 1 << 4;
        const CLGI = 1 << 5;
        const SKINIT = 1 << 6;
        const RDTSCP = 1 << 7;
        const ICEBP = 1 << 8;
        const WBINVD = 1 << 9;
        const MONITOR = 1 << 10;
        const MWAIT = 1 << 11;
        const MWAIT_ARMED = 1 << 12;
        const XSETBV = 1 << 13;
        const RDPRU = 1 << 14;
    }

    /// Virtual interrupt control, offset 060h (APM vol. 2, table B-1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct VirtualInterrupt: u64 {
        const V_IRQ = 1 << 8;
        const V_GIF = 1 << 9;
        const V_IGN_TPR = 1 << 20;
        const V_INTR_MASKING = 1 << 24;
        const _ = !0;
    }
}

impl VirtualInterrupt {
    /// A pending virtual interrupt of the highest priority with vector 0: only its window matters to us.
    pub const fn window() -> Self {
        Self::from_bits_retain(1 << 8 | 0xf << 16 | 1 << 20)
    }
}

/// The control area (APM vol. 2, table B-1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VmcbControl {
    pub intercept_cr: u32,
    pub intercept_dr: u32,
    pub intercept_exceptions: u32,
    pub intercept_misc1: u32,
    pub intercept_misc2: u32,
    pub intercept_misc3: u32,
    reserved_018: [u32; 9],
    pub pause_filter: u32,
    pub iopm_base: u64,
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u32,
    pub virtual_interrupt: u64,
    pub interrupt_state: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    pub nested_paging: u64,
    pub avic_apic_bar: u64,
    pub ghcb: u64,
    pub event_injection: u64,
    pub nested_cr3: u64,
    pub lbr_virtualization: u64,
    pub clean: u64,
    pub next_rip: u64,
    pub fetched: [u8; 16],
    reserved_0e0: [u64; 100],
}

/// The state save area (APM vol. 2, table B-2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VmcbSave {
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
    reserved_0a0: [u8; 0x2b],
    pub cpl: u8,
    reserved_0cc: u32,
    pub efer: u64,
    reserved_0d8: [u64; 14],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_180: [u64; 11],
    pub rsp: u64,
    reserved_1e0: [u64; 3],
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
    reserved_248: [u64; 4],
    pub g_pat: u64,
    pub debug_ctl: u64,
    reserved_278: [u64; 305],
}

/// A virtual machine control block, one page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Vmcb {
    pub control: VmcbControl,
    pub save: VmcbSave,
}

const_assert_eq!(size_of::<VmcbControl>(), 0x400);
const_assert_eq!(size_of::<Vmcb>(), 0x1000);
const_assert_eq!(offset_of!(VmcbControl, pause_filter), 0x3c);
const_assert_eq!(offset_of!(VmcbControl, exit_code), 0x70);
const_assert_eq!(offset_of!(VmcbControl, event_injection), 0xa8);
const_assert_eq!(offset_of!(VmcbControl, next_rip), 0xc8);
const_assert_eq!(offset_of!(VmcbSave, cpl), 0xcb);
const_assert_eq!(offset_of!(VmcbSave, efer), 0xd0);
const_assert_eq!(offset_of!(VmcbSave, cr4), 0x148);
const_assert_eq!(offset_of!(VmcbSave, rip), 0x178);
const_assert_eq!(offset_of!(VmcbSave, rsp), 0x1d8);
const_assert_eq!(offset_of!(VmcbSave, rax), 0x1f8);
const_assert_eq!(offset_of!(VmcbSave, cr2), 0x240);
const_assert_eq!(offset_of!(VmcbSave, g_pat), 0x268);
