// SPDX-License-Identifier: MIT OR Apache-2.0
//! Priorities, ISR and IRR, self-IPIs, errors, reserved registers.

use super::*;

#[test]
fn registers_after_power_up_are_as_the_manual_says() {
    let mut bench = Bench::after_power_up();
    assert_eq!(bench.read(VERSION), 0x0005_0014);
    assert_eq!(bench.read(SVR), 0xff);
    assert_eq!(bench.read(DFR), u32::MAX);
    for lvt in [LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR] {
        assert_eq!(bench.read(lvt), MASKED, "{lvt:#x}");
    }
    for zero in [ID, TPR, APR, PPR, LDR, ESR, ICR, ICR_HIGH, INITIAL, CURRENT, DIVIDE, ISR, TMR, IRR, IRR + 0x70] {
        assert_eq!(bench.read(zero), 0, "{zero:#x}");
    }
    assert_eq!(bench.lapic.base_msr(), BASE | ENABLED | 1 << 8);
    assert_eq!(Lapic::new(3, false).base_msr(), BASE | ENABLED);
}

#[test]
fn a_self_ipi_arrives_at_once() {
    let mut bench = Bench::new();
    bench.self_ipi(0xf1);
    assert_eq!(bench.read(IRR + 0x70), 1 << 0x11);
    assert_eq!(bench.take(), Some(0xf1));
    assert_eq!(bench.read(IRR + 0x70), 0);
    assert_eq!(bench.read(ISR + 0x70), 1 << 0x11);
    assert_eq!(bench.read(TMR + 0x70), 0);
    bench.write(EOI, 0);
    assert_eq!(bench.read(ISR + 0x70), 0);
    assert_eq!(bench.take(), None);
}

#[test]
fn the_highest_vector_comes_first() {
    let mut bench = Bench::new();
    for vector in [0x31, 0xfe, 0x20, 0x5f, 0x60] {
        bench.self_ipi(vector);
    }
    for vector in [0xfe, 0x60, 0x5f, 0x31, 0x20] {
        assert_eq!(bench.take(), Some(vector));
        assert_eq!(bench.take(), None, "{vector:#x} holds back the rest");
        bench.write(EOI, 0);
    }
}

#[test]
fn a_higher_class_nests_and_the_same_class_waits() {
    let mut bench = Bench::new();
    bench.self_ipi(0x45);
    assert_eq!(bench.take(), Some(0x45));
    bench.self_ipi(0x4f);
    assert_eq!(bench.take(), None, "same class");
    bench.self_ipi(0x50);
    assert_eq!(bench.take(), Some(0x50), "higher class");
    assert_eq!(bench.read(PPR), 0x50);
    assert_eq!(bench.read(ISR + 0x20), 1 << 5 | 1 << 16);
    bench.write(EOI, 0);
    assert_eq!(bench.read(PPR), 0x40);
    assert_eq!(bench.read(ISR + 0x20), 1 << 5, "EOI ends the highest");
    bench.write(EOI, 0);
    assert_eq!(bench.take(), Some(0x4f));
}

#[test]
fn the_task_priority_masks_its_class_and_those_below() {
    let mut bench = Bench::new();
    bench.self_ipi(0x5a);
    for (tpr, taken) in [(0xf0, None), (0x5f, None), (0x50, None), (0x4f, Some(0x5a))] {
        bench.write(TPR, tpr);
        assert_eq!(bench.read(PPR), tpr);
        assert_eq!(bench.lapic.pending(), taken, "TPR {tpr:#x}");
    }
}

#[test]
fn cr8_is_the_upper_half_of_the_task_priority() {
    let mut bench = Bench::new();
    bench.write(TPR, 0x35);
    assert_eq!(bench.lapic.task_priority(), 3);
    bench.lapic.set_task_priority(3);
    assert_eq!(bench.read(TPR), 0x35, "an unchanged class does not disturb");
    bench.lapic.set_task_priority(0xfe);
    assert_eq!(bench.read(TPR), 0xe0);
    bench.self_ipi(0xe5);
    assert_eq!(bench.take(), None);
    bench.lapic.set_task_priority(0xd);
    assert_eq!(bench.take(), Some(0xe5));
}

