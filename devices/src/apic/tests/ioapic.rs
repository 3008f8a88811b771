// SPDX-License-Identifier: MIT OR Apache-2.0
//! The IOAPIC, alone and with local APICs behind it.

use super::*;
use crate::apic::PINS;

const PIN: u8 = 14;
const MASK: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const LOGICAL: u64 = 1 << 11;

fn to(destination: u8) -> u64 {
    u64::from(destination) << 56
}

#[test]
fn id_version_and_arbitration_registers_are_the_data_sheets() {
    let mut ioapic = IoApic::new(0);
    let mut register = |index: u64, write: Option<u64>| {
        ioapic.write(0, 4, index);
        if let Some(value) = write {
            assert_eq!(ioapic.write(0x10, 4, value), None);
        }
        ioapic.read(0x10, 4)
    };
    assert_eq!(register(1, None), 0x0017_0011);
    assert_eq!(register(1, Some(0xffff_ffff)), 0x0017_0011, "read-only");
    assert_eq!(register(0, Some(0xffff_ffff)), 0x0f00_0000, "four bits");
    assert_eq!(register(2, None), 0x0f00_0000, "loaded with the ID");
    assert_eq!(register(2, Some(0)), 0x0f00_0000, "read-only");
    assert_eq!(register(0, Some(0x0500_0000)), 0x0500_0000);
    assert_eq!(register(2, None), 0x0500_0000);
    for index in (3..0x10).chain(0x40..0x100) {
        assert_eq!(register(index, Some(0xffff_ffff)), 0, "{index:#x} is reserved");
    }
}

#[test]
fn entries_start_masked_and_keep_their_writable_bits() {
    let mut board = Board::new(1);
    for pin in 0..PINS {
        assert_eq!(board.entry(pin), MASK);
        board.redirect(pin, u64::MAX);
        assert_eq!(board.entry(pin), 0xff00_0000_0001_afff, "pin {pin}");
    }
}

#[test]
fn odd_accesses_are_harmless() {
    let mut ioapic = IoApic::new(0);
    ioapic.write(0, 1, 0x10);
    assert_eq!(ioapic.read(0, 4), 0x10);
    for width in [0, 1, 2, 8] {
        assert_eq!(ioapic.write(0x10, width, 0x30), None);
    }
    assert_eq!(ioapic.read(0x10, 4), 0x0001_0000);
    assert_eq!(ioapic.read(0x10, 1), 0);
    for offset in [4, 8, 0x12, 0x20, 0x40, 0xfff, u64::MAX] {
        assert_eq!(ioapic.write(offset, 4, u64::MAX), None);
        assert_eq!(ioapic.read(offset, 4), 0);
    }
    for pin in [24, 31, 32, 255] {
        assert_eq!(ioapic.set_line(pin, true), None);
    }
}

#[test]
fn an_edge_interrupts_once() {
    let mut board = Board::new(1);
    board.redirect(PIN, 0x76);
    assert_eq!(board.line(PIN, true), 1);
    assert_eq!(board.line(PIN, true), 0, "no edge");
    assert_eq!(board.take(0), Some(0x76));
    assert_eq!(board.lapics[0].mmio_read(TMR + 0x30, 4, &board.clock), 0);
    assert_eq!(board.end(0), 0);
    assert_eq!(board.line(PIN, false), 0);
    assert_eq!(board.line(PIN, true), 1);
    assert_eq!(board.take(0), Some(0x76));
}

#[test]
fn a_level_interrupts_until_it_goes() {
    let mut board = Board::new(1);
    board.redirect(PIN, LEVEL | 0x77);
    assert_eq!(board.line(PIN, true), 1);
    assert_eq!(board.entry(PIN), LEVEL | REMOTE_IRR | 0x77);
    assert_eq!(board.take(0), Some(0x77));
    assert_ne!(board.lapics[0].mmio_read(TMR + 0x30, 4, &board.clock), 0);
    assert_eq!(board.end(0), 1, "still asserted: once more");
    assert_eq!(board.take(0), Some(0x77));
    board.line(PIN, false);
    assert_eq!(board.entry(PIN), LEVEL | REMOTE_IRR | 0x77, "only an EOI clears remote IRR");
    assert_eq!(board.end(0), 0);
    assert_eq!(board.entry(PIN), LEVEL | 0x77);
    assert_eq!(board.take(0), None);
}

#[test]
fn a_level_that_toggles_in_service_comes_again() {
    let mut board = Board::new(1);
    board.redirect(PIN, LEVEL | 0x77);
    board.line(PIN, true);
    assert_eq!(board.take(0), Some(0x77));
    board.line(PIN, false);
    assert_eq!(board.line(PIN, true), 0, "remote IRR holds it back");
    assert_eq!(board.end(0), 1);
    assert_eq!(board.take(0), Some(0x77));
    board.line(PIN, false);
    assert_eq!(board.end(0), 0);
}

#[test]
fn an_edge_on_a_masked_entry_is_lost() {
    let mut board = Board::new(1);
    board.redirect(PIN, MASK | 0x81);
    board.line(PIN, true);
    board.line(PIN, false);
    assert_eq!(board.redirect(PIN, 0x81), 0);
    board.redirect(PIN, MASK | 0x81);
    board.line(PIN, true);
    assert_eq!(board.redirect(PIN, 0x81), 0, "even if the line is still asserted");
    assert_eq!(board.take(0), None);
    board.line(PIN, false);
    assert_eq!(board.line(PIN, true), 1);
    assert_eq!(board.take(0), Some(0x81));
}

