// SPDX-License-Identifier: MIT OR Apache-2.0
//! IA32_APIC_BASE, the x2APIC registers, global disable.

use super::*;
use crate::apic::Mode;

#[test]
fn only_the_drawn_transitions_are_allowed() {
    const DISABLED: u64 = BASE;
    const XAPIC: u64 = BASE | ENABLED;
    const X2APIC: u64 = BASE | ENABLED | EXTENDED;
    const INVALID: u64 = BASE | EXTENDED;
    let reach: [(u64, &[u64]); 3] = [(DISABLED, &[DISABLED]), (XAPIC, &[XAPIC]), (X2APIC, &[XAPIC, X2APIC])];
    for (from, path) in reach {
        for to in [DISABLED, XAPIC, X2APIC, INVALID] {
            let mut lapic = Lapic::new(1, false);
            for step in path {
                lapic.set_base_msr(*step).unwrap();
            }
            assert_eq!(lapic.base_msr(), from);
            let refused = to == INVALID || from == X2APIC && to == XAPIC || from == DISABLED && to == X2APIC;
            assert_eq!(lapic.set_base_msr(to).is_none(), refused, "{from:#x} to {to:#x}");
            assert_eq!(lapic.base_msr(), if refused { from } else { to });
        }
    }
}

#[test]
fn reserved_bits_fault() {
    let mut lapic = Lapic::new(0, true);
    let base = lapic.base_msr();
    for bad in [base | 1, base | 1 << 7, base | 1 << 9, base | 1 << 52, base | 1 << 63] {
        assert_eq!(lapic.set_base_msr(bad), None, "{bad:#x}");
    }
    assert_eq!(lapic.set_base_msr(base & !(1 << 8)), Some(()));
    assert_eq!(lapic.base_msr(), base, "who is the bootstrap processor does not change");
}

/// kvm-unit-tests' `apic` moves the page and got #GP.
#[test]
fn the_page_can_be_moved_and_init_leaves_it_there() {
    let mut lapic = Lapic::new(0, true);
    lapic.set_base_msr(0xfed4_0000 | ENABLED).unwrap();
    assert_eq!((lapic.base(), lapic.base_msr()), (0xfed4_0000, 0xfed4_0000 | ENABLED | 1 << 8));
    lapic.reset();
    assert_eq!(lapic.base(), 0xfed4_0000);
    lapic.set_base_msr(BASE).unwrap();
    assert_eq!(lapic.base_msr(), BASE | 1 << 8);
    // A transition that does not exist moves nothing.
    assert_eq!(lapic.set_base_msr(0xfed4_0000 | ENABLED | EXTENDED), None);
    assert_eq!(lapic.base(), BASE);
}

#[test]
fn the_page_is_dead_unless_in_xapic_mode() {
    for base in [BASE, BASE | ENABLED | EXTENDED] {
        let mut bench = Bench::new();
        bench.lapic.set_base_msr(base).unwrap();
        for offset in [VERSION, TPR, 0x40] {
            assert_eq!(bench.lapic.mmio_read(offset, 4, &bench.clock), 0xffff_ffff);
            assert_eq!(bench.lapic.mmio_read(offset, 8, &bench.clock), u64::MAX);
            assert_eq!(bench.lapic.mmio_read(offset, 1, &bench.clock), 0xff);
        }
        bench.write(TPR, 0xff);
        assert_eq!(bench.lapic.task_priority(), 0);
        bench.lapic.set_task_priority(9);
        assert_eq!(bench.lapic.task_priority(), 9, "CR8 is the processor's");
    }
}

#[test]
fn a_disabled_apic_comes_back_as_after_power_up() {
    let mut bench = Bench::new();
    bench.write(TPR, 0x50);
    bench.self_ipi(0x80);
    bench.lapic.set_base_msr(BASE).unwrap();
    assert_eq!(bench.lapic.mode(), Mode::Disabled);
    assert_eq!(bench.take(), None);
    bench.lapic.set_base_msr(BASE | ENABLED).unwrap();
    assert_eq!((bench.read(TPR), bench.read(SVR)), (0, 0xff));
    bench.write(SVR, 0x1ff);
    assert_eq!(bench.take(), None);
}

