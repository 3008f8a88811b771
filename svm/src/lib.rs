// SPDX-License-Identifier: MIT OR Apache-2.0
//! AMD SVM as stock QEMU emulates it (APM vol. 2, chapter 15): the world switch, permission maps and nested paging.
//!
//! Shared by the native platform, which runs its guest this way, and by the reference host, which plays confidential
//! hardware on top of it. What QEMU's emulation lacks or does differently is handled by the callers; each place says so.

#![cfg_attr(not(test), no_std)]

mod entry;
mod nested;
mod permission;

pub use entry::{GuestRegisters, enter, load_guest_state, save_guest_state};
pub use nested::{MapError, NestedTables, Rights, TableMemory};
pub use permission::{IoPermissions, MsrPermissions};
