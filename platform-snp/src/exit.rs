// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the processor wrote into the guest's VMSA at its exit, turned into an [`Exit`] (APM vol. 2, 15.36.9 and appendix C).
//!
//! Reflected exits come with a next RIP if an instruction made them. Automatic exits come because the host ran VMPL0 (see
//! `docs/host-contract.md`); of those, some leave RIP behind their instruction. The codes are the processor's word, when the
//! processor has written one: whoever has handled a code overwrites it with [`HANDLED`], so that a spurious entry finds
//! nothing new.

use platform::{Exit, ExitReason, MemoryFault, Reason, SensitiveInstruction};
use platform_shared::exit::{control, debug, exception, io, memory_fault, msr, sensitive};
use specs::sev::{exit as sev, npf as sev_npf};
use specs::svm::exit;

/// What is left in the VMSA of an exit that has been handled: INTR, which wants nothing.
pub(crate) const HANDLED: u64 = exit::INTR;

/// VMGEXIT's length in its plain form.
const VMGEXIT_BYTES: u64 = 4;

/// #MC where the host intercepts it, which it has to (APM vol. 2, 15.36.16): an automatic exit (table 15-33), of the machine below.
const MACHINE_CHECK: u64 = exit::EXCEPTION_0 + 18;

/// #BP and #OF, which the processor lets nobody inject (APM vol. 2, 15.35.5).
const BREAKPOINT: u64 = exit::EXCEPTION_0 + 3;
const OVERFLOW: u64 = exit::EXCEPTION_0 + 4;

/// INVLPGB, INVLPGB with an illegal operand, TLBSYNC (APM vol. 2, appendix C).
const INVLPGB: u64 = 0xa0;
const INVLPGB_ILLEGAL: u64 = 0xa1;
const TLBSYNC: u64 = 0xa4;

/// An exit as the VMSA tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) code: u64,
    pub(crate) info1: u64,
    pub(crate) info2: u64,
    pub(crate) next_rip: u64,
    /// RIP in the VMSA.
    pub(crate) rip: u64,
}

/// What there is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decoded {
    /// The run loop handles it.
    Exit(Exit),
    /// An automatic exit whose instruction has to be handled: RIP goes back to it, so that an exception finds it there.
    Back(Exit, u64),
    /// Private memory that the guest has touched and may not, because it is not validated, or because it is and VMPL2 has no
    /// right to it: perhaps its first touch.
    Withheld { fault: MemoryFault, validated: bool },
    /// Nothing, or nothing that is Parados's business: the host came by.
    Nothing,
}

/// Decodes an exit.
#[inline(always)]
pub(crate) fn decode(record: &Record) -> Decoded {
    let &Record { code, info1, info2, next_rip, rip } = record;
    let instruction = |reason| Decoded::Exit(Exit { reason, next_rip });
    // The hot ones first.
    match code {
        exit::CPUID => instruction(ExitReason::Cpuid),
        exit::IOIO => instruction(io(info1)),
        exit::MSR => instruction(msr(info1)),
        exit::NPF => nested(info1, info2),
        exit::INTR => Decoded::Nothing,
        // An automatic exit: the processor has moved RIP already.
        exit::HLT | sev::IDLE_HLT => Decoded::Exit(Exit { reason: ExitReason::Hlt, next_rip: rip }),
        _ => rare(record),
    }
}