#[test]
fn x2apic_mode_keeps_the_state_and_derives_the_name() {
    let mut bench = Bench { lapic: Lapic::new(0x25, false), clock: FakeClock::default() };
    bench.write(SVR, 0x1ff);
    bench.write(LDR, 0x8000_0000);
    bench.write(ICR_HIGH, 0x1200_0000);
    bench.write(TPR, 0x20);
    bench.self_ipi(0x77);
    assert_eq!(bench.read(ID), 0x2500_0000);
    bench.lapic.set_base_msr(BASE | ENABLED | EXTENDED).unwrap();
    assert_eq!(bench.rdmsr(0x802), Some(0x25));
    assert_eq!(bench.rdmsr(0x80d), Some(0x0002_0020));
    assert_eq!(bench.rdmsr(0x808), Some(0x20));
    assert_eq!(bench.rdmsr(0x830), Some(0x4_0077));
    assert_eq!(bench.take(), Some(0x77));
    bench.lapic.reset();
    assert_eq!(bench.lapic.mode(), Mode::X2Apic, "INIT keeps the mode");
    assert_eq!(bench.rdmsr(0x80d), Some(0x0002_0020));
}

#[test]
fn x2apic_msrs_fault_outside_of_x2apic_mode() {
    let mut bench = Bench::new();
    for base in [None, Some(BASE)] {
        if let Some(base) = base {
            bench.lapic.set_base_msr(base).unwrap();
        }
        for msr in 0x800..=0x8ff {
            assert_eq!((bench.rdmsr(msr), bench.wrmsr(msr, 0)), (None, None), "{msr:#x}");
        }
    }
}

#[test]
fn each_x2apic_msr_is_readable_or_writable_as_in_table_11_6() {
    let mut bench = Bench::x2apic();
    let both = [0x808, 0x80f, 0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x83e];
    let read_only: Vec<u32> = [0x802, 0x803, 0x80a, 0x80d, 0x839].into_iter().chain(0x810..=0x827).collect();
    let write_only = [0x80b, 0x83f];
    for msr in 0x7f0..=0x910 {
        assert_eq!(bench.rdmsr(msr).is_some(), both.contains(&msr) || read_only.contains(&msr), "RDMSR {msr:#x}");
        // Zero is a legal value everywhere; an illegal vector is an error, not a fault.
        assert_eq!(bench.wrmsr(msr, 0).is_some(), both.contains(&msr) || write_only.contains(&msr), "WRMSR {msr:#x}");
    }
}

#[test]
fn reserved_bits_of_x2apic_msrs_fault() {
    let mut bench = Bench::x2apic();
    for (msr, good, bad) in [
        (0x808, 0xff, 1 << 8),
        (0x80b, 0, 1),
        (0x80f, 0x3ff, 1 << 12),
        (0x828, 0, 1),
        (0x830, 0xffff_ffff_000c_4020, 1 << 13),
        (0x830, 0x000c_4020, 1 << 16),
        (0x830, 0x000c_4020, 1 << 20),
        (0x832, 0x0007_10ff, 1 << 8),
        (0x832, 0x0007_10ff, 1 << 19),
        (0x833, 0x0001_17ff, 1 << 13),
        (0x835, 0x0001_f7ff, 1 << 11),
        (0x837, 0x0001_10ff, 1 << 8),
        (0x838, 0xffff_ffff, 1 << 32),
        (0x83e, 0xb, 1 << 2),
        (0x83f, 0xff, 1 << 8),
    ] {
        assert!(bench.wrmsr(msr, good).is_some(), "{msr:#x} takes {good:#x}");
        assert_eq!(bench.wrmsr(msr, good | bad), None, "{msr:#x} refuses {bad:#x}");
        assert_eq!(bench.wrmsr(msr, good | 1 << 63).is_some(), msr == 0x830, "{msr:#x}, upper half");
    }
}

#[test]
fn the_id_cannot_be_written() {
    let mut bench = Bench::new();
    bench.write(ID, 0x0700_0000);
    assert_eq!(bench.read(ID), 0);
    let mut bench = Bench::x2apic();
    assert_eq!(bench.wrmsr(0x802, 7), None);
    bench.write(ID, 0x0700_0000);
    assert_eq!(bench.rdmsr(0x802), Some(0));
}

#[test]
fn the_self_ipi_register_interrupts_oneself() {
    let mut bench = Bench::x2apic();
    assert_eq!(bench.wrmsr(0x83f, 0xf2), Some(Effect::None));
    assert_eq!(bench.take(), Some(0xf2));
    assert_eq!(bench.wrmsr(0x80b, 0), Some(Effect::None));
    assert_eq!(bench.wrmsr(0x83f, 0x0f), Some(Effect::None));
    assert_eq!(bench.wrmsr(0x828, 0), Some(Effect::None));
    assert_eq!(bench.rdmsr(0x828), Some(1 << 5));
}
