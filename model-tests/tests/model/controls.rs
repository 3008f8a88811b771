// SPDX-License-Identifier: MIT OR Apache-2.0
//! Proof that the checks see something: with one ordering of the program relaxed, they fail.

use vmm_interface::sync::passes_without;

const PORT: &str = "devices/src/apic/port.rs";

#[test]
fn a_sender_that_sets_its_flag_relaxed_is_caught() {
    let operation = "self.attention.fetch_or(flag, Ordering::Release) == 0";
    assert!(!passes_without(PORT, operation, "signals::a_lone_start_up_ipi_carries_its_page"));
}

#[test]
fn an_owner_that_takes_the_flags_relaxed_is_caught() {
    let operation = "self.attention.swap(0, Ordering::Acquire)";
    assert!(!passes_without(PORT, operation, "signals::a_page_survives_the_updates_of_other_senders"));
}

/// The counter-check: an ordering that is no part of the argument ("Acquire is free on x86") is not missed. So it is the
/// ordering that the checks above fail for.
#[test]
fn a_look_at_the_flags_needs_no_ordering() {
    let operation = "self.attention.load(Ordering::Acquire) != 0";
    assert!(passes_without(PORT, operation, "signals::a_page_survives_the_updates_of_other_senders"));
}