#[inline(never)]
fn rare(record: &Record) -> Decoded {
    let &Record { code, info1, info2, next_rip, rip } = record;
    let plain = |reason| Decoded::Exit(Exit { reason, next_rip: 0 });
    let instruction = |reason| Decoded::Exit(Exit { reason, next_rip });
    match code {
        sev::NOT_VALIDATED => Decoded::Withheld { fault: fault(info1, info2), validated: false },
        exit::CR0_READ..=exit::CR15_WRITE => instruction(control(code)),
        exit::DR0_READ..=exit::DR15_WRITE => instruction(debug(code)),
        // The host's: its machine's errors, interrupts, its own traps of writes that have taken place, its pause filter.
        MACHINE_CHECK | exit::NMI | exit::SMI | exit::INIT | exit::VINTR | exit::PAUSE | sev::BUSLOCK => {
            Decoded::Nothing
        }
        sev::EFER_WRITE_TRAP | sev::CR0_WRITE_TRAP..=sev::CR15_WRITE_TRAP => Decoded::Nothing,
        BREAKPOINT | OVERFLOW => plain(ExitReason::Broken(Reason::UnknownExit, code)),
        exit::EXCEPTION_0..=exit::EXCEPTION_31 => plain(exception(code, info1, info2)),
        exit::XSETBV => instruction(ExitReason::Xsetbv),
        exit::VMMCALL => instruction(ExitReason::Vmmcall),
        exit::SHUTDOWN => plain(ExitReason::Shutdown),
        exit::IDTR_WRITE | exit::GDTR_WRITE | exit::LDTR_WRITE | exit::TR_WRITE => instruction(ExitReason::LoadTable),
        INVLPGB | INVLPGB_ILLEGAL => instruction(ExitReason::Sensitive(SensitiveInstruction::Invlpgb)),
        TLBSYNC => instruction(ExitReason::Sensitive(SensitiveInstruction::Tlbsync)),
        // What a processor without SEV-ES executes as VMMCALL, for the prefix means nothing there.
        sev::VMGEXIT => {
            Decoded::Back(Exit { reason: ExitReason::Vmmcall, next_rip: rip }, rip.wrapping_sub(VMGEXIT_BYTES))
        }
        sev::INVALID => plain(ExitReason::Broken(Reason::InvalidGuestState, info1)),
        // Parados holds the VMSA itself: the host tried to run it.
        sev::BUSY => Decoded::Nothing,
        // INVPCID, MCOMMIT, a fault that cannot be restarted: the host has no business with them.
        _ => sensitive(code).map_or_else(
            || plain(ExitReason::Broken(Reason::UnknownExit, code)),
            |it| instruction(ExitReason::Sensitive(it)),
        ),
    }
}

/// A nested fault: of emulated memory, which the host has marked with a reserved bit, or of memory that only Parados may touch.
/// Any other is the host's to mend.
fn nested(info1: u64, info2: u64) -> Decoded {
    let fault = fault(info1, info2);
    if info1 & sev_npf::VMPL != 0 {
        return Decoded::Withheld { fault, validated: true };
    }
    if info1 & (sev_npf::RESERVED | sev_npf::RMP) == 0 {
        return Decoded::Nothing;
    }
    Decoded::Exit(Exit { reason: ExitReason::Memory(fault), next_rip: 0 })
}

/// EXITINFO2 is taken for the guest-physical address, also of a #VC 404h, whose documents promise only CR2 (*assumed*).
const fn fault(info1: u64, info2: u64) -> MemoryFault {
    memory_fault(info1, info2)
}

#[cfg(test)]
mod tests {
    use platform::*;
    use specs::svm::{ioio, npf};

    use super::*;

    const RIP: u64 = 0xffff_ffff_8100_0000;
    const NEXT: u64 = RIP + 2;

    fn of(code: u64, info1: u64, info2: u64) -> Decoded {
        decode(&Record { code, info1, info2, next_rip: NEXT, rip: RIP })
    }

    fn reason(code: u64, info1: u64, info2: u64) -> (ExitReason, u64) {
        match of(code, info1, info2) {
            Decoded::Exit(exit) => (exit.reason, exit.next_rip),
            other => panic!("{code:#x}: {other:?}"),
        }
    }

