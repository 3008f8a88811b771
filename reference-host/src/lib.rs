// SPDX-License-Identifier: MIT OR Apache-2.0
//! The logic of the reference host: everything that needs no privileged instruction, so that `cargo test` reaches it.
//!
//! The reference host is the loader that stock QEMU lacks: it takes an IGVM file and starts the virtual machine that the
//! file describes, with the machine under it as the virtual hardware. It knows the format, not the image: nothing here may
//! depend on what is inside. The file is the only input that may be hostile (it may be corrupt, or meant for another host);
//! QEMU and its firmware are the machine and are believed.
//!
//! One idea a module: [`image`] reads the format, [`memory`] says what is the guest's RAM and what is ours, [`loader`]
//! carries out the directives, [`context`] checks the processor state, [`handover`] prepares the last page that we execute,
//! [`options`] and [`start_info`] read what QEMU passes, [`processors`] says which of them are the VM's, [`report`] words the outcome.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod context;
pub mod handover;
pub mod image;
pub mod loader;
pub mod memory;
pub mod options;
pub mod processors;
pub mod report;
pub mod snp;
pub mod start_info;
pub mod tdx;
#[cfg(test)]
mod tests;
