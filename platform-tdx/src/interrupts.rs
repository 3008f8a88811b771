// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own exceptions, #VE among them: each is a bug, or a host that has taken a page away, and ends the VM. Interrupts stay
//! off.

use core::arch::global_asm;
use core::mem::MaybeUninit;

use platform::{Reason, Termination};
use platform_shared::{call_exception, exceptions};

use crate::ending;

// One 16-byte stub for each exception.
global_asm!(
    ".section .text.exception_stubs, \"ax\"",
    ".balign 16",
    ".global tdx_exception_stubs",
    "tdx_exception_stubs:",
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
    static tdx_exception_stubs: [[u8; 16]; EXCEPTIONS];
}

/// Vectors below this are exceptions.
const EXCEPTIONS: usize = 32;

type DescriptorTable = exceptions::DescriptorTable<EXCEPTIONS>;

/// The table of all processors. In the image, because it is wanted before there is a heap.
static mut GATES: MaybeUninit<DescriptorTable> = MaybeUninit::uninit();

/// Fills the table and loads it. Once, on the boot processor, before any other one runs.
pub(crate) fn install() {
    let stub = |vector: usize| (&raw const tdx_exception_stubs).cast::<[u8; 16]>().wrapping_add(vector).cast::<u8>();
    // SAFETY: the stubs never return.
    let table = unsafe { DescriptorTable::new(false, stub) };
    let gates = &raw mut GATES;
    // SAFETY: nobody else has come here yet, so there is no other reference; from now on the table is only read.
    unsafe { gates.write(MaybeUninit::new(table)) };
    load();
}

/// Loads the table, on any processor.
pub(crate) fn load() {
    let gates = (&raw const GATES).cast::<DescriptorTable>();
    // SAFETY: `install` has filled it, and nobody writes to it any more.
    unsafe { &*gates }.load();
}

extern "C" fn exception(frame: *const u64) -> ! {
    // SAFETY: the stub passes what `call_exception!` does.
    unsafe {
        exceptions::handle(frame, |vector| ending::end(Termination::Fatal(Reason::EarlyException, vector.into())))
    }
}
