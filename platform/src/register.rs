// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's registers, by the names of the architecture manuals.

use bitflags::bitflags;

/// A general-purpose register, numbered as in instruction encodings (APM vol. 3, table 1-8).
#[allow(missing_docs, reason = "the architecture's own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl Gpr {
    /// All sixteen, in encoding order.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The register with this number in an instruction encoding; only the low four bits count.
    pub const fn from_encoding(number: u8) -> Self {
        // The mask keeps the index within the array.
        #[allow(clippy::indexing_slicing, reason = "index masked to 0..16")]
        Self::ALL[(number & 15) as usize]
    }
}

/// A segment register, or one of the two system segments. The order is the VMSA's (APM vol. 2, table B-4).
#[allow(missing_docs, reason = "the architecture's own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SegmentRegister {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

bitflags! {
    /// Segment attributes in the compressed form of the VMCB (APM vol. 2, 15.5.1): descriptor bits 40–47 in bits 0–7,
    /// bits 52–55 in bits 8–11.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SegmentAttributes: u16 {
        /// Type: accessed.
        const ACCESSED = 1 << 0;
        /// Type: writable data, or readable code.
        const READ_WRITE = 1 << 1;
        /// Type: expand-down data, or conforming code.
        const EXPAND_DOWN = 1 << 2;
        /// Type: code.
        const CODE = 1 << 3;
        /// A code or data segment rather than a system segment.
        const USER = 1 << 4;
        /// Descriptor privilege level, low bit.
        const DPL_LOW = 1 << 5;
        /// Descriptor privilege level, high bit.
        const DPL_HIGH = 1 << 6;
        /// Present.
        const PRESENT = 1 << 7;
        /// Available to software.
        const AVAILABLE = 1 << 8;
        /// 64-bit code.
        const LONG = 1 << 9;
        /// 32-bit operands and addresses (D), or a 32-bit stack (B).
        const DEFAULT_BIG = 1 << 10;
        /// The limit counts 4 KiB units in the descriptor; [`Segment::limit`] is already in bytes.
        const GRANULARITY = 1 << 11;
        const _ = !0;
    }
}

/// A segment register with its hidden part. `limit` is in bytes, scaled by the granularity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the architecture's own names")]
pub struct Segment {
    pub selector: u16,
    pub attributes: SegmentAttributes,
    pub limit: u32,
    pub base: u64,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the architecture's own names")]
pub struct DescriptorTable {
    pub base: u64,
    pub limit: u16,
}

/// A register that locates a descriptor table.
#[allow(missing_docs, reason = "the architecture's own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableRegister {
    Gdtr,
    Idtr,
}

/// A control register that the guest's code can name. CR8 is the LAPIC's task priority, bits 7:4.
#[allow(missing_docs, reason = "the architecture's own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
}

/// An MSR whose value the processor keeps for the guest, so that only the backend can reach it.
///
/// All other MSRs are emulated above the HAL, from one table for all platforms.
#[allow(missing_docs, reason = "the architecture's own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwitchedMsr {
    Efer,
    Star,
    Lstar,
    Cstar,
    Sfmask,
    KernelGsBase,
    FsBase,
    GsBase,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Pat,
    TscAux,
    DebugCtl,
}

/// What address translation and privilege checks need, read at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the architecture's own names")]
pub struct SystemRegisters {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub rflags: u64,
    /// Current privilege level, 0–3.
    pub cpl: u8,
    /// Protection-key rights for user pages; zero where the platform hides protection keys.
    pub pkru: u32,
}
