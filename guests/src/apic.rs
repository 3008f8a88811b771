// SPDX-License-Identifier: MIT OR Apache-2.0
//! The local APIC in both modes (SDM vol. 3A, 11.4.1 and 11.12.1): registers are named by their xAPIC offset.

use crate::instructions::{read_msr, write_msr};
use crate::interrupts::{SPURIOUS, me};
use crate::machine::lapic;
use core::sync::atomic::Ordering::SeqCst;

/// IA32_APIC_BASE.
pub const BASE_MSR: u32 = 0x1b;
/// IA32_APIC_BASE: enabled.
pub const BASE_ENABLED: u64 = 1 << 11;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_EXTENDED: u64 = 1 << 10;

/// Offsets of the registers.
#[allow(missing_docs, reason = "the architecture's own names")]
pub mod register {
    pub const ID: u64 = 0x20;
    pub const VERSION: u64 = 0x30;
    pub const TASK_PRIORITY: u64 = 0x80;
    pub const PROCESSOR_PRIORITY: u64 = 0xa0;
    pub const END_OF_INTERRUPT: u64 = 0xb0;
    pub const LOGICAL_DESTINATION: u64 = 0xd0;
    pub const DESTINATION_FORMAT: u64 = 0xe0;
    pub const SPURIOUS: u64 = 0xf0;
    pub const IN_SERVICE: u64 = 0x100;
    pub const TRIGGER_MODE: u64 = 0x180;
    pub const REQUEST: u64 = 0x200;
    pub const ERROR_STATUS: u64 = 0x280;
    pub const COMMAND_LOW: u64 = 0x300;
    pub const COMMAND_HIGH: u64 = 0x310;
    pub const LVT_TIMER: u64 = 0x320;
    pub const LVT_LINT0: u64 = 0x350;
    pub const LVT_LINT1: u64 = 0x360;
    pub const LVT_ERROR: u64 = 0x370;
    pub const INITIAL_COUNT: u64 = 0x380;
    pub const CURRENT_COUNT: u64 = 0x390;
    pub const DIVIDE: u64 = 0x3e0;
    pub const SELF_IPI: u64 = 0x3f0;
}

/// ICR: delivery modes, levels and shorthands.
#[allow(missing_docs, reason = "the architecture's own names")]
pub mod command {
    pub const LOWEST_PRIORITY: u32 = 1 << 8;
    pub const NMI: u32 = 4 << 8;
    pub const INIT: u32 = 5 << 8;
    pub const STARTUP: u32 = 6 << 8;
    pub const LOGICAL: u32 = 1 << 11;
    pub const PENDING: u32 = 1 << 12;
    pub const ASSERT: u32 = 1 << 14;
    pub const LEVEL: u32 = 1 << 15;
    pub const MYSELF: u32 = 1 << 18;
    pub const ALL: u32 = 2 << 18;
    pub const OTHERS: u32 = 3 << 18;
}

/// The MSR of a register.
pub const fn msr(register: u64) -> u32 {
    0x800 + (register >> 4) as u32
}

/// Reads a register.
pub fn read(register: u64) -> u32 {
    if me().x2apic.load(SeqCst) { read_msr(msr(register)) as u32 } else { lapic::read(register) }
}

/// Writes a register.
pub fn write(register: u64, value: u32) {
    if me().x2apic.load(SeqCst) { write_msr(msr(register), value.into()) } else { lapic::write(register, value) }
}

/// Sends an interrupt command; `destination` as an x2APIC would take it. Not for handlers that may interrupt another send.
pub fn send(destination: u32, command: u32) {
    let command = command | command::ASSERT;
    if me().x2apic.load(SeqCst) {
        write_msr(msr(register::COMMAND_LOW), u64::from(destination) << 32 | u64::from(command));
    } else {
        while lapic::read(register::COMMAND_LOW) & command::PENDING != 0 {}
        lapic::write(register::COMMAND_HIGH, destination << 24);
        lapic::write(register::COMMAND_LOW, command);
    }
}

/// Opens interrupts for a moment, long enough for one that was just sent to oneself.
pub fn take_pending() {
    crate::instructions::open();
    crate::time::delay(5);
    crate::instructions::close();
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    write(register::END_OF_INTERRUPT, 0);
}

/// Turns the APIC on by software, with [`SPURIOUS`] as its spurious vector.
pub fn enable() {
    write(register::SPURIOUS, 1 << 8 | u32::from(SPURIOUS));
}

/// The APIC ID.
pub fn id() -> u32 {
    let id = read(register::ID);
    if me().x2apic.load(SeqCst) { id } else { id >> 24 }
}

/// Whether a vector's bit is set in IRR, ISR or TMR.
pub fn is_set(set: u64, vector: u8) -> bool {
    read(set + u64::from(vector >> 5) * 16) & 1 << (vector & 31) != 0
}

/// Goes from xAPIC to x2APIC mode.
pub fn enter_x2apic() {
    write_msr(BASE_MSR, read_msr(BASE_MSR) | BASE_ENABLED | BASE_EXTENDED);
    me().x2apic.store(true, SeqCst);
}

/// Goes to xAPIC mode, by way of being disabled, which loses all state; then enables it by software.
pub fn enter_xapic() {
    let base = read_msr(BASE_MSR) & !(BASE_ENABLED | BASE_EXTENDED);
    write_msr(BASE_MSR, base);
    write_msr(BASE_MSR, base | BASE_ENABLED);
    me().x2apic.store(false, SeqCst);
    enable();
}
