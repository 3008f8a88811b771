// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reserved ranges of a VM save area (APM vol. 2, appendix B, table B-4).

use core::ops::Range;

use specs::vmsa::Vmsa;
use zerocopy::IntoBytes;

const RESERVED: [Range<usize>; 9] = [
    0x0c8..0x0ca,
    0x0cc..0x0d0,
    0x0d8..0x140,
    0x1c0..0x1d8,
    0x248..0x268,
    0x298..0x2e0,
    0x380..0x390,
    0x7c8..0x900,
    0x940..0x1000,
];

/// The first reserved byte that is not zero, by its offset.
pub fn first_reserved_byte(vmsa: &Vmsa) -> Option<usize> {
    let bytes = vmsa.as_bytes();
    let stray = RESERVED.iter().find(|range| !bytes.get(range.start..range.end).is_some_and(is_clear))?;
    stray.clone().find(|at| bytes.get(*at) != Some(&0))
}

/// Whether all bytes are zero: most of the page is reserved, and the model looks at it at every entry.
fn is_clear(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0 && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn a_stray_reserved_byte_is_found() {
        let mut vmsa = Vmsa::new_zeroed();
        assert_eq!(first_reserved_byte(&vmsa), None);
        vmsa.rip = u64::MAX;
        vmsa.reserved_298[71] = 1;
        assert_eq!(first_reserved_byte(&vmsa), Some(0x2df));
    }

    #[test]
    fn each_reserved_byte_counts_and_no_other() {
        for at in 0..0x1000 {
            let mut vmsa = Vmsa::new_zeroed();
            vmsa.as_mut_bytes()[at] = 0x80;
            let reserved = RESERVED.iter().any(|range| range.contains(&at));
            assert_eq!(first_reserved_byte(&vmsa), reserved.then_some(at));
        }
    }
}
