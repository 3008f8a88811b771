// SPDX-License-Identifier: MIT OR Apache-2.0
//! System instructions with an operand on a device.

use platform::{Control, DescriptorTable, Segment, SegmentAttributes, TableRegister};

use super::*;
use crate::Oddity;
use crate::emulate::load_table;

/// Where the descriptor table lies.
const GDT: u64 = 0x9000;
/// A writable data segment of 32 bits at level 0: base 12345678h, limit FFFFFh pages, not accessed yet.
const DATA_DESCRIPTOR: u64 = 0x12cf_9234_5678_ffff;
/// An available 64-bit TSS with base FFFF8000_00ABCDEFh, and the half above it.
const TASK_DESCRIPTOR: [u64; 2] = [0x0000_89ab_cdef_0067, 0xffff_8000];
const GENERAL_PROTECTION: Outcome = Outcome::Inject(Exception::GENERAL_PROTECTION);

fn fault(vector: u8, code: u32) -> Outcome {
    Outcome::Inject(Exception { vector, error_code: Some(code), fault_address: None })
}

/// Code with RBX at the device and a descriptor table: null, data, task (two), data that is not present.
fn guest(code: &[u8]) -> Guest {
    let mut guest = Guest::long(code).gpr(Gpr::Rbx, DEVICE);
    let [low, high] = TASK_DESCRIPTOR;
    let absent = DATA_DESCRIPTOR & !(1 << 47);
    for (at, value) in (GDT..).step_by(8).zip([0, DATA_DESCRIPTOR, low, high, absent]) {
        guest.env.memory.put(at, &value.to_le_bytes());
    }
    guest.cpu.state.gdtr = DescriptorTable { base: GDT, limit: 39 };
    guest
}

#[test]
fn lgdt_takes_limit_and_base() {
    // lgdt [rbx]
    let mut guest = guest(&[0x0f, 0x01, 0x13]).reply(0x8123_5678_9abc_0fff).reply(0xffff);
    // Ten bytes: eight, then two.
    assert_eq!(guest.read(DEVICE), done(3));
    assert_eq!(guest.env.requests, [mmio_read(DEVICE, 8), mmio_read(DEVICE + 8, 2)]);
    let wanted = DescriptorTable { base: 0xffff_8123_5678_9abc, limit: 0xfff };
    assert_eq!(guest.cpu.descriptor_table(TableRegister::Gdtr), wanted);
}

#[test]
fn lidt_refuses_a_base_that_is_not_canonical() {
    // lidt [rbx]
    let mut refused = guest(&[0x0f, 0x01, 0x1b]).reply(0x5678_9abc_def0_0fff).reply(0x1234);
    assert_eq!(refused.read(DEVICE), GENERAL_PROTECTION);
    let mut taken = guest(&[0x0f, 0x01, 0x1b]).reply(0x8000_9abc_def0_0fff).reply(0xffff);
    assert_eq!(taken.read(DEVICE), done(3));
    assert_eq!(taken.cpu.state.idtr, DescriptorTable { base: 0xffff_8000_9abc_def0, limit: 0xfff });
}

#[test]
fn a_16_bit_load_takes_24_bits_of_the_base_but_a_store_gives_32() {
    // lgdt [bx]; sgdt [bx], in real mode
    let mut load = Guest::real(&[0x0f, 0x01, 0x17]).base(SegmentRegister::Ds, DEVICE);
    load = load.reply(0x1234_03ff).reply(0xffab);
    assert_eq!(load.read(DEVICE), done(3));
    assert_eq!(load.cpu.state.gdtr, DescriptorTable { base: 0xab_1234, limit: 0x3ff });
    let mut store = Guest::real(&[0x0f, 0x01, 0x07]).base(SegmentRegister::Ds, DEVICE);
    store.cpu.state.gdtr = DescriptorTable { base: 0x1234_5678, limit: 0x3ff };
    assert_eq!(store.write(DEVICE), done(3));
    assert_eq!(store.env.requests, [mmio_write(DEVICE, 4, 0x5678_03ff), mmio_write(DEVICE + 4, 2, 0x1234)]);
}

