// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is left of Parados's own processor when Parados dies, and which processor ends the VM.

use core::sync::atomic::{AtomicU32, Ordering};

/// Names of the registers in [`OwnRegisters`].
pub const OWN_REGISTERS: [&str; 22] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "rflags", "cr0", "cr2", "cr3", "cr4",
];

/// Index of RSP in [`OwnRegisters`].
pub const OWN_RSP: usize = 4;

/// Parados's own registers, in the order of [`OWN_REGISTERS`].
pub type OwnRegisters = [u64; OWN_REGISTERS.len()];

/// A processor exception in Parados itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnException {
    /// Its vector.
    pub vector: u8,
    /// Its error code, zero if it has none.
    pub error_code: u64,
    /// The registers at the instruction that raised it.
    pub registers: OwnRegisters,
}

/// To which processor the end of the VM belongs: for a backend, which keeps one.
#[derive(Debug)]
pub struct EndClaim(AtomicU32);

impl EndClaim {
    /// Nobody's yet.
    #[allow(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Whether the end is this processor's: the first one's, however often it asks. One that dies while it ends the VM, or
    /// while it writes down how it died, must still come to the end.
    pub fn take(&self, processor: u32) -> bool {
        let own = processor.wrapping_add(1);
        match self.0.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(owner) => owner == own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A processor that powered the VM off while another one wrote its crash record told the host that all was well.
    #[test]
    fn the_end_belongs_to_the_first_who_claims_it() {
        let claim = EndClaim::new();
        assert!(claim.take(3));
        assert!(!claim.take(0) && !claim.take(2));
        assert!(claim.take(3), "a second death of the same processor");
        assert!(!claim.take(255));
    }
}