#[test]
fn a_level_on_a_masked_entry_waits() {
    let mut board = Board::new(1);
    board.redirect(PIN, MASK | LEVEL | 0x82);
    assert_eq!(board.line(PIN, true), 0);
    assert_eq!(board.redirect(PIN, LEVEL | 0x82), 1);
    assert_eq!(board.take(0), Some(0x82));
    board.redirect(PIN, MASK | LEVEL | 0x82);
    assert_eq!(board.redirect(PIN, LEVEL | 0x82), 0, "in service");
    board.redirect(PIN, MASK | LEVEL | 0x82);
    assert_eq!(board.end(0), 0, "masked");
    assert_eq!(board.entry(PIN), MASK | LEVEL | 0x82);
    assert_eq!(board.redirect(PIN, LEVEL | 0x82), 1);
}

#[test]
fn switching_to_edge_drops_remote_irr() {
    let mut board = Board::new(1);
    board.redirect(PIN, LEVEL | 0x83);
    board.line(PIN, true);
    board.line(PIN, false);
    assert_eq!(board.entry(PIN), LEVEL | REMOTE_IRR | 0x83);
    board.redirect(PIN, MASK | 0x83);
    board.redirect(PIN, LEVEL | 0x83);
    assert_eq!(board.entry(PIN), LEVEL | 0x83);
    assert_eq!(board.line(PIN, true), 1);
}

#[test]
fn an_eoi_frees_all_entries_of_its_vector_and_no_others() {
    let mut board = Board::new(1);
    for pin in [3, 9, 20] {
        board.redirect(pin, LEVEL | 0x60);
        board.line(pin, true);
    }
    board.redirect(21, LEVEL | 0x61);
    board.line(21, true);
    board.line(9, false);
    let again: Vec<_> = board.ioapic.end_of_interrupt(0x60).collect();
    assert_eq!(again.len(), 2, "pins 3 and 20");
    assert!(again.iter().all(|message| message.vector == 0x60));
    assert_eq!(board.entry(9), LEVEL | 0x60);
    assert_eq!(board.entry(21), LEVEL | REMOTE_IRR | 0x61);
    assert_eq!(board.ioapic.end_of_interrupt(0x55).count(), 0);
}

#[test]
fn an_eoi_counts_even_if_nobody_looks_at_the_messages() {
    let mut board = Board::new(1);
    board.redirect(PIN, LEVEL | 0x60);
    board.line(PIN, true);
    board.line(PIN, false);
    let _ = board.ioapic.end_of_interrupt(0x60);
    assert_eq!(board.entry(PIN), LEVEL | 0x60);
}

#[test]
fn a_message_that_nobody_takes_does_not_block_its_pin() {
    let mut board = Board::new(1);
    board.redirect(PIN, LEVEL | to(7) | 0x60);
    let message = board.ioapic.set_line(PIN, true).unwrap();
    assert_eq!(board.deliver(Some(message)), 0);
    board.ioapic.not_accepted(&message);
    assert_eq!(board.entry(PIN), LEVEL | to(7) | 0x60);
    assert_eq!(board.redirect(PIN, LEVEL | 0x60), 1);
    assert_eq!(board.take(0), Some(0x60));
}

#[test]
fn every_delivery_mode_arrives_as_what_it_is() {
    let mut board = Board::new(2);
    for (mode, want) in [
        (2, Signals { smi: true, ..Signals::NONE }),
        (4, Signals { nmi: true, ..Signals::NONE }),
        (5, Signals { init: true, ..Signals::NONE }),
        (7, Signals { extint: true, ..Signals::NONE }),
        (3, Signals::NONE),
        (6, Signals::NONE),
    ] {
        // The level bit means nothing to these.
        board.redirect(PIN, LEVEL | to(1) | mode << 8 | 0x40);
        for _ in 0..2 {
            board.line(PIN, true);
            assert_eq!(board.absorb(1), want, "mode {mode}");
            board.line(PIN, false);
            assert_eq!(board.entry(PIN) & REMOTE_IRR, 0);
        }
    }
    board.redirect(PIN, to(1) | 1 << 8 | 0x40);
    assert_eq!(board.line(PIN, true), 1);
    assert_eq!(board.take(1), Some(0x40), "lowest priority");
}

#[test]
fn destinations_are_physical_or_logical() {
    let mut board = Board::new(4);
    for (destination, want) in
        [(to(2), vec![2]), (to(0xff), vec![0, 1, 2, 3]), (LOGICAL | to(0b1010), vec![1, 3]), (LOGICAL, vec![])]
    {
        board.redirect(PIN, destination | 0x90);
        assert_eq!(board.line(PIN, true) as usize, want.len());
        board.line(PIN, false);
        assert_eq!(board.receivers(0x90), want);
    }
    let mut board = Board::x2apic(20);
    board.redirect(PIN, to(0xff) | 0x90);
    assert_eq!(board.line(PIN, true), 20, "FFh is everybody in x2APIC mode as well");
}

#[test]
fn an_illegal_vector_is_the_receivers_error() {
    let mut board = Board::new(1);
    board.redirect(PIN, 0x0e);
    assert_eq!(board.line(PIN, true), 1);
    assert_eq!(board.take(0), None);
    board.write(0, ESR, 0);
    assert_eq!(board.lapics[0].mmio_read(ESR, 4, &board.clock), 1 << 6);
}

#[test]
fn a_handler_may_reconfigure_its_own_entry() {
    let mut board = Board::new(1);
    board.redirect(PIN, LEVEL | 0x86);
    board.line(PIN, true);
    assert_eq!(board.take(0), Some(0x86));
    board.line(PIN, false);
    board.redirect(PIN, 0x87);
    assert_eq!(board.end(0), 0);
    assert_eq!(board.line(PIN, true), 1);
    assert_eq!(board.take(0), Some(0x87));
}