#[test]
fn level_3_may_load_nothing_and_store_unless_umip_forbids_it() {
    // lgdt, lidt, lmsw, lldt, ltr; sgdt, sidt, smsw, sldt, str
    let loads: [&[u8]; 5] =
        [&[0x0f, 0x01, 0x13], &[0x0f, 0x01, 0x1b], &[0x0f, 0x01, 0x33], &[0x0f, 0x00, 0x13], &[0x0f, 0x00, 0x1b]];
    let stores: [&[u8]; 5] =
        [&[0x0f, 0x01, 0x03], &[0x0f, 0x01, 0x0b], &[0x0f, 0x01, 0x23], &[0x0f, 0x00, 0x03], &[0x0f, 0x00, 0x0b]];
    for code in loads {
        let mut guest = guest(code);
        guest.cpu.set_cpl(3);
        assert_eq!(guest.read(DEVICE), GENERAL_PROTECTION, "{code:x?}");
    }
    for code in stores {
        let mut guest = guest(code);
        guest.cpu.set_cpl(3);
        assert_eq!(guest.write(DEVICE), done(3), "{code:x?}");
        guest.cpu.state.cr4 |= 1 << 11;
        assert_eq!(guest.write(DEVICE), GENERAL_PROTECTION, "{code:x?}");
    }
}

#[test]
fn lmsw_changes_four_bits_and_never_clears_protection() {
    // lmsw [rbx]
    let mut guest = guest(&[0x0f, 0x01, 0x33]).reply(0xfff8);
    let before = guest.cpu.control(Control::Cr0);
    assert_eq!(guest.read(DEVICE), done(3));
    assert_eq!(guest.cpu.control(Control::Cr0), before & !0xf | 9);
}

#[test]
fn a_data_segment_is_loaded_and_marked_accessed() {
    // mov ds, [rbx]
    let mut guest = guest(&[0x8e, 0x1b]).reply(8);
    assert_eq!(guest.read(DEVICE), done(2));
    let segment = guest.cpu.segment(SegmentRegister::Ds);
    assert_eq!((segment.selector, segment.base, segment.limit), (8, 0x1234_5678, u32::MAX));
    assert_eq!(segment.attributes.bits(), 0xc93);
    assert_eq!(guest.env.memory.get(GDT + 8 + 5, 1), [0x93]);
}

#[test]
fn bad_selectors_fault_with_their_value() {
    let attempt = |code: &[u8], selector: u64, cpl| {
        let mut guest = guest(code).reply(selector);
        guest.cpu.set_cpl(cpl);
        guest.read(DEVICE)
    };
    let (ds, ltr) = (&[0x8e, 0x1b][..], &[0x0f, 0x00, 0x1b][..]);
    // A level too low, requested or current; the TSS; beyond the table; no local table; not present.
    assert_eq!(attempt(ds, 8 | 3, 0), fault(13, 8));
    assert_eq!(attempt(ds, 8, 3), fault(13, 8));
    assert_eq!(attempt(ds, 16, 0), fault(13, 16));
    assert_eq!(attempt(ds, 40, 0), fault(13, 40));
    assert_eq!(attempt(ds, 12, 0), fault(13, 12));
    assert_eq!(attempt(ds, 32, 0), fault(11, 32));
    assert_eq!(attempt(ltr, 8, 0), fault(13, 8));
    assert_eq!(attempt(ltr, 0, 0), fault(13, 0));
    // The second half beyond the table.
    assert_eq!(attempt(ltr, 32, 0), fault(13, 32));
}

#[test]
fn a_null_selector_leaves_an_unusable_segment() {
    let mut guest = guest(&[0x8e, 0x1b]).reply(3);
    assert_eq!(guest.read(DEVICE), done(2));
    assert_eq!(guest.cpu.segment(SegmentRegister::Ds), Segment { selector: 3, ..Segment::default() });
}

