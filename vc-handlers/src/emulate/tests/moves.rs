// SPDX-License-Identifier: MIT OR Apache-2.0
//! MOV and its relatives.

use super::*;

const OLD: u64 = 0x1122_3344_5566_7788;

#[test]
fn mov_loads_of_each_size_change_as_much_of_the_register_as_the_architecture_says() {
    for (code, width, expected) in [
        (&[0x8a, 0x03][..], 1, 0x1122_3344_5566_77ef),
        (&[0x66, 0x8b, 0x03], 2, 0x1122_3344_5566_cdef),
        (&[0x8b, 0x03], 4, 0x89ab_cdef),
        (&[0x48, 0x8b, 0x03], 8, 0x0123_4567_89ab_cdef),
        // mov ah, [rbx]
        (&[0x8a, 0x23], 1, 0x1122_3344_5566_ef88),
    ] {
        let reply = 0x0123_4567_89ab_cdef & crate::emulate::operand::mask(width);
        let mut guest = Guest::long(code).gpr(Gpr::Rax, OLD).gpr(Gpr::Rbx, DEVICE + 0x20).reply(reply);
        assert_eq!(guest.read(DEVICE + 0x20), done(code.len() as u64));
        assert_eq!(guest.rax(), expected, "{code:x?}");
        assert_eq!(guest.env.requests, [mmio_read(DEVICE + 0x20, width)]);
    }
}

#[test]
fn mov_stores_of_each_size_write_that_much() {
    for (code, width, value) in [
        (&[0x88, 0x03][..], 1, 0x88),
        (&[0x88, 0x23], 1, 0x77),
        (&[0x66, 0x89, 0x03], 2, 0x7788),
        (&[0x89, 0x03], 4, 0x5566_7788),
        (&[0x48, 0x89, 0x03], 8, OLD),
        (&[0x0f, 0xc3, 0x03], 4, 0x5566_7788),
        (&[0xc6, 0x03, 0x5a], 1, 0x5a),
        (&[0x66, 0xc7, 0x03, 0x34, 0x12], 2, 0x1234),
        (&[0xc7, 0x03, 0x78, 0x56, 0x34, 0x92], 4, 0x9234_5678),
        (&[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], 8, 0xffff_ffff_ffff_fffe),
        // movbe [rbx], eax
        (&[0x0f, 0x38, 0xf1, 0x03], 4, 0x8877_6655),
        // mov [rbx], ds
        (&[0x8c, 0x1b], 2, 0x10),
    ] {
        let mut guest = Guest::long(code).gpr(Gpr::Rax, OLD).gpr(Gpr::Rbx, DEVICE + 0x20);
        assert_eq!(guest.write(DEVICE + 0x20), done(code.len() as u64), "{code:x?}");
        assert_eq!(guest.env.requests, [mmio_write(DEVICE + 0x20, width, value)], "{code:x?}");
    }
}

#[test]
fn moffs_forms_take_the_address_from_the_instruction() {
    let mut code = vec![0xa1];
    code.extend((DEVICE + 0x30).to_le_bytes());
    let mut guest = Guest::long(&code).reply(7).gpr(Gpr::Rax, OLD);
    assert_eq!(guest.read(DEVICE + 0x30), done(9));
    assert_eq!(guest.rax(), 7);
    let mut guest = Guest::protected(&[0xa2, 0x30, 0, 0xe0, 0xfe]).gpr(Gpr::Rax, 0x155);
    assert_eq!(guest.write(DEVICE + 0x30), done(5));
    assert_eq!(guest.env.requests, [mmio_write(DEVICE + 0x30, 1, 0x55)]);
}

#[test]
fn extending_moves_extend() {
    for (code, width, reply, expected) in [
        (&[0x0f, 0xb6, 0x03][..], 1, 0x80, 0x80),
        (&[0x66, 0x0f, 0xb6, 0x03], 1, 0x80, 0x1122_3344_5566_0080),
        (&[0x48, 0x0f, 0xb7, 0x03], 2, 0x8000, 0x8000),
        (&[0x0f, 0xbe, 0x03], 1, 0x80, 0xffff_ff80),
        (&[0x48, 0x0f, 0xbf, 0x03], 2, 0x8000, 0xffff_ffff_ffff_8000),
        (&[0x48, 0x63, 0x03], 4, 0x8000_0000, 0xffff_ffff_8000_0000),
        (&[0x48, 0x63, 0x03], 4, 0x7fff_ffff, 0x7fff_ffff),
        // movbe ax, [rbx]
        (&[0x66, 0x0f, 0x38, 0xf0, 0x03], 2, 0x1234, 0x1122_3344_5566_3412),
    ] {
        let mut guest = Guest::long(code).gpr(Gpr::Rax, OLD).gpr(Gpr::Rbx, DEVICE).reply(reply);
        assert_eq!(guest.read(DEVICE), done(code.len() as u64));
        assert_eq!(guest.rax(), expected, "{code:x?}");
        assert_eq!(guest.env.requests, [mmio_read(DEVICE, width)]);
    }
}

