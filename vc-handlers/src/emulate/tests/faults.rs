// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults, refusals, and what happens when bytes and exit do not fit.

use platform::{MemoryFault, SegmentAttributes};

use super::*;
use crate::Oddity;
use crate::instruction::RFLAGS_RF;

#[test]
fn an_unknown_instruction_on_a_device_is_undefined_and_counted() {
    // fld dword [rbx]; fxsave [rbx]; call far [rbx]; verr [rbx]
    for code in [&[0xd9, 0x03][..], &[0x0f, 0xae, 0x03], &[0xff, 0x1b], &[0x0f, 0x00, 0x23]] {
        let mut guest = Guest::long(code).gpr(Gpr::Rbx, DEVICE);
        assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::UNDEFINED), "{code:x?}");
        assert_eq!(guest.env.oddities, [Oddity::NotEmulated(Gpa(CODE))]);
    }
}

/// The row of `docs/emulator.md`.
#[test]
fn rare_stack_instructions_with_the_stack_on_a_device_are_undefined() {
    // pushf; popf; pusha; popa; iret; push es; pop es; enter 0, 1
    for code in [&[0x9c][..], &[0x9d], &[0x60], &[0x61], &[0xcf], &[0x06], &[0x07], &[0xc8, 0, 0, 1]] {
        let mut guest = Guest::protected(code).gpr(Gpr::Rsp, DEVICE + 0x40);
        assert_eq!(guest.read(DEVICE + 0x40), Outcome::Inject(Exception::UNDEFINED), "{code:x?}");
        assert_eq!(guest.env.oddities, [Oddity::NotEmulated(Gpa(CODE))], "{code:x?}");
    }
}

#[test]
fn an_instruction_that_touches_no_device_is_executed_again() {
    // int3, call, fld of RAM, mov of RAM, nop [rbx]
    for code in [&[0xcc][..], &[0xe8, 0, 0, 0, 0], &[0xd9, 0x01], &[0x8b, 0x01], &[0x0f, 0x1f, 0x03], &[0x8d, 0x03]] {
        let mut guest = Guest::long(code).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rcx, DATA + 8);
        assert_eq!(guest.read(DEVICE), Outcome::Resume, "{code:x?}");
        assert_eq!(guest.env.oddities, [Oddity::Mismatch]);
        assert_eq!(guest.env.requests, []);
    }
}

#[test]
fn code_on_a_device_reads_as_absent_hardware() {
    let mut guest = Guest::long(&[]);
    guest.cpu.state.rip = DEVICE;
    assert_eq!(guest.fault(Access::Fetch, DEVICE), Outcome::Inject(Exception::UNDEFINED));
    assert_eq!(guest.env.requests, []);
}

#[test]
fn an_instruction_across_pages_faults_on_the_second_only_if_it_needs_it() {
    let entry = TABLES + 0x6000 + 8 * 3;
    for (start, code, outcome) in
        [(0x2ffe, &[0x8a, 0x03][..], Outcome::Complete(0x3000)), (0x2fff, &[0x8a], page_fault(0x10, 0x3000))]
    {
        let mut guest = Guest::long(&[]).gpr(Gpr::Rbx, DEVICE);
        guest.env.memory.put(start, code);
        guest.env.memory.put(entry, &[0; 8]);
        guest.cpu.state.rip = start;
        assert_eq!(guest.read(DEVICE), outcome);
    }
    let mut guest = Guest::long(&[]).gpr(Gpr::Rbx, DEVICE);
    guest.env.memory.put(0x2fff, &[0x8a, 0x03]);
    guest.cpu.state.rip = 0x2fff;
    assert_eq!(guest.read(DEVICE), Outcome::Complete(0x3001));
}

#[test]
fn an_instruction_longer_than_fifteen_bytes_is_a_protection_fault() {
    let mut code = [0x66; 20];
    code[18] = 0x8b;
    let mut guest = Guest::long(&code);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::GENERAL_PROTECTION));
}

#[test]
fn a_lock_prefix_where_none_may_be_is_undefined() {
    let mut guest = Guest::long(&[0xf0, 0x8b, 0x03]).gpr(Gpr::Rbx, DEVICE);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::UNDEFINED));
}

/// An instruction of exactly 15 bytes with such a prefix raised #GP, as if it were longer.
#[test]
fn a_wrong_lock_prefix_is_undefined_at_full_length() {
    let longest = [0x26, 0x67, 0xf0, 0x43, 0x69, 0x84, 0x74, 0x68, 0, 0, 0, 0x6a, 0x05, 0x45, 0x5e];
    let mut guest = Guest::long(&longest);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::UNDEFINED));
    let mut longer = [0x26; 16];
    longer.get_mut(1..).unwrap().copy_from_slice(&longest);
    let mut guest = Guest::long(&longer);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::GENERAL_PROTECTION));
}

