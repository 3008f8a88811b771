// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layouts and constants of other people's documents, each with its source.
//!
//! One module for each document or interface. Nothing here has behaviour, and nothing here is ours to choose. Document
//! tags (APM, SDM, GHCB, …) are listed in `docs/specs.md`.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod apic;
pub mod cpuid;
pub mod ghcb;
pub mod guest_message;
pub mod linux_boot;
pub mod msr;
pub mod multiboot;
pub mod pci;
pub mod pvh;
pub mod sev;
pub mod svm;
pub mod tdx;
pub mod vmsa;
