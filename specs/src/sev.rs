// SPDX-License-Identifier: MIT OR Apache-2.0
//! SEV-SNP's registers, instructions and page permissions (APM vol. 2, 15.34 to 15.36; APM vol. 3 for the instructions).

#![allow(missing_docs, reason = "most names are the manual's own")]

use bitflags::bitflags;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// GHCB: what the guest tells the hypervisor at a VMGEXIT (APM vol. 2, 15.35.7).
pub const MSR_GHCB: u32 = 0xc001_0130;
/// SEV_STATUS: what is active (APM vol. 2, 15.34.10). Read-only, and its reads are never intercepted.
pub const MSR_SEV_STATUS: u32 = 0xc001_0131;
/// VIRTUAL_TOM (APM vol. 2, 15.36.8).
pub const MSR_VIRTUAL_TOM: u32 = 0xc001_0135;

/// SEV_STATUS: SEV is active.
pub const STATUS_SEV: u64 = 1 << 0;
/// SEV_STATUS: SEV-ES is active.
pub const STATUS_SEV_ES: u64 = 1 << 1;
/// SEV_STATUS: SEV_FEATURES follow from this bit on.
pub const STATUS_FEATURES_SHIFT: u32 = 2;

/// #VC.
pub const VECTOR_VC: u8 = 29;
/// #HV.
pub const VECTOR_HV: u8 = 28;

/// How many VM privilege levels there are.
pub const VMPLS: usize = 4;

bitflags! {
    /// What a VMPL may do with a page (APM vol. 2, 15.36.7; RMPADJUST takes them in RDX[15:8]).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct VmplRights: u8 {
        const READ = 1 << 0;
        const WRITE = 1 << 1;
        const USER_EXECUTE = 1 << 2;
        const SUPERVISOR_EXECUTE = 1 << 3;
        const SUPERVISOR_SHADOW_STACK = 1 << 4;
    }
}

/// RDX of RMPADJUST and RMPQUERY.
pub mod rmpadjust {
    pub const VMPL: u64 = 0xff;
    pub const RIGHTS_SHIFT: u32 = 8;
    pub const VMSA: u64 = 1 << 16;
}

/// EAX after PVALIDATE, RMPADJUST, RMPUPDATE and PSMASH (APM vol. 3).
pub mod result {
    pub const SUCCESS: u32 = 0;
    pub const FAIL_INPUT: u32 = 1;
    pub const FAIL_PERMISSION: u32 = 2;
    pub const FAIL_INUSE: u32 = 3;
    pub const FAIL_OVERLAP: u32 = 4;
    pub const FAIL_SIZEMISMATCH: u32 = 6;
}

/// EXITINFO1 of a nested page fault in an SNP guest, besides those of `svm::npf` (APM vol. 2, 15.36.10).
pub mod npf {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const RESERVED: u64 = 1 << 3;
    pub const FETCH: u64 = 1 << 4;
    pub const RMP: u64 = 1 << 31;
    pub const FINAL: u64 = 1 << 32;
    pub const TABLE_WALK: u64 = 1 << 33;
    pub const ENCRYPTED: u64 = 1 << 34;
    pub const SIZE_MISMATCH: u64 = 1 << 35;
    pub const VMPL: u64 = 1 << 36;
}

/// Exit codes that exist only with SEV-ES and SEV-SNP (APM vol. 2, appendix C).
pub mod exit {
    pub const EFER_WRITE_TRAP: u64 = 0x8f;
    pub const CR0_WRITE_TRAP: u64 = 0x90;
    pub const CR15_WRITE_TRAP: u64 = 0x9f;
    pub const BUSLOCK: u64 = 0xa5;
    pub const IDLE_HLT: u64 = 0xa6;
    pub const VMGEXIT: u64 = 0x403;
    pub const NOT_VALIDATED: u64 = 0x404;
    /// A reflected #VC, as the host sees it: the intercept of exception 29.
    pub const VC: u64 = 0x5d;
    pub const INVALID: u64 = u64::MAX;
    pub const BUSY: u64 = u64::MAX - 1;
}

/// CPUID 8000_001Fh.
pub mod leaf {
    pub const NUMBER: u32 = 0x8000_001f;
    pub const EAX_SEV: u32 = 1 << 1;
    pub const EAX_ES: u32 = 1 << 3;
    pub const EAX_SNP: u32 = 1 << 4;
    pub const EAX_VMPL: u32 = 1 << 5;
    pub const EAX_RMPQUERY: u32 = 1 << 6;
    pub const EAX_COHERENT: u32 = 1 << 10;
    pub const EAX_RESTRICTED_INJECTION: u32 = 1 << 12;
    pub const EAX_ALTERNATE_INJECTION: u32 = 1 << 13;
    pub const EAX_REFLECT_AND_VTOM_MSR: u32 = 1 << 18;
    /// EBX: where the C-bit is.
    pub const EBX_C_BIT: u32 = 0x3f;
    pub const EBX_REDUCTION_SHIFT: u32 = 6;
    /// EBX, four bits: how many VMPLs there are.
    pub const EBX_VMPLS_SHIFT: u32 = 12;
}

/// The CPUID page that the firmware checks and the guest trusts (SEV-SNP firmware ABI, "CPUID page").
pub mod cpuid_page {
    use super::{FromBytes, Immutable, IntoBytes, KnownLayout, U32, U64, Unaligned};

    /// The most functions in a page.
    pub const FUNCTIONS: usize = 64;

    /// What one leaf and subleaf answer.
    #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    #[repr(C)]
    pub struct Function {
        pub eax_in: U32,
        pub ecx_in: U32,
        pub xcr0_in: U64,
        pub xss_in: U64,
        pub eax: U32,
        pub ebx: U32,
        pub ecx: U32,
        pub edx: U32,
        pub reserved: U64,
    }

    /// The page.
    #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    #[repr(C)]
    pub struct Page {
        pub count: U32,
        pub reserved: [u8; 12],
        pub functions: [Function; FUNCTIONS],
        pub padding: [u8; 1008],
    }

    const _: () = assert!(size_of::<Page>() == 4096);
}