#[test]
fn non_canonical_addresses_fault_by_their_segment() {
    for (code, exception) in
        [(&[0x8a, 0x03][..], Exception::GENERAL_PROTECTION), (&[0x8a, 0x45, 0x00], Exception::STACK)]
    {
        let mut guest = Guest::long(code).gpr(Gpr::Rbx, 1 << 47).gpr(Gpr::Rbp, 1 << 47);
        assert_eq!(guest.read(DEVICE), Outcome::Inject(exception));
    }
    // Two bytes across the border.
    let mut guest = Guest::long(&[0x66, 0x8b, 0x03]).gpr(Gpr::Rbx, (1 << 47) - 1);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::GENERAL_PROTECTION));
}

#[test]
fn limits_and_types_hold_outside_64_bit_mode() {
    let attempt = |change: &dyn Fn(&mut platform::Segment), write: bool| {
        let code = if write { [0x88, 0x03] } else { [0x8a, 0x03] };
        let mut guest = Guest::protected(&code).gpr(Gpr::Rbx, DEVICE);
        change(&mut guest.cpu.state.segments[SegmentRegister::Ds as usize]);
        if write { guest.write(DEVICE) } else { guest.read(DEVICE) }
    };
    let fault = Outcome::Inject(Exception::GENERAL_PROTECTION);
    assert_eq!(attempt(&|_| (), false), done(2));
    assert_eq!(attempt(&|s| s.limit = DEVICE as u32, false), done(2));
    assert_eq!(attempt(&|s| s.limit = DEVICE as u32 - 1, false), fault);
    assert_eq!(attempt(&|s| s.attributes.remove(SegmentAttributes::PRESENT), false), fault);
    assert_eq!(attempt(&|s| s.attributes.remove(SegmentAttributes::READ_WRITE), false), done(2));
    assert_eq!(attempt(&|s| s.attributes.remove(SegmentAttributes::READ_WRITE), true), fault);
    let down = |limit| {
        move |s: &mut platform::Segment| {
            s.attributes.insert(SegmentAttributes::EXPAND_DOWN);
            s.limit = limit;
        }
    };
    assert_eq!(attempt(&down(DEVICE as u32 - 1), true), done(2));
    assert_eq!(attempt(&down(DEVICE as u32), true), fault);
}

#[test]
fn real_mode_faults_carry_no_error_code() {
    // mov eax, [bx] across the limit
    let mut guest = Guest::real(&[0x66, 0x8b, 0x07]).gpr(Gpr::Rbx, 0xfffd);
    let expected = Exception { error_code: None, ..Exception::GENERAL_PROTECTION };
    assert_eq!(guest.read(DEVICE), Outcome::Inject(expected));
}

#[test]
fn misalignment_faults_only_where_the_guest_asked() {
    let attempt = |cpl, cr0: u64, flags| {
        let mut guest = Guest::long(&[0x66, 0x8b, 0x03]).gpr(Gpr::Rbx, DEVICE + 1).flags(flags);
        guest.cpu.set_cpl(cpl);
        guest.cpu.state.cr0 = guest.cpu.state.cr0 & !(1 << 18) | cr0;
        guest.read(DEVICE + 1)
    };
    let (am, ac) = (1 << 18, 1 << 18);
    assert_eq!(attempt(3, am, ac), Outcome::Inject(Exception::ALIGNMENT));
    for (cpl, am, ac) in [(0, am, ac), (3, 0, ac), (3, am, 0)] {
        assert_eq!(attempt(cpl, am, ac), done(3));
    }
}

#[test]
fn a_fault_without_a_physical_address_finds_its_operand() {
    let mut guest = Guest::long(&[0x8b, 0x03]).gpr(Gpr::Rbx, DEVICE).reply(5);
    let gva = Some(platform::Gva(DEVICE));
    let fault = MemoryFault { gpa: None, gva, access: Access::Read, table_walk: false };
    assert_eq!(memory_fault(&fault, &mut guest.cpu, &mut guest.env), done(2));
    assert_eq!(guest.rax(), 5);
    assert_eq!(guest.env.oddities, []);
}

/// #AC came only if the page was there.
#[test]
fn misalignment_comes_before_a_page_fault() {
    let mut guest = Guest::long(&[0x66, 0x8b, 0x03]).gpr(Gpr::Rbx, 0x1_0000_0001).flags(1 << 18);
    guest.cpu.set_cpl(3);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::ALIGNMENT));
}

/// A prefix for SS made a data operand fault with #SS in 64-bit mode, and one for DS a stack operand with #GP.
#[test]
fn segment_prefixes_do_not_choose_the_fault_in_64_bit_mode() {
    for (code, exception) in [
        (&[0x36, 0x8a, 0x03][..], Exception::GENERAL_PROTECTION),
        (&[0x3e, 0x8a, 0x45, 0x00], Exception::STACK),
        (&[0x65, 0x8a, 0x45, 0x00], Exception::GENERAL_PROTECTION),
    ] {
        let mut guest = Guest::long(code).gpr(Gpr::Rbx, 1 << 47).gpr(Gpr::Rbp, 1 << 47);
        assert_eq!(guest.read(DEVICE), Outcome::Inject(exception), "{code:x?}");
    }
}

