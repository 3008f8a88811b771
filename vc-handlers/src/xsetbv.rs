// SPDX-License-Identifier: MIT OR Apache-2.0
//! XSETBV (APM vol. 4, XSETBV; vol. 2, 11.5.2).

use platform::{Exception, Gpr, GuestCpu, Slip};
use specs::cpuid::Xcr0;

use crate::control::cr4;
use crate::{Outcome, VcpuContext};

/// XSETBV.
pub(crate) fn handle(next_rip: u64, vcpu: &VcpuContext<'_>, cpu: &mut impl GuestCpu) -> Outcome {
    let system = cpu.system();
    if system.cr4 & cr4::OSXSAVE == 0 {
        return Outcome::Inject(Exception::UNDEFINED);
    }
    // Only the lower half of RCX counts.
    let index = cpu.gpr(Gpr::Rcx) as u32;
    let value = cpu.gpr(Gpr::Rax) & 0xffff_ffff | cpu.gpr(Gpr::Rdx) << 32;
    if system.cpl != 0 || index != 0 || !is_valid(value, vcpu.cpuid.facts().xcr0) {
        return Outcome::Inject(Exception::GENERAL_PROTECTION);
    }
    cpu.set_xcr0(value);
    Outcome::Complete(next_rip)
}

/// Whether XCR0 may hold `value` on a processor with the components `offered`.
fn is_valid(value: u64, offered: Xcr0) -> bool {
    let Some(new) = Xcr0::from_bits(value) else { return false };
    let avx512 = new & Xcr0::AVX512;
    offered.contains(new)
        && new.contains(Xcr0::X87)
        && (!new.contains(Xcr0::AVX) || new.contains(Xcr0::SSE) || Slip::Components.is_planted())
        && (avx512.is_empty() || avx512 == Xcr0::AVX512 && new.contains(Xcr0::AVX))
}
