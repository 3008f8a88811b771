// SPDX-License-Identifier: MIT OR Apache-2.0
//! SVM exit codes to [`ExitReason`]s (APM vol. 2, appendix C).
//!
//! QEMU stores no next RIP, so only a port access, whose EXITINFO2 holds it, comes with one; for the others the core reads
//! the instruction, which must then agree with the code.

use platform::{Exit, ExitReason, Reason};
use platform_shared::exit::{control, debug, exception, io, memory_fault, msr, sensitive};
use specs::svm::exit;

/// Bits of EXITINFO2 that QEMU leaves in a nested fault's address although no four-level walk uses them.
const GPA_MASK: u64 = (1 << 48) - 1;

/// Decodes an exit. `info1` and `info2` are EXITINFO1 and EXITINFO2.
#[inline(always)]
pub(crate) fn decode(code: u64, info1: u64, info2: u64) -> Exit {
    // The hot ones first.
    let reason = match code {
        exit::CPUID => ExitReason::Cpuid,
        exit::IOIO => return Exit { reason: io(info1), next_rip: info2 },
        exit::MSR => msr(info1),
        exit::NPF => ExitReason::Memory(memory_fault(info1, info2 & GPA_MASK)),
        exit::INTR | exit::NMI | exit::SMI => ExitReason::HostInterrupt,
        exit::HLT => ExitReason::Hlt,
        exit::VINTR => ExitReason::InterruptWindow,
        _ => rare(code, info1, info2),
    };
    Exit { reason, next_rip: 0 }
}

#[inline(never)]
fn rare(code: u64, info1: u64, info2: u64) -> ExitReason {
    match code {
        exit::CR0_READ..=exit::CR15_WRITE => control(code),
        exit::DR0_READ..=exit::DR15_WRITE => debug(code),
        exit::EXCEPTION_0..=exit::EXCEPTION_31 => exception(code, info1, info2),
        exit::XSETBV => ExitReason::Xsetbv,
        exit::VMMCALL => ExitReason::Vmmcall,
        exit::SHUTDOWN => ExitReason::Shutdown,
        exit::INIT => ExitReason::Init,
        exit::IDTR_WRITE | exit::GDTR_WRITE | exit::LDTR_WRITE | exit::TR_WRITE => ExitReason::LoadTable,
        _ if code & 0xffff_ffff == exit::INVALID_LOW => ExitReason::Broken(Reason::InvalidGuestState, 0),
        _ => sensitive(code).map_or(ExitReason::Broken(Reason::UnknownExit, code), ExitReason::Sensitive),
    }
}

#[cfg(test)]
mod tests {
    use platform::*;
    use specs::svm::ioio;

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
