// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inter-processor messages: destinations, delivery modes, kicks.

use super::*;
use vmm_interface::{DeliveryMode, Destination, TriggerMode};

const LOGICAL: u32 = 1 << 11;
const NMI: u32 = 0x400;
const INIT: u32 = 0x500;
const STARTUP: u32 = 0x600;
const LOWEST: u32 = 0x100;
const ASSERT: u32 = 1 << 14;
const SELF: u32 = 1 << 18;
const ALL: u32 = 2 << 18;
const OTHERS: u32 = 3 << 18;

#[test]
fn a_physical_destination_is_one_processor_or_all() {
    let mut board = Board::new(3);
    assert_eq!(board.ipi(0, 2, 0x40), 1);
    assert_eq!(board.receivers(0x40), [2]);
    assert_eq!(board.ipi(1, 0xff, 0x41), 3);
    assert_eq!(board.receivers(0x41), [0, 1, 2]);
    assert_eq!(board.ipi(1, 3, 0x42), 0, "nobody is there");
    assert_eq!(board.ipi(1, 1, 0x43), 1, "oneself by ID");
    assert_eq!(board.receivers(0x43), [1]);
}

#[test]
fn shorthands_are_self_all_and_others() {
    let mut board = Board::new(3);
    for (shorthand, want) in [(SELF, vec![1]), (ALL, vec![0, 1, 2]), (OTHERS, vec![0, 2])] {
        board.ipi(1, 0, shorthand | 0x50);
        assert_eq!(board.receivers(0x50), want);
    }
}

#[test]
fn the_level_bit_does_not_matter_for_fixed() {
    let mut board = Board::new(2);
    for command in [0x50, ASSERT | 0x50, 1 << 15 | 0x50, 1 << 15 | ASSERT | 0x50] {
        assert_eq!(board.ipi(0, 1, command), 1);
        assert_eq!(board.take(1), Some(0x50));
        assert_eq!(board.lapics[1].mmio_read(TMR + 0x20, 4, &board.clock), 0, "an IPI is an edge");
        board.end(1);
    }
}

#[test]
fn the_flat_model_matches_bits() {
    let mut board = Board::new(4);
    for (destination, want) in [(1, vec![0]), (0b0110, vec![1, 2]), (0x30, vec![]), (0xff, vec![0, 1, 2, 3])] {
        board.ipi(3, destination, LOGICAL | 0x51);
        assert_eq!(board.receivers(0x51), want, "{destination:#x}");
    }
    board.write(2, LDR, 0x0200_0000);
    board.ipi(3, 2, LOGICAL | 0x51);
    assert_eq!(board.receivers(0x51), [1, 2], "a logical ID may be shared");
    board.write(2, LDR, 0);
    board.ipi(3, 0xff, LOGICAL | 0x51);
    assert_eq!(board.receivers(0x51), [0, 1, 2, 3], "FFh is everybody");
}

#[test]
fn the_cluster_model_matches_cluster_and_bits() {
    let mut board = Board::new(5);
    for (index, ldr) in (0..).zip([0x11, 0x12, 0x21, 0x28, 0xe1]) {
        board.write(index, DFR, 0x0fff_ffff);
        board.write(index, LDR, ldr << 24);
    }
    for (destination, want) in [
        (0x11, vec![0]),
        (0x13, vec![0, 1]),
        (0x1f, vec![0, 1]),
        (0x28, vec![3]),
        (0x2f, vec![2, 3]),
        (0xe1, vec![4]),
        (0x31, vec![]),
        (0x20, vec![]),
        (0xff, vec![0, 1, 2, 3, 4]),
    ] {
        board.ipi(0, destination, LOGICAL | 0x52);
        assert_eq!(board.receivers(0x52), want, "{destination:#x}");
    }
    board.write(0, DFR, 0x5fff_ffff);
    board.ipi(1, 0x11, LOGICAL | 0x52);
    assert!(board.receivers(0x52).is_empty(), "no model, no match");
}

#[test]
fn x2apic_destinations_have_32_bits() {
    let mut board = Board::x2apic(40);
    let mut send = |destination: u64, command: u32| {
        board.wrmsr(5, 0x830, destination << 32 | u64::from(command));
        board.receivers(0x60)
    };
    assert_eq!(send(33, 0x60), [33]);
    assert_eq!(send(0xff, 0x60), [], "FFh is an ID like any other");
    assert_eq!(send(0xffff_ffff, 0x60).len(), 40);
    assert_eq!(send(0x0002_0081, LOGICAL | 0x60), [32, 39]);
    assert_eq!(send(0x0000_0003, LOGICAL | 0x60), [0, 1]);
    assert_eq!(send(0x0007_ffff, LOGICAL | 0x60), []);
    assert_eq!(send(0xfffe_ffff, LOGICAL | 0x60), []);
    assert_eq!(send(0xffff_ffff, LOGICAL | 0x60).len(), 40);
    assert_eq!(send(0, OTHERS | 0x60).len(), 39);
    assert_eq!(send(0, SELF | 0x60), [5]);
}