#[test]
fn ltr_marks_the_task_busy() {
    let mut guest = guest(&[0x0f, 0x00, 0x1b]).reply(16);
    assert_eq!(guest.read(DEVICE), done(3));
    let segment = guest.cpu.segment(SegmentRegister::Tr);
    assert_eq!((segment.selector, segment.base, segment.limit), (16, 0xffff_8000_00ab_cdef, 0x67));
    assert_eq!(segment.attributes, SegmentAttributes::from_bits_retain(0x8b));
    assert_eq!(guest.env.memory.get(GDT + 16 + 5, 1), [0x8b]);
    // It is busy now.
    guest.env.reply(16);
    assert_eq!(guest.read(DEVICE), fault(13, 16));
}

/// A guest that loaded a table at such an address went on and triple-faulted later.
#[test]
fn an_intercepted_load_refuses_bases_that_are_not_canonical() {
    let table = |code: &[u8], base: u64| {
        let mut guest = guest(code).gpr(Gpr::Rbx, DATA);
        guest.env.memory.put(DATA, &[0xff, 0x0f]);
        guest.env.memory.put(DATA + 2, &base.to_le_bytes());
        let outcome = load_table(None, &mut guest.cpu, &mut guest.env);
        (outcome, guest.cpu.state.gdtr, guest.cpu.state.idtr)
    };
    // lgdt [rbx]; lidt [rbx]
    let [lgdt, lidt] = [[0x0f, 0x01, 0x13], [0x0f, 0x01, 0x1b]];
    let base = 0xffff_8000_1234_5678;
    let wanted = DescriptorTable { base, limit: 0xfff };
    assert_eq!(table(&lgdt, base).0, done(3));
    assert_eq!(table(&lgdt, base).1, wanted);
    assert_eq!(table(&lidt, base).2, wanted);
    for base in [0xffaa_aaaa_aaaa_aaaa, 0xaaaa_aaaa_aaaa_aaaa, 0x8000_0000_0000] {
        let (outcome, kept, _) = table(&lgdt, base);
        assert_eq!((outcome, kept.base), (GENERAL_PROTECTION, GDT), "{base:x}");
        assert_eq!(table(&lidt, base).0, GENERAL_PROTECTION, "{base:x}");
    }
}

#[test]
fn an_intercepted_load_takes_its_selector_from_a_register() {
    // ltr bx; lldt bx, of the task's descriptor made a local table.
    let mut ltr = guest(&[0x0f, 0x00, 0xdb]).gpr(Gpr::Rbx, 0xffff_0010);
    assert_eq!(load_table(None, &mut ltr.cpu, &mut ltr.env), done(3));
    assert_eq!(ltr.cpu.segment(SegmentRegister::Tr).base, 0xffff_8000_00ab_cdef);
    let mut lldt = guest(&[0x0f, 0x00, 0xd3]).gpr(Gpr::Rbx, 16);
    lldt.env.memory.put(GDT + 16 + 5, &[0x82]);
    assert_eq!(load_table(None, &mut lldt.cpu, &mut lldt.env), done(3));
    assert_eq!(lldt.cpu.segment(SegmentRegister::Ldtr).base, 0xffff_8000_00ab_cdef);
    // A base that is not canonical faults with the selector; the null selector empties the register.
    lldt.env.memory.put(GDT + 16 + 8, &[0, 0, 0xaa, 0xff]);
    assert_eq!(load_table(None, &mut lldt.cpu, &mut lldt.env), fault(13, 16));
    let mut none = guest(&[0x0f, 0x00, 0xd3]).gpr(Gpr::Rbx, 0);
    assert_eq!(load_table(None, &mut none.cpu, &mut none.env), done(3));
    assert_eq!(none.cpu.segment(SegmentRegister::Ldtr), Segment::default());
    none.cpu.set_cpl(3);
    assert_eq!(load_table(None, &mut none.cpu, &mut none.env), GENERAL_PROTECTION);
}

