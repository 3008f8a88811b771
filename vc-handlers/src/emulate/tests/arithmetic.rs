// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arithmetic, shifts, bits, and the exchanges.

use super::*;
use crate::emulate::alu::{Binary, Unary};
use crate::emulate::bits::rflags::{AF, CF, OF, PF, SF, STATUS, ZF};
use crate::emulate::shift::{Shift, Side};
use crate::emulate::{bit, muldiv};

#[test]
fn addition_and_subtraction_match_wide_arithmetic_for_all_bytes() {
    for left in 0..=255_u64 {
        for right in 0..=255_u64 {
            for carry in [0, 1] {
                let (a, b) = (left as u8 as i8 as i64, right as u8 as i8 as i64);
                let check = |operation: Binary, wide: i64, signed: i64, low: i64| {
                    let (result, flags) = operation.apply(1, left, right, carry);
                    assert_eq!(result, wide as u64 & 0xff);
                    let expected = [
                        (CF, !(0..=255).contains(&wide)),
                        (OF, !(-128..=127).contains(&signed)),
                        (AF, !(0..=15).contains(&low)),
                        (ZF, result == 0),
                        (SF, result & 0x80 != 0),
                        (PF, result.count_ones() % 2 == 0),
                    ];
                    for (flag, set) in expected {
                        assert_eq!(flags & flag != 0, set, "{operation:?} {left:#x} {right:#x} {carry} flag {flag:#x}");
                    }
                };
                let (l, r, c) = (left as i64, right as i64, carry as i64);
                check(Binary::Adc, l + r + c, a + b + c, (l & 15) + (r & 15) + c);
                check(Binary::Sbb, l - r - c, a - b - c, (l & 15) - (r & 15) - c);
                check(Binary::Add, l + r, a + b, (l & 15) + (r & 15));
                check(Binary::Sub, l - r, a - b, (l & 15) - (r & 15));
            }
        }
    }
}

#[test]
fn bit_scans_find_the_ends_and_leave_the_destination_alone_for_zero() {
    use bit::Scan;
    assert_eq!(Scan::Forward.apply(2, 0xc000, ZF | CF), (Some(14), CF));
    assert_eq!(Scan::Reverse.apply(4, 0xc000, 0), (Some(15), 0));
    assert_eq!(Scan::Reverse.apply(8, 1 << 63 | 1, 0), (Some(63), 0));
    assert_eq!(Scan::Forward.apply(4, 1 << 32, CF), (None, CF | ZF));
}

#[test]
fn inc_and_dec_keep_carry_and_not_keeps_all() {
    assert_eq!(Unary::Inc.apply(4, 0xffff_ffff, CF), (0, CF | ZF | PF | AF));
    assert_eq!(Unary::Dec.apply(8, 0, 0), (u64::MAX, SF | PF | AF));
    assert_eq!(Unary::Not.apply(2, 0xff, STATUS), (0xff00, STATUS));
    assert_eq!(Unary::Neg.apply(1, 0x80, 0), (0x80, CF | OF | SF));
    assert_eq!(Unary::Neg.apply(1, 0, STATUS), (0, ZF | PF));
}

#[test]
fn rotates_through_carry_turn_a_ring_that_has_one_bit_more() {
    assert_eq!(Shift::Rcl.apply(1, 0x80, 1, 0), (0, CF | OF));
    assert_eq!(Shift::Rcr.apply(1, 1, 1, CF), (0x80, CF | OF));
    assert_eq!(Shift::Rcl.apply(1, 0x5a, 9, CF).0, 0x5a);
    assert_eq!(Shift::Rcr.apply(8, 1, 1, 0), (0, CF));
    assert_eq!(Shift::Rcl.apply(8, 1 << 63, 1, CF), (1, CF | OF));
    for count in 1..64 {
        let (turned, flags) = Shift::Rcl.apply(8, 0x0123_4567_89ab_cdef, count, CF);
        assert_eq!(Shift::Rcr.apply(8, turned, count, flags).0, 0x0123_4567_89ab_cdef);
    }
}

