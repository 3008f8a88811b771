// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exits, events and segments as SVM, the GHCB and the VMSA have them alike (APM vol. 2, chapter 15 and appendices B and C).

#![allow(missing_docs, reason = "most names are the manual's own")]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
