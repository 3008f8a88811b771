// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layouts and constants of other people's documents, each with its source.
//!
//! One module for each document or interface. Nothing here has behaviour, and nothing here is ours to choose. Document
//! tags (APM, SDM, GHCB, …) are listed in `docs/specs.md`. What one platform alone has is behind a feature: an image is compiled from
//! its own platform's formats and no others, and who audits it need not read those.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod apic;
pub mod cpuid;
pub mod linux_boot;
pub mod msr;
pub mod multiboot;
pub mod pci;
pub mod pvh;
pub mod svm;

#[cfg(feature = "snp")]
pub mod ghcb;
#[cfg(feature = "snp")]
pub mod guest_message;
#[cfg(feature = "snp")]
pub mod sev;
#[cfg(feature = "tdx")]
pub mod tdx;
#[cfg(feature = "vmcb")]
pub mod vmcb;
#[cfg(feature = "snp")]
pub mod vmsa;