#[test]
fn an_instruction_that_loads_no_table_is_left_to_the_processor() {
    // sgdt [rbx]
    let mut guest = guest(&[0x0f, 0x01, 0x03]);
    assert_eq!(load_table(None, &mut guest.cpu, &mut guest.env), Outcome::Resume);
    assert_eq!(guest.env.oddities, [Oddity::Mismatch]);
    assert!(guest.env.requests.is_empty());
}

#[test]
fn real_mode_has_no_descriptors_and_no_task_register() {
    // mov ds, [bx]; ltr [bx]
    let mut guest = Guest::real(&[0x8e, 0x1f]).base(SegmentRegister::Ds, DEVICE).reply(0x1234);
    assert_eq!(guest.read(DEVICE), done(2));
    assert_eq!(guest.cpu.segment(SegmentRegister::Ds).base, 0x1_2340);
    let mut guest = Guest::real(&[0x0f, 0x00, 0x1f]).base(SegmentRegister::Ds, DEVICE);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::UNDEFINED));
}

#[test]
fn loads_of_cs_are_undefined() {
    // mov cs, [rbx]
    let mut guest = guest(&[0x8e, 0x0b]);
    assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::UNDEFINED));
    assert!(guest.env.oddities.is_empty());
}

#[test]
fn a_stack_segment_must_be_writable_data_of_exactly_this_level() {
    let attempt = |selector: u64, cpl, access: u8| {
        // mov ss, [rbx]
        let mut guest = guest(&[0x8e, 0x13]).reply(selector);
        guest.env.memory.put(GDT + 8 + 5, &[access]);
        guest.cpu.set_cpl(cpl);
        (guest.read(DEVICE), guest.cpu.segment(SegmentRegister::Ss), guest.cpu.shadows)
    };
    let (outcome, segment, shadows) = attempt(8, 0, 0x92);
    assert_eq!((outcome, segment.selector, segment.base), (done(2), 8, 0x1234_5678));
    assert_eq!(shadows, 1, "interrupts wait for one more instruction");
    assert_eq!(attempt(8 | 3, 3, 0xf2).0, done(2));
    // Another level, requested or of the descriptor; read-only; code; a table; absent.
    for (selector, cpl, access) in
        [(8 | 3, 0, 0x92), (8, 3, 0xf2), (8, 0, 0xf2), (8 | 3, 3, 0x92), (8, 0, 0x90), (8, 0, 0x9a), (8, 0, 0x82)]
    {
        let (outcome, _, shadows) = attempt(selector, cpl, access);
        assert_eq!((outcome, shadows), (fault(13, 8), 0), "{selector:x} {cpl} {access:x}");
    }
    assert_eq!(attempt(8, 0, 0x12).0, fault(12, 8));
}

/// kvm-unit-tests' `emulator`; QEMU itself takes the second one.
#[test]
fn a_null_stack_segment_is_for_64_bit_kernels_at_their_own_level() {
    let attempt = |selector: u64, cpl| {
        let mut guest = guest(&[0x8e, 0x13]).reply(selector);
        guest.cpu.set_cpl(cpl);
        let outcome = guest.read(DEVICE);
        (outcome, guest.cpu.system().cpl)
    };
    assert_eq!(attempt(0, 0), (done(2), 0));
    assert_eq!(attempt(3, 0), (GENERAL_PROTECTION, 0));
    assert_eq!(attempt(1, 1), (done(2), 1));
    assert_eq!(attempt(3, 3), (GENERAL_PROTECTION, 3));
    // mov ss, [ebx]
    let mut flat = Guest::protected(&[0x8e, 0x13]).gpr(Gpr::Rbx, DEVICE).reply(0);
    assert_eq!(flat.read(DEVICE), GENERAL_PROTECTION);
}

