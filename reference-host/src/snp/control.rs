// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a processor refuses to have in CR4 and in the MSRs that hold addresses (APM vol. 2, 3.1.3; vol. 3, WRMSR).
//!
//! QEMU 7.2 takes any value there: reserved bits of CR4 end the next VMRUN, and an address that is not canonical is kept. Nothing
//! here knows a platform's policy: the bits are those of the processor that the guest runs on.

use super::cpuid::{Place, answer};
use specs::vmcb::VmcbSave;

const PAE: u64 = 1 << 5;
/// Performance-monitoring counters: every processor has the bit.
const PCE: u64 = 1 << 8;
const PCIDE: u64 = 1 << 17;
/// The process-context identifier in CR3.
const PCID: u64 = 0xfff;
const EFER_LMA: u64 = 1 << 10;
/// L and D of a code segment.
const CODE_LONG: u16 = 1 << 9;
const CODE_DEFAULT: u16 = 1 << 10;
/// Those of the processor that the model needs (`C_MASK` is one of them).
const PHYSICAL_BITS: u32 = 52;

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

/// What a processor could have in CR0 of a value that QEMU 7.2 takes as it is: the upper half is zero, and there is no NW
/// without CD (APM vol. 2, 3.1.1).
pub const fn possible_cr0(value: u64) -> u64 {
    const NW: u64 = 1 << 29;
    const CD: u64 = 1 << 30;
    let value = value & 0xffff_ffff;
    if value & (NW | CD) == NW { value & !NW } else { value }
}

/// What WRMSR makes of EFER; none is a #GP (APM vol. 2, 3.1.7). SVME is the guest's to see, not to clear, and LMA is the processor's.
/// QEMU's processors have no TCE: it ends the next VMRUN.
pub const fn new_efer(value: u64, old: u64, cr0: u64) -> Option<u64> {
    const LME: u64 = 1 << 8;
    const SVME: u64 = 1 << 12;
    const PG: u64 = 1 << 31;
    /// SCE, LME, NXE, SVME, FFXSR.
    const WRITABLE: u64 = 1 | LME | 1 << 11 | SVME | 1 << 14;
    let moves_mode = cr0 & PG != 0 && (value ^ old) & LME != 0;
    if value & !(WRITABLE | EFER_LMA) != 0 || moves_mode {
        return None;
    }
    Some(value & WRITABLE | old & EFER_LMA | SVME)
}

/// What MOV to CR3 loads; none is a #GP (APM vol. 2, 5.3.2 and 5.5.1). QEMU 7.2 calls it an invalid state instead, also for bit 63,
/// which only says what to keep of the translations.
pub const fn new_cr3(value: u64, cr4: u64, efer: u64) -> Option<u64> {
    if efer & EFER_LMA == 0 {
        return Some(value & 0xffff_ffff);
    }
    let value = if cr4 & PCIDE != 0 { value & !(1 << 63) } else { value };
    if value >> PHYSICAL_BITS == 0 { Some(value) } else { None }
}

/// A code segment with both L and D cannot be loaded (APM vol. 2, 4.8.1); QEMU 7.2 runs it, and refuses it at the next entry, when
/// all of it is loaded, so that the exit stores it again, but for the privilege level. It goes on as 64-bit code. Whether that
/// was the case.
pub const fn leave_impossible_mode(save: &mut VmcbSave) -> bool {
    const BOTH: u16 = CODE_LONG | CODE_DEFAULT;
    if save.efer & EFER_LMA == 0 || save.cs.attributes & BOTH != BOTH {
        return false;
    }
    save.cs.attributes &= !CODE_DEFAULT;
    save.cpl = (save.ss.attributes >> 5) as u8 & 3;
    true
}

/// Whether an address is canonical, with 48 bits.
pub const fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

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
    fn a_root_beyond_the_address_bits_is_refused_in_long_mode() {
        let top = 1 << 51 | 0x1000;
        assert_eq!(new_cr3(top, PAE, EFER_LMA), Some(top));
        assert_eq!(new_cr3(top | 1 << 52, PAE, EFER_LMA), None);
        assert_eq!(new_cr3(top | 1 << 63, PAE, EFER_LMA), None);
        assert_eq!(new_cr3(top | 1 << 63, PAE | PCIDE, EFER_LMA), Some(top), "no flush");
        assert_eq!(new_cr3(top | 1 << 62, PAE | PCIDE, EFER_LMA), None);
        assert_eq!(new_cr3(0xffff_ffff_1234_5000, PAE, 0), Some(0x1234_5000));
    }

    #[test]
    fn cr0_has_no_impossible_bits() {
        assert_eq!(possible_cr0(0x8001_0031), 0x8001_0031);
        assert_eq!(possible_cr0(0xffff_ffff_0000_0001 | 1 << 29), 1);
        assert_eq!(possible_cr0(3 << 29), 3 << 29);
    }

    #[test]
    fn efer_keeps_the_mode_while_paging_is_on() {
        let long = 1 << 8 | EFER_LMA | 1 << 12;
        assert_eq!(new_efer(1 << 8 | 1 << 11, long, 1 << 31), Some(long | 1 << 11));
        assert_eq!(new_efer(1 << 11, long, 1 << 31), None, "LME goes under paging");
        assert_eq!(new_efer(1 << 8, 1 << 12, 0), Some(1 << 8 | 1 << 12));
        for reserved in [1 << 1, 1 << 13, 1 << 15, 1 << 63] {
            assert_eq!(new_efer(1 << 8 | reserved, long, 1 << 31), None, "{reserved:x}");
        }
    }

    #[test]
    fn a_segment_of_both_sizes_goes_on_as_64_bit_code() {
        let mut save = VmcbSave::new_zeroed();
        (save.cs.attributes, save.ss.attributes, save.cpl) = (CODE_LONG | CODE_DEFAULT | 0xfb, 0xf3, 0);
        assert!(!leave_impossible_mode(&mut save), "nothing is wrong outside of long mode");
        save.efer = EFER_LMA;
        assert!(leave_impossible_mode(&mut save));
        assert_eq!((save.cs.attributes, save.cpl), (CODE_LONG | 0xfb, 3));
        assert!(!leave_impossible_mode(&mut save));
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
