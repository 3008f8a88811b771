// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own local APIC: a virtual x2APIC of the host's, by MSR requests through the GHCB (*ours*: `docs/host-contract.md`).
//!
//! The host may ignore any of it. Then the guest's timers are late; Parados itself waits for none of it.

use platform_shared::power_button::SCI_PIN;

use crate::ghcb::{Refusal, memory_write, msr_read, msr_write};

/// The timer's vector.
pub(crate) const TIMER_VECTOR: u8 = 0x40;
/// The vector with which one processor kicks another.
pub(crate) const KICK_VECTOR: u8 = 0x41;
/// The vector of the console's interrupt.
pub(crate) const CONSOLE_VECTOR: u8 = 0x42;
/// The vector of the power button's interrupt.
pub(crate) const POWER_VECTOR: u8 = 0x43;
/// The spurious vector: no EOI.
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

/// x2APIC registers (APM vol. 2, table 16-6).
const EOI: u32 = 0x80b;
const SPURIOUS: u32 = 0x80f;
const COMMAND: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_LINT0: u32 = 0x835;
const LVT_LINT1: u32 = 0x836;
const INITIAL_COUNT: u32 = 0x838;
const CURRENT_COUNT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;

const ENABLE: u64 = 1 << 8;
const MASKED: u64 = 1 << 16;
const DIVIDE_BY_1: u64 = 0b1011;
/// Interrupt command: edge, asserted.
const ASSERT: u64 = 1 << 14;

/// The host's IOAPIC: its select and window registers, and the console's line.
const IOAPIC: u64 = 0xfec0_0000;
const WINDOW: u64 = 0x10;
const CONSOLE_PIN: u32 = 4;
/// Of a redirection entry: level-triggered.
const LEVEL: u32 = 1 << 15;

/// Enables this processor's APIC with all of its local sources masked.
pub(crate) fn enable() -> Result<(), Refusal> {
    msr_write(SPURIOUS, ENABLE | u64::from(SPURIOUS_VECTOR))?;
    msr_write(LVT_LINT0, MASKED)?;
    msr_write(LVT_LINT1, MASKED)?;
    msr_write(LVT_TIMER, TIMER_VECTOR.into())?;
    msr_write(DIVIDE, DIVIDE_BY_1)?;
    msr_write(INITIAL_COUNT, 0)
}

/// Sends the console's interrupt to the boot processor.
pub(crate) fn route_console() -> Result<(), Refusal> {
    route(CONSOLE_PIN, CONSOLE_VECTOR.into())
}

/// Sends the power button's interrupt there, too.
pub(crate) fn route_power_button() -> Result<(), Refusal> {
    route(SCI_PIN, LEVEL | u32::from(POWER_VECTOR))
}

fn route(pin: u32, entry: u32) -> Result<(), Refusal> {
    for (register, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, entry)] {
        memory_write(IOAPIC, register)?;
        memory_write(IOAPIC + WINDOW, value)?;
    }
    Ok(())
}

/// Ends the interrupt in service. A host that refuses gets no more interrupts taken: its own loss.
pub(crate) fn end_of_interrupt() {
    let _ = msr_write(EOI, 0);
}

/// Starts the one-shot timer; zero stops it.
pub(crate) fn start_timer(ticks: u32) -> Result<(), Refusal> {
    msr_write(INITIAL_COUNT, ticks.into())
}

/// What is left of the one-shot timer.
pub(crate) fn timer_left() -> Result<u32, Refusal> {
    msr_read(CURRENT_COUNT).map(|left| left as u32)
}

/// Sends a fixed interrupt to the processor with this APIC ID.
pub(crate) fn send(id: u32, vector: u8) -> Result<(), Refusal> {
    msr_write(COMMAND, u64::from(id) << 32 | ASSERT | u64::from(vector))
}
