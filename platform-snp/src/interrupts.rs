// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own exceptions. With restricted injection nothing else comes: no interrupt, no NMI, only #HV, whose handler is in
//! `instructions`.
//!
//! #VC is an exception like the others, and ends the VM: Parados executes no instruction that exits without asking (it says
//! CPUID, ports and MSRs to the host by itself), and touches no memory that it has not accepted. So a #VC means that the
//! host has taken a page away or intercepts what it must not.

use core::arch::global_asm;

use platform::{Reason, Termination};
use platform_shared::{call_exception, exceptions};
use specs::sev::VECTOR_HV;

use crate::ending;
use crate::instructions::snp_hv;

// One 16-byte stub for each exception. The vectors above are never delivered, so the table ends before them.
global_asm!(
    ".section .text.exception_stubs, \"ax\"",
    ".balign 16",
    ".global snp_exception_stubs",
    "snp_exception_stubs:",
    ".set vector, 0",
    ".rept 32",
    "    .balign 16",
    "    .byte 0x6a, vector", // push
    "    jmp 3f",
    "    .set vector, vector + 1",
    ".endr",
    "3:",
    call_exception!(),
    ".text",
    exception = sym exception,
);

unsafe extern "C" {
    static snp_exception_stubs: [[u8; 16]; EXCEPTIONS];
}

/// Vectors below this are exceptions.
const EXCEPTIONS: usize = 32;

/// The interrupt descriptor table of all processors.
pub(crate) type DescriptorTable = exceptions::DescriptorTable<EXCEPTIONS>;

/// Gates to the stubs, and #HV's to its handler.
pub(crate) fn descriptor_table() -> DescriptorTable {
    let handler = |vector: usize| {
        let stub = (&raw const snp_exception_stubs).cast::<[u8; 16]>().wrapping_add(vector).cast::<u8>();
        if vector == usize::from(VECTOR_HV) { &raw const snp_hv } else { stub }
    };
    // SAFETY: #HV's handler returns with IRETQ, and the stubs never.
    unsafe { DescriptorTable::new(true, handler) }
}

extern "C" fn exception(frame: *const u64) -> ! {
    // SAFETY: the stub passes what `call_exception!` does.
    unsafe {
        exceptions::handle(frame, |vector| ending::end(Termination::Fatal(Reason::EarlyException, vector.into())))
    }
}