#[test]
fn shifts_give_their_last_bit_to_carry() {
    assert_eq!(Shift::Shl.apply(1, 0x81, 1, 0), (2, CF | OF));
    assert_eq!(Shift::Shl.apply(1, 1, 9, 0), (0, ZF | PF));
    assert_eq!(Shift::Shr.apply(4, 0x8000_0001, 1, 0), (0x4000_0000, CF | OF | PF));
    assert_eq!(Shift::Sar.apply(2, 0x8001, 1, 0), (0xc000, CF | SF | PF));
    assert_eq!(Shift::Sar.apply(1, 0x80, 31, 0), (0xff, CF | SF | PF));
    assert_eq!(Shift::Shl.apply(4, 1, 32, STATUS), (1, STATUS), "a count of zero after masking");
    assert_eq!(Shift::Rol.apply(1, 0x81, 8, 0), (0x81, CF));
    assert_eq!(Side::Left.apply(4, 0x8000_0001, 0xc000_0000, 2, 0).0, 7);
    assert_eq!(Side::Right.apply(8, 1, 1, 1, 0), (1 << 63, CF | OF | SF | PF));
}

#[test]
fn bit_indices_in_registers_reach_beyond_the_operand() {
    assert_eq!(bit::displacement(4, 0x25), 4);
    assert_eq!(bit::displacement(4, 0xffff_ffff), u64::MAX - 3);
    assert_eq!(bit::displacement(2, 0x8000), (-0x1000_i64) as u64);
    // bts [rbx], eax with bit 0x25
    let mut guest = Guest::long(&[0x0f, 0xab, 0x03]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, 0x25).reply(0);
    assert_eq!(guest.write(DEVICE + 4), done(3));
    assert_eq!(guest.env.requests, [mmio_read(DEVICE + 4, 4), mmio_write(DEVICE + 4, 4, 0x20)]);
    // bt dword [rbx], 0x25: an immediate stays inside
    let mut guest = Guest::long(&[0x0f, 0xba, 0x23, 0x25]).gpr(Gpr::Rbx, DEVICE).reply(0x20);
    assert_eq!(guest.read(DEVICE), done(4));
    assert_eq!(guest.cpu.rflags() & CF, CF);
    assert_eq!(guest.env.requests, [mmio_read(DEVICE, 4)]);
}

#[test]
fn a_read_modify_write_reads_once_and_writes_once() {
    for (code, before, after) in [
        (&[0x83, 0x0b, 0x01][..], 0x10, 0x11),
        (&[0x01, 0x03], 0x10, 0x13),
        (&[0xf0, 0xff, 0x03], 0x10, 0x11),
        (&[0xf7, 0x1b], 1, 0xffff_ffff),
        (&[0xc1, 0x23, 0x04], 0x11, 0x110),
        (&[0xd1, 0x2b], 0x11, 0x8),
        (&[0x0f, 0xa4, 0x03, 0x04], 0x11, 0x110),
    ] {
        let mut guest = Guest::long(code).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, 3).reply(before);
        assert_eq!(guest.write(DEVICE), done(code.len() as u64), "{code:x?}");
        assert_eq!(guest.env.requests, [mmio_read(DEVICE, 4), mmio_write(DEVICE, 4, after)], "{code:x?}");
    }
}

#[test]
fn cmp_and_test_only_read() {
    for (code, flags) in [(&[0x39, 0x03][..], ZF | PF), (&[0x85, 0x03], 0), (&[0x3b, 0x03], ZF | PF)] {
        let mut guest = Guest::long(code).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, 7).reply(7);
        assert_eq!(guest.read(DEVICE), done(2));
        assert_eq!(guest.cpu.rflags() & STATUS, flags, "{code:x?}");
        assert_eq!(guest.env.requests, [mmio_read(DEVICE, 4)]);
    }
}

#[test]
fn exchanges_move_both_ways() {
    let mut guest = Guest::long(&[0x87, 0x03]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, 0xffff_ffff_0000_0001).reply(2);
    assert_eq!(guest.write(DEVICE), done(2));
    assert_eq!((guest.rax(), guest.env.requests[1]), (2, mmio_write(DEVICE, 4, 1)));
    let mut guest = Guest::long(&[0xf0, 0x0f, 0xc1, 0x03]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, 5).reply(2);
    assert_eq!(guest.write(DEVICE), done(4));
    assert_eq!((guest.rax(), guest.env.requests[1]), (2, mmio_write(DEVICE, 4, 7)));
}

