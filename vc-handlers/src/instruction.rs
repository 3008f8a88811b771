// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instructions with one fixed answer.
//!
//! The processor checks the privilege level before it looks at most of these intercepts (APM vol. 2, 15.9), but not every
//! backend's hardware is SVM, so the checks are made again.

use platform::{Clock, Exception, Gpr, GuestCpu, SensitiveInstruction, SwitchedMsr};

use crate::control::cr4;
use crate::{Env, Outcome, VcpuContext};

/// RFLAGS (APM vol. 2, 3.1.6).
pub(crate) const RFLAGS_RF: u64 = 1 << 16;

/// HLT.
pub(crate) fn hlt(next_rip: u64, cpu: &impl GuestCpu) -> Outcome {
    privileged(cpu, Outcome::Wait(next_rip))
}

/// The others.
pub(crate) fn sensitive(
    instruction: SensitiveInstruction,
    next_rip: u64,
    vcpu: &VcpuContext<'_>,
    cpu: &mut impl GuestCpu,
    env: &impl Env,
) -> Outcome {
    match instruction {
        SensitiveInstruction::Icebp => icebp(next_rip, cpu),
        // All guest memory is coherent: there is nothing to write back, and INVD must not lose what other guests' or our
        // own lines hold.
        SensitiveInstruction::Wbinvd | SensitiveInstruction::Invd => privileged(cpu, Outcome::Complete(next_rip)),
        SensitiveInstruction::Pause => Outcome::Complete(next_rip),
        // No counters exist, so every index is a wrong one.
        SensitiveInstruction::Rdpmc => Outcome::Inject(Exception::GENERAL_PROTECTION),
        SensitiveInstruction::Rdtsc => rdtsc(next_rip, cpu, env),
        SensitiveInstruction::Rdtscp if vcpu.cpuid.facts().rdtscp => {
            let outcome = rdtsc(next_rip, cpu, env);
            if let Outcome::Complete(_) = outcome {
                let aux = cpu.switched_msr(SwitchedMsr::TscAux);
                cpu.set_gpr(Gpr::Rcx, aux & 0xffff_ffff);
            }
            outcome
        }
        // CPUID hides all of these; RSM exists, but only in SMM, where no guest is.
        SensitiveInstruction::Rdtscp
        | SensitiveInstruction::Monitor
        | SensitiveInstruction::Mwait
        | SensitiveInstruction::Rsm
        | SensitiveInstruction::Invlpgb
        | SensitiveInstruction::Tlbsync
        | SensitiveInstruction::Svm => Outcome::Inject(Exception::UNDEFINED),
    }
}

/// INT1: a trap behind the instruction, for every ring. DR6 says nothing about it, and TF is not looked at. As after every
/// instruction that has come to its end, RF is clear.
pub(crate) fn icebp(next_rip: u64, cpu: &mut impl GuestCpu) -> Outcome {
    cpu.set_rip(next_rip);
    cpu.set_rflags(cpu.rflags() & !RFLAGS_RF);
    Outcome::Inject(Exception::DEBUG)
}

fn rdtsc(next_rip: u64, cpu: &mut impl GuestCpu, env: &impl Env) -> Outcome {
    let system = cpu.system();
    if system.cr4 & cr4::TSD != 0 && system.cpl != 0 {
        return Outcome::Inject(Exception::GENERAL_PROTECTION);
    }
    let tsc = env.clock().guest_tsc();
    cpu.set_gpr(Gpr::Rax, tsc & 0xffff_ffff);
    cpu.set_gpr(Gpr::Rdx, tsc >> 32);
    Outcome::Complete(next_rip)
}

fn privileged(cpu: &impl GuestCpu, allowed: Outcome) -> Outcome {
    if cpu.system().cpl == 0 { allowed } else { Outcome::Inject(Exception::GENERAL_PROTECTION) }
}
