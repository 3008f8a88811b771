// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may be injected into an SNP guest, and by whom (APM vol. 2, 15.35.5, 15.36.16).

use crate::rule::{Broken, Rule};
use specs::sev::VECTOR_HV;
use specs::svm::event;
use specs::vmsa::SevFeatures;

/// #BP and #OF, which are software's.
const SOFTWARE_EXCEPTIONS: [u64; 2] = [3, 4];

/// Checks both sources of events: the host's EVENTINJ in the VMCB, and EVENT_INJ in the VMSA.
pub fn check(features: SevFeatures, host: u64, own: u64) -> Result<(), Broken> {
    let broken = |found| Err(Broken { rule: Rule::Injection, gpa: 0, found });
    if features.contains(SevFeatures::ALTERNATE_INJECTION) || features.contains(SevFeatures::SECURE_AVIC) {
        // The host's field is ignored; the VMSA's counts.
        return if is_legal(own) { Ok(()) } else { broken(own) };
    }
    if host & event::VALID == 0 {
        return Ok(());
    }
    if features.contains(SevFeatures::RESTRICTED_INJECTION) {
        // Bits 10:8 and the vector: #HV as an exception without an error code, nothing else.
        let expected = event::VALID | event::TYPE_EXCEPTION | VECTOR_HV as u64;
        return if host == expected { Ok(()) } else { broken(host) };
    }
    if is_legal(host) { Ok(()) } else { broken(host) }
}

/// Which event VMRUN takes.
pub const fn source(features: SevFeatures, host: u64, own: u64) -> u64 {
    if features.contains(SevFeatures::ALTERNATE_INJECTION) { own } else { host }
}

const fn is_legal(field: u64) -> bool {
    if field & event::VALID == 0 {
        return true;
    }
    let vector = field & 0xff;
    match field & event::TYPE_MASK {
        event::TYPE_INTERRUPT | event::TYPE_NMI => true,
        event::TYPE_EXCEPTION => {
            vector < 32 && vector != 2 && vector != SOFTWARE_EXCEPTIONS[0] && vector != SOFTWARE_EXCEPTIONS[1]
        }
        // Software interrupts, and types that do not exist.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: SevFeatures = SevFeatures::SNP_ACTIVE;
    const RESTRICTED: SevFeatures = PLAIN.union(SevFeatures::RESTRICTED_INJECTION);
    const ALTERNATE: SevFeatures = PLAIN.union(SevFeatures::ALTERNATE_INJECTION);
    const HV: u64 = event::VALID | event::TYPE_EXCEPTION | 28;
    const INTERRUPT: u64 = event::VALID | event::TYPE_INTERRUPT | 0x40;

    #[test]
    fn a_plain_guest_takes_interrupts_and_faults_but_nothing_of_softwares() {
        assert!(check(PLAIN, INTERRUPT, 0).is_ok());
        assert!(check(PLAIN, event::VALID | event::TYPE_EXCEPTION | event::ERROR_CODE_VALID | 13, 0).is_ok());
        assert!(check(PLAIN, event::VALID | event::TYPE_SOFTWARE | 0x80, 0).is_err());
        for vector in [2, 3, 4, 32] {
            assert!(check(PLAIN, event::VALID | event::TYPE_EXCEPTION | vector, 0).is_err(), "{vector}");
        }
    }

    #[test]
    fn restricted_injection_is_hv_and_nothing_else() {
        assert!(check(RESTRICTED, HV, 0).is_ok());
        assert!(check(RESTRICTED, 0, 0).is_ok());
        for field in [INTERRUPT, HV | event::ERROR_CODE_VALID, HV | 1 << 32, event::VALID | event::TYPE_EXCEPTION | 13]
        {
            assert_eq!(check(RESTRICTED, field, 0).unwrap_err().rule, Rule::Injection, "{field:#x}");
        }
    }

    #[test]
    fn alternate_injection_listens_to_the_vmsa_alone() {
        assert!(check(ALTERNATE, event::VALID | event::TYPE_SOFTWARE, INTERRUPT).is_ok());
        assert!(check(ALTERNATE, 0, event::VALID | event::TYPE_SOFTWARE | 0x80).is_err());
        assert_eq!(source(ALTERNATE, HV, INTERRUPT), INTERRUPT);
        assert_eq!(source(PLAIN, HV, INTERRUPT), HV);
    }

    #[test]
    fn without_the_valid_bit_nothing_counts() {
        assert!(check(PLAIN, event::TYPE_SOFTWARE | 3, 0).is_ok());
    }
}
