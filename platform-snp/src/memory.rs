// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which memory is the guest's, and private. Memory that nobody has touched yet is accepted first.

use core::ptr;

use platform::{Gpa, Hold, MemoryError, Reason, Termination, Visibility};
use platform_shared::direct_map::{DirectMap, Reach};

use crate::accept::ensure;
use crate::acceptance::Acceptance;
use crate::ending::end;

/// The guest's memory; what of it has been accepted is its reach.
pub type SnpMemory = DirectMap<Acceptance>;

// SAFETY: what is accepted is identity-mapped private RAM of the guest's, which is never unmapped.
unsafe impl Reach for Acceptance {
    /// No page of the guest's is shared yet, so there is nothing to reach in that view.
    fn pointer(&self, gpa: Gpa, view: Visibility, bytes: usize) -> Result<(*mut u8, Hold<'_>), MemoryError> {
        let hold = Hold::new(self.ram(), None, gpa, bytes as u64, view)?;
        match ensure(self, gpa, bytes as u64) {
            Ok(()) => Ok((ptr::with_exposed_provenance_mut(gpa.0 as usize), hold)),
            // Nobody may go on with a host that exchanges pages.
            Err(MemoryError::Host) => end(Termination::Fatal(Reason::GuestMemory, gpa.0)),
            Err(other) => Err(other),
        }
    }
}
