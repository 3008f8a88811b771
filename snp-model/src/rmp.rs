// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reverse map table: who owns each page, at which guest address, and what each VMPL may do with it.
//!
//! Follows APM vol. 2, 15.36.3, and RMPUPDATE and PSMASH of vol. 3. An entry stands for a 4 KiB page. The entry at the start
//! of a 2 MiB page speaks for all 512 when its size says so; what the other 511 hold is then without meaning.

use crate::rule::{Broken, Rule};
use specs::sev::{VMPLS, VmplRights, result};

/// 4 KiB.
pub const PAGE: u64 = 4096;
/// 2 MiB.
pub const LARGE: u64 = 2 << 20;
/// Entries of a 2 MiB page.
const SUBPAGES: usize = 512;

/// The size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

impl Size {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => PAGE,
            Self::Large => LARGE,
        }
    }
}

/// One entry. The first word is laid out as in Zen 3 (Linux, arch/x86/virt/svm/sev.c); the second one, which is opaque
/// there, holds the VMPLs' rights and what only the model needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    word: u64,
    rights: [u8; VMPLS],
    notes: u32,
}

const ASSIGNED: u64 = 1 << 0;
const LARGE_PAGE: u64 = 1 << 1;
const IMMUTABLE: u64 = 1 << 2;
const GPA: u64 = 0x0007_ffff_ffff_f000;
const ASID_SHIFT: u32 = 51;
const ASID: u64 = 0x3ff << ASID_SHIFT;
const VMSA: u64 = 1 << 61;
const VALIDATED: u64 = 1 << 62;

/// The content is not what anyone wrote: it is noise from the next look on. Each 4 KiB has its own note of that, inside a
/// 2 MiB page too, so that nobody need fill more than is looked at.
const NOISE: u32 = 1 << 0;
/// A VMSA that a processor runs.
const IN_USE: u32 = 1 << 1;

impl Entry {
    /// Nobody's: the hypervisor's.
    pub const HYPERVISOR: Self = Self { word: 0, rights: [0; VMPLS], notes: 0 };

    /// Whether it belongs to a guest or to the firmware.
    pub const fn assigned(&self) -> bool {
        self.word & ASSIGNED != 0
    }

    /// The size of the page for which it speaks.
    pub const fn size(&self) -> Size {
        if self.word & LARGE_PAGE != 0 { Size::Large } else { Size::Small }
    }

    /// Whether only the firmware may change it.
    pub const fn immutable(&self) -> bool {
        self.word & IMMUTABLE != 0
    }

    /// The guest-physical address at which the page may be used.
    pub const fn gpa(&self) -> u64 {
        self.word & GPA
    }

    /// Whose it is.
    pub const fn asid(&self) -> u32 {
        ((self.word & ASID) >> ASID_SHIFT) as u32
    }

    /// Whether it holds a processor's state.
    pub const fn vmsa(&self) -> bool {
        self.word & VMSA != 0
    }

    /// Whether the guest has validated it.
    pub const fn validated(&self) -> bool {
        self.word & VALIDATED != 0
    }

    /// Whether a processor runs it.
    pub const fn in_use(&self) -> bool {
        self.notes & IN_USE != 0
    }

    /// What a VMPL may do.
    pub fn rights(&self, vmpl: u8) -> VmplRights {
        VmplRights::from_bits_truncate(self.rights.get(usize::from(vmpl)).copied().unwrap_or(0))
    }

    fn set(&mut self, bit: u64, on: bool) -> bool {
        let before = self.word & bit != 0;
        self.word = if on { self.word | bit } else { self.word & !bit };
        before != on
    }

    fn note(&mut self, bit: u32, on: bool) {
        self.notes = if on { self.notes | bit } else { self.notes & !bit };
    }

    pub(crate) fn set_validated(&mut self, on: bool) -> bool {
        self.set(VALIDATED, on)
    }

    pub(crate) fn set_vmsa(&mut self, on: bool) {
        self.set(VMSA, on);
    }

    pub(crate) fn set_rights(&mut self, vmpl: u8, rights: VmplRights) {
        if let Some(slot) = self.rights.get_mut(usize::from(vmpl)) {
            *slot = rights.bits();
        }
    }

    fn of_guest(asid: u32, gpa: u64, size: Size, immutable: bool) -> Self {
        let mut entry = Self { word: ASSIGNED | u64::from(asid) << ASID_SHIFT & ASID | gpa & GPA, ..Self::HYPERVISOR };
        entry.set(LARGE_PAGE, size == Size::Large);
        entry.set(IMMUTABLE, immutable);
        // APM vol. 2, 15.36.7: a newly assigned page is all VMPL0's and nobody else's.
        entry.set_rights(0, VmplRights::all());
        entry
    }
}

