// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the host does to the guest's memory, by itself or because the guest asks: RMPUPDATE and PSMASH, reads and writes of shared
//! pages, and the deeds of a hostile one.

use super::super::shared::quiesce;
use super::{Machine, Privacy, Resolution, guest_page, names};
use reference_host::loader::GuestRam;
use reference_host::memory::PAGE;
use reference_host::snp::C_MASK;
use snp_host::hostile::Change;
use snp_host::{Hardware, NotShared};
use snp_model::rmp::{LARGE, Size, State};
use snp_model::{Broken, HostPort, Rule};
use specs::sev::result;

/// A page under a hostile host's eyes.
#[derive(Clone, Copy)]
pub(super) struct Watch {
    gpa: u64,
    change: Change,
    /// Reads so far.
    reads: u32,
    /// It is mapped for the length of one instruction.
    open: bool,
}

impl Watch {
    /// Whether an access to a page is to be trapped now.
    pub(super) const fn hides(&self, page: u64) -> bool {
        self.gpa == page && !self.open
    }
}

impl Machine {
    /// Traps every access to a shared page from now on.
    pub(in super::super) fn watch(&mut self, gpa: u64, change: Change) {
        self.watch = Some(Watch { gpa, change, reads: 0, open: false });
        self.forget(&names(gpa), PAGE);
    }

    /// Lets one instruction through. The other processors stay out meanwhile, or they would see the page as well.
    pub(in super::super) fn open_watch(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.open = true;
        }
        quiesce(self.current);
    }

    /// Closes the page again and, if the instruction's read was the one that counts, changes it.
    pub(in super::super) fn close_watch(&mut self, read: Option<u64>) {
        let Some(mut watch) = self.watch else { return };
        watch.open = false;
        let hit = read.is_some_and(|gpa| gpa & !7 == watch.gpa + watch.change.offset);
        watch.reads += u32::from(hit);
        if hit && watch.reads == watch.change.reads {
            let at = watch.gpa + watch.change.offset;
            let mut word = [0; 8];
            // A page that is private by now is nobody's to change.
            if self.read_shared(at, &mut word).is_ok() {
                let changed = u64::from_le_bytes(word) ^ watch.change.flip;
                let _ = self.write_shared(at, &changed.to_le_bytes());
            }
        }
        let gpa = watch.gpa;
        // Once it has changed there is nothing more to see.
        self.watch = (watch.reads < watch.change.reads).then_some(watch);
        self.forget(&names(gpa), PAGE);
    }
}

impl Machine {
    /// What KVM does with an access to a page that is not what the guest takes it for: it makes it so.
    pub(in super::super) fn convert_for(&mut self, gpa: u64, private: bool) -> bool {
        let gpa = gpa & (C_MASK - 1) & !(PAGE - 1);
        if self.rmpupdate(gpa, false, private) == result::FAIL_OVERLAP {
            self.psmash(gpa & !(LARGE - 1));
            return self.rmpupdate(gpa, false, private) == result::SUCCESS;
        }
        true
    }

    /// RMPUPDATE. What the guest should have done before is the caller's to say.
    fn update(&mut self, gpa: u64, large: bool, assign: bool) -> u32 {
        let size = if large { Size::Large } else { Size::Small };
        let before = self.rmp.entry(gpa);
        let state = if assign {
            if before.is_some_and(|entry| entry.assigned() && entry.size() == size) {
                // KVM leaves a page alone that is what it should be.
                return result::SUCCESS;
            }
            guest_page(gpa, size)
        } else {
            State { assigned: false, ..guest_page(gpa, size) }
        };
        let code = HostPort::new(&mut self.rmp).rmpupdate(gpa, &state);
        if code != result::SUCCESS {
            return code;
        }
        self.forget(&names(gpa), size.bytes());
        if !assign {
            // Shared pages are used at once, and most of them in a row: no reason to wait for a fault each.
            for page in (gpa..gpa + size.bytes()).step_by(PAGE as usize) {
                if let Resolution::Broken(broken) = self.map_shared(page, 0, Privacy::CBit) {
                    self.broken = Some(broken);
                }
            }
        }
        code
    }
}

impl Hardware for Machine {
    fn rmpupdate(&mut self, gpa: u64, large: bool, assign: bool) -> u32 {
        let validated = self.rmp.entry(gpa).is_some_and(|entry| entry.assigned() && entry.validated());
        let code = self.update(gpa, large, assign);
        if matches!(code, result::FAIL_INUSE | result::FAIL_PERMISSION) {
            // The guest asked for what its host must not do.
            self.broken = Some(Broken { rule: Rule::HostUpdate, gpa, found: code.into() });
        }
        if code == result::SUCCESS && !assign && validated {
            let found = if large { LARGE } else { PAGE };
            self.broken = Some(Broken { rule: Rule::RescindFirst, gpa, found });
        }
        code
    }

    fn remap(&mut self, gpa: u64, to: u64) {
        let from = gpa & !(LARGE - 1);
        self.moved = Some((from, to & !(LARGE - 1)));
        self.forget(&names(from), LARGE);
    }

    fn occupy(&mut self) {
        self.occupied = true;
    }

    fn snatch(&mut self, gpa: u64) {
        if self.update(gpa, false, false) == result::FAIL_OVERLAP {
            self.psmash(gpa & !(LARGE - 1));
            self.update(gpa, false, false);
        }
        self.update(gpa, false, true);
    }

    fn psmash(&mut self, gpa: u64) -> u32 {
        HostPort::new(&mut self.rmp).psmash(gpa)
    }

    fn is_ram(&self, gpa: u64, bytes: u64) -> bool {
        self.map.is_ram(gpa, bytes)
    }

    fn read_shared(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), NotShared> {
        self.check_shared(gpa, into.len())?;
        self.memory.copy_from(gpa, into).map_err(|_| NotShared)
    }

    fn write_shared(&mut self, gpa: u64, from: &[u8]) -> Result<(), NotShared> {
        self.check_shared(gpa, from.len())?;
        self.memory.write(gpa, from).map_err(|_| NotShared)
    }
}

impl Machine {
    fn check_shared(&mut self, gpa: u64, bytes: usize) -> Result<(), NotShared> {
        if !self.map.is_ram(gpa, bytes as u64) {
            return Err(NotShared);
        }
        let port = HostPort::new(&mut self.rmp);
        let pages = gpa & !(PAGE - 1)..gpa + bytes as u64;
        if pages.step_by(PAGE as usize).all(|page| port.check_access(page).is_ok()) { Ok(()) } else { Err(NotShared) }
    }
}