    #[test]
    fn reflected_instructions_bring_their_next_rip() {
        use SensitiveInstruction as It;
        let sensitive = [
            (exit::RDTSC, It::Rdtsc),
            (exit::RDTSCP, It::Rdtscp),
            (exit::RDPMC, It::Rdpmc),
            (exit::RDPRU, It::Rdpmc),
            (exit::RSM, It::Rsm),
            (exit::INVD, It::Invd),
            (exit::WBINVD, It::Wbinvd),
            (exit::MONITOR, It::Monitor),
            (exit::MWAIT, It::Mwait),
            (exit::MWAIT_ARMED, It::Mwait),
            (exit::ICEBP, It::Icebp),
            (0xa0, It::Invlpgb),
            (0xa1, It::Invlpgb),
            (0xa4, It::Tlbsync),
            (exit::VMRUN, It::Svm),
            (exit::VMLOAD, It::Svm),
            (exit::VMSAVE, It::Svm),
            (exit::STGI, It::Svm),
            (exit::CLGI, It::Svm),
            (exit::INVLPGA, It::Svm),
            (exit::SKINIT, It::Svm),
        ];
        for (code, it) in sensitive {
            assert_eq!(reason(code, 0, 0), (ExitReason::Sensitive(it), NEXT), "{code:#x}");
        }
        assert_eq!(reason(exit::CPUID, 0, 0), (ExitReason::Cpuid, NEXT));
        assert_eq!(reason(exit::XSETBV, 0, 0), (ExitReason::Xsetbv, NEXT));
        assert_eq!(reason(exit::VMMCALL, 0, 0), (ExitReason::Vmmcall, NEXT));
        for (info1, direction) in [(0, Direction::Read), (1, Direction::Write)] {
            assert_eq!(reason(exit::MSR, info1, 0), (ExitReason::Msr(MsrAccess { direction }), NEXT));
        }
        for code in [exit::IDTR_WRITE, exit::GDTR_WRITE, exit::LDTR_WRITE, exit::TR_WRITE] {
            assert_eq!(reason(code, 0, 0), (ExitReason::LoadTable, NEXT), "{code:#x}");
        }
    }

    #[test]
    fn port_accesses_are_taken_apart() {
        let access = |info1| match reason(exit::IOIO, info1, 0) {
            (ExitReason::Io(access), NEXT) => access,
            other => panic!("{other:?}"),
        };
        let read = access(0x0071_0000 | ioio::IN | ioio::SIZE_8 | 1 << 9);
        assert_eq!((read.port, read.width, read.direction), (0x71, IoWidth::Byte, Direction::Read));
        assert!(!read.string && !read.repeat);
        let string = access(0xffff_0000 | ioio::SIZE_32 | ioio::STRING | ioio::REPEAT | 3 << 10);
        assert_eq!((string.port, string.width, string.direction), (0xffff, IoWidth::Dword, Direction::Write));
        assert!(string.string && string.repeat);
        assert_eq!(access(ioio::SIZE_16).width, IoWidth::Word);
    }

    #[test]
    fn automatic_exits_have_moved_rip_already() {
        assert_eq!(reason(exit::HLT, 0, 0), (ExitReason::Hlt, RIP));
        assert_eq!(reason(0xa6, 0, 0), (ExitReason::Hlt, RIP));
        let exit = Exit { reason: ExitReason::Vmmcall, next_rip: RIP };
        assert_eq!(of(sev::VMGEXIT, 0, 0), Decoded::Back(exit, RIP - 4));
        assert_eq!(reason(exit::SHUTDOWN, 0, 0), (ExitReason::Shutdown, 0));
    }

    /// A machine check of the host's was injected into the guest.
    #[test]
    fn what_is_the_hosts_is_nothing() {
        let codes =
            [HANDLED, 0x52, exit::NMI, exit::SMI, exit::INIT, exit::VINTR, exit::PAUSE, 0xa5, 0x8f, u64::MAX - 1];
        for code in codes.into_iter().chain(0x90..=0x9f) {
            assert_eq!(of(code, 0, 0), Decoded::Nothing, "{code:#x}");
        }
        assert_eq!(of(exit::NPF, npf::WRITE, 0x1000), Decoded::Nothing, "a fault that the host mends");
    }

    #[test]
    fn a_state_that_the_processor_refuses_ends_the_vm() {
        assert_eq!(reason(u64::MAX, 7, 0), (ExitReason::Broken(Reason::InvalidGuestState, 7), 0));
    }