#[test]
fn only_the_task_priority_counts_as_what_a_lower_cr8_would_lift() {
    let mut bench = Bench::new();
    assert_eq!(bench.lapic.blocked_by_task_priority(), None, "nothing waits");
    bench.self_ipi(0x5a);
    assert_eq!(bench.lapic.blocked_by_task_priority(), None, "nothing holds it back");
    bench.lapic.set_task_priority(5);
    assert_eq!(bench.lapic.blocked_by_task_priority(), Some(0x5a));
    bench.lapic.set_task_priority(0);
    assert_eq!(bench.take(), Some(0x5a));
    bench.self_ipi(0x51);
    bench.lapic.set_task_priority(9);
    assert_eq!(bench.lapic.blocked_by_task_priority(), None, "the interrupt in service holds it back as well");
}

#[test]
fn processor_and_arbitration_priority_follow_their_formulas() {
    let mut bench = Bench::new();
    bench.self_ipi(0x62);
    assert_eq!(bench.take(), Some(0x62));
    bench.write(TPR, 0x47);
    assert_eq!(bench.read(PPR), 0x60, "ISR above TPR: the sub-class is zero");
    assert_eq!(bench.read(APR), 0x60);
    bench.write(TPR, 0x73);
    assert_eq!((bench.read(PPR), bench.read(APR)), (0x73, 0x73));
    bench.self_ipi(0x81);
    assert_eq!((bench.read(PPR), bench.read(APR)), (0x73, 0x80), "a request counts for arbitration alone");
}

#[test]
fn an_eoi_with_nothing_in_service_does_nothing() {
    let mut bench = Bench::new();
    bench.self_ipi(0x40);
    bench.write(EOI, 0);
    assert_eq!(bench.take(), Some(0x40));
}

#[test]
fn a_vector_can_be_pending_while_it_is_in_service() {
    let mut bench = Bench::new();
    bench.self_ipi(0x80);
    assert_eq!(bench.take(), Some(0x80));
    bench.self_ipi(0x80);
    bench.self_ipi(0x80);
    assert_eq!(bench.take(), None);
    bench.write(EOI, 0);
    assert_eq!(bench.take(), Some(0x80));
    bench.write(EOI, 0);
    assert_eq!(bench.take(), None, "two at once are one");
}

#[test]
fn a_vanished_interrupt_is_spurious_and_leaves_nothing_in_service() {
    let mut bench = Bench::new();
    bench.write(SVR, 0x1ef);
    assert_eq!(bench.lapic.acknowledge(0x55), 0xef);
    assert_eq!(bench.read(ISR + 0x70), 0);
    assert_eq!(bench.read(PPR), 0);
}

#[test]
fn software_disable_masks_the_local_table_and_holds_what_is_pending() {
    let mut bench = Bench::new();
    bench.write(LVT_TIMER, 0x40);
    bench.write(LVT_LINT1, 0x400);
    bench.self_ipi(0x70);
    bench.write(SVR, 0xff);
    assert_eq!(bench.take(), None);
    assert_eq!(bench.read(IRR + 0x30), 1 << 16, "the request is held");
    assert_eq!(bench.read(LVT_TIMER), MASKED | 0x40);
    assert_eq!(bench.read(LVT_LINT1), MASKED | 0x400);
    bench.write(LVT_TIMER, 0x41);
    assert_eq!(bench.read(LVT_TIMER), MASKED | 0x41, "the mask cannot be cleared");
    bench.self_ipi(0x71);
    bench.write(SVR, 0x1ff);
    assert_eq!(bench.read(LVT_TIMER), MASKED | 0x41, "and does not clear itself");
    assert_eq!(bench.take(), Some(0x70));
    bench.write(EOI, 0);
    assert_eq!(bench.take(), None, "a disabled APIC accepts no vectors");
}

#[test]
fn illegal_vectors_are_errors() {
    let mut bench = Bench::new();
    bench.write(LVT_ERROR, 0xfe);
    bench.self_ipi(0x0f);
    assert_eq!(bench.take(), Some(0xfe));
    bench.write(EOI, 0);
    assert_eq!(bench.read(ESR), 0, "nothing shows before a write");
    bench.self_ipi(0x01);
    assert_eq!(bench.take(), None, "the interrupt is armed again by a write");
    assert_eq!(bench.errors(), 1 << 5);
    assert_eq!(bench.errors(), 0);
    bench.write(ICR, 0x0f);
    assert_eq!(bench.take(), Some(0xfe));
}

#[test]
fn an_illegal_vector_for_the_error_interrupt_ends_there() {
    let mut bench = Bench::new();
    bench.write(LVT_ERROR, 0x05);
    bench.self_ipi(0x0f);
    assert_eq!(bench.errors(), 1 << 5 | 1 << 6);
    assert_eq!(bench.take(), None);
}