/// A range of system-physical addresses, in whole 2 MiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// How many ranges a table can cover.
pub const RANGES: usize = 3;

/// What the host wants an entry to be (RMPUPDATE's `rmp_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// A guest's, or the hypervisor's.
    pub assigned: bool,
    /// The size.
    pub size: Size,
    /// Held by the firmware.
    pub immutable: bool,
    /// Where the guest sees it.
    pub gpa: u64,
    /// Whose.
    pub asid: u32,
}

/// The table.
pub struct Rmp<'a> {
    entries: &'a mut [Entry],
    covered: [Covered; RANGES],
}

impl<'a> Rmp<'a> {
    /// How many entries ranges take.
    pub const fn entries_for(covered: &[Covered; RANGES]) -> u64 {
        let [a, b, c] = covered;
        (a.end - a.start + (b.end - b.start) + (c.end - c.start)) / PAGE
    }

    /// A table in which everything is the hypervisor's. `None` if a range is not of whole 2 MiB pages, or the entries are
    /// too few.
    pub fn new(entries: &'a mut [Entry], covered: [Covered; RANGES]) -> Option<Self> {
        let whole = |range: &Covered| (range.start | range.end).is_multiple_of(LARGE) && range.start <= range.end;
        if !covered.iter().all(whole) || (entries.len() as u64) < Self::entries_for(&covered) {
            return None;
        }
        entries.fill(Entry::HYPERVISOR);
        Some(Self { entries, covered })
    }

    fn index(&self, spa: u64) -> Option<usize> {
        let mut before = 0;
        for range in &self.covered {
            if range.start <= spa && spa < range.end {
                return usize::try_from(before + (spa - range.start) / PAGE).ok();
            }
            before += (range.end - range.start) / PAGE;
        }
        None
    }

    /// Where the entry is that speaks for a page.
    fn speaker(&self, spa: u64) -> Option<usize> {
        let head = self.index(spa & !(LARGE - 1))?;
        match self.entries.get(head) {
            Some(entry) if entry.assigned() && entry.size() == Size::Large => Some(head),
            Some(_) => self.index(spa),
            None => None,
        }
    }

    /// What the table says of a page; `None` if it does not cover it.
    pub fn entry(&self, spa: u64) -> Option<Entry> {
        self.entries.get(self.speaker(spa)?).copied()
    }

    pub(crate) fn entry_mut(&mut self, spa: u64) -> Option<&mut Entry> {
        let index = self.speaker(spa)?;
        self.entries.get_mut(index)
    }

    /// Whether the content of these 4 KiB is lost, which is answered once: whoever asks fills them with noise.
    pub fn take_noise(&mut self, spa: u64) -> bool {
        let Some(entry) = self.index(spa).and_then(|index| self.entries.get_mut(index)) else { return false };
        let noise = entry.notes & NOISE != 0;
        entry.note(NOISE, false);
        noise
    }

    /// Whether any of the pages from `spa` on still waits for its noise.
    pub fn has_noise(&self, spa: u64, bytes: u64) -> bool {
        let Some(start) = self.index(spa) else { return false };
        let entries = self.entries.iter().skip(start).take((bytes / PAGE) as usize);
        entries.into_iter().any(|entry| entry.notes & NOISE != 0)
    }

    /// Whether 512 entries of 4 KiB, from `spa` on, say the same of a page each: owner, rights, state, and addresses in a row.
    pub fn is_even(&self, spa: u64) -> bool {
        let Some(entries) = self.index(spa).and_then(|start| self.entries.get(start..start + SUBPAGES)) else {
            return false;
        };
        let Some((head, rest)) = entries.split_first() else { return false };
        let even = |(entry, page): (&Entry, u64)| {
            entry.word == head.word + page * PAGE && entry.rights == head.rights && entry.notes & IN_USE == 0
        };
        let small =
            head.assigned() && head.size() == Size::Small && head.notes & IN_USE == 0 && spa.is_multiple_of(LARGE);
        small && rest.iter().zip(1..).all(even)
    }

    /// Marks a VMSA as running or not.
    pub fn set_in_use(&mut self, spa: u64, on: bool) {
        if let Some(entry) = self.entry_mut(spa) {
            entry.note(IN_USE, on);
        }
    }