    #[test]
    fn nested_faults_of_ours_are_memory() {
        let gpa = Some(Gpa(0xfee0_0300));
        let memory = |access, table_walk| ExitReason::Memory(MemoryFault { gpa, gva: None, access, table_walk });
        let of = |bits| reason(exit::NPF, bits, 0xfee0_0300);
        assert_eq!(of(sev_npf::RESERVED), (memory(Access::Read, false), 0));
        assert_eq!(of(sev_npf::RESERVED | npf::WRITE), (memory(Access::Write, false), 0));
        assert_eq!(of(sev_npf::RESERVED | npf::WRITE | npf::TABLE_WALK), (memory(Access::Write, true), 0));
        assert_eq!(of(sev_npf::RMP), (memory(Access::Read, false), 0), "memory that was never assigned");
    }

    #[test]
    fn memory_that_is_not_validated_is_told_apart() {
        let fault = MemoryFault { gpa: Some(Gpa(0x1234)), gva: None, access: Access::Write, table_walk: false };
        assert_eq!(of(0x404, npf::WRITE, 0x1234), Decoded::Withheld { fault, validated: false });
        let fault = MemoryFault { access: Access::Fetch, ..fault };
        let withheld = of(exit::NPF, sev_npf::VMPL | npf::FETCH, 0x1234);
        assert_eq!(withheld, Decoded::Withheld { fault, validated: true });
    }

    #[test]
    fn registers_are_named_and_their_operand_is_read_from_the_code() {
        let control = |code| match reason(code, 0xf, 0) {
            (reason, NEXT) => reason,
            other => panic!("{code:#x}: {other:?}"),
        };
        let access = |register, direction| ExitReason::Control(ControlAccess { register, direction, operand: None });
        use Control::{Cr0, Cr2, Cr3, Cr4, Cr8};
        for (code, register) in [(0, Cr0), (2, Cr2), (3, Cr3), (4, Cr4), (8, Cr8)] {
            assert_eq!(control(code), access(register, Direction::Read));
            assert_eq!(control(0x10 + code), access(register, Direction::Write));
        }
        assert_eq!(control(0x01), ExitReason::Broken(Reason::UnknownExit, 1));
        let debug = DebugAccess { register: 7, direction: Direction::Write, operand: None };
        assert_eq!(reason(0x37, 2, 0), (ExitReason::Debug(debug), NEXT));
        let debug = DebugAccess { register: 7, direction: Direction::Read, operand: None };
        assert_eq!(reason(0x27, 2, 0), (ExitReason::Debug(debug), NEXT));
    }

    #[test]
    fn exceptions_keep_code_and_address() {
        assert_eq!(
            reason(0x4e, 0x7, 0xdead).0,
            ExitReason::Exception(Exception { vector: 14, error_code: Some(7), fault_address: Some(0xdead) })
        );
        assert_eq!(
            reason(0x41, 0x7, 0xdead).0,
            ExitReason::Exception(Exception { vector: 1, error_code: None, fault_address: None })
        );
        // APM vol. 2, table 8-1, without those of features that no guest has.
        let has_code = |vector: &u64| match of(0x40 + vector, 7, 0) {
            Decoded::Exit(Exit { reason: ExitReason::Exception(exception), .. }) => exception.error_code == Some(7),
            _ => false,
        };
        assert_eq!((0..28).filter(has_code).collect::<Vec<_>>(), [8, 10, 11, 12, 13, 14, 17]);
    }

    /// They were injected, and the VM ended as if its guest's state were wrong.
    #[test]
    fn intercepts_of_what_cannot_be_injected_end_the_vm_as_such() {
        for code in [0x43, 0x44] {
            assert_eq!(reason(code, 0, 0), (ExitReason::Broken(Reason::UnknownExit, code), 0));
        }
    }

    #[test]
    fn no_code_is_without_an_answer() {
        let mut unknown = 0;
        for code in (0..0x500).chain([u64::MAX, u64::MAX - 1, u64::MAX - 2, 1 << 40]) {
            if let Decoded::Exit(Exit { reason: ExitReason::Broken(reason, _), .. }) = of(code, 0, 0) {
                let expected = if code == u64::MAX { Reason::InvalidGuestState } else { Reason::UnknownExit };
                assert_eq!(reason, expected, "{code:#x}");
                unknown += 1;
            }
        }
        assert!(unknown > 800, "codes that do not exist end the VM");
    }
}