/// A 64-bit code segment, one of 32 bits, a conforming one, a data segment, one of level 3, one with L and D, a gate.
fn code_segments(code: &[u8]) -> Guest {
    let mut guest = Guest::long(code).gpr(Gpr::Rbx, DEVICE);
    let entry = |access: u64, flags: u64| 0xf_0000_0000_ffff_u64 | access << 40 | flags << 52;
    let entries = [
        0,
        entry(0x9a, 0xa),
        entry(0x9a, 0xc),
        entry(0x9e, 0xa),
        entry(0x92, 0xa),
        entry(0xfa, 0xa),
        entry(0x9a, 0xe),
        entry(0x8c, 0),
        entry(0x1a, 0xa),
    ];
    for (at, value) in (GDT..).step_by(8).zip(entries) {
        guest.env.memory.put(at, &value.to_le_bytes());
    }
    guest.cpu.state.gdtr = DescriptorTable { base: GDT, limit: 8 * entries.len() as u16 - 1 };
    guest
}

/// kvm-unit-tests' `emulator` ended here with #UD.
#[test]
fn a_far_jump_takes_code_segment_and_address_from_a_device() {
    // rex64 jmp far [rbx]; jmp far [rbx]; data16 jmp far [rbx]
    let forms: [(&[u8], &[u64], u64); 3] = [
        (&[0x48, 0xff, 0x2b], &[0xffff_8000_1234_5678, 8], 0xffff_8000_1234_5678),
        (&[0xff, 0x2b], &[0x1234_5678, 8], 0x1234_5678),
        (&[0x66, 0xff, 0x2b], &[0x0008_5678], 0x5678),
    ];
    for (code, replies, target) in forms {
        let mut guest = code_segments(code);
        replies.iter().for_each(|reply| guest.env.reply(*reply));
        assert_eq!(guest.read(DEVICE), Outcome::Complete(target), "{code:x?}");
        let segment = guest.cpu.segment(SegmentRegister::Cs);
        assert_eq!((segment.selector, segment.attributes.bits()), (8, 0xa9b), "{code:x?}");
    }
}

#[test]
fn a_far_jump_checks_segment_and_target() {
    let attempt = |target: u64, selector: u64, cpl| {
        let mut guest = code_segments(&[0x48, 0xff, 0x2b]).reply(target).reply(selector);
        guest.cpu.set_cpl(cpl);
        let before = guest.cpu.segment(SegmentRegister::Cs);
        let outcome = guest.read(DEVICE);
        (outcome, guest.cpu.segment(SegmentRegister::Cs) != before)
    };
    let refused = |exit| (exit, false);
    assert_eq!(attempt(0x4000, 8, 0).0, Outcome::Complete(0x4000));
    // A conforming segment keeps the level; the selector says so.
    assert_eq!(attempt(0x4000, 24, 3), (Outcome::Complete(0x4000), true));
    // A level too high, or requested too low; data; both L and D; null; beyond the table; absent; a gate.
    for selector in [40, 8 | 1, 32, 48] {
        assert_eq!(attempt(0x4000, selector, 0), refused(fault(13, selector as u32 & !3)), "{selector}");
    }
    assert_eq!(attempt(0x4000, 8, 3), refused(fault(13, 8)));
    assert_eq!(attempt(0x4000, 0, 0), refused(GENERAL_PROTECTION));
    assert_eq!(attempt(0x4000, 72, 0), refused(fault(13, 72)));
    assert_eq!(attempt(0x4000, 64, 0), refused(fault(11, 64)));
    assert_eq!(attempt(0x4000, 56, 0), refused(Outcome::Inject(Exception::UNDEFINED)));
    // Not canonical; beyond a 32-bit segment.
    assert_eq!(attempt(0xaaaa_aaaa_aaaa_aaaa, 8, 0), refused(GENERAL_PROTECTION));
    assert_eq!(attempt(0x1_0000_0000, 16, 0), refused(GENERAL_PROTECTION));
    assert_eq!(attempt(0xffff_ffff, 16, 0), (Outcome::Complete(0xffff_ffff), true));
}

#[test]
fn a_far_jump_in_real_mode_needs_no_descriptor() {
    // jmp far [bx]
    let mut guest = Guest::real(&[0xff, 0x2f]).base(SegmentRegister::Ds, DEVICE).reply(0x1234_5678);
    assert_eq!(guest.read(DEVICE), Outcome::Complete(0x5678));
    assert_eq!(guest.cpu.segment(SegmentRegister::Cs).base, 0x1_2340);
}
