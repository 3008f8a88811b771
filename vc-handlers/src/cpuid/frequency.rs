// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the guest learns its time-stamp counter's frequency without measuring it.
//!
//! - Intel: leaf 15h gives TSC = crystal × EBX ÷ EAX, and Linux takes the crystal for the APIC timer's clock as well, so
//!   the crystal is the APIC timer. Linux computes `crystal in kHz × EBX` in 32 bits: the fraction is chosen to fit, and
//!   Linux then measures nothing.
//! - AMD: Linux looks at no CPUID leaf and calibrates with the PIT. Its other sources belong to known hypervisors (KVM,
//!   VMware, Hyper-V, ACRN), each of which stands for an interface that Parados does not have; Parados does not pose as
//!   one of them. `tsc_early_khz=` on the kernel's command line does skip the calibration.
//! - FreeBSD, illumos and unikernels read 4000_0010h under any hypervisor.

use specs::cpuid::Registers;

/// Leaf 15h: the TSC as a fraction of the crystal.
pub(super) fn tsc(tsc_hz: u64, crystal_hz: u32) -> Registers {
    let crystal_khz = crystal_hz.div_ceil(1000).max(1);
    let (numerator, denominator) = fraction(tsc_hz, u64::from(crystal_hz), u32::MAX / crystal_khz);
    Registers::new(denominator, numerator, crystal_hz, 0)
}

/// Leaf 16h: base, highest and bus frequency in MHz; 16-bit fields.
pub(super) fn megahertz(tsc_hz: u64) -> Registers {
    let base = u32::try_from((tsc_hz + 500_000) / 1_000_000).unwrap_or(u32::MAX).min(0xffff);
    Registers::new(base, base, 100, 0)
}

/// Leaf 4000_0010h: kHz of the TSC and of the APIC timer.
pub(super) fn kilohertz(tsc_hz: u64, apic_timer_hz: u32) -> Registers {
    let khz = u32::try_from((tsc_hz + 500) / 1000).unwrap_or(u32::MAX);
    Registers::new(khz, apic_timer_hz / 1000, 0, 0)
}

/// The last convergent of `a / b`'s continued fraction whose numerator is at most `limit` and whose denominator fits:
/// the error is below 1 ÷ denominator².
fn fraction(a: u64, b: u64, limit: u32) -> (u32, u32) {
    let (mut a, mut b) = (a, b);
    // The convergents before the first one, as (numerator, denominator).
    let mut older = (0_u32, 1_u32);
    let mut last = (1_u32, 0_u32);
    // Euclid's algorithm on 64-bit numbers: fewer than 100 rounds.
    while let Some(quotient) = a.checked_div(b) {
        let step = |last: u32, older: u32| {
            let next = u64::from(last).checked_mul(quotient)?.checked_add(u64::from(older))?;
            u32::try_from(next).ok()
        };
        match (step(last.0, older.0), step(last.1, older.1)) {
            (Some(numerator), Some(denominator)) if numerator <= limit => {
                older = last;
                last = (numerator, denominator);
            }
            _ => break,
        }
        (a, b) = (b, a % b);
    }
    last
}