#[test]
fn cmov_reads_the_device_and_clears_the_upper_half_even_if_nothing_moves() {
    for (flags, expected) in [(0x40, 5), (0, 0x5566_7788)] {
        let mut guest = Guest::long(&[0x0f, 0x44, 0x03]).gpr(Gpr::Rax, OLD).gpr(Gpr::Rbx, DEVICE).flags(flags).reply(5);
        assert_eq!(guest.read(DEVICE), done(3));
        assert_eq!(guest.rax(), expected);
        assert_eq!(guest.env.requests.len(), 1);
    }
}

#[test]
fn setcc_stores_one_or_zero() {
    for (flags, value) in [(1, 1), (0, 0)] {
        let mut guest = Guest::long(&[0x0f, 0x92, 0x03]).gpr(Gpr::Rbx, DEVICE).flags(flags);
        assert_eq!(guest.write(DEVICE), done(3));
        assert_eq!(guest.env.requests, [mmio_write(DEVICE, 1, value)]);
    }
}

#[test]
fn addresses_take_base_index_scale_displacement_and_segment() {
    // mov eax, fs:[rbx + rcx*8 - 0x10]
    let mut guest = Guest::long(&[0x64, 0x8b, 0x44, 0xcb, 0xf0])
        .gpr(Gpr::Rbx, 0xfee0_0000)
        .gpr(Gpr::Rcx, 0x11)
        .base(SegmentRegister::Fs, 0x1000)
        .reply(1);
    assert_eq!(guest.read(0xfee0_1078), done(5));
    assert_eq!(guest.env.requests, [mmio_read(0xfee0_1078, 4)]);
    // mov eax, [ebx + ecx] wraps at 32 bits
    let mut guest =
        Guest::long(&[0x67, 0x8b, 0x04, 0x0b]).gpr(Gpr::Rbx, 0xffff_ffff_fee0_0010).gpr(Gpr::Rcx, 0x1_0000_0000);
    assert_eq!(guest.read(0xfee0_0010), done(4));
    assert_eq!(guest.env.requests, [mmio_read(0xfee0_0010, 4)]);
    // mov al, [rip + 0x1000000]
    let mut guest = Guest::long(&[0x8a, 0x05, 0, 0, 0, 1]);
    assert_eq!(guest.read(0x0100_2006), done(6));
    assert_eq!(guest.env.requests, [mmio_read(0x0100_2006, 1)]);
    // mov al, ds:[bx + si] in real mode, DS base F0000
    let mut guest = Guest::real(&[0x8a, 0x00])
        .gpr(Gpr::Rbx, 0xdead_fff0)
        .gpr(Gpr::Rsi, 0xbeef_0008)
        .base(SegmentRegister::Ds, 0xf_0010);
    assert_eq!(guest.read(0x10_0008), done(2));
    assert_eq!(guest.env.requests, [mmio_read(0x10_0008, 1)]);
}

#[test]
fn an_operand_across_memory_and_device_is_put_together() {
    // The last byte of RAM, then three of a device: an odd piece first would be misaligned, so 2 + 1.
    let mut guest = Guest::long(&[0x8b, 0x03]).gpr(Gpr::Rbx, 0xf_ffff).reply(0x3322).reply(0x44);
    guest.env.memory.put(0xf_ffff, &[0x11]);
    assert_eq!(guest.read(0x10_0000), done(2));
    assert_eq!(guest.rax(), 0x4433_2211);
    assert_eq!(guest.env.requests, [mmio_read(0x10_0000, 2), mmio_read(0x10_0002, 1)]);
    let mut guest = Guest::long(&[0x89, 0x03]).gpr(Gpr::Rbx, 0xf_fffd).gpr(Gpr::Rax, 0x4433_2211);
    assert_eq!(guest.write(0x10_0000), done(2));
    assert_eq!(guest.env.memory.get(0xf_fffd, 3), [0x11, 0x22, 0x33]);
    assert_eq!(guest.env.requests, [mmio_write(0x10_0000, 1, 0x44)]);
}

#[test]
fn misaligned_device_accesses_are_split_at_natural_borders() {
    let mut guest = Guest::long(&[0x48, 0x8b, 0x03]).gpr(Gpr::Rbx, DEVICE + 3).reply(1).reply(2).reply(3).reply(4);
    assert_eq!(guest.read(DEVICE + 3), done(3));
    let expected =
        [mmio_read(DEVICE + 3, 1), mmio_read(DEVICE + 4, 4), mmio_read(DEVICE + 8, 2), mmio_read(DEVICE + 10, 1)];
    assert_eq!(guest.env.requests, expected);
    assert_eq!(guest.rax(), 1 | 2 << 8 | 3 << 40 | 4 << 56);
}

