// SPDX-License-Identifier: MIT OR Apache-2.0
//! The name plate: senders see one state of an APIC, and the new one once its guest has told them.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use model_tests::{Bus, Owner, Stopped, check};
use vmm_interface::DeliveryMode::Fixed;
use vmm_interface::{Destination, InterruptMessage, TriggerMode};

const SPURIOUS: u16 = 0xf0;
const LOGICAL_DESTINATION: u16 = 0xd0;

fn to_logical(bus: &Bus, destination: u32) -> u32 {
    let message = InterruptMessage {
        destination: Destination::Logical(destination),
        mode: Fixed,
        vector: 0x41,
        trigger: TriggerMode::Edge,
        assert: true,
    };
    bus.fabric.deliver(Some(1), &message, &*bus.kick)
}

/// The guest enables its APIC, tells the other processor in memory, and gets the interrupt that this one then sends.
#[test]
fn a_processor_that_says_it_is_ready_gets_its_interrupt() {
    check(None, || {
        let bus = Bus::new(2);
        let mut owner = Owner::new(&bus);
        let _ = owner.lapic.mmio_write(SPURIOUS, 4, 0xff, &Stopped);
        let _ = owner.absorb();
        let ready = Arc::new(AtomicBool::new(false));
        let seen = ready.clone();
        let sender = bus.spawn(move |bus| {
            // Guest memory, with the ordering that x86 gives every load and store.
            let ready = seen.load(Ordering::Acquire);
            let taken = bus.send(Some(1), Fixed, 0x41, TriggerMode::Edge);
            assert!(taken == 1 || !ready, "the APIC was enabled, and the interrupt got lost");
        });
        let _ = owner.lapic.mmio_write(SPURIOUS, 4, 0x1ff, &Stopped);
        let _ = owner.absorb();
        ready.store(true, Ordering::Release);
        sender.join().unwrap();
    });
}

/// A logical ID that changes is the old one or the new one, never neither, and never the old one after the new one.
#[test]
fn a_logical_id_changes_at_once() {
    check(None, || {
        let bus = Bus::new(2);
        let mut owner = Owner::new(&bus);
        let _ = owner.lapic.mmio_write(LOGICAL_DESTINATION, 4, 1 << 24, &Stopped);
        let _ = owner.absorb();
        let sender = bus.spawn(|bus| {
            let old = to_logical(&bus, 1);
            let new = to_logical(&bus, 2);
            assert!(old + new >= 1, "the APIC had no name");
            assert_eq!(to_logical(&bus, 3), 1);
        });
        let _ = owner.lapic.mmio_write(LOGICAL_DESTINATION, 4, 2 << 24, &Stopped);
        let _ = owner.absorb();
        sender.join().unwrap();
    });
}
