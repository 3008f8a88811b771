// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference host: one PVH ELF that stock QEMU starts with `-kernel`, and that loads the IGVM file given with `-initrd`.
//!
//! It moves itself and the file above the guest's RAM, carries out the file's directives, and jumps to where the file says.
//! Built for any other target, it is a stub, so that the workspace builds and lints as a whole.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bare;

/// There is nothing to run on a hosted target.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("reference-host runs in QEMU: build it with --target x86_64-unknown-none");
    std::process::exit(69);
}
