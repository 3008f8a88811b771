// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host that does harm, by script: it lies, repeats, keeps silent, is late, changes shared bytes between two reads of the
//! guest, takes pages away, and injects events at an instruction boundary of its choice.
//!
//! An attack must come the same way each time, so nothing here is random, and nothing depends on time: a script counts
//! requests of the guest, reads of a page and instructions. What a script can do is what [`Hardware`] lets any host do, and
//! the two things that need the processor's help are [`Consequence`]s: a page whose every access is trapped, and
//! instructions counted by single steps. Which attacks there are is in [`scripts`].

pub mod scripts;
#[cfg(test)]
mod tests;

use crate::{Action, Devices, Hardware, Host};
use specs::ghcb::{exit as own, msr as protocol, page};

/// The most acts of a script.
const ACTS: usize = 4;

/// An attack.
#[derive(Debug, PartialEq, Eq)]
pub struct Script {
    /// Its name, for the host's command line.
    pub name: &'static str,
    /// What it does; of several that fit an event, the first.
    pub acts: &'static [Act],
}

/// When to do what.
#[derive(Debug, PartialEq, Eq)]
pub struct Act {
    /// What the guest asks for.
    pub on: Event,
    /// From which request on, counted from 1.
    pub from: u32,
    /// How often.
    pub times: u32,
    /// What then happens.
    pub deed: Deed,
}

/// A request of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Any.
    Any,
    /// One of the page protocol, by its SW_EXITCODE.
    Exit(u64),
    /// One of the MSR protocol, by its function.
    Msr(u64),
}

/// What a hostile host does with it.
#[derive(Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing, and no answer.
    Withhold,
    /// Nothing, and an answer: SW_EXITINFO1 and 2, or the MSR's value in the first.
    Pretend(u64, u64),
    /// What was asked, and the answer changed: offsets in the page and what is flipped there.
    Falsify(&'static [(usize, u64)]),
    /// What was asked, and the MSR's value changed: what is flipped.
    FalsifyMsr(u64),
    /// Of a list of page-state changes no more than so many entries, and SW_EXITINFO2.
    Shorten(u16, u64),
    /// Of a list of page-state changes nothing, and that all of it is done.
    Claim,
    /// What was asked, twice.
    Repeat,
    /// The firmware's earlier answer once more, instead of asking it.
    Replay,
    /// What was asked, and the firmware's answer changed: an offset in its page and what is flipped there.
    Forge(u64, u64),
    /// What was asked, so many TSC cycles later.
    Delay(u64),
    /// What was asked; then the processor's TSC goes back by so many cycles.
    TurnBack(u64),
    /// What was asked; then a page of the guest's is taken away and given back, which leaves it not validated.
    Snatch(u64),
    /// What was asked; then the 2 MiB around an address are mapped to those around another.
    Remap(u64, u64),
    /// What was asked; and once a less privileged VMPL has exited, another processor runs its VMSA.
    Occupy,
    /// What was asked; then the page in question is watched.
    Watch(Watched, Change),
    /// What was asked; then an event after so many instructions of the guest.
    Inject(u32, Injection),
}

/// A shared page of a processor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Its GHCB.
    Ghcb,
    /// Its doorbell.
    Doorbell,
}

/// What changes in a watched page, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The eight bytes whose reads count.
    pub offset: u64,
    /// After so many reads.
    pub reads: u32,
    /// What is flipped in them.
    pub flip: u64,
}

/// An event that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// A vector at VMPL0's doorbell, whatever it means.
    Doorbell(u8),
    /// An interrupt by EVENTINJ.
    Interrupt(u8),
    /// An exception by EVENTINJ, with an error code or without.
    Exception(u8, Option<u32>),
    /// VMPL0 runs, although nothing has happened.
    Entry,
    /// A less privileged VMPL runs, although VMPL0 has not asked for it.
    Run(u8),
}

