// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real local APIC of this processor, in xAPIC mode, for Parados's own timer and kicks.
//!
//! QEMU 7.2's emulated processors have neither x2APIC nor a TSC-deadline timer, so the memory-mapped one-shot timer it is
//! (SDM vol. 3A, chapter 11). The guest never sees this device; its page is absent from the nested tables.

use core::ptr;

/// The page, identity-mapped uncached by the image's page tables.
const BASE: usize = 0xfee0_0000;
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

const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const EOI: usize = 0xb0;
const SPURIOUS: usize = 0xf0;
const ICR_LOW: usize = 0x300;
const ICR_HIGH: usize = 0x310;
const LVT_TIMER: usize = 0x320;
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

/// Spurious-vector register: the APIC is enabled by software.
const ENABLE: u32 = 1 << 8;
/// An LVT entry's mask.
const MASKED: u32 = 1 << 16;
/// An LVT entry's delivery mode NMI.
const NMI: u32 = 4 << 8;
/// ICR: delivery still pending.
const PENDING: u32 = 1 << 12;
/// Divide configuration: by 1.
const DIVIDE_BY_1: u32 = 0b1011;

fn read(register: usize) -> u32 {
    // SAFETY: the page is the local APIC's, mapped uncached; reading any of the registers named here has no side effect.
    unsafe { ptr::with_exposed_provenance::<u32>(BASE + register).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as in `read`; the writes of this module only reach Parados's own vectors and processors.
    unsafe { ptr::with_exposed_provenance_mut::<u32>(BASE + register).write_volatile(value) };
}

/// Enables this processor's APIC with all of its local sources masked.
pub(crate) fn enable() {
    write(SPURIOUS, ENABLE | u32::from(SPURIOUS_VECTOR));
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(LVT_TIMER, u32::from(TIMER_VECTOR));
    write(DIVIDE, DIVIDE_BY_1);
    write(INITIAL_COUNT, 0);
}

/// Lets the machine's NMI button reach this processor. NMIs have no mask but GIF: it is clear from here on, but where the
/// handler may change EAX.
pub(crate) fn open_nmi() {
    write(LVT_LINT1, NMI);
}

/// This processor's APIC ID.
pub(crate) fn id() -> u32 {
    read(ID) >> 24
}

/// Ends the interrupt in service.
pub(crate) fn end_of_interrupt() {
    write(EOI, 0);
}

/// Makes the APIC look again whether an interrupt is pending.
///
/// QEMU's VMRUN notes a virtual interrupt's request without the lock under which its other threads note an interrupt for this
/// processor, which can lose the latter (`helper_vmrun`, 7.2 to 10.0). It stays requested in the APIC. So it is asked before a
/// sleep, and when the exit comes that the virtual interrupt was for.
pub(crate) fn look_again() {
    write(TASK_PRIORITY, 0);
}

/// Starts the one-shot timer; zero stops it.
pub(crate) fn start_timer(ticks: u32) {
    write(INITIAL_COUNT, ticks);
}

/// What is left of the one-shot timer.
pub(crate) fn timer_left() -> u32 {
    read(CURRENT_COUNT)
}

/// Sends a fixed interrupt to the processor with this APIC ID.
pub(crate) fn send(id: u32, vector: u8) {
    command(id, u32::from(vector));
}

/// Sends INIT to one processor.
pub(crate) fn init(id: u32) {
    command(id, 0x4500);
}

/// Sends a start-up IPI to one processor; it begins at `page` × 4 KiB.
pub(crate) fn start_up(id: u32, page: u8) {
    command(id, 0x4600 | u32::from(page));
}

fn command(id: u32, low: u32) {
    // The emulated APIC delivers at once; the bound keeps a broken one from hanging Parados.
    for _ in 0..1000 {
        if read(ICR_LOW) & PENDING == 0 {
            break;
        }
    }
    write(ICR_HIGH, id << 24);
    write(ICR_LOW, low);
}
