// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPUID: guest CPUID = allow-list ∩ what the processor model has, plus what is emulated (APM vol. 3, appendix E; SDM
//! vol. 2A, CPUID).
//!
//! Hostile parties: on a confidential platform the model's CPUID came from the host. Features are cut to named bits, sizes
//! of XSAVE areas are summed here, and nothing else of it is relied on.

mod frequency;
mod policy;
mod table;
#[cfg(test)]
mod tests;
mod topology;
mod xsave;

pub use specs::cpuid::{Registers, Xcr0};
pub(crate) use table::Facts;
pub use table::{CpuidTable, PHYSICAL_BITS};

use platform::{Gpr, GuestCpu};

use crate::{Outcome, VcpuContext};

/// Reads the CPUID of the processor model that the guest shall have.
///
/// Native: the instruction. SNP: the CPUID page that the PSP has checked. TDX: the instruction, which the module answers.
pub trait RawCpuid {
    /// What `leaf` and `subleaf` return.
    fn read(&self, leaf: u32, subleaf: u32) -> Registers;
}

impl<F: Fn(u32, u32) -> Registers> RawCpuid for F {
    fn read(&self, leaf: u32, subleaf: u32) -> Registers {
        self(leaf, subleaf)
    }
}

/// What the policy needs to know besides the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyConfig {
    /// vCPUs, 1–255. APIC ids are vCPU indices.
    pub processors: u32,
    /// Frequency of the guest's time-stamp counter.
    pub tsc_hz: u64,
    /// Frequency of the emulated APIC timer, before its divider.
    pub apic_timer_hz: u32,
    /// The guest's time-stamp counter never stops or changes its rate.
    pub invariant_tsc: bool,
    /// The guest can share pages with the host.
    pub page_conversion: bool,
    /// XSAVE components that the platform switches for the guest. Those that the model lacks fall away.
    pub components: Xcr0,
}

impl PolicyConfig {
    /// Components that every platform switches.
    pub const DEFAULT_COMPONENTS: Xcr0 = Xcr0::X87.union(Xcr0::SSE).union(Xcr0::AVX).union(Xcr0::PKRU);
}

/// Why no guest can run on a processor model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyError {
    /// Neither AMD nor Intel.
    Vendor,
    /// No vCPU, or more than 255.
    Processors,
    /// Fewer than [`PHYSICAL_BITS`] bits of physical address.
    AddressSize,
    /// The XSAVE components overlap, or are absurdly large.
    Xsave,
    /// A clock of 0 Hz.
    Frequency,
}

/// CPUID. No privilege check: any ring may execute it.
pub(crate) fn handle(next_rip: u64, vcpu: &VcpuContext<'_>, cpu: &mut impl GuestCpu) -> Outcome {
    answer(vcpu, cpu);
    Outcome::Complete(next_rip)
}

/// The registers after CPUID; RIP is left to the caller. The most frequent exit of a booting guest, so that a run loop may
/// want it without the detour through [`crate::handle`].
#[inline(always)]
pub fn answer(vcpu: &VcpuContext<'_>, cpu: &mut impl GuestCpu) {
    let leaf = cpu.gpr(Gpr::Rax) as u32;
    let subleaf = cpu.gpr(Gpr::Rcx) as u32;
    let result = vcpu.cpuid.query(leaf, subleaf, vcpu.apic_id, vcpu.apic_enabled, cpu);
    cpu.set_gpr(Gpr::Rax, u64::from(result.eax));
    cpu.set_gpr(Gpr::Rbx, u64::from(result.ebx));
    cpu.set_gpr(Gpr::Rcx, u64::from(result.ecx));
    cpu.set_gpr(Gpr::Rdx, u64::from(result.edx));
}