/// What only the processor can do for a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Wait for so many TSC cycles.
    Stall(u64),
    /// Let the TSC of this processor's guests go back by so many cycles.
    TurnBack(u64),
    /// Trap every access to a page, and change it.
    Watch(u64, Change),
    /// Inject after so many instructions.
    Inject(u32, Injection),
}

/// A script under way.
pub(crate) struct Plot {
    script: Option<&'static Script>,
    /// How many requests each act has seen.
    seen: [u32; ACTS],
    /// The firmware's first answer.
    kept: Option<[u8; 4096]>,
    consequence: Option<Consequence>,
}

impl Plot {
    pub(crate) const NONE: Self = Self { script: None, seen: [0; ACTS], kept: None, consequence: None };

    /// Whether nothing is planned.
    pub(crate) const fn is_idle(&self) -> bool {
        self.script.is_none()
    }

    /// What to do about a request.
    fn next(&mut self, event: Event) -> Option<&'static Deed> {
        let acts = self.script?.acts;
        let mut chosen = None;
        for (act, seen) in acts.iter().zip(&mut self.seen) {
            if act.on != Event::Any && act.on != event {
                continue;
            }
            *seen = seen.saturating_add(1);
            let due = *seen >= act.from && seen.saturating_sub(act.from) < act.times;
            if due && chosen.is_none() {
                chosen = Some(&act.deed);
            }
        }
        chosen
    }
}

impl Host {
    /// Makes it play a script.
    pub const fn play(&mut self, script: &'static Script) {
        self.plot.script = Some(script);
    }

    /// What follows from the last request, beyond its action.
    pub const fn take_consequence(&mut self) -> Option<Consequence> {
        self.plot.consequence.take()
    }

    /// A VMGEXIT, by the script where it has something to say.
    #[cold]
    pub(crate) fn plotted(
        &mut self,
        processor: u32,
        vmpl: u8,
        msr: &mut u64,
        hardware: &mut impl Hardware,
        devices: &mut impl Devices,
    ) -> Action {
        let paged = *msr & protocol::FUNCTION == protocol::GPA;
        let (ghcb, request) = (*msr, *msr);
        let code = word(hardware, ghcb + page::SW_EXIT_CODE as u64);
        let event = if paged { Event::Exit(code) } else { Event::Msr(*msr & protocol::FUNCTION) };
        let response = word(hardware, ghcb + page::SW_EXIT_INFO2 as u64);
        let Some(deed) = self.plot.next(event) else {
            let action = self.honest(processor, vmpl, msr, hardware, devices);
            self.keep(event, response, hardware);
            return action;
        };
        match deed {
            Deed::Withhold => return Action::Resume,
            Deed::Pretend(value, _) if !paged => {
                *msr = *value;
                return Action::Resume;
            }
            Deed::Pretend(info1, info2) => {
                answer(hardware, ghcb, *info1, *info2);
                return Action::Resume;
            }
            Deed::Replay => {
                if let Some(kept) = &self.plot.kept {
                    // Where the guest wants it is the guest's to say; a page that is not shared stays as it is.
                    let _ = hardware.write_shared(response, kept);
                }
                answer(hardware, ghcb, 0, 0);
                return Action::Resume;
            }
            _ => {}
        }
        let before = snapshot(hardware, ghcb).filter(|_| paged);
        let list = word(hardware, ghcb + page::SW_SCRATCH as u64);
        let header = word(hardware, list);
        match deed {
            Deed::Shorten(0, info2) => {
                answer(hardware, ghcb, 0, *info2);
                return Action::Resume;
            }
            Deed::Claim => {
                let _ =
                    hardware.write_shared(list, &header_with(header, end_of(header).wrapping_add(1), end_of(header)));
                answer(hardware, ghcb, 0, 0);
                return Action::Resume;
            }
            Deed::Shorten(entries, _) => {
                let end = end_of(header).min(current_of(header).saturating_add(entries - 1));
                let _ = hardware.write_shared(list, &header_with(header, current_of(header), end));
            }
            _ => {}
        }
        let mut action = self.honest(processor, vmpl, msr, hardware, devices);
        let context = self.context(processor, vmpl).copied().unwrap_or_default();
        match deed {
            Deed::Repeat => {
                if let Some(before) = before {
                    let _ = hardware.write_shared(ghcb, &before);
                }
                *msr = request;
                action = self.honest(processor, vmpl, msr, hardware, devices);
            }
            Deed::Falsify(changes) => {
                for (offset, flip) in *changes {
                    let at = ghcb + *offset as u64;
                    let changed = word(hardware, at) ^ flip;
                    let _ = hardware.write_shared(at, &changed.to_le_bytes());
                }
            }
            Deed::Forge(offset, flip) => {
                let changed = word(hardware, response + offset) ^ flip;
                let _ = hardware.write_shared(response + offset, &changed.to_le_bytes());
            }
            Deed::Shorten(_, info2) => {
                let now = word(hardware, list);
                let _ = hardware.write_shared(list, &header_with(now, current_of(now), end_of(header)));
                answer(hardware, ghcb, 0, *info2);
            }
            Deed::FalsifyMsr(flip) => *msr ^= flip,
            Deed::Delay(cycles) => self.plot.consequence = Some(Consequence::Stall(*cycles)),
            Deed::TurnBack(cycles) => self.plot.consequence = Some(Consequence::TurnBack(*cycles)),
            Deed::Snatch(gpa) => hardware.snatch(*gpa),
            Deed::Remap(gpa, to) => hardware.remap(*gpa, *to),
            Deed::Occupy => hardware.occupy(),
            Deed::Watch(which, change) => {
                let gpa = match which {
                    Watched::Ghcb => context.registered,
                    Watched::Doorbell => context.doorbell,
                };
                self.plot.consequence = gpa.map(|gpa| Consequence::Watch(gpa, *change));
            }
            Deed::Inject(instructions, what) => {
                self.plot.consequence = Some(Consequence::Inject(*instructions, *what));
            }
            Deed::Withhold | Deed::Pretend(..) | Deed::Replay | Deed::Claim => {}
        }
        action
    }

