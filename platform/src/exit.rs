// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a guest stopped running, decoded once by the backend into plain data.
//!
//! The names follow the SVM intercepts, which the #VC codes of SEV-ES share (APM vol. 2, appendix C). A TDX backend
//! translates VMX exit reasons into them.

use crate::{Control, Gpa, Gpr, Gva, Reason};

/// A guest exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// What the guest did.
    pub reason: ExitReason,
    /// For an instruction: the RIP that follows it; zero if the platform cannot tell. Zero where `reason` is not an
    /// instruction's exit.
    pub next_rip: u64,
}

/// What made the guest exit. The first group is instructions, and [`Exit::next_rip`] is valid for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitReason {
    /// CPUID.
    Cpuid,
    /// RDMSR or WRMSR; index in RCX, value in RDX:RAX.
    Msr(MsrAccess),
    /// IN, OUT, INS or OUTS.
    Io(IoAccess),
    /// HLT.
    Hlt,
    /// MOV to or from a control register, CLTS or LMSW, where the platform intercepts them.
    Control(ControlAccess),
    /// MOV to or from a debug register, where the platform intercepts it.
    Debug(DebugAccess),
    /// LGDT, LIDT, LLDT or LTR, where the platform intercepts them.
    LoadTable,
    /// XSETBV; index in RCX, value in RDX:RAX.
    Xsetbv,
    /// VMMCALL (or VMCALL): a hypercall.
    Vmmcall,
    /// An instruction that has one fixed answer.
    Sensitive(SensitiveInstruction),

    /// A memory access that the page-state table traps or that hit nothing. [`Exit::next_rip`] is not valid.
    Memory(MemoryFault),
    /// The guest raised an exception that the platform intercepts. It has not been delivered.
    Exception(crate::Exception),
    /// A host interrupt or a kick arrived; [`crate::HostEvents`] has it. Nothing about the guest changed.
    HostInterrupt,
    /// The guest can now take the interrupt for which a window was requested.
    InterruptWindow,
    /// The guest can now take an NMI again.
    NmiWindow,
    /// The guest triple-faulted.
    Shutdown,
    /// The processor received INIT as a guest.
    Init,
    /// The entry itself failed or the platform broke its contract; ends the VM.
    Broken(Reason, u64),
}

/// Which way data moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the device or register into the guest.
    Read,
    /// From the guest out.
    Write,
}

/// RDMSR or WRMSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsrAccess {
    /// RDMSR is a read.
    pub direction: Direction,
}

/// The operand size of a port access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum IoWidth {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
}

impl IoWidth {
    /// The size in bytes: 1, 2 or 4.
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// All bits of this width set: what absent hardware reads as.
    pub const fn ones(self) -> u32 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Dword => 0xffff_ffff,
        }
    }
}

/// IN, OUT, INS or OUTS, as the hardware describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoAccess {
    /// The port.
    pub port: u16,
    /// Operand size.
    pub width: IoWidth,
    /// IN and INS read.
    pub direction: Direction,
    /// INS or OUTS. Address size, segment and repeat count come from the instruction's own bytes.
    pub string: bool,
    /// A REP prefix is present.
    pub repeat: bool,
}

/// MOV to or from a control register. The operand is not decoded where the platform does not do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlAccess {
    /// The control register.
    pub register: Control,
    /// A MOV to the register is a write.
    pub direction: Direction,
    /// The general-purpose register of the MOV, if the platform decoded it.
    pub operand: Option<Gpr>,
}

/// MOV to or from a debug register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebugAccess {
    /// 0–7.
    pub register: u8,
    /// A MOV to the register is a write.
    pub direction: Direction,
    /// The general-purpose register of the MOV, if the platform decoded it.
    pub operand: Option<Gpr>,
}

/// Instructions that a guest may execute but that need no operand: each has one fixed answer.
#[allow(missing_docs, reason = "instruction mnemonics")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SensitiveInstruction {
    Wbinvd,
    Invd,
    Monitor,
    Mwait,
    Rdpmc,
    Rdtsc,
    Rdtscp,
    Pause,
    Rsm,
    /// INT1, opcode F1h: a debug trap.
    Icebp,
    Invlpgb,
    Tlbsync,
    /// VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT or INVLPGA.
    Svm,
}

/// What an access wanted to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read data.
    Read,
    /// Write data.
    Write,
    /// Fetch an instruction.
    Fetch,
}

/// A guest memory access that hardware could not complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryFault {
    /// The guest-physical address, where the platform tells it (an SNP not-validated #VC promises only the virtual one).
    pub gpa: Option<Gpa>,
    /// The guest-virtual address, where the platform tells it.
    pub gva: Option<Gva>,
    /// What was attempted.
    pub access: Access,
    /// The fault hit the processor's own walk of the guest's page tables, not the final access.
    pub table_walk: bool,
}