#[test]
fn a_reserved_register_is_an_error_and_reads_zero() {
    let mut bench = Bench::new();
    for offset in [0x00, 0x10, 0x40, 0x290, 0x2f0, 0x3a0, 0x3f0, 0x400, 0xff0] {
        assert_eq!(bench.read(offset), 0);
        assert_eq!(bench.errors(), 1 << 7, "read of {offset:#x}");
        bench.write(offset, 1);
        assert_eq!(bench.errors(), 1 << 7, "write of {offset:#x}");
    }
    for offset in [0x90, 0xc0, EOI] {
        bench.read(offset);
        assert_eq!(bench.errors(), 0, "{offset:#x} is not reserved");
    }
}

#[test]
fn read_only_registers_ignore_writes() {
    let mut bench = Bench::new();
    for offset in [ID, VERSION, APR, PPR, ISR, TMR + 0x70, IRR + 0x30, CURRENT] {
        let before = bench.read(offset);
        bench.write(offset, !before);
        assert_eq!(bench.read(offset), before, "{offset:#x}");
    }
}

#[test]
fn reserved_bits_stay_clear() {
    let mut bench = Bench::new();
    for (offset, bits) in [
        (TPR, 0xff),
        (LDR, 0xff00_0000),
        (SVR, 0x3ff),
        (ICR_HIGH, 0xff00_0000),
        (LVT_TIMER, 0x0007_00ff),
        (LVT_THERMAL, 0x0001_07ff),
        (LVT_PERFORMANCE, 0x0001_07ff),
        (LVT_LINT0, 0x0001_a7ff),
        (LVT_LINT1, 0x0001_a7ff),
        (LVT_ERROR, 0x0001_00ff),
        (DIVIDE, 0xb),
    ] {
        bench.write(offset, u32::MAX);
        assert_eq!(bench.read(offset), bits, "{offset:#x}");
    }
    bench.write(DFR, 0);
    assert_eq!(bench.read(DFR), 0x0fff_ffff);
}

#[test]
fn odd_accesses_are_harmless() {
    let mut bench = Bench::new();
    bench.write(TPR, 0x35);
    for (offset, width) in [(TPR, 1), (TPR, 2), (TPR, 8), (TPR + 1, 1), (TPR + 4, 4), (TPR + 2, 4), (TPR, 0)] {
        assert_eq!(bench.lapic.mmio_write(offset, width, u64::MAX, &bench.clock), Effect::None);
    }
    let mut read = |offset, width| bench.lapic.mmio_read(offset, width, &bench.clock);
    assert_eq!(read(VERSION, 1), 0x14);
    assert_eq!(read(VERSION + 2, 1), 0x05);
    assert_eq!(read(VERSION + 2, 2), 0x05);
    assert_eq!(read(VERSION + 4, 4), 0);
    assert_eq!(read(VERSION, 8), 0x0005_0014);
    assert_eq!(read(TPR, 4), 0x35);
    assert_eq!(read(TPR, 0), 0);
    for offset in (0..=0x1000).chain([u16::MAX]) {
        for width in 0..=9 {
            read(offset, width);
        }
    }
}

#[test]
fn the_registers_lie_where_the_architecture_has_them() {
    let mut bench = Bench::new();
    bench.self_ipi(0x31);
    let start = core::ptr::from_ref(&bench.lapic).addr();
    assert_eq!(start % 4096, 0);
    assert_eq!(core::ptr::from_ref(bench.lapic.registers()).addr(), start);
    assert_eq!(core::ptr::from_ref(&bench.lapic.registers().request).addr() - start, 0x200);
    assert_eq!(bench.lapic.registers().request[1].value, 1 << 0x11);
}

#[test]
fn init_resets_all_but_the_name() {
    let mut bench = Bench::new();
    bench.self_ipi(0x40);
    bench.self_ipi(0x50);
    assert_eq!(bench.take(), Some(0x50));
    bench.write(LDR, 0x0400_0000);
    bench.write(TPR, 0x20);
    bench.write(INITIAL, 100);
    bench.lapic.reset();
    assert_eq!(bench.lapic.deadline(), Instant::NEVER);
    bench.write(SVR, 0x1ff);
    assert_eq!(bench.take(), None);
    for zero in [TPR, PPR, LDR, IRR + 0x20, ISR + 0x20, INITIAL, CURRENT] {
        assert_eq!(bench.read(zero), 0, "{zero:#x}");
    }
}