    /// Keeps the firmware's first answer for later.
    fn keep(&mut self, event: Event, response: u64, hardware: &mut impl Hardware) {
        let asked = matches!(event, Event::Exit(own::GUEST_REQUEST | own::EXTENDED_GUEST_REQUEST));
        let mut bytes = [0; 4096];
        if asked && self.plot.kept.is_none() && hardware.read_shared(response, &mut bytes).is_ok() {
            self.plot.kept = Some(bytes);
        }
    }
}

/// Eight bytes, or 0 where nothing is shared.
fn word(hardware: &mut impl Hardware, gpa: u64) -> u64 {
    let mut bytes = [0; 8];
    hardware.read_shared(gpa, &mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
}

/// The header of a list of page-state changes: the current entry and the last one.
const fn current_of(header: u64) -> u16 {
    header as u16
}

const fn end_of(header: u64) -> u16 {
    (header >> 16) as u16
}

fn header_with(header: u64, current: u16, end: u16) -> [u8; 8] {
    (header & !0xffff_ffff | u64::from(current) | u64::from(end) << 16).to_le_bytes()
}

fn snapshot(hardware: &mut impl Hardware, gpa: u64) -> Option<[u8; 4096]> {
    let mut bytes = [0; 4096];
    hardware.read_shared(gpa, &mut bytes).ok().map(|()| bytes)
}

/// An answer without a deed: the two words of information, and both marked valid.
fn answer(hardware: &mut impl Hardware, ghcb: u64, info1: u64, info2: u64) {
    for (offset, value) in [(page::SW_EXIT_INFO1, info1), (page::SW_EXIT_INFO2, info2)] {
        // Only another processor of the guest can have taken the page away.
        let _ = hardware.write_shared(ghcb + offset as u64, &value.to_le_bytes());
    }
}
