// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which memory is the guest's, and in which view: private memory at its own address, shared memory through a second map of all
//! memory. Private memory that nobody has touched yet is accepted first.
//!
//! Hostile party: the host, which reads and writes what is shared at any time.

use core::ptr;

use platform::{Gpa, Hold, MemoryError, Reason, Termination, Visibility};
use platform_shared::direct_map::{DirectMap, Reach};
use platform_shared::own_tables;

use crate::accept::ensure;
use crate::acceptance::Acceptance;
use crate::ending::Ending;

/// The guest's memory; what of it has been accepted is its reach.
pub type SnpMemory = DirectMap<Acceptance>;

// SAFETY: what is accepted and held in the private view is identity-mapped private RAM of the guest's, which is never unmapped;
// what is held in the shared one is mapped as such above it, for ever.
unsafe impl Reach for Acceptance {
    fn pointer(&self, gpa: Gpa, view: Visibility, bytes: usize) -> Result<(*mut u8, Hold<'_>), MemoryError> {
        let hold = Hold::new(self.ram(), self.views(), gpa, bytes as u64, view)?;
        if view == Visibility::Shared {
            return Ok((ptr::with_exposed_provenance_mut((own_tables::SHARED_BASE + hold.at.0) as usize), hold));
        }
        match ensure(self, gpa, bytes as u64) {
            Ok(()) => Ok((ptr::with_exposed_provenance_mut(gpa.0 as usize), hold)),
            // Nobody may go on with a host that exchanges pages.
            Err(MemoryError::Host) => Ending::end(Termination::Fatal(Reason::GuestMemory, gpa.0)),
            Err(other) => Err(other),
        }
    }
}
