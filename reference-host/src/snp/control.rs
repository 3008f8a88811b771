// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a processor refuses to have in CR4 and in the MSRs that hold addresses (APM vol. 2, 3.1.3; vol. 3, WRMSR).
//!
//! QEMU 7.2 takes any value there: reserved bits of CR4 end the next VMRUN, and an address that is not canonical is kept. Nothing
//! here knows a platform's policy: the bits are those of the processor that the guest runs on.

use super::cpuid::{Place, answer};

const PAE: u64 = 1 << 5;
/// Performance-monitoring counters: every processor has the bit.
const PCE: u64 = 1 << 8;
const PCIDE: u64 = 1 << 17;
/// The process-context identifier in CR3.
const PCID: u64 = 0xfff;
const EFER_LMA: u64 = 1 << 10;

/// The bits of CR4 that depend on CPUID: the leaf, the place of its register among EAX to EDX, the bit there, the bits of CR4.
/// LA57 is not among them: the model's walks have four levels.
const BY_CPUID: [(u32, usize, u32, u64); 18] = [
    (1, 3, 1, 1 << 0 | 1 << 1),
    (1, 3, 4, 1 << 2),
    (1, 3, 2, 1 << 3),
    (1, 3, 3, 1 << 4),
    (1, 3, 6, PAE),
    (1, 3, 7, 1 << 6),
    (1, 3, 13, 1 << 7),
    (1, 3, 24, 1 << 9),
    (1, 3, 25, 1 << 10),
    (7, 2, 2, 1 << 11),
    (7, 1, 0, 1 << 16),
    (1, 2, 17, PCIDE),
    (1, 2, 26, 1 << 18),
    (7, 1, 7, 1 << 20),
    (7, 1, 20, 1 << 21),
    (7, 2, 3, 1 << 22),
    (7, 2, 7, 1 << 23),
    (7, 3, 20, 1 << 23),
];

/// The bits of CR4 that the model's processor has; `native` is CPUID of the one below.
pub fn cr4_bits(native: impl Fn(u32, u32) -> [u32; 4]) -> u64 {
    // Features are the same on each processor.
    let any = Place { number: 0, count: 1 };
    let [one, seven] = [1, 7].map(|leaf| answer(leaf, 0, any, &native));
    let bits = BY_CPUID.iter().filter(|(leaf, register, bit, _)| {
        let registers = if *leaf == 1 { &one } else { &seven };
        registers.get(*register).is_some_and(|value| value >> bit & 1 != 0)
    });
    bits.fold(PCE, |all, (.., bits)| all | bits)
}

/// Whether MOV to CR4 takes a value; otherwise it is #GP. `known` are the processor's bits.
pub const fn takes_cr4(value: u64, old: u64, cr3: u64, efer: u64, known: u64) -> bool {
    let long = efer & EFER_LMA != 0;
    let starts_contexts = value & PCIDE != 0 && old & PCIDE == 0;
    value & !known == 0 && !(long && value & PAE == 0) && !(starts_contexts && (!long || cr3 & PCID != 0))
}

/// Whether an address is canonical, with 48 bits.
pub const fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_needs_its_feature() {
        assert_eq!(cr4_bits(|_, _| [0; 4]), PCE);
        let all = cr4_bits(|_, _| [u32::MAX; 4]);
        // VME to OSXMMEXCPT, UMIP, FSGSBASE, PCIDE, SMEP, SMAP, CET; the model hides XSAVE and PKU.
        assert_eq!(all, 0xb3_0fff & !(1 << 21 | 1 << 23) | 1 << 21 | 1 << 23);
        let only_pge = |leaf, _| if leaf == 1 { [0, 0, 0, 1 << 13] } else { [0; 4] };
        assert_eq!(cr4_bits(only_pge), PCE | 1 << 7);
    }

    #[test]
    fn long_mode_keeps_pae_and_contexts_start_in_it_from_zero() {
        let known = PAE | PCIDE | PCE;
        assert!(takes_cr4(PAE, 0, 0, 0, known) && takes_cr4(0, PAE, 0, 0, known));
        assert!(!takes_cr4(0, PAE, 0, EFER_LMA, known));
        assert!(!takes_cr4(PAE | 1 << 12, PAE, 0, EFER_LMA, known), "a reserved bit");
        assert!(takes_cr4(PAE | PCIDE, PAE, 0x1000, EFER_LMA, known));
        assert!(!takes_cr4(PAE | PCIDE, PAE, 0x1001, EFER_LMA, known), "CR3 names a context already");
        assert!(takes_cr4(PAE | PCIDE, PAE | PCIDE, 0x1001, EFER_LMA, known));
        assert!(!takes_cr4(PAE | PCIDE, PAE, 0, 0, known));
    }

    #[test]
    fn canonical_addresses_repeat_bit_47() {
        for address in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
            assert!(is_canonical(address), "{address:x}");
        }
        for address in [1 << 47, 0xaaaa_aaaa_aaaa_aaaa, 0xffff_7fff_ffff_ffff] {
            assert!(!is_canonical(address), "{address:x}");
        }
    }
}
