// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the model checks share: a host that kicks, a processor that sleeps, messages.
//!
//! Loom runs a closure again and again, through every interleaving of its threads' atomic operations and through every
//! value that a load may return under the C11 memory model. It does not execute operations out of order, so a relaxed
//! read-modify-write always sees the last value; only loads can be stale.
//!
//! Empty unless built with `--cfg loom`:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p model-tests --target-dir target/loom
//! RUSTFLAGS="--cfg loom" cargo test -p paravisor-core --lib --target-dir target/loom vcpu::tests::model
//! ```
//!
//! The second line checks the run loop itself, beside its other tests, because it needs what is private there.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "part of tests alone")]
#![cfg(loom)]

use devices::apic::{Fabric, Lapic, Signals};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread::JoinHandle;
use platform::{Clock, Instant, Waker};
use vmm_interface::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

/// Local APIC registers: end of interrupt, spurious vector.
const EOI: u16 = 0xb0;
const SVR: u16 = 0xf0;

/// Checks `model` through every execution with at most `preemptions` switches away from a thread that could go on.
///
/// Known concurrency bugs need two; a model that is small enough does without a bound.
pub fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
    let model = std::sync::Arc::new(model);
    builder.check(move || {
        let model = model.clone();
        spawn(move || model()).join().unwrap();
    });
}

/// A thread of the model with room for more than Loom's 32 KiB of locals: APICs are moved about by value.
pub fn spawn(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    // Loom counts in words.
    loom::thread::Builder::new().stack_size(0x1_0000).spawn(work).unwrap()
}

/// The hosts' kicks to processor 0: one latched flag, as an interrupt that is pending or not.
///
/// Assumes what [`Waker`] needs: what the sender wrote before its kick, the processor sees after it.
#[derive(Debug, Default)]
pub struct Kick {
    pending: Mutex<bool>,
    arrived: Condvar,
}

impl Kick {
    /// Sleeps until a kick, one that is already pending included. If none ever comes, Loom reports a deadlock.
    pub fn wait(&self) {
        let mut pending = self.pending.lock().unwrap();
        while !*pending {
            pending = self.arrived.wait(pending).unwrap();
        }
        *pending = false;
    }
}

impl Waker for Kick {
    fn kick(&self, index: u32) {
        assert_eq!(index, 0, "only the processor that is addressed is kicked");
        *self.pending.lock().unwrap() = true;
        self.arrived.notify_one();
    }
}

/// A clock that stands still.
#[derive(Debug)]
pub struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Instant {
        Instant(0)
    }

    fn guest_tsc(&self) -> u64 {
        0
    }

    fn tsc_hz(&self) -> u64 {
        1_000_000_000
    }

    fn instant_of_tsc(&self, tsc: u64) -> Instant {
        Instant(tsc)
    }
}

/// The fabric and the kicks, as every processor sees them.
#[derive(Clone, Debug)]
pub struct Bus {
    /// The ports.
    pub fabric: Arc<Fabric>,
    /// The kicks to processor 0.
    pub kick: Arc<Kick>,
}

impl Bus {
    /// A machine with this many processors.
    pub fn new(processors: u32) -> Self {
        Self { fabric: Arc::new(Fabric::new(processors).unwrap()), kick: Arc::new(Kick::default()) }
    }

    /// Sends a message to processor 0; returns how many took it.
    pub fn send(&self, sender: Option<u32>, mode: DeliveryMode, vector: u8, trigger: TriggerMode) -> u32 {
        let message = InterruptMessage { destination: Destination::Physical(0), mode, vector, trigger, assert: true };
        self.fabric.deliver(sender, &message, &*self.kick)
    }

    /// Another processor or a device, which runs `work`.
    pub fn spawn(&self, work: impl FnOnce(Bus) + Send + 'static) -> JoinHandle<()> {
        let bus = self.clone();
        spawn(move || work(bus))
    }
}

/// Processor 0: its local APIC, and the run loop's rules about when to look and when to sleep.
#[derive(Debug)]
pub struct Owner {
    /// The local APIC.
    pub lapic: Box<Lapic>,
    bus: Bus,
}

impl Owner {
    /// Processor 0 with an APIC that software enabled, and that the port knows.
    pub fn new(bus: &Bus) -> Self {
        let mut lapic = Box::new(Lapic::new(0, true));
        let _ = lapic.mmio_write(SVR, 4, 0x1ff, &Stopped);
        lapic.publish(bus.fabric.port(0).unwrap());
        Self { lapic, bus: bus.clone() }
    }

    /// Takes what arrived.
    pub fn absorb(&mut self) -> Signals {
        self.lapic.absorb(self.bus.fabric.port(0).unwrap())
    }

    /// Handles the interrupts that are pending, highest first: acknowledge and EOI.
    pub fn handle(&mut self, mut handler: impl FnMut(u8, &Lapic)) {
        while let Some(vector) = self.lapic.pending() {
            self.lapic.acknowledge(vector);
            handler(vector, &self.lapic);
            let _ = self.lapic.mmio_write(EOI, 4, 0, &Stopped);
        }
    }

    /// Enters the guest or sleeps, unless something waits. Comes back for a kick.
    pub fn rest(&self) {
        if !self.bus.fabric.port(0).unwrap().needs_attention() {
            self.bus.kick.wait();
        }
    }
}
