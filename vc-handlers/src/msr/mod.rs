// SPDX-License-Identifier: MIT OR Apache-2.0
//! RDMSR and WRMSR: one table for all platforms (APM vol. 2, appendix A; SDM vol. 4).
//!
//! MSRs live in one of four places: in the processor ([`platform::SwitchedMsr`]), in the local APIC, in `MsrState`, or
//! nowhere but in the table, as a constant. An index that the table does not name faults as on hardware and is counted;
//! what operating systems touch without being ready for a fault is therefore in the table.

mod check;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use state::MsrState;

use platform::{Clock, Direction, Exception, Gpr, GuestCpu, MsrAccess, Slip};
use specs::msr;

use crate::{Env, Oddity, Outcome, VcpuContext};
use table::{Read, Row, Write};

/// RDMSR or WRMSR.
#[inline(never)]
pub fn handle(
    access: MsrAccess,
    next_rip: u64,
    vcpu: &mut VcpuContext<'_>,
    cpu: &mut impl GuestCpu,
    env: &mut impl Env,
) -> Outcome {
    // The processor checks the privilege level before it looks at the intercept (APM vol. 2, 15.11); a second check here
    // costs a load.
    if cpu.system().cpl != 0 && !(Slip::UserMsr.is_planted() && access.direction == Direction::Read) {
        return Outcome::Inject(Exception::GENERAL_PROTECTION);
    }
    let index = cpu.gpr(Gpr::Rcx) as u32;
    let done = match access.direction {
        Direction::Read => read(index, vcpu, cpu, env).map(|value| {
            cpu.set_gpr(Gpr::Rax, value & 0xffff_ffff);
            cpu.set_gpr(Gpr::Rdx, value >> 32);
        }),
        Direction::Write => {
            let value = cpu.gpr(Gpr::Rax) & 0xffff_ffff | cpu.gpr(Gpr::Rdx) << 32;
            write(index, value, vcpu, cpu, env)
        }
    };
    match done {
        Some(()) => Outcome::Complete(next_rip),
        None => Outcome::Inject(Exception::GENERAL_PROTECTION),
    }
}

/// Whether the local APIC owns this MSR. Its timer and its x2APIC registers are the MSRs most often touched.
const fn is_apic(index: u32) -> bool {
    matches!(index, msr::X2APIC_FIRST..=msr::X2APIC_LAST | msr::TSC_DEADLINE | msr::APIC_BASE)
}

/// The value, or `None` for #GP.
fn read(index: u32, vcpu: &VcpuContext<'_>, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Option<u64> {
    if is_apic(index) {
        return env.apic_msr_read(index);
    }
    let row = find(index, vcpu, env)?;
    match row.read {
        Read::Fault => None,
        Read::Value(value) => Some(value),
        Read::Stored(slot) => vcpu.msrs.get(slot, index.wrapping_sub(row.first)),
        Read::Switched(register) => Some(cpu.switched_msr(register)),
        Read::Tsc => Some(env.clock().guest_tsc()),
    }
}

/// `None` is #GP.
fn write(
    index: u32,
    value: u64,
    vcpu: &mut VcpuContext<'_>,
    cpu: &mut impl GuestCpu,
    env: &mut impl Env,
) -> Option<()> {
    if is_apic(index) {
        env.apic_msr_write(index, value)?;
        if index == msr::APIC_BASE {
            vcpu.apic_enabled = value & msr::APIC_BASE_ENABLE != 0;
        }
        return Some(());
    }
    let row = find(index, vcpu, env)?;
    match row.write {
        Write::Fault => None,
        Write::Ignore => Some(()),
        Write::Unsupported => {
            env.oddity(Oddity::IgnoredMsrWrite(index));
            Some(())
        }
        Write::Zero => (value == 0).then_some(()),
        Write::Stored { slot, writable, kept } => {
            let offset = index.wrapping_sub(row.first);
            let old = vcpu.msrs.get(slot, offset)?;
            if value & !(writable | kept) != 0 {
                return None;
            }
            vcpu.msrs.set(slot, offset, value & writable | old & kept)
        }
        Write::Mtrr { slot, check } => {
            let offset = index.wrapping_sub(row.first);
            check::mtrr(check, offset, value)?;
            vcpu.msrs.set(slot, offset, value)
        }
        Write::Switched(register, check) => {
            if Slip::LateFault.is_planted() {
                cpu.set_switched_msr(register, value);
            }
            let value = check::switched(check, value, vcpu.cpuid.facts(), cpu)?;
            cpu.set_switched_msr(register, value);
            Some(())
        }
    }
}

/// The row for `index`, if this guest has such an MSR; otherwise the access is counted.
fn find(index: u32, vcpu: &VcpuContext<'_>, env: &mut impl Env) -> Option<&'static Row> {
    let row = table::find(index, vcpu.cpuid.facts());
    if row.is_none() {
        env.oddity(Oddity::UnknownMsr(index));
    }
    row
}
