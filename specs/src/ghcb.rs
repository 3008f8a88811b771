// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest-hypervisor communication block: the MSR protocol and the page (GHCB specification 2.0; as Linux,
//! arch/x86/include/asm/sev-common.h and arch/x86/include/uapi/asm/svm.h, has it).

#![allow(missing_docs, reason = "most names are the specification's own")]

/// The MSR protocol: the function is in bits 11:0.
pub mod msr {
    pub const FUNCTION: u64 = 0xfff;
    pub const GPA: u64 = 0x000;
    pub const SEV_INFO_RESPONSE: u64 = 0x001;
    pub const SEV_INFO_REQUEST: u64 = 0x002;
    pub const CPUID_REQUEST: u64 = 0x004;
    pub const CPUID_RESPONSE: u64 = 0x005;
    pub const AP_RESET_HOLD_REQUEST: u64 = 0x006;
    pub const AP_RESET_HOLD_RESPONSE: u64 = 0x007;
    pub const PREFERRED_GPA_REQUEST: u64 = 0x010;
    pub const PREFERRED_GPA_RESPONSE: u64 = 0x011;
    pub const REGISTER_GPA_REQUEST: u64 = 0x012;
    pub const REGISTER_GPA_RESPONSE: u64 = 0x013;
    pub const PAGE_STATE_REQUEST: u64 = 0x014;
    pub const PAGE_STATE_RESPONSE: u64 = 0x015;
    pub const RUN_VMPL_REQUEST: u64 = 0x016;
    pub const RUN_VMPL_RESPONSE: u64 = 0x017;
    pub const FEATURES_REQUEST: u64 = 0x080;
    pub const FEATURES_RESPONSE: u64 = 0x081;
    pub const TERMINATE: u64 = 0x100;
    /// "No preferred GPA", and "registration refused", in bits 63:12.
    pub const NO_GFN: u64 = (1 << 52) - 1;
}

/// Hypervisor feature bits, answered by [`msr::FEATURES_RESPONSE`] and [`exit::FEATURES`].
pub mod feature {
    pub const SNP: u64 = 1 << 0;
    pub const AP_CREATION: u64 = 1 << 1;
    pub const RESTRICTED_INJECTION: u64 = 1 << 2;
    pub const RESTRICTED_INJECTION_TIMER: u64 = 1 << 3;
    pub const APIC_ID_LIST: u64 = 1 << 4;
    pub const MULTI_VMPL: u64 = 1 << 5;
}

/// Exit codes of the page protocol beyond those of SVM.
pub mod exit {
    pub const MMIO_READ: u64 = 0x8000_0001;
    pub const MMIO_WRITE: u64 = 0x8000_0002;
    pub const NMI_COMPLETE: u64 = 0x8000_0003;
    pub const AP_RESET_HOLD: u64 = 0x8000_0004;
    pub const AP_JUMP_TABLE: u64 = 0x8000_0005;
    pub const PAGE_STATE_CHANGE: u64 = 0x8000_0010;
    pub const GUEST_REQUEST: u64 = 0x8000_0011;
    pub const EXTENDED_GUEST_REQUEST: u64 = 0x8000_0012;
    pub const AP_CREATION: u64 = 0x8000_0013;
    pub const HV_DOORBELL: u64 = 0x8000_0014;
    pub const HV_IPI: u64 = 0x8000_0015;
    pub const APIC_ID_LIST: u64 = 0x8000_0017;
    pub const RUN_VMPL: u64 = 0x8000_0018;
    pub const FEATURES: u64 = 0x8000_fffd;
    pub const TERMINATE: u64 = 0x8000_fffe;
    pub const UNSUPPORTED: u64 = 0x8000_ffff;
}

/// Offsets in the page. General registers have the VMSA's.
pub mod page {
    pub const CPL: usize = 0x0cb;
    pub const XSS: usize = 0x140;
    pub const DR7: usize = 0x160;
    pub const RIP: usize = 0x178;
    pub const RSP: usize = 0x1d8;
    pub const RAX: usize = 0x1f8;
    pub const RCX: usize = 0x308;
    pub const RDX: usize = 0x310;
    pub const RBX: usize = 0x318;
    pub const SW_EXIT_CODE: usize = 0x390;
    pub const SW_EXIT_INFO1: usize = 0x398;
    pub const SW_EXIT_INFO2: usize = 0x3a0;
    pub const SW_SCRATCH: usize = 0x3a8;
    pub const XCR0: usize = 0x3e8;
    /// 16 bytes: bit n stands for the n-th eight bytes of the page.
    pub const VALID_BITMAP: usize = 0x3f0;
    pub const SHARED_BUFFER: usize = 0x800;
    pub const SHARED_BUFFER_BYTES: usize = 2032;
    pub const VERSION: usize = 0xffa;
    pub const USAGE: usize = 0xffc;
}

/// Bits 31:0 of SW_EXITINFO1 as the host answers.
pub mod answer {
    pub const OK: u64 = 0;
    /// SW_EXITINFO2 holds an exception to raise, in the format of EVENTINJ.
    pub const EXCEPTION: u64 = 1;
    /// SW_EXITINFO2 holds one of [`super::malformed`].
    pub const MALFORMED: u64 = 2;
}

/// What is wrong with a request.
pub mod malformed {
    pub const NOT_REGISTERED: u64 = 1;
    pub const USAGE: u64 = 2;
    pub const SCRATCH: u64 = 3;
    pub const MISSING_INPUT: u64 = 4;
    pub const INVALID_INPUT: u64 = 5;
    pub const INVALID_EVENT: u64 = 6;
}

/// The upper half of SW_EXITINFO2 after a guest request, if the host and not the firmware says no (Linux, include/uapi/linux/sev-guest.h).
pub mod guest_request {
    /// An extended request has too few pages for the certificates; RBX says how many it takes.
    pub const INVALID_LENGTH: u64 = 1 << 32;
    /// Later, perhaps.
    pub const BUSY: u64 = 2 << 32;
    /// Anything else.
    pub const GENERIC: u64 = 0xffff_ffff << 32;
}

/// Page state changes: an operation is in bits 55:52 of an entry.
pub mod page_state {
    pub const PRIVATE: u64 = 1;
    pub const SHARED: u64 = 2;
    pub const PSMASH: u64 = 3;
    pub const UNSMASH: u64 = 4;
    pub const LARGE: u64 = 1 << 56;
    /// The most entries that the buffer in the page holds.
    pub const ENTRIES: u16 = 253;
    pub const HEADER_BYTES: usize = 8;
    pub const BAD_HEADER: u64 = 1 << 32 | 1;
    pub const BAD_ENTRY: u64 = 1 << 32 | 2;
    pub const GENERIC: u64 = 0x100 << 32;
}
