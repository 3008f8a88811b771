// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPUID, from the page that the firmware has checked (SEV-SNP firmware ABI, "CPUID page"): the only source of it. The
//! instruction itself would ask the host.
//!
//! The page is private memory that nobody writes any more. A leaf that it lacks is zero.

use specs::sev::cpuid_page::{FUNCTIONS, Page};
use specs::sev::leaf;

use crate::accept::GUEST_VMPL;

/// What Parados and its guest stand on. Reflected exits and vTOM have no bit: a processor without them refuses the guest's VMSA.
const NEEDED: u32 = leaf::EAX_VMPL | leaf::EAX_RESTRICTED_INJECTION | leaf::EAX_ALTERNATE_INJECTION;

/// What the processor lacks of that, by its answer to leaf 8000_001Fh: bits of EAX. The firmware lets no host claim more than the
/// processor has.
pub(crate) const fn missing([eax, ebx, ..]: [u32; 4]) -> u32 {
    let vmpls = ebx >> leaf::EBX_VMPLS_SHIFT & 0xf;
    NEEDED & !(if vmpls > GUEST_VMPL as u32 { eax } else { eax & !leaf::EAX_VMPL })
}

/// Leaf and subleaf as `[eax, ebx, ecx, edx]`.
pub(crate) fn answer(page: &Page, leaf: u32, subleaf: u32) -> [u32; 4] {
    let count = (page.count.get() as usize).min(FUNCTIONS);
    let listed = page.functions.iter().take(count);
    let found = listed
        .into_iter()
        .find(|function| function.eax_in.get() == leaf && (function.ecx_in.get() == subleaf || !has_subleaves(leaf)));
    found.map_or([0; 4], |it| [it.eax.get(), it.ebx.get(), it.ecx.get(), it.edx.get()])
}

/// Leaves whose answer depends on ECX (APM vol. 3, appendix E). The others are listed once, whatever ECX says.
const fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | 0xd | 0xf | 0x10 | 0x12 | 0x14 | 0x8000_001d | 0x8000_0020 | 0x8000_0026)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn page(functions: &[(u32, u32, u32)]) -> Box<Page> {
        let mut page = Box::new(Page::new_zeroed());
        page.count.set(functions.len() as u32);
        for (slot, &(leaf, subleaf, eax)) in page.functions.iter_mut().zip(functions) {
            slot.eax_in.set(leaf);
            slot.ecx_in.set(subleaf);
            slot.eax.set(eax);
        }
        page
    }

    #[test]
    fn leaves_are_found_and_others_are_zero() {
        let page = page(&[(0, 0, 7), (7, 0, 1), (7, 1, 2), (0x8000_001d, 3, 9)]);
        assert_eq!(answer(&page, 0, 0)[0], 7);
        assert_eq!(answer(&page, 0, 5)[0], 7, "ECX means nothing to leaf 0");
        assert_eq!(answer(&page, 7, 1)[0], 2);
        assert_eq!(answer(&page, 7, 2), [0; 4]);
        assert_eq!(answer(&page, 0x8000_001d, 3)[0], 9);
        assert_eq!(answer(&page, 0x1234, 0), [0; 4]);
    }

    /// BUSY holds a VMSA only with alternate injection, and without it a host injects what it likes.
    #[test]
    fn a_processor_without_the_modes_of_injection_or_the_guests_vmpl_is_refused() {
        let vmpls = |count: u32| count << leaf::EBX_VMPLS_SHIFT | 51;
        assert_eq!(missing([NEEDED, vmpls(4), 0, 0]), 0);
        assert_eq!(missing([u32::MAX, vmpls(3), 0, 0]), 0);
        for bit in [1 << 5, 1 << 12, 1 << 13] {
            assert_eq!(missing([!bit, vmpls(4), 0, 0]), bit);
        }
        assert_eq!(missing([u32::MAX, vmpls(2), 0, 0]), leaf::EAX_VMPL, "no VMPL2");
        assert_eq!(missing([0; 4]), NEEDED, "no such leaf");
    }

    #[test]
    fn entries_behind_the_count_do_not_exist() {
        let mut page = page(&[(0, 0, 7), (1, 0, 8)]);
        page.count.set(1);
        assert_eq!(answer(&page, 1, 0), [0; 4]);
        page.count.set(u32::MAX);
        assert_eq!(answer(&page, 1, 0)[0], 8);
        assert_eq!(answer(&page, 2, 0), [0; 4]);
    }
}
