// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bus between the APICs: who a message is for, who takes it, who must be kicked (SDM vol. 3A, 11.6.2 and 11.12.9).
//!
//! Read-only after start-up apart from the ports' atomics, so every vCPU calls it without a lock.

use crate::apic::lapic::Mode;
use crate::apic::port::{ApicPort, Identity};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::ops::Range;
use platform::{Slip, Waker};
use vmm_interface::{DeliveryMode, Destination, InterruptMessage};

/// A port, and what its vCPU wants beside it: both lie in one page of memory, because the run loop touches both on each exit
/// and on an emulator every page touched after an exit costs.
#[derive(Debug)]
#[repr(C, align(4096))]
struct Place<T> {
    port: ApicPort,
    beside: T,
}

/// All ports of the machine, by vCPU index, which is the APIC ID; with a `T` beside each.
#[derive(Debug)]
pub struct Fabric<T = ()>(Vec<Place<T>>);

impl<T: Default> Fabric<T> {
    /// A port for each processor. ID FFh is everybody in xAPIC mode and to an IOAPIC, so there are 255 at most.
    pub fn new(processors: u32) -> Result<Self, TryReserveError> {
        let mut places = Vec::new();
        places.try_reserve_exact(processors as usize)?;
        places.extend((0..processors).map(|id| Place { port: ApicPort::new(id), beside: T::default() }));
        Ok(Self(places))
    }
}

impl<T> Fabric<T> {
    /// How many processors there are.
    pub fn processors(&self) -> u32 {
        self.0.len() as u32
    }

    /// The port of a vCPU.
    pub fn port(&self, index: u32) -> Option<&ApicPort> {
        self.0.get(index as usize).map(|place| &place.port)
    }

    /// What lies beside the port of a vCPU.
    pub fn beside(&self, index: u32) -> Option<&T> {
        self.0.get(index as usize).map(|place| &place.beside)
    }

    /// Makes vCPU `index` look around, without an interrupt: its next [`super::Lapic::absorb`] reports `poked`.
    pub fn poke(&self, index: u32, waker: &impl Waker) {
        if self.port(index).is_some_and(ApicPort::poke) {
            waker.kick(index);
        }
    }

    /// Delivers a message and kicks those who take it. Returns how many do.
    ///
    /// `sender` is the index of the vCPU whose APIC sends; `None` for the IOAPIC and other devices, whose destinations
    /// have eight bits. The sender is never kicked: its run loop looks at its own port before it enters the guest.
    pub fn deliver(&self, sender: Option<u32>, message: &InterruptMessage, waker: &impl Waker) -> u32 {
        if message.mode == DeliveryMode::Init && !message.assert {
            // An INIT level de-assert only aligned arbitration IDs, on a bus of the last century (11.6.1).
            return 0;
        }
        if message.mode == DeliveryMode::LowestPriority {
            let Some((index, port)) = self.arbitrate(sender, message) else { return 0 };
            post(port, index, sender, message, waker);
            return 1;
        }
        let mut taken = 0;
        for (index, port, _) in self.targets(sender, message) {
            if !(Slip::Lost.is_planted() && message.vector == 0x77) {
                post(port, index, sender, message, waker);
            }
            taken += 1;
        }
        taken
    }

    /// The processors that a message addresses and that accept it.
    fn targets<'a>(
        &'a self,
        sender: Option<u32>,
        message: &'a InterruptMessage,
    ) -> impl Iterator<Item = (u32, &'a ApicPort, Identity)> {
        let wide = sender.and_then(|index| self.port(index)).is_some_and(|port| port.identity().mode == Mode::X2Apic);
        let range = self.range(sender, message.destination, wide);
        let first = range.start as u32;
        (first..).zip(self.0.get(range).unwrap_or_default()).filter_map(move |(index, place)| {
            let port = &place.port;
            let identity = port.identity();
            let addressed = match message.destination {
                Destination::Physical(id) => identity.physical_match(port.id(), id, wide),
                Destination::Logical(id) => identity.logical_match(port.id(), id, wide),
                Destination::Myself => sender == Some(index),
                Destination::All => true,
                Destination::Others => sender != Some(index),
            };
            (addressed && identity.accepts(message.mode)).then_some((index, port, identity))
        })
    }

    /// Indices outside of which nobody can match, so that a message to one of 255 processors does not touch the cache
    /// lines of all. The whole machine if in doubt.
    fn range(&self, sender: Option<u32>, destination: Destination, wide: bool) -> Range<usize> {
        let all = 0..self.0.len();
        let some = match destination {
            Destination::Myself => sender.map_or(0..0, |index| index as usize..index as usize + 1),
            Destination::Physical(id) if id != u32::MAX && (wide || id != 0xff) => id as usize..id as usize + 1,
            // x2APIC cluster n is IDs 16n to 16n + 15. An APIC that is still in xAPIC mode is not reached this way; the
            // architecture does not support a mixture.
            Destination::Logical(id) if wide && id != u32::MAX => {
                let cluster = (id >> 16) as usize;
                cluster * 16..cluster * 16 + 16
            }
            _ => all.clone(),
        };
        some.start.min(all.end)..some.end.min(all.end)
    }

    /// Who takes a lowest-priority message: of those with the lowest task priority, the one that the vector picks.
    ///
    /// Chipsets since the Pentium 4 go by the task priorities that the processors tell them (11.6.2.4); how they break a
    /// tie is their own affair. Picking by vector keeps each interrupt in one processor's cache and still spreads
    /// different interrupts.
    fn arbitrate<'a>(&'a self, sender: Option<u32>, message: &'a InterruptMessage) -> Option<(u32, &'a ApicPort)> {
        let lowest = self.targets(sender, message).map(|(_, _, identity)| identity.priority >> 4).min()?;
        let tied = |(_, _, identity): &(u32, &ApicPort, Identity)| identity.priority >> 4 == lowest;
        let count = self.targets(sender, message).filter(tied).count();
        let pick = usize::from(message.vector).checked_rem(count).unwrap_or(0);
        // Priorities may change between the passes; whoever is addressed will do then.
        let mut tied = self.targets(sender, message).filter(tied);
        let winner = tied.nth(pick).or_else(|| self.targets(sender, message).next());
        winner.map(|(index, port, _)| (index, port))
    }
}

/// Posts to one processor, and kicks it if it needs that.
fn post(port: &ApicPort, index: u32, sender: Option<u32>, message: &InterruptMessage, waker: &impl Waker) {
    let news = match message.mode {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority => port.post(message.vector, message.trigger),
        DeliveryMode::Smi => port.post_smi(),
        DeliveryMode::Nmi => port.post_nmi(),
        DeliveryMode::Init => port.post_init(),
        DeliveryMode::Startup => port.post_startup(message.vector),
        DeliveryMode::ExtInt => port.post_extint(),
    };
    if news && sender != Some(index) && !Slip::Silent.is_planted() {
        waker.kick(index);
    }
}
