// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Parados image: the first instruction, the heap, the panic record, and the choice of a platform.
//!
//! Everything else is in the libraries. On a host target this is a stub, so that editors and lints work.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod crash;
#[cfg_attr(not(target_os = "none"), allow(dead_code, reason = "used by the image alone"))]
mod heap;
#[cfg(target_os = "none")]
mod journal;
#[cfg(target_os = "none")]
mod note;
#[cfg(target_os = "none")]
mod opening;
#[cfg(all(target_os = "none", not(feature = "tdx")))]
mod start;
#[cfg(all(target_os = "none", feature = "tdx"))]
mod start_tdx;

/// The platform that the image is built for.
#[cfg(all(target_os = "none", not(any(feature = "snp", feature = "tdx"))))]
use platform_native::{self as backend, Native as Backend};
#[cfg(all(target_os = "none", feature = "snp"))]
use platform_snp::{self as backend, Snp as Backend};
#[cfg(all(target_os = "none", feature = "tdx"))]
use platform_tdx as backend;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("parados: this program is an image; `cargo xtask run` starts it");
}
