// SPDX-License-Identifier: MIT OR Apache-2.0
//! The VMCB and SVM exit codes (APM vol. 2, chapter 15 and appendices B and C).

#![allow(missing_docs, reason = "most names are the manual's own")]

use bitflags::bitflags;
use core::mem::offset_of;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
    /// V_TPR, the guest's CR8: bits 3:0 are the priority class.
    pub const fn task_priority(self) -> u8 {
        (self.bits() & 0xf) as u8
    }

    /// The same with V_TPR set to the low four bits of `class`.
    pub const fn with_task_priority(self, class: u8) -> Self {
        Self::from_bits_retain(self.bits() & !0xff | (class & 0xf) as u64)
    }

    /// A pending virtual interrupt of the highest priority with vector 0: only its window matters to us.
    pub const fn window() -> Self {
        Self::from_bits_retain(1 << 8 | 0xf << 16 | 1 << 20)
    }
}

/// EVENTINJ and EXITINTINFO (APM vol. 2, 15.20 and 15.7.2): vector 7:0, type 10:8, error code valid 11, valid 31, error
/// code 63:32.
pub mod event {
    /// The field holds an event.
    pub const VALID: u64 = 1 << 31;
    /// Bits 63:32 hold an error code.
    pub const ERROR_CODE_VALID: u64 = 1 << 11;
    /// Type: external interrupt.
    pub const TYPE_INTERRUPT: u64 = 0 << 8;
    /// Type: NMI.
    pub const TYPE_NMI: u64 = 2 << 8;
    /// Type: exception.
    pub const TYPE_EXCEPTION: u64 = 3 << 8;
    /// Type: software interrupt.
    pub const TYPE_SOFTWARE: u64 = 4 << 8;
    /// Mask of the type.
    pub const TYPE_MASK: u64 = 7 << 8;
}

/// Exit codes (APM vol. 2, appendix C).
pub mod exit {
    pub const CR0_READ: u64 = 0x00;
    pub const CR15_WRITE: u64 = 0x1f;
    pub const DR0_READ: u64 = 0x20;
    pub const DR15_WRITE: u64 = 0x3f;
    pub const EXCEPTION_0: u64 = 0x40;
    pub const EXCEPTION_31: u64 = 0x5f;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const IDTR_WRITE: u64 = 0x6a;
    pub const GDTR_WRITE: u64 = 0x6b;
    pub const LDTR_WRITE: u64 = 0x6c;
    pub const TR_WRITE: u64 = 0x6d;
    pub const RDTSC: u64 = 0x6e;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const RSM: u64 = 0x73;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const TASK_SWITCH: u64 = 0x7d;
    pub const FERR_FREEZE: u64 = 0x7e;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const VMSAVE: u64 = 0x83;
    pub const STGI: u64 = 0x84;
    pub const CLGI: u64 = 0x85;
    pub const SKINIT: u64 = 0x86;
    pub const RDTSCP: u64 = 0x87;
    pub const ICEBP: u64 = 0x88;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    pub const NPF: u64 = 0x400;
    /// VMEXIT_INVALID, low 32 bits: QEMU before 10.2 stores only those.
    pub const INVALID_LOW: u64 = 0xffff_ffff;
}

/// EXITINFO1 of an IOIO exit (APM vol. 2, 15.10.2).
pub mod ioio {
    /// IN or INS.
    pub const IN: u64 = 1 << 0;
    /// INS or OUTS.
    pub const STRING: u64 = 1 << 2;
    /// REP prefix.
    pub const REPEAT: u64 = 1 << 3;
    /// 8-bit operand.
    pub const SIZE_8: u64 = 1 << 4;
    /// 16-bit operand.
    pub const SIZE_16: u64 = 1 << 5;
    /// 32-bit operand.
    pub const SIZE_32: u64 = 1 << 6;
    /// Shift of the port number.
    pub const PORT_SHIFT: u32 = 16;
}

/// EXITINFO1 of a nested page fault (APM vol. 2, 15.25.6).
pub mod npf {
    /// The nested entry was present.
    pub const PRESENT: u64 = 1 << 0;
    /// A write.
    pub const WRITE: u64 = 1 << 1;
    /// An instruction fetch.
    pub const FETCH: u64 = 1 << 4;
    /// The fault came while walking the guest's own page tables.
    pub const TABLE_WALK: u64 = 1 << 33;
}

/// A segment register in the VMCB (APM vol. 2, table B-2).
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VmcbSegment {
    pub selector: u16,
    pub attributes: u16,
    pub limit: u32,
    pub base: u64,
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