/// A prefetch of a bad address faulted.
#[test]
fn a_prefetch_never_faults_and_reaches_no_device() {
    for address in [DEVICE, 1 << 47, 0x1_0000_0000] {
        let mut guest = Guest::long(&[0x0f, 0x18, 0x0b]).gpr(Gpr::Rbx, address);
        assert_eq!(guest.read(DEVICE), done(3));
        assert_eq!(guest.env.requests, []);
    }
}

/// What an intercepted exception becomes.
fn corrected(code: &[u8], rax: u64, rsp: u64, exception: Exception) -> Outcome {
    let mut guest = Guest::long(code).gpr(Gpr::Rax, rax).gpr(Gpr::Rbp, rsp).gpr(Gpr::Rsp, rsp);
    exception::handle(exception, &mut guest.cpu, &guest.env)
}

/// kvm-unit-tests' `emulator` got #GP from QEMU for each of these.
#[test]
fn an_address_on_the_stack_that_is_not_canonical_is_a_stack_fault() {
    const BAD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let stack = Outcome::Inject(Exception::STACK);
    let general = Outcome::Inject(Exception::GENERAL_PROTECTION);
    let fault = |code: &[u8], rax, rsp| corrected(code, rax, rsp, Exception::GENERAL_PROTECTION);
    // or qword [rsp + rax], 0; or qword [rbp + rax], 0
    assert_eq!(fault(&[0x48, 0x83, 0x0c, 0x04, 0x00], BAD, DATA), stack);
    assert_eq!(fault(&[0x48, 0x83, 0x4c, 0x05, 0x00, 0x00], BAD, DATA), stack);
    // push rax; pop rax; ret; leave; call next
    for code in [&[0x50][..], &[0x58], &[0xc3], &[0xc9], &[0xe8, 0, 0, 0, 0]] {
        assert_eq!(fault(code, 0, BAD), stack, "{code:x?}");
        assert_eq!(fault(code, 0, DATA), general, "{code:x?}");
    }
    // or qword [rax], 0; push qword [rax], whose operand comes first; wrmsr
    assert_eq!(fault(&[0x48, 0x83, 0x08, 0x00], BAD, BAD), general);
    assert_eq!(fault(&[0xff, 0x30], BAD, BAD), general);
    assert_eq!(fault(&[0x0f, 0x30], BAD, BAD), general);
    // lgdt [rsp], whose privilege comes first
    assert_eq!(fault(&[0x0f, 0x01, 0x14, 0x24], 0, BAD), general);
    // An error code names a selector; 32-bit code has no canonical addresses.
    let selector = Exception { error_code: Some(8), ..Exception::GENERAL_PROTECTION };
    assert_eq!(corrected(&[0x50], 0, BAD, selector), Outcome::Inject(selector));
    let mut flat = Guest::protected(&[0x50]).gpr(Gpr::Rsp, BAD);
    assert_eq!(exception::handle(Exception::GENERAL_PROTECTION, &mut flat.cpu, &flat.env), general);
    // Real mode has no error codes.
    let mut real = Guest::real(&[0x50]);
    let plain = Exception { error_code: None, ..Exception::GENERAL_PROTECTION };
    assert_eq!(exception::handle(Exception::GENERAL_PROTECTION, &mut real.cpu, &real.env), Outcome::Inject(plain));
}

/// kvm-unit-tests' `debug` never got past INT1, which QEMU takes for no instruction.
#[test]
fn int1_is_a_debug_trap_and_no_undefined_instruction() {
    let mut guest = Guest::long(&[0xf1]);
    guest.cpu.state.rflags |= RFLAGS_RF;
    assert_eq!(exception::handle(Exception::UNDEFINED, &mut guest.cpu, &guest.env), Outcome::Inject(Exception::DEBUG));
    assert_eq!((guest.cpu.state.rip, guest.cpu.state.rflags & RFLAGS_RF), (CODE + 1, 0));
    // ud2; no instruction at all; code on a device
    for (code, rip) in [(&[0x0f, 0x0b][..], CODE), (&[0x06], CODE), (&[0xf1], DEVICE)] {
        let mut guest = Guest::long(code);
        guest.cpu.state.rip = rip;
        let outcome = exception::handle(Exception::UNDEFINED, &mut guest.cpu, &guest.env);
        assert_eq!((outcome, guest.cpu.state.rip), (Outcome::Inject(Exception::UNDEFINED), rip), "{code:x?}");
    }
}
