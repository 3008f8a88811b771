// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which values the guest may write to MSRs that are more than a mask of bits.

use platform::{Control, GuestCpu, Slip, SwitchedMsr};
use specs::msr::{efer, mtrr};

use crate::Vendor;
use crate::control::cr0;
use crate::cpuid::{Facts, PHYSICAL_BITS};

/// The rule for an MSR that the processor holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Check {
    /// Every value.
    Any,
    /// A canonical address.
    Canonical,
    /// An address of SYSENTER: Intel insists on a canonical one, AMD takes any.
    Sysenter,
    /// Bits 63:32 are zero.
    Low32,
    /// Bits 63:32 are zero on Intel and ignored on AMD.
    TscAux,
    /// Eight memory types.
    Pat,
    /// Branch tracing: what the vendor has, without tracing to memory.
    DebugCtl,
    /// See [`efer_value`].
    Efer,
}

/// The value to store, or `None` for #GP.
pub(super) fn switched(check: Check, value: u64, facts: &Facts, cpu: &mut impl GuestCpu) -> Option<u64> {
    let fits = |allowed: bool| allowed.then_some(value);
    match (check, facts.vendor) {
        (Check::Any, _) => Some(value),
        (Check::Canonical, _) | (Check::Sysenter, Vendor::Intel) => fits(canonical(value) == value),
        // A non-canonical address in the processor's own register would fault at the next VMLOAD of some platforms.
        (Check::Sysenter, Vendor::Amd) => Some(canonical(value)),
        (Check::Low32, _) | (Check::TscAux, Vendor::Intel) => fits(value >> 32 == 0),
        (Check::TscAux, Vendor::Amd) => Some(value & 0xffff_ffff),
        (Check::Pat, _) => fits(value.to_le_bytes().iter().all(|entry| matches!(entry, 0 | 1 | 4..=7))),
        // LBR, BTF and the four pin controls, which do nothing (APM vol. 2, 13.1.1.6).
        (Check::DebugCtl, Vendor::Amd) => fits(value & !0x3f == 0),
        // LBR and BTF (SDM vol. 3B, 18.4.1).
        (Check::DebugCtl, Vendor::Intel) => fits(value & !0x3 == 0),
        (Check::Efer, _) => efer_value(value, facts, cpu),
    }
}

/// The address with bits 63:48 made copies of bit 47.
const fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

/// EFER (APM vol. 2, 3.1.7): no bit whose feature CPUID hides, SVME among them; LME stays while paging is on; LMA is the
/// processor's own, and what is written there is ignored.
fn efer_value(value: u64, facts: &Facts, cpu: &mut impl GuestCpu) -> Option<u64> {
    let mut allowed = if Slip::Svme.is_planted() { efer::SCE | efer::SVME } else { efer::SCE };
    if facts.long_mode {
        allowed |= efer::LME | efer::LMA;
    }
    if facts.nx {
        allowed |= efer::NXE;
    }
    if facts.ffxsr {
        allowed |= efer::FFXSR;
    }
    let old = cpu.switched_msr(SwitchedMsr::Efer);
    let new = value & !efer::LMA | old & efer::LMA;
    let paging = cpu.control(Control::Cr0) & cr0::PG != 0;
    if value & !allowed != 0 || paging && (new ^ old) & efer::LME != 0 {
        return None;
    }
    Some(new)
}

/// The rule for an MTRR (APM vol. 2, 7.7.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mtrr {
    /// Base at even offsets, mask at odd ones.
    Variable,
    /// Eight memory types.
    Fixed,
    /// Enables and the default type.
    Default,
}

pub(super) fn mtrr(check: Mtrr, offset: u32, value: u64) -> Option<()> {
    let is_type = |byte: u8| matches!(byte, 0 | 1 | 4..=6);
    let [first, ..] = value.to_le_bytes();
    let address = (1 << PHYSICAL_BITS) - (1 << 12);
    let allowed = match check {
        Mtrr::Variable if offset.is_multiple_of(2) => is_type(first) && value & !(address | 0xff) == 0,
        Mtrr::Variable => value & !(address | mtrr::VALID) == 0,
        Mtrr::Fixed => value.to_le_bytes().into_iter().all(is_type),
        Mtrr::Default => is_type(first) && value & !(mtrr::ENABLE | mtrr::FIXED_ENABLE | 0xff) == 0,
    };
    allowed.then_some(())
}
