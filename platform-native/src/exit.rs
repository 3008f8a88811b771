// SPDX-License-Identifier: MIT OR Apache-2.0
//! SVM exit codes to [`ExitReason`]s (APM vol. 2, appendix C).
//!
//! QEMU stores no next RIP, so only a port access, whose EXITINFO2 holds it, comes with one; for the others the core reads
//! the instruction, which must then agree with the code.

use platform::{
    Access, Control, ControlAccess, DebugAccess, Direction, Exception, Exit, ExitReason, Gpa, IoAccess, IoWidth,
    MemoryFault, MsrAccess, Reason, SensitiveInstruction,
};
use specs::svm::{exit, ioio, npf};

/// Bits of EXITINFO2 that QEMU leaves in a nested fault's address although no four-level walk uses them.
const GPA_MASK: u64 = (1 << 48) - 1;

/// Decodes an exit. `info1` and `info2` are EXITINFO1 and EXITINFO2.
#[inline(always)]
pub(crate) fn decode(code: u64, info1: u64, info2: u64) -> Exit {
    // The hot ones first.
    let reason = match code {
        exit::CPUID => ExitReason::Cpuid,
        exit::IOIO => return Exit { reason: io(info1), next_rip: info2 },
        exit::MSR => ExitReason::Msr(MsrAccess { direction: direction(info1 & 1 != 0) }),
        exit::NPF => memory(info1, info2),
        exit::INTR | exit::NMI | exit::SMI => ExitReason::HostInterrupt,
        exit::HLT => ExitReason::Hlt,
        exit::VINTR => ExitReason::InterruptWindow,
        _ => rare(code, info1, info2),
    };
    Exit { reason, next_rip: 0 }
}

#[inline(never)]
fn rare(code: u64, info1: u64, info2: u64) -> ExitReason {
    use SensitiveInstruction as Instruction;
    match code {
        exit::CR0_READ..=exit::CR15_WRITE => control(code),
        exit::DR0_READ..=exit::DR15_WRITE => ExitReason::Debug(DebugAccess {
            register: code as u8 & 7,
            direction: direction(code & 0x10 != 0),
            operand: None,
        }),
        exit::EXCEPTION_0..=exit::EXCEPTION_31 => exception((code - exit::EXCEPTION_0) as u8, info1, info2),
        exit::XSETBV => ExitReason::Xsetbv,
        exit::VMMCALL => ExitReason::Vmmcall,
        exit::SHUTDOWN => ExitReason::Shutdown,
        exit::INIT => ExitReason::Init,
        exit::IDTR_WRITE | exit::GDTR_WRITE | exit::LDTR_WRITE | exit::TR_WRITE => ExitReason::LoadTable,
        exit::ICEBP => ExitReason::Sensitive(Instruction::Icebp),
        exit::RDTSC => ExitReason::Sensitive(Instruction::Rdtsc),
        exit::RDTSCP => ExitReason::Sensitive(Instruction::Rdtscp),
        exit::RDPMC | exit::RDPRU => ExitReason::Sensitive(Instruction::Rdpmc),
        exit::RSM => ExitReason::Sensitive(Instruction::Rsm),
        exit::INVD => ExitReason::Sensitive(Instruction::Invd),
        exit::WBINVD => ExitReason::Sensitive(Instruction::Wbinvd),
        exit::PAUSE => ExitReason::Sensitive(Instruction::Pause),
        exit::MONITOR => ExitReason::Sensitive(Instruction::Monitor),
        exit::MWAIT | exit::MWAIT_ARMED => ExitReason::Sensitive(Instruction::Mwait),
        exit::INVLPGA | exit::VMRUN | exit::VMLOAD | exit::VMSAVE | exit::STGI | exit::CLGI | exit::SKINIT => {
            ExitReason::Sensitive(Instruction::Svm)
        }
        _ if code & 0xffff_ffff == exit::INVALID_LOW => ExitReason::Broken(Reason::InvalidGuestState, 0),
        _ => ExitReason::Broken(Reason::UnknownExit, code),
    }
}

const fn direction(write: bool) -> Direction {
    if write { Direction::Write } else { Direction::Read }
}

fn control(code: u64) -> ExitReason {
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

fn exception(vector: u8, info1: u64, info2: u64) -> ExitReason {
    ExitReason::Exception(Exception {
        vector,
        error_code: matches!(vector, 8 | 10..=14 | 17).then_some(info1 as u32),
        fault_address: (vector == 14).then_some(info2),
    })
}

fn io(info1: u64) -> ExitReason {
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

fn memory(info1: u64, info2: u64) -> ExitReason {
    let access = if info1 & npf::FETCH != 0 {
        Access::Fetch
    } else if info1 & npf::WRITE != 0 {
        Access::Write
    } else {
        Access::Read
    };
    let table_walk = info1 & npf::TABLE_WALK != 0;
    ExitReason::Memory(MemoryFault { gpa: Some(Gpa(info2 & GPA_MASK)), gva: None, access, table_walk })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_read_carries_its_next_rip() {
        let exit = decode(exit::IOIO, 0x0071_0000 | ioio::SIZE_8 | ioio::IN, 0x1234);
        let access =
            IoAccess { port: 0x71, width: IoWidth::Byte, direction: Direction::Read, string: false, repeat: false };
        assert_eq!(exit, Exit { reason: ExitReason::Io(access), next_rip: 0x1234 });
    }

    #[test]
    fn a_string_write_says_so() {
        let ExitReason::Io(access) =
            decode(exit::IOIO, 0x03f8_0000 | ioio::SIZE_16 | ioio::STRING | ioio::REPEAT, 0).reason
        else {
            panic!("not a port access")
        };
        assert_eq!((access.width, access.direction), (IoWidth::Word, Direction::Write));
        assert!(access.string && access.repeat);
    }

    #[test]
    fn a_nested_fault_tells_what_was_tried() {
        let fault = |info1| match decode(exit::NPF, info1, 0xfee0_0030).reason {
            ExitReason::Memory(fault) => (fault.gpa, fault.access, fault.table_walk),
            other => panic!("{other:?}"),
        };
        let gpa = Some(Gpa(0xfee0_0030));
        assert_eq!(fault(1 << 32 | 4), (gpa, Access::Read, false));
        assert_eq!(fault(1 << 32 | 6), (gpa, Access::Write, false));
        assert_eq!(fault(1 << 32 | 0x14), (gpa, Access::Fetch, false));
        assert_eq!(fault(1 << 33 | 6), (gpa, Access::Write, true));
    }

    #[test]
    fn what_qemu_gets_wrong_is_ours() {
        for code in [exit::IDTR_WRITE, exit::GDTR_WRITE, exit::LDTR_WRITE, exit::TR_WRITE] {
            assert_eq!(decode(code, 0, 0).reason, ExitReason::LoadTable);
        }
        assert_eq!(decode(exit::ICEBP, 0, 0).reason, ExitReason::Sensitive(SensitiveInstruction::Icebp));
    }

    #[test]
    fn an_exit_that_cannot_happen_is_broken_not_ignored() {
        assert_eq!(decode(0x999, 0, 0).reason, ExitReason::Broken(Reason::UnknownExit, 0x999));
        for invalid in [0xffff_ffff, u64::MAX] {
            assert_eq!(decode(invalid, 0, 0).reason, ExitReason::Broken(Reason::InvalidGuestState, 0));
        }
    }

    #[test]
    fn every_code_decodes_to_something() {
        for code in 0..0x500 {
            decode(code, u64::MAX, u64::MAX);
        }
    }
}