#[test]
fn push_and_pop_work_between_device_and_stack() {
    let mut guest = Guest::long(&[0xff, 0x33]).gpr(Gpr::Rbx, DEVICE).reply(0x1234_5678_9abc_def0);
    assert_eq!(guest.read(DEVICE), done(2));
    assert_eq!(guest.cpu.gpr(Gpr::Rsp), 0x6ff8);
    assert_eq!(guest.env.memory.get(0x6ff8, 8), 0x1234_5678_9abc_def0_u64.to_le_bytes());
    let mut guest = Guest::long(&[0x8f, 0x03]).gpr(Gpr::Rbx, DEVICE);
    guest.env.memory.put(0x7000, &9_u64.to_le_bytes());
    assert_eq!(guest.write(DEVICE), done(2));
    assert_eq!(guest.cpu.gpr(Gpr::Rsp), 0x7008);
    assert_eq!(guest.env.requests, [mmio_write(DEVICE, 8, 9)]);
    // A 32-bit push from a device onto a device.
    let mut guest = Guest::protected(&[0xff, 0x33]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rsp, DEVICE + 0x44).reply(6);
    assert_eq!(guest.read(DEVICE), done(2));
    assert_eq!(guest.env.requests, [mmio_read(DEVICE, 4), mmio_write(DEVICE + 0x40, 4, 6)]);
}

#[test]
fn pop_addresses_its_operand_with_the_pointer_after_the_pop() {
    // pop [rsp + disp32]
    let mut guest = Guest::long(&[0x8f, 0x84, 0x24, 0, 0, 0x20, 0]);
    guest.env.memory.put(0x7000, &9_u64.to_le_bytes());
    assert_eq!(guest.write(0x20_7008), done(7));
    assert_eq!(guest.env.requests, [mmio_write(0x20_7008, 8, 9)]);
}

#[test]
fn near_branches_through_a_device_go_where_it_says() {
    let mut guest = Guest::long(&[0xff, 0x23]).gpr(Gpr::Rbx, DEVICE).reply(0xffff_8000_0000_1234);
    assert_eq!(guest.read(DEVICE), Outcome::Complete(0xffff_8000_0000_1234));
    let mut guest = Guest::long(&[0xff, 0x13]).gpr(Gpr::Rbx, DEVICE).reply(0x1234);
    assert_eq!(guest.read(DEVICE), Outcome::Complete(0x1234));
    assert_eq!(guest.env.memory.get(0x6ff8, 8), (CODE + 2).to_le_bytes());
    let mut guest = Guest::long(&[0xff, 0x13]).gpr(Gpr::Rbx, DEVICE).reply(0x1234_5678_9abc_def0);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::GENERAL_PROTECTION));
    assert_eq!(guest.cpu.gpr(Gpr::Rsp), 0x7000, "a faulting call leaves the stack pointer");
}

#[test]
fn returns_and_frames_work_on_a_device() {
    // ret 10h
    let mut guest = Guest::long(&[0xc2, 0x10, 0]).gpr(Gpr::Rsp, DEVICE).reply(0x1234);
    assert_eq!(guest.read(DEVICE), Outcome::Complete(0x1234));
    assert_eq!(guest.cpu.gpr(Gpr::Rsp), DEVICE + 0x18);
    let mut guest = Guest::long(&[0xc3]).gpr(Gpr::Rsp, DEVICE).reply(1 << 63);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::GENERAL_PROTECTION));
    // leave
    let mut guest = Guest::long(&[0xc9]).gpr(Gpr::Rbp, DEVICE + 8).reply(77);
    assert_eq!(guest.read(DEVICE + 8), done(1));
    assert_eq!((guest.cpu.gpr(Gpr::Rsp), guest.cpu.gpr(Gpr::Rbp)), (DEVICE + 0x10, 77));
    // enter 20h, 0
    let mut guest = Guest::long(&[0xc8, 0x20, 0, 0]).gpr(Gpr::Rsp, DEVICE + 0x40).gpr(Gpr::Rbp, 55);
    assert_eq!(guest.write(DEVICE + 0x38), done(4));
    assert_eq!((guest.cpu.gpr(Gpr::Rsp), guest.cpu.gpr(Gpr::Rbp)), (DEVICE + 0x18, DEVICE + 0x38));
    assert_eq!(guest.env.requests, [mmio_write(DEVICE + 0x38, 8, 55)]);
    // Processors check the new top of the stack: enter 1000h, 0 with its locals ending above a page that is absent.
    let mut guest = Guest::long(&[0xc8, 0, 0x10, 0]).gpr(Gpr::Rsp, DEVICE + 0x40);
    guest.env.memory.put(TABLES + 0x2000 + 0x3000 + 8 * 0x1f6, &[0]);
    assert_eq!(guest.write(DEVICE + 0x38), page_fault(2, DEVICE + 0x38 - 0x1000));
    assert_eq!(guest.env.requests, []);
    // call +10h
    let mut guest = Guest::long(&[0xe8, 0x10, 0, 0, 0]).gpr(Gpr::Rsp, DEVICE + 0x40);
    assert_eq!(guest.write(DEVICE + 0x38), Outcome::Complete(CODE + 0x15));
    assert_eq!(guest.env.requests, [mmio_write(DEVICE + 0x38, 8, CODE + 5)]);
}
