// SPDX-License-Identifier: MIT OR Apache-2.0
//! The #HV doorbell: how a host tells a guest with restricted injection of an interrupt (GHCB 2.0, 4.1.11; layout as
//! COCONUT-SVSM and Linux's proposed patches use it).
//!
//! The page is the guest's to write at any time. Nothing in it is believed: it only says whether a signal is wanted.

use crate::{Hardware, Host};

/// The pending vector, which the guest takes by swapping it with 0.
const VECTOR: u64 = 0;
/// Bit 7 of this byte: no signal is wanted, because one is being handled.
const FLAGS: u64 = 1;
const NO_FURTHER_SIGNAL: u8 = 1 << 7;
/// An NMI waits.
const NMI: u8 = 1 << 0;

/// What became of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// There is no doorbell, or it is not shared any more.
    Nowhere,
    /// Another vector waits there: later.
    Full,
    /// It waits there; the guest looks by itself.
    Quiet,
    /// It waits there, and #HV must be injected.
    Signal,
}

impl Host {
    /// Posts a vector to a processor's VMPL, which does not run meanwhile.
    pub fn post(&mut self, processor: u32, vmpl: u8, vector: u8, hardware: &mut impl Hardware) -> Posted {
        self.post_either(processor, vmpl, Some(vector), hardware)
    }

    /// Posts an NMI, which has a place of its own there.
    pub fn post_nmi(&mut self, processor: u32, vmpl: u8, hardware: &mut impl Hardware) -> Posted {
        self.post_either(processor, vmpl, None, hardware)
    }

    fn post_either(&mut self, processor: u32, vmpl: u8, vector: Option<u8>, hardware: &mut impl Hardware) -> Posted {
        let Some(doorbell) = self.context(processor, vmpl).and_then(|context| context.doorbell) else {
            return Posted::Nowhere;
        };
        let mut bytes = [0; 2];
        if hardware.read_shared(doorbell, &mut bytes).is_err() {
            return Posted::Nowhere;
        }
        let [pending, flags] = bytes;
        if pending != 0 && vector.is_some() {
            return Posted::Full;
        }
        let quiet = flags & NO_FURTHER_SIGNAL != 0;
        let nmi = if vector.is_none() { NMI } else { 0 };
        let written = vector.is_none_or(|vector| hardware.write_shared(doorbell + VECTOR, &[vector]).is_ok())
            && hardware.write_shared(doorbell + FLAGS, &[flags | NO_FURTHER_SIGNAL | nmi]).is_ok();
        match (written, quiet) {
            (false, _) => Posted::Nowhere,
            (true, true) => Posted::Quiet,
            (true, false) => Posted::Signal,
        }
    }

    /// Whether a VMPL has a vector or an NMI at its door that it has not taken: then it is not left for another one.
    pub fn waits_at_door(&mut self, processor: u32, vmpl: u8, hardware: &mut impl Hardware) -> bool {
        let doorbell = self.context(processor, vmpl).and_then(|context| context.doorbell);
        let mut waiting = [0; 2];
        let read = doorbell.is_some_and(|gpa| hardware.read_shared(gpa + VECTOR, &mut waiting).is_ok());
        let [vector, flags] = waiting;
        read && (vector != 0 || flags & NMI != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Machine, host};

    #[test]
    fn the_first_vector_signals_and_the_next_ones_wait() {
        let (mut host, mut machine) = (host(), Machine::default());
        assert_eq!(host.post(0, 0, 0x40, &mut machine.memory), Posted::Nowhere);
        host.context(0, 0).unwrap().doorbell = Some(0x8000);
        assert_eq!(host.post(0, 0, 0x40, &mut machine.memory), Posted::Signal);
        assert_eq!(host.post(0, 0, 0x41, &mut machine.memory), Posted::Full);
        let mut bytes = [0; 2];
        machine.memory.read_shared(0x8000, &mut bytes).unwrap();
        assert_eq!(bytes, [0x40, 0x80]);
        assert!(host.waits_at_door(0, 0, &mut machine.memory) && !host.waits_at_door(1, 0, &mut machine.memory));
        // The guest takes the vector, but is still in its handler.
        machine.memory.write_shared(0x8000, &[0]).unwrap();
        assert!(!host.waits_at_door(0, 0, &mut machine.memory));
        assert_eq!(host.post(0, 0, 0x41, &mut machine.memory), Posted::Quiet);
        machine.memory.write_shared(0x8000, &[0, 0]).unwrap();
        assert_eq!(host.post(0, 0, 0x42, &mut machine.memory), Posted::Signal);
    }

    #[test]
    fn an_nmi_does_not_wait_for_a_vector_to_be_taken() {
        let (mut host, mut machine) = (host(), Machine::default());
        host.context(0, 0).unwrap().doorbell = Some(0x8000);
        assert_eq!(host.post(0, 0, 0x40, &mut machine.memory), Posted::Signal);
        assert_eq!(host.post_nmi(0, 0, &mut machine.memory), Posted::Quiet);
        let mut bytes = [0; 2];
        machine.memory.read_shared(0x8000, &mut bytes).unwrap();
        assert_eq!(bytes, [0x40, NMI | NO_FURTHER_SIGNAL]);
        machine.memory.write_shared(0x8000, &[0, 0]).unwrap();
        assert_eq!(host.post_nmi(0, 0, &mut machine.memory), Posted::Signal);
    }

    #[test]
    fn a_doorbell_made_private_is_gone() {
        let (mut host, mut machine) = (host(), Machine::default());
        host.context(1, 0).unwrap().doorbell = Some(0x8000);
        machine.memory.rmpupdate(0x8000, false, true);
        assert_eq!(host.post(1, 0, 0x40, &mut machine.memory), Posted::Nowhere);
    }
}
