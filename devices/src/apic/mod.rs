// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's interrupt controllers: one local APIC for each vCPU, the IOAPIC, and the fabric between them.
//!
//! Follows SDM vol. 3A, chapter 11 (section numbers below are that chapter's), and the Intel 82093AA data sheet.
//!
//! ```text
//! devices ── lines ──▶ IoApic ──InterruptMessage──▶ Fabric ──posts──▶ ApicPort ──absorb──▶ Lapic ──▶ its vCPU
//!                                                     ▲                                     │
//!                                                     └────────── ICR, self-IPI ────────────┘
//! ```
//!
//! A [`Lapic`] belongs to its vCPU alone, so it needs no lock. What other processors touch of it is its [`ApicPort`],
//! which is atomics only. Messages are plain values; nothing here calls a device or waits.
//!
//! Deliberately missing: suppression of EOI broadcasts (the version register says so), LVT CMCI (there are no machine
//! checks to report), remote read and focus processors (Pentium Pro only), sources behind the thermal and performance
//! LVT entries (the guest has no such sensors).
//!
//! Hostile party: the guest chooses every register access, on all of its processors at once. It can confuse its own
//! interrupts, as on hardware; it must not make Parados panic, spin or wait.

mod fabric;
mod ioapic;
mod lapic;
mod lapic_lines;
mod lapic_registers;
mod lapic_timer;
mod port;
#[cfg(test)]
mod tests;
mod vectors;

pub use fabric::Fabric;
pub use ioapic::{IoApic, PINS, Redeliveries};
pub use lapic::{Effect, Lapic, Mode};
pub use lapic_lines::Lint;
pub use lapic_timer::{MIN_PERIOD_NANOS, TIMER_HZ};
pub use port::{ApicPort, Signals};
