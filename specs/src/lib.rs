// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layouts and constants of other people's documents, each with its source.
//!
//! One module for each document or interface. Nothing here has behaviour, and nothing here is ours to choose. Document
//! tags (APM, SDM, GHCB, …) are listed in `docs/specs.md`. What one platform alone has, and the files that
//! only loaders read, are behind features: who audits an image need not read of them.

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
#[cfg(feature = "loader")]
pub mod linux_image;
#[cfg(feature = "loader")]
pub mod multiboot_header;
#[cfg(feature = "snp")]
pub mod sev;
#[cfg(feature = "tdx")]
pub mod tdx;
#[cfg(feature = "vmcb")]
pub mod vmcb;
#[cfg(feature = "snp")]
pub mod vmsa;
