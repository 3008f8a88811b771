// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of an exception that comes up while another event is delivered (APM vol. 2, 8.2.9, table 8-3).
//!
//! The processor sorts this out itself, unless the second exception is intercepted: then the hypervisor has to.
//!
//! Hostile parties: the guest, with descriptor tables and stacks on which nothing can be delivered, and where Parados does not set the
//! intercepts, the host that does. Whatever it does ends in a
//! double fault or a shutdown after two steps, not in exits without end.

use platform::{Exception, ExitReason};
use specs::svm::event;

const DOUBLE_FAULT: u8 = 8;
const PAGE_FAULT: u8 = 14;

/// Exceptions that make a double fault of one another.
const fn is_contributory(vector: u8) -> bool {
    matches!(vector, 0 | 10..=13)
}

/// The exit for `second`, which came up while the event in EXITINTINFO, or EVENT_INJ, was delivered.
pub fn merge(int_info: u64, second: Exception) -> ExitReason {
    let first = (int_info & 0xff) as u8;
    let serious = is_contributory(second.vector) || second.vector == PAGE_FAULT;
    if int_info & event::TYPE_MASK != event::TYPE_EXCEPTION || !serious {
        // What was under way is lost, as on a processor.
        return ExitReason::Exception(second);
    }
    match first {
        DOUBLE_FAULT => ExitReason::Shutdown,
        PAGE_FAULT => double_fault(),
        _ if is_contributory(first) && is_contributory(second.vector) => double_fault(),
        _ => ExitReason::Exception(second),
    }
}

const fn double_fault() -> ExitReason {
    ExitReason::Exception(Exception { vector: DOUBLE_FAULT, error_code: Some(0), fault_address: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn during(kind: u64, vector: u8, second: Exception) -> ExitReason {
        merge(event::VALID | kind | u64::from(vector), second)
    }

    #[test]
    fn two_faults_that_cannot_be_delivered_are_a_double_fault_and_three_a_shutdown() {
        let second = Exception::GENERAL_PROTECTION;
        for first in [0, 10, 11, 12, 13, 14] {
            let exit = during(event::TYPE_EXCEPTION, first, second);
            assert_eq!(exit, double_fault(), "{first}");
        }
        assert_eq!(during(event::TYPE_EXCEPTION, 8, second), ExitReason::Shutdown);
    }

    #[test]
    fn a_fault_takes_the_place_of_what_is_harmless() {
        let second = Exception::GENERAL_PROTECTION;
        for first in [1, 3, 4, 5, 6, 7, 9, 16, 17, 19] {
            assert_eq!(during(event::TYPE_EXCEPTION, first, second), ExitReason::Exception(second), "{first}");
        }
        for kind in [event::TYPE_INTERRUPT, event::TYPE_NMI, event::TYPE_SOFTWARE] {
            assert_eq!(during(kind, 13, second), ExitReason::Exception(second), "{kind:x}");
        }
        assert_eq!(
            during(event::TYPE_EXCEPTION, 13, Exception::UNDEFINED),
            ExitReason::Exception(Exception::UNDEFINED)
        );
        let page = Exception::page_fault(2, 0x1000);
        assert_eq!(during(event::TYPE_EXCEPTION, 13, page), ExitReason::Exception(page));
    }
}