#[test]
fn compare_exchange_writes_in_either_case() {
    for (rax, after, equal) in [(2, 9, true), (3, 2, false)] {
        let code = [0xf0, 0x0f, 0xb1, 0x0b];
        let mut guest = Guest::long(&code).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, rax).gpr(Gpr::Rcx, 9).reply(2);
        assert_eq!(guest.write(DEVICE), done(4));
        assert_eq!(guest.env.requests[1], mmio_write(DEVICE, 4, after));
        assert_eq!((guest.rax(), guest.cpu.rflags() & ZF != 0), (2, equal));
    }
}

#[test]
fn wide_compare_exchange_is_atomic_on_memory() {
    let mut guest = Guest::long(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f])
        .gpr(Gpr::Rdi, DATA)
        .gpr(Gpr::Rax, 1)
        .gpr(Gpr::Rdx, 2)
        .gpr(Gpr::Rbx, 3)
        .gpr(Gpr::Rcx, 4);
    guest.env.memory.put(DATA, &(1_u128 | 2 << 64).to_le_bytes());
    assert_eq!(guest.write(DATA), done(5));
    assert_eq!(guest.env.memory.get(DATA, 16), (3_u128 | 4 << 64).to_le_bytes());
    assert_eq!(guest.cpu.rflags() & ZF, ZF);
    assert_eq!(guest.write(DATA), done(5), "RIP does not move here, so it runs once more");
    assert_eq!((guest.rax(), guest.cpu.gpr(Gpr::Rdx), guest.cpu.rflags() & ZF), (3, 4, 0));
    let mut guest = guest.gpr(Gpr::Rdi, DATA + 8);
    assert_eq!(guest.write(DATA + 8), Outcome::Inject(Exception::GENERAL_PROTECTION));
}

#[test]
fn multiplication_sets_carry_and_overflow_when_the_upper_half_counts() {
    assert_eq!(muldiv::multiply(1, false, 0xff, 0xff, 0), (1, 0xfe, CF | OF));
    assert_eq!(muldiv::multiply(1, true, 0xff, 0xff, 0), (1, 0, 0));
    assert_eq!(muldiv::multiply(8, true, u64::MAX, 2, 0).0, u64::MAX - 1);
    assert_eq!(muldiv::multiply(8, true, 1 << 63, 1 << 63, 0).1, 1 << 62);
    // mul byte [rbx]: AX; mul dword [rbx]: EDX:EAX
    let mut guest = Guest::long(&[0xf6, 0x23]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, 0x11_0010).reply(0x20);
    assert_eq!(guest.read(DEVICE), done(2));
    assert_eq!(guest.rax(), 0x11_0200);
    // imul eax, [rbx], -2
    let mut guest = Guest::long(&[0x6b, 0x03, 0xfe]).gpr(Gpr::Rbx, DEVICE).reply(3);
    assert_eq!(guest.read(DEVICE), done(3));
    assert_eq!(guest.rax(), 0xffff_fffa);
}

#[test]
fn division_faults_when_the_quotient_does_not_fit() {
    assert_eq!(muldiv::divide(1, false, 1, 0, 1), None);
    assert_eq!(muldiv::divide(4, false, 0, 5, 0), None);
    assert_eq!(muldiv::divide(8, true, 1 << 63, 0, u64::MAX), None);
    assert_eq!(muldiv::divide(1, true, 0xff, 0x80, 0xff), None, "-128 by -1");
    assert_eq!(muldiv::divide(1, true, 0xff, 0xf9, 2), Some((0xfd, 0xff)), "-7 by 2");
    let mut guest = Guest::long(&[0xf7, 0x33]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, 17).reply(5);
    assert_eq!(guest.read(DEVICE), done(2));
    assert_eq!((guest.rax(), guest.cpu.gpr(Gpr::Rdx)), (3, 2));
    let mut guest = Guest::long(&[0xf7, 0x33]).gpr(Gpr::Rbx, DEVICE).reply(0);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::DIVIDE));
}
