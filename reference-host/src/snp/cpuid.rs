// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which processor the guest has: QEMU's, with SEV-SNP and without what the model cannot show.
//!
//! XSAVE and what needs it are hidden: QEMU 7.2 has XSAVE without XSAVEC and XSAVES, and a Linux that reads its CPUID table
//! refuses such a processor. SVM and x2APIC are the host's.

use super::C_BIT;
use specs::cpuid::leaf as leaves;
use specs::sev::cpuid_page::{FUNCTIONS, Function, Page};
use specs::sev::{VMPLS, leaf};
use zerocopy::little_endian::U32;

/// The last basic leaf: the one before XSAVE's.
const LAST_BASIC: u32 = 7;
/// Physical address bits that the guest sees, the C-bit's included.
const PHYSICAL_BITS: u32 = 48;

/// Leaf 1, ECX: FMA, x2APIC, XSAVE, OSXSAVE, AVX, F16C.
const HIDDEN_1_ECX: u32 = 1 << 12 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29;
/// Leaf 7, EBX: AVX2 and the parts of AVX-512.
const HIDDEN_7_EBX: u32 = 1 << 5 | 1 << 16 | 1 << 17 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31;
/// Leaf 7, ECX: PKU, and what works on vectors.
const HIDDEN_7_ECX: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14;
/// Leaf 8000_0001h, ECX: SVM, XOP, SKINIT, FMA4.
const HIDDEN_EXTENDED_ECX: u32 = 1 << 2 | 1 << 11 | 1 << 12 | 1 << 16;
/// Leaf 1, ECX: a hypervisor is there.
const HYPERVISOR: u32 = 1 << 31;

/// What is put into the CPUID page: leaf and subleaf.
const LISTED: [(u32, u32); 27] = [
    (0, 0),
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0002, 0),
    (0x8000_0003, 0),
    (0x8000_0004, 0),
    (0x8000_0005, 0),
    (0x8000_0006, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
    (leaves::SVM, 0),
    (0x8000_0019, 0),
    (0x8000_001a, 0),
    (0x8000_001d, 0),
    (0x8000_001d, 1),
    (0x8000_001d, 2),
    (0x8000_001d, 3),
    (0x8000_001d, 4),
    (0x8000_001e, 0),
    (0x8000_001f, 0),
];
const _: () = assert!(LISTED.len() <= FUNCTIONS);

/// Which of the VM's processors answers; the machine may have another number for it, and one processor more
/// (`crate::processors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The processor's number, which is its APIC ID.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

impl Place {
    /// A number of processors less one that QEMU states of all of the machine's.
    fn less_one(&self, field: u32) -> u32 {
        field.min(self.count.saturating_sub(1))
    }
}

/// What CPUID answers; `native` is the processor's.
pub fn answer(number: u32, subleaf: u32, place: Place, native: impl Fn(u32, u32) -> [u32; 4]) -> [u32; 4] {
    let [eax, ebx, ecx, edx] = native(number, subleaf);
    match number {
        0 => [LAST_BASIC, ebx, ecx, edx],
        1 => {
            let count = if place.count > 1 { place.count.min(0xff) } else { 0 };
            let ebx = ebx & 0xffff | count << 16 | place.number << 24;
            [eax, ebx, ecx & !HIDDEN_1_ECX | HYPERVISOR, edx]
        }
        // How many processors share a cache, less one, and in leaf 4 how many cores a package has.
        4 => {
            let (shared, cores) = (place.less_one(eax >> 14 & 0xfff), place.less_one(eax >> 26));
            [eax & 0x3fff | shared << 14 | cores << 26, ebx, ecx, edx]
        }
        0x8000_001d => [eax & !(0xfff << 14) | place.less_one(eax >> 14 & 0xfff) << 14, ebx, ecx, edx],
        7 if subleaf == 0 => [0, ebx & !HIDDEN_7_EBX, ecx & !HIDDEN_7_ECX, edx],
        0x8000_0000 => [leaf::NUMBER, ebx, ecx, edx],
        0x8000_0001 => [eax, ebx, ecx & !HIDDEN_EXTENDED_ECX, edx],
        0x8000_0008 => [eax & !0xff | PHYSICAL_BITS, ebx, ecx & !0xff | place.less_one(ecx & 0xff), edx],
        // APIC ID, core, node: one core for each processor, one node.
        0x8000_001e if eax | ebx | ecx != 0 => [place.number, ebx & !0xff | place.number & 0xff, 0, edx],
        leaf::NUMBER => [
            leaf::EAX_SEV
                | leaf::EAX_ES
                | leaf::EAX_SNP
                | leaf::EAX_VMPL
                | leaf::EAX_RMPQUERY
                | leaf::EAX_COHERENT
                | leaf::EAX_RESTRICTED_INJECTION
                | leaf::EAX_ALTERNATE_INJECTION,
            u32::from(C_BIT) | 1 << leaf::EBX_REDUCTION_SHIFT | (VMPLS as u32) << leaf::EBX_VMPLS_SHIFT,
            0,
            0,
        ],
        // SVM is hidden, and what it does for a VMSA is not.
        leaves::SVM => [0, 0, 0, leaves::SVM_EDX_VNMI],
        8..=0x3fff_ffff | 0x4000_0000..=0x7fff_ffff | 0x8000_0020.. => [0; 4],
        _ => [eax, ebx, ecx, edx],
    }
}

