// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the instruction at RIP can have caused the exit that the platform reported.
//!
//! Hostile party: the guest, whose other processors rewrite the code between the exit and our look at it. What stands
//! there then is for the processor to execute, with an exit of its own if it needs one.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use platform::{Direction, ExitReason, IoAccess, SensitiveInstruction};

/// Whether `instruction` exits for `reason`. Which register MOV and others access is
/// the handlers' to check.
pub(super) fn fits(reason: &ExitReason, instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let it = instruction.mnemonic();
    match reason {
        ExitReason::Cpuid => it == M::Cpuid,
        ExitReason::Msr(access) => match access.direction {
            Direction::Read => it == M::Rdmsr,
            Direction::Write => it == M::Wrmsr,
        },
        ExitReason::Io(access) => port(access, instruction),
        ExitReason::Hlt => it == M::Hlt,
        ExitReason::Control(_) => {
            matches!(it, M::Clts | M::Lmsw | M::Smsw) || it == M::Mov && registers(instruction).any(|it| it.is_cr())
        }
        ExitReason::Debug(_) => it == M::Mov && registers(instruction).any(|it| it.is_dr()),
        ExitReason::LoadTable => matches!(it, M::Lgdt | M::Lidt | M::Lldt | M::Ltr),
        ExitReason::Xsetbv => it == M::Xsetbv,
        // QEMU's processor takes VMGEXIT for VMMCALL.
        ExitReason::Vmmcall => matches!(it, M::Vmmcall | M::Vmcall | M::Vmgexit),
        ExitReason::Sensitive(sensitive) => self::sensitive(*sensitive, it),
        ExitReason::Memory(_)
        | ExitReason::Exception(_)
        | ExitReason::HostInterrupt
        | ExitReason::InterruptWindow
        | ExitReason::NmiWindow
        | ExitReason::Shutdown
        | ExitReason::Init
        | ExitReason::Broken(..) => true,
    }
}

fn registers(instruction: &Instruction) -> impl Iterator<Item = Register> {
    [instruction.op0_register(), instruction.op1_register()].into_iter()
}

/// IN or OUT; INS and OUTS, which exit for each element, have a check of their own.
fn port(access: &IoAccess, instruction: &Instruction) -> bool {
    let (wanted, width) = match access.direction {
        Direction::Read => (Mnemonic::In, instruction.op0_register()),
        Direction::Write => (Mnemonic::Out, instruction.op1_register()),
    };
    let number = match access.direction {
        Direction::Read => 1,
        Direction::Write => 0,
    };
    let immediate = instruction.op_kind(number) == OpKind::Immediate8;
    let same_port = !immediate || u16::from(instruction.immediate8()) == access.port;
    access.string || instruction.mnemonic() == wanted && width.size() == access.width.bytes() && same_port
}

fn sensitive(sensitive: SensitiveInstruction, it: Mnemonic) -> bool {
    use Mnemonic as M;
    match sensitive {
        // QEMU 7.2 reports INVD as WBINVD. Both do nothing, so nothing is gained by telling one as the other.
        SensitiveInstruction::Wbinvd | SensitiveInstruction::Invd => matches!(it, M::Wbinvd | M::Wbnoinvd | M::Invd),
        SensitiveInstruction::Monitor => matches!(it, M::Monitor | M::Monitorx),
        SensitiveInstruction::Mwait => matches!(it, M::Mwait | M::Mwaitx),
        // RDPRU is answered like it.
        SensitiveInstruction::Rdpmc => matches!(it, M::Rdpmc | M::Rdpru),
        SensitiveInstruction::Rdtsc => it == M::Rdtsc,
        SensitiveInstruction::Rdtscp => it == M::Rdtscp,
        SensitiveInstruction::Pause => it == M::Pause,
        SensitiveInstruction::Rsm => it == M::Rsm,
        SensitiveInstruction::Icebp => it == M::Int1,
        SensitiveInstruction::Invlpgb => it == M::Invlpgb,
        SensitiveInstruction::Tlbsync => it == M::Tlbsync,
        SensitiveInstruction::Svm => {
            matches!(it, M::Vmrun | M::Vmload | M::Vmsave | M::Stgi | M::Clgi | M::Skinit | M::Invlpga)
        }
    }
}