    /// RMPUPDATE (APM vol. 3). The result is the instruction's code.
    pub fn rmpupdate(&mut self, spa: u64, state: &State) -> u32 {
        let bytes = state.size.bytes();
        if !spa.is_multiple_of(bytes) || !state.gpa.is_multiple_of(bytes) || state.gpa & !GPA != 0 {
            return result::FAIL_INPUT;
        }
        if state.assigned && state.asid == 0 && !state.immutable {
            return result::FAIL_INPUT;
        }
        let Some(start) = self.index(spa) else { return result::FAIL_INPUT };
        // A 4 KiB page inside a 2 MiB page of somebody's.
        if state.size == Size::Small && self.speaker(spa) != Some(start) {
            return result::FAIL_OVERLAP;
        }
        let count = (bytes / PAGE) as usize;
        let Some(entries) = self.entries.get_mut(start..start + count) else { return result::FAIL_INPUT };
        let Some(head) = entries.first().copied() else { return result::FAIL_INPUT };
        let one = head.assigned() && head.size() == Size::Large;
        let checked = if one { 1 } else { count };
        for entry in entries.iter().take(checked) {
            if entry.in_use() {
                return result::FAIL_INUSE;
            }
            if entry.immutable() {
                return result::FAIL_PERMISSION;
            }
        }
        if state.size == Size::Large && !one && entries.iter().any(Entry::assigned) {
            return result::FAIL_OVERLAP;
        }
        if state.size == Size::Small && one {
            // The head of a 2 MiB page, addressed as 4 KiB.
            return result::FAIL_OVERLAP;
        }
        // What a guest gets was encrypted with another key, or not at all; what it wrote is ciphertext to everybody else.
        for entry in entries.iter_mut() {
            let noise = state.assigned || one || entry.assigned() || entry.notes & NOISE != 0;
            *entry = Entry { notes: if noise { NOISE } else { 0 }, ..Entry::HYPERVISOR };
        }
        if let (true, Some(first)) = (state.assigned, entries.first_mut()) {
            *first = Entry::of_guest(state.asid, state.gpa, state.size, state.immutable);
            first.note(NOISE, true);
        }
        result::SUCCESS
    }

    /// PSMASH (APM vol. 3): one 2 MiB entry becomes 512 that say the same.
    pub fn psmash(&mut self, spa: u64) -> u32 {
        if !spa.is_multiple_of(LARGE) {
            return result::FAIL_INPUT;
        }
        let Some(start) = self.index(spa) else { return result::FAIL_INPUT };
        let Some(entries) = self.entries.get_mut(start..start + SUBPAGES) else { return result::FAIL_INPUT };
        let Some(head) = entries.first().copied() else { return result::FAIL_INPUT };
        if !head.assigned() || head.size() != Size::Large {
            return result::FAIL_INPUT;
        }
        if head.in_use() {
            return result::FAIL_INUSE;
        }
        if head.immutable() {
            return result::FAIL_PERMISSION;
        }
        for (entry, page) in entries.iter_mut().zip(0u64..) {
            *entry = Entry { notes: entry.notes, ..head };
            entry.set(LARGE_PAGE, false);
            entry.word = entry.word & !GPA | (head.gpa() + page * PAGE) & GPA;
        }
        result::SUCCESS
    }

    /// What the firmware does at launch: the page is this guest's, validated, and holds what was put there.
    /// `vmsa` makes it a processor's state.
    pub fn launch(&mut self, spa: u64, state: &State, vmsa: bool) -> u32 {
        let code = self.rmpupdate(spa, state);
        if code == result::SUCCESS {
            for page in (spa..spa + state.size.bytes()).step_by(PAGE as usize) {
                self.take_noise(page);
            }
            if let Some(entry) = self.entry_mut(spa) {
                entry.set_validated(true);
                entry.set_vmsa(vmsa);
            }
        }
        code
    }
}

/// What host software can do to the table, and all that it can.
pub struct HostPort<'a, 'b> {
    rmp: &'a mut Rmp<'b>,
}

impl<'a, 'b> HostPort<'a, 'b> {
    /// A port to a table.
    pub const fn new(rmp: &'a mut Rmp<'b>) -> Self {
        Self { rmp }
    }

    /// RMPUPDATE.
    pub fn rmpupdate(&mut self, spa: u64, state: &State) -> u32 {
        self.rmp.rmpupdate(spa, state)
    }

    /// PSMASH.
    pub fn psmash(&mut self, spa: u64) -> u32 {
        self.rmp.psmash(spa)
    }

