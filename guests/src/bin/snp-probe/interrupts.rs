// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts without restricted injection: the host takes none from the local APIC before the guest can take it, so that one
//! that waits is neither doubled by a second request nor ended by the end of the one that is being handled.

use crate::checks::check;
use crate::doorbell::{X2APIC_COMMAND, X2APIC_EOI, X2APIC_SPURIOUS, write_apic};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use guests::exceptions::{Frame, set_hook};

const LOW: u64 = 0x41;
const HIGH: u64 = 0x61;
const TO_SELF: u64 = 1 << 18;
const RFLAGS_IF: u64 = 1 << 9;

/// The vector that came last.
static CAME: AtomicU64 = AtomicU64::new(0);

/// Notes a vector, and leaves interrupts off.
fn note(frame: &mut Frame) {
    CAME.store(frame.vector, SeqCst);
    frame.flags &= !RFLAGS_IF;
}

/// Takes one interrupt, if one waits; 0 if not.
fn take() -> u64 {
    // SAFETY: the hook takes whatever comes, and changes nothing but the flag that is cleared here anyway.
    unsafe { asm!("sti", "nop", "nop", "cli") };
    CAME.swap(0, SeqCst)
}

fn send(vector: u64) {
    write_apic(X2APIC_COMMAND, TO_SELF | vector);
}

fn end() {
    write_apic(X2APIC_EOI, 0);
}

pub(crate) fn all() {
    set_hook(note);
    write_apic(X2APIC_SPURIOUS, 0x1ff);
    send(LOW);
    check!(take() == LOW);
    // While it is being handled, another one is requested, and again when the first is over.
    send(HIGH);
    end();
    send(HIGH);
    check!(take() == HIGH);
    end();
    check!(take() == 0);
    // Nothing is in service any more, so anything may come.
    send(LOW);
    check!(take() == LOW);
    end();
    check!(take() == 0);
}
