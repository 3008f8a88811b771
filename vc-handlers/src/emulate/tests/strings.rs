// SPDX-License-Identifier: MIT OR Apache-2.0
//! String instructions.

use super::*;
use crate::emulate::bits::rflags::{DF, TF, ZF};

#[test]
fn rep_movs_copies_to_a_device_and_leaves_the_counters_at_the_end() {
    let mut guest = Guest::long(&[0xf3, 0xa5]).gpr(Gpr::Rcx, 3).gpr(Gpr::Rsi, DATA).gpr(Gpr::Rdi, DEVICE + 0xff8);
    guest.env.memory.put(DATA, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(guest.write(DEVICE + 0xff8), done(2));
    let expected =
        [mmio_write(DEVICE + 0xff8, 4, 1), mmio_write(DEVICE + 0xffc, 4, 2), mmio_write(DEVICE + 0x1000, 4, 3)];
    assert_eq!(guest.env.requests, expected);
    let registers = [Gpr::Rcx, Gpr::Rsi, Gpr::Rdi].map(|register| guest.cpu.gpr(register));
    assert_eq!(registers, [0, DATA + 12, DEVICE + 0x1004]);
}

#[test]
fn movs_between_devices_reads_then_writes() {
    let mut guest = Guest::long(&[0xa4]).gpr(Gpr::Rsi, DEVICE).gpr(Gpr::Rdi, DEVICE + 0x100).flags(DF).reply(7);
    assert_eq!(guest.read(DEVICE), done(1));
    assert_eq!(guest.env.requests, [mmio_read(DEVICE, 1), mmio_write(DEVICE + 0x100, 1, 7)]);
    assert_eq!(guest.cpu.gpr(Gpr::Rsi), DEVICE - 1);
}

#[test]
fn a_long_repetition_stops_at_its_bound_and_goes_on() {
    let mut guest = Guest::long(&[0xf3, 0xaa]).gpr(Gpr::Rcx, 1500).gpr(Gpr::Rdi, DEVICE).gpr(Gpr::Rax, 0x5a);
    assert_eq!(guest.write(DEVICE), Outcome::Resume);
    assert_eq!((guest.env.requests.len(), guest.cpu.gpr(Gpr::Rcx)), (1024, 476));
    assert_eq!(guest.cpu.rip(), CODE);
    assert_eq!(guest.write(DEVICE + 1024), done(2));
    assert_eq!((guest.env.requests.len(), guest.cpu.gpr(Gpr::Rcx)), (1500, 0));
}

#[test]
fn a_repetition_that_leaves_the_device_is_handed_back() {
    // Downwards from the device into RAM.
    let mut guest = Guest::long(&[0xf3, 0xaa]).gpr(Gpr::Rcx, 10).gpr(Gpr::Rdi, 0x10_0001).gpr(Gpr::Rax, 1).flags(DF);
    assert_eq!(guest.write(0x10_0001), Outcome::Resume);
    assert_eq!((guest.cpu.gpr(Gpr::Rcx), guest.cpu.gpr(Gpr::Rdi)), (8, 0xf_ffff));
}

#[test]
fn a_fault_in_the_middle_is_precise() {
    // The first 4 GiB are mapped.
    let last = 0xffff_fff8;
    let mut guest = Guest::long(&[0xf3, 0xab]).gpr(Gpr::Rcx, 10).gpr(Gpr::Rdi, last).gpr(Gpr::Rax, 1);
    assert_eq!(guest.write(last), page_fault(2, 0x1_0000_0000));
    assert_eq!((guest.cpu.gpr(Gpr::Rcx), guest.cpu.gpr(Gpr::Rdi)), (8, 0x1_0000_0000));
    assert_eq!(guest.env.requests.len(), 2);
}

#[test]
fn a_single_stepped_repetition_traps_after_each_element() {
    let mut guest = Guest::long(&[0xf3, 0xaa]).gpr(Gpr::Rcx, 2).gpr(Gpr::Rdi, DEVICE).flags(TF);
    assert_eq!(guest.write(DEVICE), done(0));
    assert_eq!(guest.write(DEVICE + 1), done(2));
}

#[test]
fn lods_and_scas_and_cmps_compare_as_their_prefix_says() {
    let mut guest = Guest::long(&[0x66, 0xad]).gpr(Gpr::Rsi, DEVICE).gpr(Gpr::Rax, !0).reply(0x1234);
    assert_eq!(guest.read(DEVICE), done(2));
    assert_eq!(guest.rax(), 0xffff_ffff_ffff_1234);
    // repne scasb finds the third byte
    let mut guest = Guest::long(&[0xf2, 0xae]).gpr(Gpr::Rdi, DEVICE).gpr(Gpr::Rcx, 9).gpr(Gpr::Rax, 3);
    let mut guest = {
        for value in [1, 2, 3, 4] {
            guest.env.reply(value)
        }
        guest
    };
    assert_eq!(guest.read(DEVICE), done(2));
    assert_eq!((guest.cpu.gpr(Gpr::Rcx), guest.cpu.rflags() & ZF), (6, ZF));
    // repe cmpsb stops at the first difference
    let mut guest = Guest::long(&[0xf3, 0xa6]).gpr(Gpr::Rsi, DATA).gpr(Gpr::Rdi, DEVICE).gpr(Gpr::Rcx, 9);
    guest.env.memory.put(DATA, &[1, 2, 9]);
    for value in [1, 2, 3] {
        guest.env.reply(value);
    }
    assert_eq!(guest.read(DEVICE), done(2));
    assert_eq!((guest.cpu.gpr(Gpr::Rcx), guest.cpu.gpr(Gpr::Rsi)), (6, DATA + 3));
    assert_eq!(guest.cpu.rflags() & ZF, 0);
}

#[test]
fn sixteen_bit_addresses_wrap_and_keep_the_upper_halves() {
    let mut guest = Guest::protected(&[0x67, 0xf3, 0xaa])
        .gpr(Gpr::Rcx, 0xaaaa_0002)
        .gpr(Gpr::Rdi, 0xbbbb_ffff)
        .base(SegmentRegister::Es, DEVICE);
    assert_eq!(guest.write(DEVICE + 0xffff), done(3));
    assert_eq!(guest.env.requests, [mmio_write(DEVICE + 0xffff, 1, 0), mmio_write(DEVICE, 1, 0)]);
    assert_eq!((guest.cpu.gpr(Gpr::Rcx), guest.cpu.gpr(Gpr::Rdi)), (0xaaaa_0000, 0xbbbb_0001));
}
