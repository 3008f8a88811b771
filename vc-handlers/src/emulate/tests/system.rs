// SPDX-License-Identifier: MIT OR Apache-2.0
//! System instructions with an operand on a device.

use platform::{Control, DescriptorTable, Segment, SegmentAttributes, TableRegister};

use super::*;
use crate::Oddity;

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
fn loads_of_cs_are_undefined_and_of_ss_not_emulated() {
    // mov cs, [rbx]; mov ss, [rbx]
    for (code, counted) in [([0x8e, 0x0b], &[][..]), ([0x8e, 0x13], &[Oddity::NotEmulated(Gpa(CODE))])] {
        let mut guest = guest(&code);
        assert_eq!(guest.read(DEVICE), Outcome::Inject(Exception::UNDEFINED));
        assert_eq!(guest.env.oddities, counted);
    }
}
