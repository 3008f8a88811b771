// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's PC: every device that an unmodified operating system expects to find, the same on every platform.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(test)]
mod fake;

pub mod acpi;
pub mod apic;
pub mod chipset;
pub mod memory_map;
pub mod pc;
pub mod pic;
pub mod pit;
pub mod rtc;
pub mod uart;
