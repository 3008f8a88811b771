// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hardware's side of SEV-SNP, as rules that run anywhere: what an EPYC processor would do, and what software must not.
//!
//! Follows APM vol. 2, 15.34 to 15.36, and vol. 3 for the instructions. The model has two customers: the reference host,
//! which enforces the rules on a real guest under QEMU, and unit tests. It touches no hardware and no guest memory; it is
//! told what happens and says what follows.
//!
//! A guest and a host may both be hostile here: nothing they supply can make a rule panic or loop. The other side of the
//! fence, what a *host* does within these rules, is the crate `snp-host`. It gets [`HostPort`] and shared memory, and with
//! these no way to a private page or a VMSA exists:
//!
//! ```compile_fail,E0599
//! // A host cannot read what an RMP entry says, let alone the page.
//! fn host(port: &mut snp_model::HostPort<'_, '_>) -> u64 { port.rmp().entry(0).unwrap().gpa() }
//! ```
//! ```compile_fail,E0451
//! // Nor open the port to get at the hardware behind it.
//! fn host(port: snp_model::HostPort<'_, '_>) { let snp_model::HostPort { rmp, .. } = port; }
//! ```
//! ```compile_fail,E0599
//! // Nor turn a page into a VMSA, or validate one.
//! fn host(port: &mut snp_model::HostPort<'_, '_>) { port.rmpadjust(0, 1, 0); }
//! ```
//!
//! One idea a module: [`rmp`] the table, [`instructions`] PVALIDATE and its siblings, [`access`] the checks of a memory
//! access, [`vmsa`] what VMRUN checks, [`reserved`] what it wants to be zero, [`exits`] which exits are a #VC, [`injection`] what a host may inject, [`ledger`]
//! translations that outlive their reason, [`rule`] the names and sources of all rules, [`assumed`] those that no public
//! source states.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod access;
pub mod assumed;
pub mod exits;
pub mod injection;
pub mod instructions;
pub mod ledger;
pub mod reserved;
pub mod rmp;
pub mod rule;
pub mod vmsa;

/// The most processors of a guest.
pub const PROCESSORS: usize = 64;

pub use rmp::HostPort;
pub use rule::{Broken, Rule, Violation};
