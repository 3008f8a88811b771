// SPDX-License-Identifier: MIT OR Apache-2.0
//! LINT0 and LINT1.

use super::*;
use crate::apic::Lint;

const EXT_INT: u32 = 0x700;
const NMI: u32 = 0x400;
const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;

#[test]
fn the_8259s_get_through_as_the_lint0_entry_says() {
    let mut bench = Bench::new();
    assert!(!bench.lapic.accepts_extint(), "masked after reset");
    bench.write(LVT_LINT0, EXT_INT);
    assert!(bench.lapic.accepts_extint());
    bench.write(LVT_LINT0, EXT_INT | LEVEL);
    assert!(bench.lapic.accepts_extint());
    bench.write(LVT_LINT0, EXT_INT | MASKED);
    assert!(!bench.lapic.accepts_extint());
    bench.write(LVT_LINT0, 0x30);
    assert!(!bench.lapic.accepts_extint(), "fixed is not ExtINT");
    bench.write(LVT_LINT0, EXT_INT);
    bench.write(SVR, 0xff);
    assert!(!bench.lapic.accepts_extint(), "software disable masks");
}

#[test]
fn without_an_apic_the_pins_are_intr_and_nmi() {
    let mut bench = Bench::new();
    bench.lapic.set_base_msr(BASE).unwrap();
    assert!(bench.lapic.accepts_extint());
    assert!(bench.lapic.set_lint(Lint::Lint1, true).nmi);
    assert!(bench.lapic.set_lint(Lint::Lint1, true).is_empty(), "no edge");
    assert!(bench.lapic.set_lint(Lint::Lint0, true).is_empty());
    let mut other = Lapic::new(1, false);
    other.set_base_msr(BASE).unwrap();
    assert!(!other.accepts_extint());
}

#[test]
fn virtual_wire_mode_is_what_firmware_leaves() {
    let mut bench = Bench::after_power_up();
    bench.lapic.enter_virtual_wire();
    assert_eq!(bench.read(SVR), 0x1ff);
    assert!(bench.lapic.accepts_extint());
    assert!(bench.lapic.set_lint(Lint::Lint1, true).nmi);
    let mut other = Lapic::new(1, false);
    other.enter_virtual_wire();
    assert!(!other.accepts_extint(), "one processor takes the 8259s' interrupts");
}

#[test]
fn a_pin_signals_on_its_edge_in_the_mode_of_its_entry() {
    let mut bench = Bench::new();
    for (entry, want) in [
        (NMI, Signals { nmi: true, ..Signals::NONE }),
        (NMI | LEVEL, Signals { nmi: true, ..Signals::NONE }),
        (0x200, Signals { smi: true, ..Signals::NONE }),
        (0x500, Signals { init: true, ..Signals::NONE }),
        (EXT_INT, Signals::NONE),
        (NMI | MASKED, Signals::NONE),
    ] {
        bench.write(LVT_LINT1, entry);
        assert_eq!(bench.lapic.set_lint(Lint::Lint1, true), want, "{entry:#x}");
        assert_eq!(bench.lapic.set_lint(Lint::Lint1, true), Signals::NONE);
        assert_eq!(bench.lapic.set_lint(Lint::Lint1, false), Signals::NONE);
    }
}

#[test]
fn a_fixed_edge_interrupts_once() {
    let mut bench = Bench::new();
    bench.write(LVT_LINT0, 0x31);
    assert!(bench.lapic.set_lint(Lint::Lint0, true).is_empty());
    assert_eq!(bench.take(), Some(0x31));
    bench.write(EOI, 0);
    assert_eq!(bench.take(), None);
    assert!(bench.lapic.set_lint(Lint::Lint0, false).is_empty());
    assert!(bench.lapic.set_lint(Lint::Lint0, true).is_empty());
    assert_eq!(bench.take(), Some(0x31));
}

#[test]
fn a_fixed_level_interrupts_until_it_goes() {
    let mut bench = Bench::new();
    bench.write(LVT_LINT0, LEVEL | 0x31);
    assert!(bench.lapic.set_lint(Lint::Lint0, true).is_empty());
    assert_eq!(bench.read(LVT_LINT0), LEVEL | REMOTE_IRR | 0x31);
    assert_eq!(bench.take(), Some(0x31));
    assert_eq!(bench.read(TMR + 0x10), 1 << 0x11);
    assert_eq!(bench.effect(EOI, 0), Effect::EndOfInterrupt(0x31));
    assert_eq!(bench.take(), Some(0x31), "the level is still there");
    assert!(bench.lapic.set_lint(Lint::Lint0, false).is_empty());
    assert_eq!(bench.effect(EOI, 0), Effect::EndOfInterrupt(0x31));
    assert_eq!(bench.read(LVT_LINT0), LEVEL | 0x31);
    assert_eq!(bench.take(), None);
}

#[test]
fn a_level_waits_behind_the_mask_and_an_edge_does_not() {
    let mut bench = Bench::new();
    bench.write(LVT_LINT0, MASKED | LEVEL | 0x31);
    assert!(bench.lapic.set_lint(Lint::Lint0, true).is_empty());
    assert_eq!(bench.take(), None);
    bench.write(LVT_LINT0, LEVEL | 0x31);
    assert_eq!(bench.take(), Some(0x31));
    bench.write(LVT_LINT0, MASKED | 0x32);
    assert!(bench.lapic.set_lint(Lint::Lint0, false).is_empty());
    assert!(bench.lapic.set_lint(Lint::Lint0, true).is_empty());
    bench.write(LVT_LINT0, 0x42);
    assert_eq!(bench.take(), None);
}

#[test]
fn an_illegal_vector_on_a_level_pin_is_an_error_and_does_not_stick() {
    let mut bench = Bench::new();
    bench.write(LVT_LINT0, LEVEL | 0x05);
    assert!(bench.lapic.set_lint(Lint::Lint0, true).is_empty());
    assert_eq!(bench.errors(), 1 << 6);
    bench.write(LVT_LINT0, LEVEL | 0x55);
    assert_eq!(bench.take(), Some(0x55));
}
