// SPDX-License-Identifier: MIT OR Apache-2.0
//! The SEV-SNP platform: Parados at VMPL0, its unmodified guest at VMPL2, with a virtual top of memory, reflected exits and
//! alternate injection (APM vol. 2, 15.36).
//!
//! `docs/host-contract.md` says what this asks of the host. Where no document says how a host does something (the timer, whom
//! it runs), the backend's way stands in `apic`, `console` and `exit`, and in that page.
//!
//! | file | what it touches |
//! |---|---|
//! | `entry` | the first instructions, to long mode |
//! | `instructions`, `accept` | PVALIDATE, RMPADJUST, VMGEXIT; memory changing hands |
//! | `page_state`, `shared_pool` | pages that the host makes private or shared; those that Parados itself shares |
//! | `msr_protocol`, `ghcb`, `doorbell`, `local` | the host, and each processor's pages for that |
//! | `apic`, `console`, `log`, `clock`, `fw_cfg` | the host's devices |
//! | `message`, `attester` | the firmware |
//! | `exit`, `cpu` | the guest's VMSA |
//!
//! Hostile parties: the guest, and the host.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod accept;
mod acceptance;
mod apic;
mod attester;
mod clock;
mod console;
mod cpu;
mod cpuid;
mod doorbell;
mod ending;
#[cfg(target_os = "none")]
mod entry;
mod exit;
mod fw_cfg;
mod ghcb;
mod instructions;
mod interrupts;
mod local;
mod log;
mod machine;
mod memory;
mod message;
mod msr_protocol;
mod page_state;
mod power_button;
mod shared_pool;
mod smp;
mod start;

pub use clock::{Measurement, SnpClock};
pub use cpu::SnpCpu;
pub use ending::Ending;
pub use log::{last_words, say};
pub use machine::{Snp, SnpHost, SnpPages};
pub use memory::SnpMemory;
pub use platform_shared::exceptions::{OnException, control_registers};
pub use platform_shared::own_tables::is_mapped;
pub use start::{StartError, cpuid, early, prepare, take_memory};