#[test]
fn more_than_255_processors_are_no_limit() {
    let mut board = Board::x2apic(300);
    assert_eq!(board.wrmsr(0, 0x830, 299 << 32 | 0x60), 1);
    assert_eq!(board.receivers(0x60), [299]);
    assert_eq!(board.wrmsr(0, 0x830, 0x0012_0001 << 32 | u64::from(LOGICAL) | 0x60), 1);
    assert_eq!(board.receivers(0x60), [288]);
}

#[test]
fn lowest_priority_finds_the_least_busy_processor() {
    let mut board = Board::new(4);
    for (index, tpr) in (0..).zip([0x40, 0x2f, 0x30, 0x50]) {
        board.write(index, TPR, tpr);
    }
    for vector in [0x60, 0x61, 0x62] {
        assert_eq!(board.ipi(0, 0xff, LOGICAL | LOWEST | vector), 1);
        assert_eq!(board.receivers(vector as u8), [1]);
    }
    board.ipi(0, 0b1101, LOGICAL | LOWEST | 0x60);
    assert_eq!(board.receivers(0x60), [2], "of those addressed");
    board.lapics[1].set_task_priority(0xf);
    assert_eq!(board.absorb(1), Signals::NONE);
    board.ipi(0, 0b0011, LOGICAL | LOWEST | 0x60);
    assert_eq!(board.receivers(0x60), [0], "CR8 counts as well");
}

