// SPDX-License-Identifier: MIT OR Apache-2.0
//! SSE and AVX moves.

use super::*;
use crate::Oddity;

const OSFXSR: u64 = 1 << 9;
const OSXSAVE: u64 = 1 << 18;
const LOW: u64 = 0x1111_2222_3333_4444;
const HIGH: u64 = 0x5555_6666_7777_8888;

/// A register whose bytes count up.
fn pattern() -> [u8; 32] {
    core::array::from_fn(|index| index as u8)
}

/// Code with RBX at `address`, SSE and AVX on, XMM0 and XMM1 filled.
fn guest(code: &[u8], address: u64) -> Guest {
    let mut guest = Guest::long(code).gpr(Gpr::Rbx, address);
    guest.cpu.state.cr4 |= OSFXSR | OSXSAVE;
    guest.cpu.xcr0 = 7;
    guest.cpu.vectors[0] = pattern();
    guest.cpu.vectors[1] = [0xee; 32];
    guest
}

fn words(value: &[u8; 32]) -> [u64; 4] {
    core::array::from_fn(|index| u64::from_le_bytes(value[8 * index..8 * index + 8].try_into().unwrap()))
}

#[test]
fn a_legacy_load_keeps_the_upper_half() {
    // movups xmm1, [rbx]
    let mut guest = guest(&[0x0f, 0x10, 0x0b], DEVICE).reply(LOW).reply(HIGH);
    assert_eq!(guest.read(DEVICE), done(3));
    assert_eq!(guest.env.requests, [mmio_read(DEVICE, 8), mmio_read(DEVICE + 8, 8)]);
    assert_eq!(words(&guest.cpu.vectors[1]), [LOW, HIGH, 0xeeee_eeee_eeee_eeee, 0xeeee_eeee_eeee_eeee]);
}

#[test]
fn a_vex_load_clears_the_upper_half() {
    // vmovups xmm1, [rbx]
    let mut guest = guest(&[0xc5, 0xf8, 0x10, 0x0b], DEVICE).reply(LOW).reply(HIGH);
    assert_eq!(guest.read(DEVICE), done(4));
    assert_eq!(words(&guest.cpu.vectors[1]), [LOW, HIGH, 0, 0]);
}

#[test]
fn a_256_bit_store_makes_four_accesses() {
    // vmovntdq [rbx], ymm0
    let mut guest = guest(&[0xc5, 0xfd, 0xe7, 0x03], DEVICE);
    assert_eq!(guest.write(DEVICE), done(4));
    let wanted: Vec<_> =
        words(&pattern()).into_iter().zip(0..).map(|(word, at)| mmio_write(DEVICE + 8 * at, 8, word)).collect();
    assert_eq!(guest.env.requests, wanted);
}

#[test]
fn scalar_loads_clear_the_rest_of_the_xmm_register() {
    // movd xmm1, [rbx]; movss xmm1, [rbx]; movq xmm1, [rbx]; movsd xmm1, [rbx]
    let cases: [(&[u8], u64); 4] = [
        (&[0x66, 0x0f, 0x6e, 0x0b], LOW & 0xffff_ffff),
        (&[0xf3, 0x0f, 0x10, 0x0b], LOW & 0xffff_ffff),
        (&[0xf3, 0x0f, 0x7e, 0x0b], LOW),
        (&[0xf2, 0x0f, 0x10, 0x0b], LOW),
    ];
    for (code, loaded) in cases {
        let mut guest = guest(code, DEVICE).reply(loaded);
        assert_eq!(guest.read(DEVICE), done(4), "{code:x?}");
        assert_eq!(words(&guest.cpu.vectors[1])[..2], [loaded, 0], "{code:x?}");
    }
}

#[test]
fn half_loads_keep_or_take_the_other_half() {
    // movhps xmm1, [rbx]
    let mut legacy = guest(&[0x0f, 0x16, 0x0b], DEVICE).reply(LOW);
    assert_eq!(legacy.read(DEVICE), done(3));
    assert_eq!(words(&legacy.cpu.vectors[1])[..2], [0xeeee_eeee_eeee_eeee, LOW]);
    // vmovlps xmm1, xmm0, [rbx]
    let mut vex = guest(&[0xc5, 0xf8, 0x12, 0x0b], DEVICE).reply(LOW);
    assert_eq!(vex.read(DEVICE), done(4));
    assert_eq!(words(&vex.cpu.vectors[1]), [LOW, words(&pattern())[1], 0, 0]);
}

#[test]
fn aligned_moves_fault_if_misaligned_even_where_nothing_is_mapped() {
    // movaps, vmovaps ymm, both from [rbx]; vmovups does not care
    let fault = Outcome::Inject(Exception::GENERAL_PROTECTION);
    for (code, address) in [(&[0x0f, 0x28, 0x0b][..], DEVICE + 8), (&[0xc5, 0xfc, 0x28, 0x0b], DEVICE + 16)] {
        assert_eq!(guest(code, address).read(address), fault);
        assert_eq!(guest(code, 0x1_0000_0000_0001).read(address), fault);
    }
    assert_eq!(guest(&[0xc5, 0xfc, 0x10, 0x0b], DEVICE + 1).read(DEVICE + 1), done(4));
}

