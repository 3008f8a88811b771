// SPDX-License-Identifier: MIT OR Apache-2.0
//! The native platform: Parados as an AMD-SVM host in stock QEMU (`-accel tcg`).
//!
//! It exists so that everything above the HAL can be run and tested anywhere. It protects the guest from nobody: QEMU sees
//! all memory. But it intercepts all that a confidential platform would, so that the guest owns no real hardware here
//! either, and Parados is kept apart from the guest as strictly as on the others.
//!
//! The quirks of QEMU's SVM that shape this code are listed in `docs/fidelity.md`.
//!
//! Hostile party: the guest. QEMU, the host, is trusted only not to crash us.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod apic;
mod clock;
mod code_page;
mod console;
mod cpu;
mod ending;
mod exit;
mod intercepts;
mod interrupts;
mod live;
mod log;
mod machine;
mod memory;
mod port;
mod power_button;
mod smp;
mod start;
mod vector;

pub use clock::Measurement;
pub use cpu::NativeCpu;
pub use ending::Ending;
pub use log::{last_words, say};
pub use machine::{Native, NativeHost, NativePages};
pub use memory::NativeMemory;
pub use platform_shared::exceptions::{OnException, control_registers};
pub use platform_shared::own_tables::is_mapped;
#[cfg(feature = "planted-leak")]
pub use start::expose;
pub use start::{StartError, cpuid, early, prepare, take_memory};
