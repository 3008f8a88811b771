// SPDX-License-Identifier: MIT OR Apache-2.0
//! INIT, start-up IPIs and NMIs through the letter box, with vectors and with each other.

use model_tests::{Bus, Owner, check};
use vmm_interface::DeliveryMode::{Fixed, Init, Nmi, Startup};
use vmm_interface::TriggerMode::Edge;

const PAGE: u8 = 0x9a;

/// What an operating system does to start a processor, while a device's interrupt comes.
#[test]
fn a_start_up_ipi_comes_after_its_init_and_with_its_page() {
    check(Some(2), || {
        let bus = Bus::new(2);
        let mut owner = Owner::new(&bus);
        bus.spawn(|bus| {
            assert_eq!(bus.send(Some(1), Init, 0, Edge), 1);
            assert_eq!(bus.send(Some(1), Startup, PAGE, Edge), 1);
        });
        bus.spawn(|bus| assert!(bus.send(None, Fixed, 0x41, Edge) <= 1));
        let mut reset = false;
        loop {
            let signals = owner.absorb();
            assert!(!(reset && signals.init), "one INIT was seen twice");
            if signals.init {
                owner.lapic.reset();
                reset = true;
            }
            if let Some(page) = signals.startup {
                assert!(reset, "a start-up IPI overtook the INIT before it");
                assert_eq!(page, PAGE);
                return;
            }
            owner.rest();
        }
    });
}

/// The page is what the flag's ordering is for: it is stored, not merged, so a processor that sees the flag without the
/// store before it starts at the wrong address.
#[test]
fn a_lone_start_up_ipi_carries_its_page() {
    check(None, || {
        let bus = Bus::new(2);
        let mut owner = Owner::new(&bus);
        bus.spawn(|bus| assert_eq!(bus.send(Some(1), Startup, PAGE, Edge), 1));
        loop {
            if let Some(page) = owner.absorb().startup {
                assert_eq!(page, PAGE);
                return;
            }
            owner.rest();
        }
    });
}

/// INIT's clearing of older flags and everybody else's flags continue each other's release sequences.
#[test]
fn a_page_survives_the_updates_of_other_senders() {
    check(Some(2), || {
        let bus = Bus::new(2);
        let mut owner = Owner::new(&bus);
        bus.spawn(|bus| assert_eq!(bus.send(Some(1), Startup, PAGE, Edge), 1));
        bus.spawn(|bus| {
            assert_eq!(bus.send(None, Nmi, 0, Edge), 1);
            assert_eq!(bus.send(None, Fixed, 0x41, Edge), 1);
        });
        let (mut started, mut nmi, mut vector) = (false, false, false);
        while !(started && nmi && vector) {
            let signals = owner.absorb();
            if let Some(page) = signals.startup {
                assert_eq!(page, PAGE);
                started = true;
            }
            nmi |= signals.nmi;
            owner.handle(|_, _| vector = true);
            if !(started && nmi && vector) {
                owner.rest();
            }
        }
    });
}

#[test]
fn two_nmis_are_two() {
    check(Some(2), || {
        let bus = Bus::new(1);
        let mut owner = Owner::new(&bus);
        for _ in 0..2 {
            bus.spawn(|bus| assert_eq!(bus.send(None, Nmi, 0, Edge), 1));
        }
        let mut left = 2_u8;
        while left > 0 {
            let signals = owner.absorb();
            left -= u8::from(signals.nmi) + u8::from(signals.second_nmi);
            if left > 0 {
                owner.rest();
            }
        }
    });
}

#[test]
fn init_discards_what_its_sender_sent_before() {
    check(Some(2), || {
        let bus = Bus::new(2);
        let mut owner = Owner::new(&bus);
        bus.spawn(|bus| {
            bus.send(Some(1), Nmi, 0, Edge);
            bus.send(Some(1), Fixed, 0x41, Edge);
            bus.send(Some(1), Init, 0, Edge);
        });
        loop {
            let signals = owner.absorb();
            if signals.init {
                assert_eq!((signals.nmi, owner.lapic.pending()), (false, None));
                return;
            }
            owner.handle(|_, _| {});
            owner.rest();
        }
    });
}
