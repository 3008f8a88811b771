// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds and inspects IGVM images: the host's side of `image-abi`.
//!
//! [`build()`] turns the paravisor's ELF, a payload and a policy into one IGVM file; everything that can be decided before
//! launch is decided here, so that the image starts with its page tables, stack and permissions in place. [`inspect()`]
//! takes any IGVM file apart, [`measure()`] computes what SEV-SNP and TDX would measure at its launch, and
//! [`verify()`] holds what a guest attests against that. The file format is that of the `igvm_defs` crate; what a loader other than our own accepts
//! is QEMU's backends/igvm.c (10.2).
//!
//! Whoever wrote the files that come in here may be hostile: kernels, RAM disks and images are checked field by field,
//! every size is bounded before memory is reserved for it, and no path, time or user name goes into what is built.

#![forbid(unsafe_code)]

pub mod build;
mod combine;
pub mod config;
mod context;
pub mod diff;
mod elf;
mod error;
pub mod extract;
pub mod file;
#[cfg(test)]
mod fixture;
mod id_block;
pub mod input;
pub mod inspect;
mod key;
mod launch;
#[cfg(test)]
mod launch_fixture;
mod layout;
pub mod measure;
pub mod page_tables;
mod paravisor;
pub mod payload;
mod policy;
mod report;
pub mod sign;
mod snp_image;
mod tdx_image;
#[cfg(test)]
mod tests;
pub mod verify;

pub use build::{Contents, Image, ImageSpec, Input, Platform, build, build_from};
pub use combine::combine;
pub use config::{Config, POLICY};
pub use diff::diff;
pub use error::{Error, Kind};
pub use input::{can_be_written, write_atomically, write_together};
pub use inspect::{Inspection, inspect};
pub use measure::{Measurements, measure};
pub use verify::verify;

/// The unit of everything in an image.
pub(crate) const PAGE: u64 = 4096;

/// The page that holds an address.
pub(crate) const fn page_down(address: u64) -> u64 {
    address & !(PAGE - 1)
}

/// The first page boundary at or after an address; saturates at the last page.
pub(crate) const fn page_up(address: u64) -> u64 {
    page_down(address.saturating_add(PAGE - 1))
}
