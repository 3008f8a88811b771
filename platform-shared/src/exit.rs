// SPDX-License-Identifier: MIT OR Apache-2.0
//! SVM's exit information, as far as a VMCB and a VMSA have it in common (APM vol. 2, appendix C).

use platform::{
    Access, Control, ControlAccess, DebugAccess, Direction, Exception, ExitReason, Gpa, IoAccess, IoWidth, MemoryFault,
    MsrAccess, Reason, SensitiveInstruction,
};
use specs::svm::{exit, ioio, npf};

const fn direction(write: bool) -> Direction {
    if write { Direction::Write } else { Direction::Read }
}

/// RDMSR or WRMSR.
#[inline(always)]
pub const fn msr(info1: u64) -> ExitReason {
    ExitReason::Msr(MsrAccess { direction: direction(info1 & 1 != 0) })
}

/// An access to a port.
#[inline(always)]
pub const fn io(info1: u64) -> ExitReason {
    let width = if info1 & ioio::SIZE_32 != 0 {
        IoWidth::Dword
    } else if info1 & ioio::SIZE_16 != 0 {
        IoWidth::Word
    } else {
        IoWidth::Byte
    };
    ExitReason::Io(IoAccess {
        port: (info1 >> ioio::PORT_SHIFT) as u16,
        width,
        direction: direction(info1 & ioio::IN == 0),
        string: info1 & ioio::STRING != 0,
        repeat: info1 & ioio::REPEAT != 0,
    })
}

/// A fault in the nested tables at `gpa`.
#[inline(always)]
pub const fn memory_fault(info1: u64, gpa: u64) -> MemoryFault {
    let access = if info1 & npf::FETCH != 0 {
        Access::Fetch
    } else if info1 & npf::WRITE != 0 {
        Access::Write
    } else {
        Access::Read
    };
    MemoryFault { gpa: Some(Gpa(gpa)), gva: None, access, table_walk: info1 & npf::TABLE_WALK != 0 }
}

/// MOV to or from the control register of this code.
pub const fn control(code: u64) -> ExitReason {
    let register = match code & 0xf {
        0 => Control::Cr0,
        2 => Control::Cr2,
        3 => Control::Cr3,
        4 => Control::Cr4,
        8 => Control::Cr8,
        _ => return ExitReason::Broken(Reason::UnknownExit, code),
    };
    ExitReason::Control(ControlAccess { register, direction: direction(code & 0x10 != 0), operand: None })
}

/// MOV to or from the debug register of this code.
pub const fn debug(code: u64) -> ExitReason {
    let direction = direction(code & 0x10 != 0);
    ExitReason::Debug(DebugAccess { register: code as u8 & 7, direction, operand: None })
}

/// The exception of this code.
pub fn exception(code: u64, info1: u64, info2: u64) -> ExitReason {
    let vector = code.wrapping_sub(exit::EXCEPTION_0) as u8;
    ExitReason::Exception(Exception {
        vector,
        error_code: matches!(vector, 8 | 10..=14 | 17).then_some(info1 as u32),
        fault_address: (vector == 14).then_some(info2),
    })
}

/// The instruction that is intercepted with this code, if it is one that needs no more than its name.
pub const fn sensitive(code: u64) -> Option<SensitiveInstruction> {
    use SensitiveInstruction as Instruction;
    Some(match code {
        exit::ICEBP => Instruction::Icebp,
        exit::RDTSC => Instruction::Rdtsc,
        exit::RDTSCP => Instruction::Rdtscp,
        exit::RDPMC | exit::RDPRU => Instruction::Rdpmc,
        exit::RSM => Instruction::Rsm,
        exit::INVD => Instruction::Invd,
        exit::WBINVD => Instruction::Wbinvd,
        exit::PAUSE => Instruction::Pause,
        exit::MONITOR => Instruction::Monitor,
        exit::MWAIT | exit::MWAIT_ARMED => Instruction::Mwait,
        exit::INVLPGA | exit::VMRUN | exit::VMLOAD | exit::VMSAVE | exit::STGI | exit::CLGI | exit::SKINIT => {
            Instruction::Svm
        }
        _ => return None,
    })
}