#[test]
fn lowest_priority_spreads_ties_by_vector() {
    let mut board = Board::new(4);
    let mut seen = Vec::new();
    for vector in 0x60..0x64 {
        assert_eq!(board.ipi(0, 0xff, LOGICAL | LOWEST | vector), 1);
        let first = board.receivers(vector as u8);
        assert_eq!(first.len(), 1);
        board.ipi(0, 0xff, LOGICAL | LOWEST | vector);
        assert_eq!(board.receivers(vector as u8), first, "the same vector goes to the same processor");
        seen.extend(first);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[test]
fn lowest_priority_passes_over_disabled_processors() {
    let mut board = Board::new(2);
    board.write(0, SVR, 0xff);
    for vector in [0x60, 0x61] {
        assert_eq!(board.ipi(0, 0xff, LOGICAL | LOWEST | vector), 1);
        assert_eq!(board.receivers(vector as u8), [1]);
    }
    board.write(1, SVR, 0xff);
    assert_eq!(board.ipi(0, 0xff, LOGICAL | LOWEST | 0x60), 0);
}

#[test]
fn a_software_disabled_apic_takes_init_sipi_nmi_and_smi_only() {
    let mut board = Board::after_power_up(2);
    assert_eq!(board.ipi(0, 1, 0x40), 0);
    assert_eq!(board.ipi(0, 1, 0x700), 0, "ExtINT is not for the ICR");
    assert_eq!(board.ipi(0, 1, INIT | ASSERT), 1);
    assert_eq!(board.ipi(0, 1, STARTUP | 0x9a), 1);
    assert_eq!(board.ipi(0, 1, NMI), 1);
    assert_eq!(board.ipi(0, 1, 0x200), 1);
    let want = Signals { init: true, startup: Some(0x9a), nmi: true, smi: true, ..Signals::NONE };
    assert_eq!(board.absorb(1), want);
    assert_eq!(board.absorb(1), Signals::NONE, "reported once");
    board.lapics[1].set_base_msr(BASE).unwrap();
    assert_eq!(board.absorb(1), Signals::NONE);
    assert_eq!(board.ipi(0, 1, NMI), 0, "a disabled one takes nothing");
}

/// The sender was told that it arrived; a level-triggered line would wait for its end for ever.
#[test]
fn what_came_before_software_disabled_the_apic_is_held() {
    let mut board = Board::new(2);
    assert_eq!(board.ipi(0, 1, 0x40), 1);
    board.write(1, SVR, 0xff);
    assert_eq!(board.take(1), None, "held, not delivered");
    assert_eq!(board.ipi(0, 1, 0x41), 0);
    board.write(1, SVR, 0x1ff);
    assert_eq!(board.take(1), Some(0x40));
}

#[test]
fn the_start_up_sequence_of_an_operating_system_works() {
    let mut board = Board::after_power_up(3);
    let init = INIT | ASSERT | 1 << 15;
    assert_eq!(board.ipi(0, 2, init), 1);
    assert_eq!(board.ipi(0, 2, INIT | 1 << 15), 0, "the de-assert does nothing");
    assert!(board.absorb(2).init);
    assert_eq!(board.ipi(0, 2, STARTUP | 0x08), 1);
    assert_eq!(board.ipi(0, 2, STARTUP | 0x08), 1);
    assert_eq!(board.absorb(2), Signals { startup: Some(8), ..Signals::NONE });
    assert_eq!(board.absorb(1), Signals::NONE);
    assert_eq!(board.ipi(0, 0, OTHERS | init), 2, "as kvm-unit-tests does");
}

#[test]
fn init_discards_what_came_before_it() {
    let mut board = Board::new(2);
    board.ipi(0, 1, NMI);
    board.ipi(0, 1, STARTUP | 0x10);
    board.ipi(0, 1, 0x40);
    board.ipi(0, 1, INIT | ASSERT);
    assert_eq!(board.absorb(1), Signals { init: true, ..Signals::NONE });
    assert_eq!(board.lapics[1].pending(), None);
    board.lapics[1].reset();
    board.write(1, SVR, 0x1ff);
    assert_eq!(board.take(1), None);
}

#[test]
fn two_nmis_are_two_and_three_are_two() {
    let mut board = Board::new(2);
    for (sent, want) in [(1, (true, false)), (2, (true, true)), (3, (true, true))] {
        for _ in 0..sent {
            assert_eq!(board.ipi(0, 1, NMI | ASSERT), 1);
        }
        let signals = board.absorb(1);
        assert_eq!((signals.nmi, signals.second_nmi), want);
    }
    assert_eq!(board.ipi(0, 0, SELF | NMI), 1, "an NMI to oneself");
    assert!(board.absorb(0).nmi);
}

#[test]
fn invalid_combinations_are_not_sent() {
    let mut board = Board::new(2);
    for command in
        [SELF | INIT | ASSERT, SELF | STARTUP, SELF | LOWEST | 0x40, ALL | INIT | ASSERT, ALL | STARTUP, 0x300]
    {
        assert_eq!(board.ipi(0, 1, command), 0, "{command:#x}");
        assert_eq!((board.absorb(0), board.absorb(1)), (Signals::NONE, Signals::NONE));
    }
}

#[test]
fn one_kick_wakes_for_many_interrupts() {
    let mut board = Board::new(3);
    board.ipi(0, 1, 0x40);
    board.ipi(2, 1, 0x41);
    board.ipi(0, 1, NMI);
    assert_eq!(board.kicked(), [1]);
    assert!(board.absorb(1).nmi);
    board.ipi(0, 1, 0x40);
    assert_eq!(board.kicked(), [1]);
    board.ipi(0, 0xff, 0x42);
    assert_eq!(board.kicked(), [2], "1 has attention pending, 0 is the sender");
    assert!(board.port(0).needs_attention());
    board.fabric.poke(2, &board.kicks);
    assert!(board.kicked().is_empty());
    assert!(board.absorb(2).poked);
    board.fabric.poke(2, &board.kicks);
    board.fabric.poke(7, &board.kicks);
    assert_eq!(board.kicked(), [2]);
}

#[test]
fn a_vector_posted_as_edge_and_level_gets_its_eoi_broadcast() {
    let mut board = Board::new(2);
    board.redirect(3, 1 << 15 | 1 << 56 | 0x40);
    board.line(3, true);
    board.ipi(0, 1, 0x40);
    assert_eq!(board.take(1), Some(0x40));
    board.line(3, false);
    board.end(1);
    assert_eq!(board.entry(3) & 1 << 14, 0);
}

#[test]
fn a_sender_without_index_has_no_self_and_no_others_but_all() {
    let board = Board::new(2);
    let message = |destination| InterruptMessage {
        destination,
        mode: DeliveryMode::Fixed,
        vector: 0x40,
        trigger: TriggerMode::Edge,
        assert: true,
    };
    for (destination, want) in [(Destination::Myself, 0), (Destination::Others, 2), (Destination::All, 2)] {
        assert_eq!(board.deliver(Some(message(destination))), want);
    }
    let kicks = Kicks::default();
    for destination in [Destination::Physical(u32::MAX - 1), Destination::Logical(0xffff_0001), Destination::Myself] {
        assert_eq!(board.fabric.deliver(Some(u32::MAX), &message(destination), &kicks), 0);
    }
}
