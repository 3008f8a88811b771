// SPDX-License-Identifier: MIT OR Apache-2.0
//! The #HV doorbell (GHCB 2.0, 4.1.11): a page in which the host leaves one vector at a time.
//!
//! #HV itself says nothing (`instructions`); the page is looked at before each entry and each sleep. The host is hostile: any
//! vector may stand there at any time, and who takes it decides by a list which ones mean something.

use core::sync::atomic::Ordering;

use crate::ghcb::SharedPage;

/// Bits of the first two bytes: the vector, then flags, of which the upper says that no signal is wanted.
const VECTOR: u64 = 0xff;
const NO_FURTHER_SIGNAL: u64 = 1 << 15;
/// An NMI waits. A machine check, the bit above, is not Parados's to handle.
const NMI_WAITS: u64 = 1 << 8;
const MACHINE_CHECK: u64 = 1 << 9;

/// What [`take`] calls an NMI: its vector, which no interrupt has.
pub(crate) const NMI: u8 = 2;

/// Whether something waits.
pub(crate) fn has_rung(page: &SharedPage) -> bool {
    page.first().load(Ordering::Relaxed) & (VECTOR | NMI_WAITS) != 0
}

/// Takes the vector that waits. The host signals again from then on.
pub(crate) fn take(page: &SharedPage) -> Option<u8> {
    // The vector first; an NMI that waits beside it is found by the next look. What comes meanwhile brings a new signal.
    let taken = page.first().fetch_and(!(VECTOR | NO_FURTHER_SIGNAL | MACHINE_CHECK), Ordering::AcqRel);
    match (taken & VECTOR) as u8 {
        0 if taken & NMI_WAITS != 0 => {
            page.first().fetch_and(!NMI_WAITS, Ordering::AcqRel);
            Some(NMI)
        }
        0 => None,
        vector => Some(vector),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(word: u64) -> Box<SharedPage> {
        let page = Box::new(SharedPage::zeroed());
        page.first().store(word, Ordering::Relaxed);
        page
    }

    #[test]
    fn a_vector_is_taken_once_and_signals_are_wanted_again() {
        let page = page(0xdead_0000_0000_8041);
        assert!(has_rung(&page));
        assert_eq!(take(&page), Some(0x41));
        assert!(!has_rung(&page));
        assert_eq!(take(&page), None);
        assert_eq!(page.first().load(Ordering::Relaxed), 0xdead_0000_0000_0000, "the rest is not ours");
    }

    #[test]
    fn an_nmi_comes_after_the_vector_that_waits_beside_it() {
        let page = page(0x8141);
        assert_eq!(take(&page), Some(0x41));
        assert!(has_rung(&page));
        assert_eq!((take(&page), take(&page)), (Some(NMI), None));
    }

    #[test]
    fn a_signal_without_a_vector_is_nothing() {
        let page = page(0x8200);
        assert!(!has_rung(&page));
        assert_eq!(take(&page), None);
        assert_eq!(page.first().load(Ordering::Relaxed), 0);
    }
}
