// SPDX-License-Identifier: MIT OR Apache-2.0
//! A software model of the firmware that runs on AMD's secure processor (PSP), as far as a guest of SEV-SNP can see it.
//!
//! It takes a guest through its launch ([`Psp::launch_start`], [`Psp::launch_update`], [`Psp::launch_finish`]) and then
//! answers the guest's messages ([`Psp::guest_request`]): attestation reports, derived keys, TSC information. Follows
//! the SEV Secure Nested Paging Firmware ABI (56860) as the sources in [`Rule::source`] show it.
//!
//! This is a judge of other programs, so it shares no code with what it judges: neither the launch digest of
//! `igvm-tools` nor the layouts in `specs`. A wrong offset over there shows up as a difference here.
//!
//! Hostile are the host, which sends the commands, and the guest, whose messages pass through memory that both can
//! write: callers hand in private copies. Nothing supplied may panic, and no length is used before it is checked.
//!
//! Missing on purpose: migration (agents, EXPORT to VMRK messages), VLEK, IMI, page moves and swaps, ciphertext.
//! Nothing allocates. A report takes up to 40 KiB of stack, most of it for the signature.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod cpuid;
mod digest;
mod ecdsa;
mod entropy;
mod guest;
mod id_block;
mod key;
mod launch;
mod message;
mod platform;
mod policy;
mod report;
mod rule;
mod secrets;
mod tsc;

pub mod certificates;
pub mod test_chain;

pub use cpuid::{CpuidReference, CpuidResult};
pub use digest::PermissionOrder;
pub use ecdsa::{PublicKey, Signature};
pub use entropy::{Entropy, NoEntropy};
pub use guest::{Answer, Guest};
pub use id_block::{IdAuth, IdBlock};
pub use launch::{Launch, LaunchFinish, LaunchPage, LaunchStart, PageType, Permissions, Placed};
pub use message::MessageType;
pub use platform::{Chip, ChipKeys, Platform, Product, Psp, Tcb, Version};
pub use policy::Policy;
pub use report::{Report, ReportVersion};
pub use rule::{Refused, Rule, Rules, Status};
pub use tsc::Tsc;

/// Bytes in the smaller page.
pub const PAGE_BYTES: usize = 4096;

/// A page, or a private copy of one.
pub type Page = [u8; PAGE_BYTES];
