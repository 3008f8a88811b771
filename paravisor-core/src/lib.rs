// SPDX-License-Identifier: MIT OR Apache-2.0
//! The core of Parados: from the launch block to the guest's first instruction, and from each exit back into the guest.
//!
//! Generic over [`platform::Platform`]; names none. The image's start code calls, in this order:
//! [`Image::at`] and [`Launch::read`] to check what the loader left, [`Machine::new`] to build the guest's PC and place its payload, and on
//! every processor [`Vcpu::run`], which never returns.
//!
//! Hostile parties: the guest, through every exit; the host, through the memory map and the processor count in the
//! launch parameters and through every byte of console input.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod attestation;
mod bios;
mod digest;
mod entry;
mod env;
mod launch;
mod length;
mod machine;
mod mem;
pub mod pages;
mod payload;
pub mod statistics;
mod vcpu;

pub use attestation::attest;
pub use digest::{DigestError, judge_payload};
pub use launch::{Launch, region_bytes};
pub use machine::{Hashed, Machine};
pub use mem::Image;
pub use payload::BootInformation;
pub use statistics::Statistics;
pub use vcpu::Vcpu;