/// Fills in the CPUID page of a VM with so many processors.
pub fn fill(page: &mut Page, count: u32, native: impl Fn(u32, u32) -> [u32; 4]) {
    page.count = U32::new(LISTED.len() as u32);
    for (slot, (number, subleaf)) in page.functions.iter_mut().zip(LISTED) {
        // A processor's own number is not the page's to say: it has the boot processor's, 0.
        let [eax, ebx, ecx, edx] = answer(number, subleaf, Place { number: 0, count }, &native);
        *slot = Function {
            eax_in: U32::new(number),
            ecx_in: U32::new(subleaf),
            eax: U32::new(eax),
            ebx: U32::new(ebx),
            ecx: U32::new(ecx),
            edx: U32::new(edx),
            ..Function::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn all_ones(_: u32, _: u32) -> [u32; 4] {
        [u32::MAX; 4]
    }

    const THIRD_OF_FOUR: Place = Place { number: 2, count: 4 };

    fn answer(number: u32, subleaf: u32, native: impl Fn(u32, u32) -> [u32; 4]) -> [u32; 4] {
        super::answer(number, subleaf, THIRD_OF_FOUR, native)
    }

    /// The fourth of a machine's five, which all have a cache in common.
    fn one_more(number: u32, _: u32) -> [u32; 4] {
        match number {
            1 => [0, 3 << 24 | 5 << 16, 0, 1 << 28],
            4 => [4 << 26 | 4 << 14 | 0x163, 0, 0, 0],
            0x8000_0008 => [48, 0, 4, 0],
            0x8000_001d => [4 << 14 | 0x163, 0, 0, 0],
            0x8000_001e => [3, 1 << 8 | 3, 0, 0],
            _ => [0; 4],
        }
    }

    #[test]
    fn the_vms_numbers_count_and_not_the_machines() {
        assert_eq!(answer(1, 0, one_more)[1], 2 << 24 | 4 << 16);
        assert_eq!(answer(4, 3, one_more)[0], 3 << 26 | 3 << 14 | 0x163);
        assert_eq!(answer(0x8000_0008, 0, one_more)[2], 3);
        assert_eq!(answer(0x8000_001d, 3, one_more)[0], 3 << 14 | 0x163);
        assert_eq!(answer(0x8000_001e, 0, one_more), [2, 1 << 8 | 2, 0, 0]);
    }

    #[test]
    fn a_single_processor_says_what_the_machine_says() {
        let alone = |leaf, native: [u32; 4]| super::answer(leaf, 0, Place { number: 0, count: 1 }, |_, _| native);
        assert_eq!(alone(1, [0; 4])[1], 0);
        assert_eq!(alone(4, [0x163, 1, 2, 3]), [0x163, 1, 2, 3]);
        assert_eq!(alone(0x8000_001e, [0; 4]), [0; 4]);
    }

    #[test]
    fn what_the_model_cannot_show_is_hidden() {
        assert_eq!(answer(0, 0, all_ones)[0], 7);
        assert_eq!(answer(1, 0, all_ones)[2] & HIDDEN_1_ECX, 0);
        assert_eq!(answer(0xd, 0, all_ones), [0; 4]);
        assert_eq!(answer(0x8000_0001, 0, all_ones)[2] & 1 << 2, 0, "SVM");
        assert_eq!(answer(0x8000_000a, 0, all_ones), [0, 0, 0, 1 << 25]);
        assert_eq!(answer(0x4000_0000, 0, all_ones), [0; 4]);
    }

    #[test]
    fn the_c_bit_is_where_the_model_has_it() {
        let [eax, ebx, ..] = answer(leaf::NUMBER, 0, all_ones);
        assert_eq!(eax & (leaf::EAX_SEV | leaf::EAX_ES | leaf::EAX_SNP), leaf::EAX_SEV | leaf::EAX_ES | leaf::EAX_SNP);
        assert_eq!(ebx & leaf::EBX_C_BIT, 47);
        assert_eq!(ebx >> leaf::EBX_VMPLS_SHIFT & 0xf, 4);
        assert!(answer(0x8000_0008, 0, all_ones)[0] & 0xff > u32::from(C_BIT));
    }

    #[test]
    fn the_page_lists_leaves_once_and_no_processors_number() {
        let mut page = Page::new_zeroed();
        fill(&mut page, 4, all_ones);
        assert_eq!(page.count.get(), 27);
        assert_eq!(page.functions[1].ebx.get() >> 24, 0);
        assert_eq!(page.functions[26].eax_in.get(), leaf::NUMBER);
        assert_eq!(page.functions[27].eax_in.get(), 0);
    }
}