    /// Whether the host may read and write the page (APM vol. 2, table 15-39, host accesses). On hardware it may read any
    /// page and gets ciphertext; there is nothing to learn from it here, so it is refused.
    pub fn check_access(&self, spa: u64) -> Result<(), Broken> {
        match self.rmp.entry(spa) {
            Some(entry) if entry.assigned() => {
                Err(Broken { rule: Rule::HostAccess, gpa: spa, found: entry.asid().into() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COVERED: [Covered; RANGES] = [
        Covered { start: 0, end: 4 * LARGE },
        Covered { start: 1 << 32, end: (1 << 32) + LARGE },
        Covered { start: 0, end: 0 },
    ];

    fn with_table(test: impl FnOnce(&mut Rmp<'_>)) {
        let mut entries = vec![Entry::default(); Rmp::entries_for(&COVERED) as usize];
        test(&mut Rmp::new(&mut entries, COVERED).unwrap());
    }

    const fn guest(gpa: u64, size: Size) -> State {
        State { assigned: true, size, immutable: false, gpa, asid: 1 }
    }

    const fn host(size: Size) -> State {
        State { assigned: false, size, immutable: false, gpa: 0, asid: 0 }
    }

    #[test]
    fn a_new_page_is_vmpl0s_not_validated_and_noise() {
        with_table(|rmp| {
            assert_eq!(rmp.rmpupdate(0x1000, &guest(0x1000, Size::Small)), result::SUCCESS);
            let entry = rmp.entry(0x1000).unwrap();
            assert!(entry.assigned() && !entry.validated() && !entry.vmsa() && !entry.immutable());
            assert_eq!((entry.asid(), entry.gpa(), entry.size()), (1, 0x1000, Size::Small));
            assert_eq!(entry.rights(0), VmplRights::all());
            assert!((1..4).all(|vmpl| entry.rights(vmpl).is_empty()));
            assert!(rmp.take_noise(0x1000) && !rmp.take_noise(0x1000));
        });
    }

    #[test]
    fn a_page_given_back_is_noise_too() {
        with_table(|rmp| {
            rmp.launch(0x1000, &guest(0x1000, Size::Small), false);
            assert!(!rmp.take_noise(0x1000));
            assert_eq!(rmp.rmpupdate(0x1000, &host(Size::Small)), result::SUCCESS);
            assert!(!rmp.entry(0x1000).unwrap().assigned());
            assert!(rmp.take_noise(0x1000));
            assert_eq!(rmp.rmpupdate(0x2000, &host(Size::Small)), result::SUCCESS);
            assert!(!rmp.take_noise(0x2000), "nobody had it before");
        });
    }

    #[test]
    fn each_page_of_a_large_one_becomes_noise_by_itself() {
        with_table(|rmp| {
            rmp.rmpupdate(LARGE, &guest(LARGE, Size::Large));
            assert!(rmp.take_noise(LARGE + PAGE) && !rmp.take_noise(LARGE + PAGE));
            rmp.psmash(LARGE);
            assert!(!rmp.take_noise(LARGE + PAGE) && rmp.take_noise(LARGE));
            assert!(rmp.has_noise(LARGE, LARGE));
            assert!((2..512).all(|page| rmp.take_noise(LARGE + page * PAGE)));
            assert!(!rmp.has_noise(LARGE, LARGE) && !rmp.has_noise(1 << 40, PAGE));
            rmp.rmpupdate(LARGE + PAGE, &host(Size::Small));
            assert!(rmp.take_noise(LARGE + PAGE), "what a guest wrote");
            assert!(!rmp.take_noise(LARGE + 2 * PAGE), "its neighbours keep what they hold");
        });
    }

    #[test]
    fn small_pages_are_even_if_all_say_the_same() {
        with_table(|rmp| {
            rmp.launch(LARGE, &guest(LARGE, Size::Large), false);
            assert!(!rmp.is_even(LARGE), "one entry speaks for all");
            rmp.psmash(LARGE);
            assert!(rmp.is_even(LARGE) && !rmp.is_even(LARGE + PAGE) && !rmp.is_even(0) && !rmp.is_even(1 << 40));
            let page = LARGE + 511 * PAGE;
            rmp.set_in_use(page, true);
            assert!(!rmp.is_even(LARGE));
            rmp.set_in_use(page, false);
            rmp.entry_mut(page).unwrap().set_rights(1, VmplRights::READ);
            assert!(!rmp.is_even(LARGE));
            rmp.entry_mut(page).unwrap().set_rights(1, VmplRights::empty());
            rmp.entry_mut(LARGE).unwrap().set_validated(false);
            assert!(!rmp.is_even(LARGE));
            rmp.entry_mut(LARGE).unwrap().set_validated(true);
            assert!(rmp.is_even(LARGE));
            rmp.rmpupdate(page, &guest(LARGE, Size::Small));
            assert!(!rmp.is_even(LARGE), "another address");
        });
    }

    #[test]
    fn updates_never_keep_a_validation() {
        with_table(|rmp| {
            rmp.launch(LARGE, &guest(LARGE, Size::Large), false);
            assert!(rmp.entry(LARGE + 0x5000).unwrap().validated());
            assert_eq!(rmp.rmpupdate(LARGE, &guest(LARGE, Size::Large)), result::SUCCESS);
            assert!(!rmp.entry(LARGE + 0x5000).unwrap().validated());
        });
    }

    #[test]
    fn bad_inputs_are_refused() {
        with_table(|rmp| {
            assert_eq!(rmp.rmpupdate(0x1001, &guest(0x1000, Size::Small)), result::FAIL_INPUT);
            assert_eq!(rmp.rmpupdate(0x1000, &guest(0x1000, Size::Large)), result::FAIL_INPUT);
            assert_eq!(rmp.rmpupdate(LARGE, &guest(0x1000, Size::Large)), result::FAIL_INPUT);
            assert_eq!(rmp.rmpupdate(0x1000, &guest(1 << 60, Size::Small)), result::FAIL_INPUT);
            assert_eq!(rmp.rmpupdate(1 << 40, &guest(0x1000, Size::Small)), result::FAIL_INPUT);
            let nobodys = State { asid: 0, ..guest(0, Size::Small) };
            assert_eq!(rmp.rmpupdate(0, &nobodys), result::FAIL_INPUT);
            assert_eq!(rmp.psmash(0x1000), result::FAIL_INPUT);
            assert_eq!(rmp.psmash(1 << 40), result::FAIL_INPUT);
        });
    }

    #[test]
    fn sizes_do_not_overlap() {
        with_table(|rmp| {
            rmp.rmpupdate(LARGE, &guest(LARGE, Size::Large));
            assert_eq!(rmp.rmpupdate(LARGE + PAGE, &host(Size::Small)), result::FAIL_OVERLAP);
            assert_eq!(rmp.rmpupdate(LARGE, &host(Size::Small)), result::FAIL_OVERLAP);
            rmp.rmpupdate(PAGE, &guest(PAGE, Size::Small));
            assert_eq!(rmp.rmpupdate(0, &guest(0, Size::Large)), result::FAIL_OVERLAP);
            assert_eq!(rmp.rmpupdate(LARGE, &host(Size::Large)), result::SUCCESS);
        });
    }

    #[test]
    fn what_is_in_use_or_immutable_stays() {
        with_table(|rmp| {
            rmp.launch(PAGE, &guest(PAGE, Size::Small), true);
            rmp.set_in_use(PAGE, true);
            assert_eq!(rmp.rmpupdate(PAGE, &host(Size::Small)), result::FAIL_INUSE);
            rmp.set_in_use(PAGE, false);
            assert_eq!(rmp.rmpupdate(PAGE, &host(Size::Small)), result::SUCCESS);
            let held = State { immutable: true, ..guest(LARGE, Size::Large) };
            rmp.rmpupdate(LARGE, &held);
            assert_eq!(rmp.rmpupdate(LARGE, &host(Size::Large)), result::FAIL_PERMISSION);
            assert_eq!(rmp.psmash(LARGE), result::FAIL_PERMISSION);
        });
    }

    #[test]
    fn psmash_keeps_everything_but_the_size() {
        with_table(|rmp| {
            rmp.launch(1 << 32, &guest(1 << 32, Size::Large), false);
            assert_eq!(rmp.psmash(1 << 32), result::SUCCESS);
            for page in [0, 1, 511] {
                let entry = rmp.entry((1 << 32) + page * PAGE).unwrap();
                assert_eq!((entry.size(), entry.gpa()), (Size::Small, (1 << 32) + page * PAGE));
                assert!(entry.validated() && entry.assigned());
            }
            assert_eq!(rmp.psmash(1 << 32), result::FAIL_INPUT);
            assert_eq!(rmp.rmpupdate((1 << 32) + PAGE, &host(Size::Small)), result::SUCCESS);
        });
    }

    #[test]
    fn a_host_reaches_its_own_pages_alone() {
        with_table(|rmp| {
            rmp.launch(PAGE, &guest(PAGE, Size::Small), false);
            let port = HostPort::new(rmp);
            assert_eq!(port.check_access(0), Ok(()));
            assert_eq!(port.check_access(PAGE).unwrap_err().rule, Rule::HostAccess);
        });
    }

    #[test]
    fn odd_ranges_and_short_tables_are_refused() {
        let odd = [Covered { start: PAGE, end: LARGE }; RANGES];
        assert!(Rmp::new(&mut [], odd).is_none());
        assert!(Rmp::new(&mut [Entry::default(); 8], COVERED).is_none());
    }
}
