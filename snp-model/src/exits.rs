// SPDX-License-Identifier: MIT OR Apache-2.0
//! Automatic and non-automatic exits, and who learns of the latter (APM vol. 2, 15.35.4, table 15-33, and 15.36.9).

use specs::sev::{exit as sev, npf};
use specs::svm::exit;
use specs::vmsa::SevFeatures;

/// What the processor does with an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It goes to the host. `advanced`: RIP is already past the instruction.
    Host {
        /// Whether it is.
        advanced: bool,
    },
    /// The guest gets a #VC whose error code is the exit code.
    Exception,
    /// The host gets exit 5Dh and no more; the details are in the VMSA.
    Reflected,
}

/// An automatic exit, and whether RIP is past its instruction.
const fn automatic(code: u64, info1: u64) -> Option<bool> {
    const MACHINE_CHECK: u64 = exit::EXCEPTION_0 + 18;
    match code {
        MACHINE_CHECK
        | exit::INTR
        | exit::NMI
        | exit::SMI
        | exit::INIT
        | exit::VINTR
        | exit::SHUTDOWN
        | sev::BUSLOCK => Some(false),
        exit::PAUSE | exit::HLT | sev::IDLE_HLT | sev::VMGEXIT => Some(true),
        sev::EFER_WRITE_TRAP | sev::CR0_WRITE_TRAP..=sev::CR15_WRITE_TRAP => Some(true),
        // With a reserved bit in the nested entry the host has marked emulated memory.
        exit::NPF if info1 & npf::RESERVED == 0 => Some(false),
        _ => None,
    }
}

/// Where an exit goes, by the features of the running VMSA.
pub const fn delivery(features: SevFeatures, code: u64, info1: u64) -> Delivery {
    match automatic(code, info1) {
        Some(advanced) => Delivery::Host { advanced },
        None if features.contains(SevFeatures::REFLECT_VC) => Delivery::Reflected,
        None => Delivery::Exception,
    }
}

/// Whether VMSA.NRIP holds the next instruction: on exits that an instruction's intercept would have made a #VC.
pub const fn next_rip_is_valid(code: u64) -> bool {
    !matches!(code, exit::NPF | sev::NOT_VALIDATED | exit::EXCEPTION_0..=exit::EXCEPTION_31)
        && !matches!(code, exit::INTR | exit::NMI | exit::SMI | exit::INIT | exit::VINTR | exit::SHUTDOWN)
        && code < exit::NPF
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: SevFeatures = SevFeatures::SNP_ACTIVE;
    const REFLECTING: SevFeatures = PLAIN.union(SevFeatures::REFLECT_VC);

    #[test]
    fn the_list_of_automatic_exits_is_table_15_33() {
        let automatic: Vec<u64> =
            (0..0x500).filter(|&code| matches!(delivery(PLAIN, code, 0), Delivery::Host { .. })).collect();
        let mut expected = vec![0x52, 0x60, 0x61, 0x62, 0x63, 0x64, 0x77, 0x78, 0x7f, 0x8f];
        expected.extend(0x90..=0x9f);
        expected.extend([0xa5, 0xa6, 0x400, 0x403]);
        assert_eq!(automatic, expected);
    }

    #[test]
    fn what_the_processor_has_done_already_is_behind_rip() {
        let advanced: Vec<u64> =
            (0..0x500).filter(|&code| delivery(PLAIN, code, 0) == Delivery::Host { advanced: true }).collect();
        let mut expected = vec![0x77, 0x78, 0x8f];
        expected.extend(0x90..=0x9f);
        expected.extend([0xa6, 0x403]);
        assert_eq!(advanced, expected);
    }

    #[test]
    fn emulated_memory_is_the_guests_business() {
        assert_eq!(delivery(PLAIN, exit::NPF, npf::RESERVED), Delivery::Exception);
        assert_eq!(delivery(REFLECTING, exit::NPF, npf::RESERVED), Delivery::Reflected);
        assert_eq!(delivery(REFLECTING, exit::NPF, 0), Delivery::Host { advanced: false });
    }

    #[test]
    fn reflection_replaces_every_exception_and_nothing_else() {
        for code in 0..0x500 {
            let (plain, reflected) = (delivery(PLAIN, code, 0), delivery(REFLECTING, code, 0));
            match plain {
                Delivery::Exception => assert_eq!(reflected, Delivery::Reflected),
                other => assert_eq!(reflected, other),
            }
        }
    }

    #[test]
    fn next_rip_belongs_to_instructions() {
        for code in [exit::CPUID, exit::IOIO, exit::MSR, exit::VMMCALL, exit::HLT, exit::WBINVD] {
            assert!(next_rip_is_valid(code), "{code:#x}");
        }
        for code in [exit::NPF, sev::NOT_VALIDATED, exit::INTR, exit::SHUTDOWN, exit::EXCEPTION_0 + 1] {
            assert!(!next_rip_is_valid(code), "{code:#x}");
        }
    }
}
