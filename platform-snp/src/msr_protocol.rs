// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GHCB's MSR protocol (GHCB 2.0, 2.3.1): what is asked before there is a GHCB page, and the way out.
//!
//! Hostile party: the host, which answers whatever it likes. An answer is believed only if it has the response's number and
//! says what was asked for; the rest ends the VM.

use specs::ghcb::{feature, msr};

/// What the host must offer (`docs/host-contract.md`).
pub(crate) const NEEDED: u64 =
    feature::SNP | feature::AP_CREATION | feature::RESTRICTED_INJECTION | feature::MULTI_VMPL;

/// The version of the protocol that is spoken here; SNP begins with it.
pub(crate) const VERSION: u64 = 2;

/// Whether the host speaks our version, by its answer to the request for SEV information, and puts the C-bit where the
/// processor has it.
pub(crate) const fn speaks_our_version(answer: u64, c_mask: u64) -> bool {
    let (highest, lowest, c_bit) = (answer >> 48, answer >> 32 & 0xffff, answer >> 24 & 0xff);
    let place = c_bit < 64 && 1 << (c_bit & 63) == c_mask;
    answer & msr::FUNCTION == msr::SEV_INFO_RESPONSE && lowest <= VERSION && VERSION <= highest && place
}

/// Features that the host lacks, by its answer to the request for them.
pub(crate) const fn missing_features(answer: u64) -> u64 {
    if answer & msr::FUNCTION != msr::FEATURES_RESPONSE {
        return NEEDED;
    }
    NEEDED & !(answer >> 12)
}

/// The request to use the page at `gpa` as GHCB; its answer repeats the address.
pub(crate) const fn register(gpa: u64) -> u64 {
    msr::REGISTER_GPA_REQUEST | gpa & !msr::FUNCTION
}

/// Whether that was accepted.
pub(crate) const fn is_registered(answer: u64, gpa: u64) -> bool {
    answer == msr::REGISTER_GPA_RESPONSE | gpa & !msr::FUNCTION
}

/// The request to change a 4 KiB page's state; `operation` is one of `specs::ghcb::page_state`.
pub(crate) const fn page_state(gpa: u64, operation: u64) -> u64 {
    msr::PAGE_STATE_REQUEST | gpa & 0x000f_ffff_ffff_f000 | operation << 52
}

/// Whether that was done.
pub(crate) const fn is_changed(answer: u64) -> bool {
    answer & msr::FUNCTION == msr::PAGE_STATE_RESPONSE && answer >> 32 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: u64 = 1 << 47;

    #[test]
    fn versions_are_a_range_that_must_hold_ours() {
        let answer = |highest: u64, lowest: u64| highest << 48 | lowest << 32 | 47 << 24 | msr::SEV_INFO_RESPONSE;
        assert!(speaks_our_version(answer(2, 1), C) && speaks_our_version(answer(7, 2), C));
        assert!(!speaks_our_version(answer(1, 1), C) && !speaks_our_version(answer(9, 3), C));
        assert!(!speaks_our_version(answer(2, 1) + 1, C), "another response");
    }

    #[test]
    fn a_host_with_another_c_bit_is_refused() {
        for place in [0u64, 46, 48, 63, 64, 111, 255] {
            assert!(!speaks_our_version(2 << 48 | 1 << 32 | place << 24 | 1, C), "{place}");
        }
    }

    #[test]
    fn every_needed_feature_is_missed() {
        assert_eq!(missing_features(NEEDED << 12 | msr::FEATURES_RESPONSE), 0);
        for bit in 0..8 {
            let without = (0xff & !(1 << bit)) << 12 | msr::FEATURES_RESPONSE;
            assert_eq!(missing_features(without), NEEDED & 1 << bit);
        }
        assert_eq!(missing_features(u64::MAX), NEEDED, "another response");
    }

    #[test]
    fn only_the_address_asked_for_is_registered() {
        assert_eq!(register(0x800_3000), 0x800_3012);
        assert!(is_registered(0x800_3013, 0x800_3000));
        assert!(!is_registered(0x800_4013, 0x800_3000) && !is_registered(0xffff_ffff_ffff_f013, 0x800_3000));
        assert!(!is_registered(0x800_3012, 0x800_3000), "the question itself");
    }

    #[test]
    fn page_states_name_page_and_operation() {
        assert_eq!(page_state(0x1234_5000, 2), 0x0020_0000_1234_5014);
        assert!(is_changed(msr::PAGE_STATE_RESPONSE));
        assert!(!is_changed(msr::PAGE_STATE_RESPONSE | 1 << 63) && !is_changed(0x14) && !is_changed(1 << 32 | 0x15));
    }
}
