// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own exceptions, #VE among them: each is a bug, or a host that has taken a page away, and ends the VM. Interrupts stay
//! off.

use core::mem::MaybeUninit;

use platform_shared::exceptions::{self, EXCEPTIONS};

use super::ending::Report;

type DescriptorTable = exceptions::DescriptorTable<EXCEPTIONS>;

/// The table of all processors. In the image, because it is wanted before there is a heap.
static mut GATES: MaybeUninit<DescriptorTable> = MaybeUninit::uninit();

/// Fills the table and loads it. Once, on the boot processor, before any other one runs.
pub(crate) fn install() {
    // SAFETY: the stubs never return.
    let table = unsafe { DescriptorTable::new(false, exceptions::stub) };
    let gates = &raw mut GATES;
    // SAFETY: nobody else has come here yet, so there is no other reference; from now on the table is only read.
    unsafe { gates.write(MaybeUninit::new(table)) };
    load();
}

/// Loads the table, on any processor.
pub(crate) fn load() {
    let gates = (&raw const GATES).cast::<DescriptorTable>();
    // SAFETY: `install` has filled it, and nobody writes to it any more.
    unsafe { &*gates }.load::<Report>();
}
