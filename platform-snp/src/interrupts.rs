// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own exceptions. With restricted injection nothing else comes: no interrupt, no NMI, only #HV, whose handler is in
//! `instructions`.
//!
//! #VC is an exception like the others, and ends the VM: Parados executes no instruction that exits without asking (it says
//! CPUID, ports and MSRs to the host by itself), and touches no memory that it has not accepted. So a #VC means that the
//! host has taken a page away or intercepts what it must not.

use platform_shared::exceptions::{self, EXCEPTIONS};
use specs::sev::VECTOR_HV;

use crate::instructions::snp_hv;

/// The interrupt descriptor table of all processors. The vectors above exceptions are never delivered, so it ends before them.
pub(crate) type DescriptorTable = exceptions::DescriptorTable<EXCEPTIONS>;

/// Gates to the stubs, and #HV's to its handler.
pub(crate) fn descriptor_table() -> DescriptorTable {
    let handler = |vector: usize| {
        if vector == usize::from(VECTOR_HV) { &raw const snp_hv } else { exceptions::stub(vector) }
    };
    // SAFETY: #HV's handler returns with IRETQ, and the stubs never.
    unsafe { DescriptorTable::new(true, handler) }
}
