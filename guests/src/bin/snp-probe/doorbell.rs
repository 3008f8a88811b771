// SPDX-License-Identifier: MIT OR Apache-2.0
//! Restricted injection: interrupts come as #HV and a doorbell, and nothing else does. The local APIC is reached through the
//! host, by the numbers of an x2APIC.

use crate::checks::check;
use crate::instructions::{flush, read, rmpadjust, write, write_msr};
use crate::{FREE, SHARED, ghcb, lower, number};
use guests::attempt;
use specs::ghcb::{exit as own, msr as protocol, page};
use specs::sev::MSR_GHCB;
use specs::svm::exit;

/// #HV.
const HV: Option<u8> = Some(28);
/// This processor's doorbell.
fn doorbell() -> u64 {
    FREE + 0x1f_d000 - number() * 0x4000
}

const VECTOR: u64 = 0x41;
/// To this processor, fixed, edge.
const SELF_IPI: u64 = 1 << 18 | VECTOR;
pub(crate) const X2APIC_SPURIOUS: u64 = 0x80f;
pub(crate) const X2APIC_COMMAND: u64 = 0x830;
pub(crate) const X2APIC_EOI: u64 = 0x80b;

pub(crate) fn write_apic(register: u64, value: u64) {
    let fields = [(page::RCX, register), (page::RAX, value & 0xffff_ffff), (page::RDX, value >> 32)];
    let (info1, _) = ghcb::request(exit::MSR, 1, 0, &fields);
    check!(info1 == 0);
}

/// Takes what the doorbell shows, as a handler does: the flags first.
fn take() -> u64 {
    take_all() & 0xff
}

/// The vector, and the flags behind it.
pub(crate) fn take_all() -> u64 {
    let word = read(SHARED + doorbell());
    write(SHARED + doorbell(), 0);
    word & 0xffff
}

/// Gives this processor a GHCB, a doorbell and a local APIC that is enabled.
pub(crate) fn set_up() {
    check!(ghcb::set_up());
    ghcb::share(doorbell());
    write(SHARED + doorbell(), 0);
    check!(ghcb::request(own::HV_DOORBELL, 0, 0, &[]) == (0, u64::MAX));
    check!(ghcb::request(own::HV_DOORBELL, 1, doorbell(), &[]) == (0, 0));
    check!(ghcb::request(own::HV_DOORBELL, 2, 0, &[]) == (0, doorbell()));
    write_apic(X2APIC_SPURIOUS, 0x1ff);
}

pub(crate) fn all() {
    set_up();
    own_interrupt();
    while_the_guest_runs();
}

/// An IPI to ourselves, although interrupts are off: #HV asks nobody.
fn own_interrupt() {
    // The request is written by hand, so that #HV may come right behind VMGEXIT.
    write_apic_request(SELF_IPI);
    let fault = attempt!(".byte 0xf3, 0x0f, 0x01, 0xd9; nop; nop; nop; nop");
    let later = attempt!("pause; nop; nop; nop");
    check!(fault == HV || later == HV);
    check!(take() == VECTOR);
    write_apic(X2APIC_EOI, 0);
}

fn write_apic_request(command: u64) {
    let fields = [(page::RCX, X2APIC_COMMAND), (page::RAX, command & 0xffff_ffff), (page::RDX, command >> 32)];
    ghcb::prepare(exit::MSR, 1, 0, &fields);
    write_msr(MSR_GHCB, ghcb::page());
}

/// VMPL2 spins; an interrupt brings VMPL0 back.
fn while_the_guest_runs() {
    lower::prepare(&lower::vmsa());
    flush();
    // JMP to itself.
    write(lower::code(), 0xfeeb);
    check!(rmpadjust(lower::code(), 2, 0xf, false) == 0);
    // A timer: one shot, as soon as VMPL2 is under way.
    write_apic(0x83e, 0xb);
    write_apic(0x832, VECTOR + 1);
    write_apic(0x838, 200_000_000);
    write_msr(MSR_GHCB, protocol::RUN_VMPL_REQUEST | 2 << 32);
    let fault = attempt!(".byte 0xf3, 0x0f, 0x01, 0xd9; nop; nop; nop; nop");
    check!(fault == HV);
    check!(take() == VECTOR + 1);
    check!(read(lower::vmsa_page() + 0x178) == lower::code());
    write_apic(X2APIC_EOI, 0);
}
