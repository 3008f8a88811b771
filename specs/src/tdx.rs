// SPDX-License-Identifier: MIT OR Apache-2.0
//! Intel TDX, as far as it is used: leaves of TDCALL, their status, and what a TD asks its host through TDG.VP.VMCALL.
//!
//! Sources: TDXABI (TDG leaves, status codes), GHCI (functions of TDG.VP.VMCALL).

/// The instruction's bytes.
pub const TDCALL: [u8; 4] = [0x66, 0x0f, 0x01, 0xcc];

/// RAX at TDCALL (TDXABI, guest-side leaf numbers).
pub mod leaf {
    /// TDG.VP.VMCALL: RCX says which registers the host sees and sets.
    pub const VP_VMCALL: u64 = 0;
    /// TDG.VP.INFO: RCX bits 5:0 the width of guest-physical addresses, RDX ATTRIBUTES, R8 the processors in bits 31:0 and how many
    /// there can be in 63:32, R9 bits 31:0 this one's index.
    pub const VP_INFO: u64 = 1;
    /// TDG.MEM.PAGE.ACCEPT: RCX the address, in bits 2:0 the level.
    pub const MEM_PAGE_ACCEPT: u64 = 6;
}

/// Bits 63:32 of RAX after TDCALL (TDXABI, status codes).
pub mod status {
    /// Done.
    pub const SUCCESS: u32 = 0;
    /// The page was private memory before, and is as it was.
    pub const PAGE_ALREADY_ACCEPTED: u32 = 0x0000_0b0a;
    /// An operand, which bits 31:0 name.
    pub const OPERAND_INVALID: u32 = 0xc000_0100;
    /// The host has smaller pages there.
    pub const PAGE_SIZE_MISMATCH: u32 = 0xc000_0b0b;
}

/// Bits of ATTRIBUTES (TDXABI, TD attributes).
pub mod attribute {
    /// The host can read and write private memory and registers.
    pub const DEBUG: u64 = 1 << 0;
    /// An access to a page that is not accepted goes to the host instead of raising #VE.
    pub const SEPT_VE_DISABLE: u64 = 1 << 28;
    /// A migration TD may take the TD elsewhere.
    pub const MIGRATABLE: u64 = 1 << 29;
}

/// R11 at TDG.VP.VMCALL, where R10 is zero (GHCI, 3).
pub mod vmcall {
    /// HLT: R12 is 1 if interrupts are off.
    pub const HLT: u64 = 12;
    /// A port: R12 the bytes, R13 1 to write, R14 the port, R15 the value.
    pub const IO: u64 = 30;
    /// The end: R12 a code, the message in eight further registers.
    pub const REPORT_FATAL_ERROR: u64 = 0x1_0003;
    /// RCX: R10 to R15 are the host's to see and set.
    pub const R10_TO_R15: u64 = 0xfc00;
}

/// The first state of every processor of a TD (TDXBASE, initial state of TD vCPUs; the values are the module's, td_vmcs_init.c): 32-bit
/// protected mode, flat segments, no paging.
pub mod initial {
    /// RIP.
    pub const RIP: u64 = 0xffff_fff0;
    /// NE, PE.
    pub const CR0: u64 = 0x21;
    /// VMXE, MCE.
    pub const CR4: u64 = 0x2040;
    /// NXE, LME, SCE.
    pub const EFER: u64 = 0x901;
}
