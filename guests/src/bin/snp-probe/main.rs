// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looks at SEV-SNP from the inside, as VMPL0: does the machine do what the manual says? Its task comes in RDI: 0 checks
//! everything that a correct program can see and ends with reason set 15; 11 does the same with restricted injection, which
//! its VMSA must have, and 12 with a second processor as well; 17 tries the debug console; 18 to 21 look for what hostile hosts do; any other number breaks one rule on purpose, which
//! a strict model must name. A check that fails ends the guest with its line as reason set and code.
//!
//! It knows nothing of any host but the GHCB specification. Memory is mapped twice: private at its address, shared at
//! `SHARED` and above. From `FREE` on there is memory that nobody has validated.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod checks;
#[cfg(target_os = "none")]
mod doorbell;
#[cfg(target_os = "none")]
mod ghcb;
#[cfg(target_os = "none")]
mod hostile;
#[cfg(target_os = "none")]
mod instructions;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
mod lower;
#[cfg(target_os = "none")]
mod misdeeds;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod start;

/// Where all memory is mapped without the C-bit.
#[cfg(target_os = "none")]
const SHARED: u64 = 1 << 39;
/// Memory that is free, by 2 MiB pages.
#[cfg(target_os = "none")]
const FREE: u64 = 0x100_0000;

/// Which processor this is: its own VMSA says so.
#[cfg(target_os = "none")]
fn number() -> u64 {
    instructions::read_msr(specs::msr::GS_BASE)
}

/// There is nothing to run on a hosted target.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a guest: build it with --target x86_64-unknown-none");
    std::process::exit(69);
}
