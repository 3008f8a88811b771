// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vectors through the letter box: none is lost, and no processor sleeps over one.

use devices::apic::Signals;
use model_tests::{Bus, Owner, check};
use vmm_interface::DeliveryMode::Fixed;
use vmm_interface::TriggerMode::{Edge, Level};

/// Handles interrupts until all of `wanted` were seen, and then finds nothing more.
fn receive(owner: &mut Owner, wanted: &[u8]) {
    let mut left = wanted.to_vec();
    loop {
        assert_eq!(owner.absorb(), Signals::NONE);
        owner.handle(|vector, _| {
            assert!(left.contains(&vector), "nobody sent this interrupt, or it came twice");
            left.retain(|wanted| *wanted != vector);
        });
        if left.is_empty() {
            return;
        }
        owner.rest();
    }
}

#[test]
fn two_senders_of_one_word_lose_nothing() {
    check(Some(2), || {
        let bus = Bus::new(1);
        let mut owner = Owner::new(&bus);
        for vector in [0x41, 0x42] {
            bus.spawn(move |bus| assert_eq!(bus.send(None, Fixed, vector, Edge), 1));
        }
        receive(&mut owner, &[0x41, 0x42]);
    });
}

#[test]
fn two_senders_of_two_words_lose_nothing() {
    check(Some(2), || {
        let bus = Bus::new(1);
        let mut owner = Owner::new(&bus);
        bus.spawn(|bus| assert_eq!(bus.send(None, Fixed, 0x41, Edge), 1));
        bus.spawn(|bus| assert_eq!(bus.send(None, Fixed, 0x91, Level), 1));
        receive(&mut owner, &[0x41, 0x91]);
    });
}

/// The second interrupt of each sender finds an owner that is asleep, in the guest, or about to be either.
#[test]
fn a_sender_that_goes_on_is_heard_each_time() {
    check(Some(2), || {
        let bus = Bus::new(1);
        let mut owner = Owner::new(&bus);
        bus.spawn(|bus| {
            bus.send(None, Fixed, 0x41, Edge);
            bus.send(None, Fixed, 0x51, Edge);
        });
        bus.spawn(|bus| {
            bus.send(None, Fixed, 0x61, Level);
        });
        receive(&mut owner, &[0x41, 0x51, 0x61]);
    });
}

/// A message to oneself asks for no kick. A sender that comes behind it asks for none either, and still is heard.
#[test]
fn a_message_behind_a_self_ipi_needs_no_kick() {
    check(None, || {
        let bus = Bus::new(2);
        let mut owner = Owner::new(&bus);
        bus.spawn(|bus| assert_eq!(bus.send(Some(1), Fixed, 0x42, Edge), 1));
        assert_eq!(bus.send(Some(0), Fixed, 0x41, Edge), 1);
        receive(&mut owner, &[0x41, 0x42]);
    });
}

/// Two sources of one vector may become one interrupt or two, each wholly edge- or wholly level-triggered.
#[test]
fn one_vector_from_two_sources_has_a_whole_trigger_mode() {
    check(Some(2), || {
        let bus = Bus::new(1);
        let mut owner = Owner::new(&bus);
        let senders =
            [Edge, Level].map(|trigger| bus.spawn(move |bus| assert_eq!(bus.send(None, Fixed, 0x41, trigger), 1)));
        let mut level_seen = false;
        while !level_seen {
            assert_eq!(owner.absorb(), Signals::NONE);
            owner.handle(|vector, lapic| {
                assert_eq!(vector, 0x41);
                level_seen |= lapic.registers().trigger_mode[2].value & 1 << 1 != 0;
            });
            if !level_seen {
                owner.rest();
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
    });
}