/// #GP, not #SS: the processor looks at the alignment before the segment.
#[test]
fn a_misaligned_stack_operand_is_a_general_protection_fault() {
    // movaps xmm1, [rbp]
    let mut guest = guest(&[0x0f, 0x28, 0x4d, 0x00], 0).gpr(Gpr::Rbp, (1 << 47) + 1);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::GENERAL_PROTECTION));
}

#[test]
fn what_the_operating_system_has_not_switched_on_is_undefined() {
    let undefined = Outcome::Inject(Exception::UNDEFINED);
    let (legacy, vex) = (&[0x0f, 0x10, 0x0b][..], &[0xc5, 0xf8, 0x10, 0x0b][..]);
    let attempt = |code: &[u8], change: &dyn Fn(&mut FakeCpu)| {
        let mut guest = guest(code, DEVICE);
        change(&mut guest.cpu);
        guest.read(DEVICE)
    };
    assert_eq!(attempt(legacy, &|cpu| cpu.state.cr4 &= !OSFXSR), undefined);
    assert_eq!(attempt(legacy, &|cpu| cpu.state.cr0 |= 1 << 2), undefined);
    assert_eq!(attempt(vex, &|cpu| cpu.state.cr4 &= !OSXSAVE), undefined);
    assert_eq!(attempt(vex, &|cpu| cpu.xcr0 = 3), undefined);
    for code in [legacy, vex] {
        let unavailable = Outcome::Inject(Exception::DEVICE_NOT_AVAILABLE);
        assert_eq!(attempt(code, &|cpu| cpu.state.cr0 |= 1 << 3), unavailable);
    }
}

#[test]
fn a_32_byte_operand_need_be_aligned_to_16_alone() {
    let attempt = |address| {
        let mut guest = guest(&[0xc5, 0xfc, 0x10, 0x0b], address).flags(1 << 18);
        guest.cpu.set_cpl(3);
        guest.read(address)
    };
    assert_eq!(attempt(DEVICE + 16), done(4));
    assert_eq!(attempt(DEVICE + 8), Outcome::Inject(Exception::ALIGNMENT));
}

#[test]
fn other_vector_instructions_are_undefined_and_counted() {
    // paddb mm0, [rbx]; addps xmm1, [rbx]; vmovups zmm1, [rbx] and fs:[rbx]; vbroadcastss xmm1, [rbx]; vphaddbw xmm1, [rbx];
    // pfadd mm0, [rbx] with REX.W
    let codes: [&[u8]; 7] = [
        &[0x64, 0x62, 0xf1, 0x7c, 0x48, 0x10, 0x0b],
        &[0x8f, 0xe9, 0x78, 0xc1, 0x0b],
        &[0x48, 0x0f, 0x0f, 0x03, 0x9e],
        &[0x0f, 0xfc, 0x03],
        &[0x0f, 0x58, 0x0b],
        &[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x0b],
        &[0xc4, 0xe2, 0x79, 0x18, 0x0b],
    ];
    for code in codes {
        let mut guest = guest(code, DEVICE);
        assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::UNDEFINED), "{code:x?}");
        assert_eq!(guest.env.oddities, [Oddity::NotEmulated(Gpa(CODE))]);
    }
}

#[test]
fn mmx_registers_move_to_and_from_devices() {
    // movq [rbx], mm3; movq mm3, [rbx]; movd [rbx], mm3; movd mm3, [rbx]; movntq [rbx], mm3
    let guest = |code: &[u8]| {
        let mut guest = Guest::long(code).gpr(Gpr::Rbx, DEVICE);
        guest.cpu.mmx[3] = LOW;
        guest
    };
    for (code, width, value) in
        [([0x0f, 0x7f, 0x1b], 8, LOW), ([0x0f, 0x7e, 0x1b], 4, LOW & 0xffff_ffff), ([0x0f, 0xe7, 0x1b], 8, LOW)]
    {
        let mut guest = guest(&code);
        assert_eq!(guest.write(DEVICE), done(3), "{code:x?}");
        assert_eq!(guest.env.requests, [mmio_write(DEVICE, width, value)]);
    }
    for (code, value) in [([0x0f, 0x6f, 0x1b], HIGH), ([0x0f, 0x6e, 0x1b], HIGH & 0xffff_ffff)] {
        let mut guest = guest(&code).reply(value);
        assert_eq!(guest.read(DEVICE), done(3), "{code:x?}");
        assert_eq!(guest.cpu.mmx[3], value);
    }
}

#[test]
fn mmx_moves_fault_as_x87_instructions_do() {
    const EM: u64 = 1 << 2;
    const TS: u64 = 1 << 3;
    for (cr0, pending, exception) in
        [(EM | TS, true, Exception::UNDEFINED), (TS, true, Exception::DEVICE_NOT_AVAILABLE), (0, true, Exception::X87)]
    {
        let mut guest = Guest::long(&[0x0f, 0x7f, 0x03]).gpr(Gpr::Rbx, DEVICE);
        guest.cpu.state.cr0 = guest.cpu.state.cr0 & !(EM | TS) | cr0;
        guest.cpu.x87_exception = pending;
        assert_eq!(guest.write(DEVICE), Outcome::Inject(exception));
        assert!(guest.env.requests.is_empty());
    }
}
