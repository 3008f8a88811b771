// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory as the hardware holds it: the RMP, the nested tables derived from it, and the content of pages.
//!
//! Bit 47 of a guest-physical address is the C-bit, so each page has two views in one tree: the lower half of the address
//! space is the shared view, the upper half the private one. A second root shows the private view at the bottom, for
//! times when no page table can say otherwise, and for VMPLs with a virtual top of memory. For those with [`ALIAS`] as their
//! top, the host shows all shared pages a second time, from there on. Each VMPL has its own tree. A leaf exists only where
//! `snp_model::access` allows what it allows; everything else faults and is judged there. Guest-physical and system-physical
//! addresses are the same.
//!
//! These tables are this program's, not the modelled host's, which has leaves in the sizes of the RMP: here 512 entries that
//! say the same can be one leaf.

mod host;

use super::super::physical::{self, GuestMemory};
use super::shared::quiesce;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};
use host::Watch;
use reference_host::loader::GuestRam;
use reference_host::memory::{GuestMap, PAGE, Range};
use reference_host::report::Stop;
use reference_host::snp::walk::{Lost, Mapping, Paging, walk};
use reference_host::snp::{ASID, C_MASK, state};
use snp_model::access::{Access, Effect, Fault, Kind, Leaf, check, private_leaf};
use snp_model::assumed::Assumptions;
use snp_model::ledger::Ledger;
use snp_model::rmp::{Covered, Entry, LARGE, RANGES, Rmp, Size, State};
use snp_model::{Broken, Rule};
use specs::sev::{VMPLS, result};
use specs::vmsa::Vmsa;
use svm::{NestedTables, Rights, TableMemory};
use zerocopy::IntoBytes;

/// Memory for nested tables, given out page by page to all trees.
#[derive(Clone, Copy)]
struct Pool {
    end: u64,
}

/// The next free page of the pool. There is one machine.
static NEXT: AtomicU64 = AtomicU64::new(0);

// SAFETY: `allocate` gives out each page of a range that `Machine::new` was given for this purpose once, zeroed; the direct
// map reaches all of it.
unsafe impl TableMemory for Pool {
    fn allocate(&mut self) -> Option<u64> {
        let page = NEXT.fetch_add(PAGE, Ordering::Relaxed);
        if page + PAGE > self.end {
            NEXT.store(self.end, Ordering::Relaxed);
            return None;
        }
        // SAFETY: the page is mapped RAM that nothing else uses.
        unsafe { ptr::write_bytes(physical::pointer(page), 0, PAGE as usize) };
        Some(page)
    }

    fn table(&self, physical: u64) -> *mut [u64; 512] {
        physical::pointer(physical).cast()
    }
}

/// A page of noise, which stands for every private page that is read through the shared view.
const NOISE_BYTES: u64 = PAGE;
/// How much is mapped at a fault in a 4 KiB page.
const AROUND: u64 = 64 << 10;
/// The virtual top of memory above which shared pages are shown: what a guest's own 40 bits of address can name.
const ALIAS: u64 = 1 << 39;
/// Words that are written together.
const LINE: usize = 8;

/// The machine.
pub(super) struct Machine {
    map: GuestMap,
    memory: GuestMemory,
    rmp: Rmp<'static>,
    /// Of each VMPL that has run.
    views: [Option<View>; VMPLS],
    pool: Pool,
    /// Where the noise is.
    noise: u64,
    random: u64,
    /// Translations that hardware might still hold.
    pub(super) ledger: Ledger,
    pub(super) assumptions: Assumptions,
    /// A rule that the host broke.
    pub(super) broken: Option<Broken>,
    /// The processor that has the machine just now.
    pub(super) current: u32,
    /// A shared page whose every access a hostile host traps.
    watch: Option<Watch>,
    /// What a hostile host has mapped to where: 2 MiB each.
    moved: Option<(u64, u64)>,
    /// A hostile host runs the VMSA that exits next on another processor.
    pub(super) occupied: bool,
}

/// A VMPL's nested tables.
struct View {
    tables: NestedTables<Pool>,
    /// The root for times without a C-bit.
    forced_root: u64,
}

/// What decides between private and shared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Privacy {
    /// The C-bit.
    CBit,
    /// Nothing: all is private.
    Forced,
    /// The virtual top of memory.
    Below(u64),
}

impl Privacy {
    /// Whether an access through the guest's own tables is private.
    pub(super) const fn of(self, mapping: &Mapping) -> bool {
        match self {
            Self::CBit => mapping.private,
            Self::Forced => true,
            Self::Below(top) => mapping.gpa < top,
        }
    }
}

/// An access that had no leaf.
pub(super) struct Missing {
    /// The guest-physical address, as it came.
    pub(super) address: u64,
    pub(super) kind: Kind,
    pub(super) user: bool,
    pub(super) vmpl: u8,
    pub(super) privacy: Privacy,
}

/// What became of an access that had no leaf.
pub(super) enum Resolution {
    /// It has one now.
    Mapped,
    /// There is no memory: the host emulates.
    Emulated,
    /// #VC, not validated.
    NotValidated,
    /// A virtual top of memory makes the C-bit reserved: #PF.
    ReservedBit,
    /// The VMPL lacks a right, which its more privileged software may have meant: #NPF with these bits.
    VmplFault(u64),
    /// A walk through a table whose address lacks the C-bit; hardware does not look at it.
    PublicTable,
    /// A hostile host wants to see this access.
    Watched,
    /// A broken rule.
    Broken(Broken),
}

impl Machine {
    /// A machine without any private page. `room` is for the RMP, the noise and the nested tables.
    pub(super) fn new(map: GuestMap, room: Range) -> Result<Self, Stop> {
        let small = Stop::Machine("no room for the RMP: give QEMU more memory above the guest's");
        let (low, high) = map.ends();
        let up = |address: u64| address.next_multiple_of(LARGE);
        let covered: [Covered; RANGES] = [
            Covered { start: 0, end: up(low) },
            Covered { start: 4 << 30, end: up(high.max(4 << 30)) },
            Covered { start: 0, end: 0 },
        ];
        let count = Rmp::entries_for(&covered);
        let noise = room.start.next_multiple_of(PAGE);
        let rmp = noise + NOISE_BYTES;
        let tables = (rmp + count * size_of::<Entry>() as u64).next_multiple_of(PAGE);
        if tables + 16 * PAGE > room.end {
            return Err(small);
        }
        let entries = physical::pointer(rmp).cast::<Entry>();
        // SAFETY: the range is mapped RAM above the guest's that nothing else uses, by `Room::plan` and the check above, and
        // page-aligned. All-zero bytes are a valid `Entry`.
        unsafe { ptr::write_bytes(entries, 0, count as usize) };
        // SAFETY: the same; this is the only reference, for `new` is called once.
        let entries = unsafe { core::slice::from_raw_parts_mut(entries, count as usize) };
        let rmp = Rmp::new(entries, covered).ok_or(small)?;
        NEXT.store(tables, Ordering::Relaxed);
        let mut machine = Self {
            map,
            memory: GuestMemory::new(map),
            rmp,
            views: [const { None }; VMPLS],
            pool: Pool { end: room.end },
            noise,
            random: 0x9e37_79b9,
            ledger: Ledger::default(),
            assumptions: Assumptions::LIKELY,
            broken: None,
            current: 0,
            watch: None,
            moved: None,
            occupied: false,
        };
        machine.make_noise();
        if machine.make_view(0) { Ok(machine) } else { Err(small) }
    }

    /// Makes sure that a VMPL has nested tables.
    pub(super) fn make_view(&mut self, vmpl: u8) -> bool {
        let Some(slot) = self.views.get_mut(usize::from(vmpl)) else { return false };
        if slot.is_none() {
            *slot = NestedTables::new(self.pool, false).and_then(|mut tables| {
                let forced_root = tables.root_showing(C_MASK).ok()?;
                Some(View { tables, forced_root })
            });
        }
        slot.is_some()
    }

    fn make_noise(&mut self) {
        for word in 0..NOISE_BYTES / 8 {
            let value = self.next_random();
            // SAFETY: within the page that `new` set aside.
            unsafe { physical::pointer(self.noise + word * 8).cast::<u64>().write(value) };
        }
    }

    /// Xorshift (Marsaglia, 2003): noise need only look like it.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// The root of a VMPL's nested tables, which `make_view` has made.
    pub(super) fn root(&self, vmpl: u8, privacy: Privacy) -> u64 {
        match self.views.get(usize::from(vmpl)) {
            Some(Some(view)) if privacy == Privacy::CBit => view.tables.root(),
            Some(Some(view)) => view.forced_root,
            _ => 0,
        }
    }

    /// Whether a byte is RAM of the guest's.
    pub(super) fn has(&self, gpa: u64) -> bool {
        self.map.is_ram(gpa & !(PAGE - 1), PAGE)
    }

    /// Where nested tables lead: to the same address, unless a hostile host wants otherwise. Then no access gets there, for
    /// the RMP knows where a page belongs.
    pub(super) fn backing(&self, gpa: u64) -> u64 {
        match self.moved {
            Some((from, to)) if gpa & !(LARGE - 1) == from => to | gpa & (LARGE - 1),
            _ => gpa,
        }
    }

    /// What the RMP says.
    pub(super) fn entry(&self, gpa: u64) -> Option<Entry> {
        self.rmp.entry(gpa)
    }

    /// Gives a page to the guest with the content that it has, as the firmware does at launch.
    pub(super) fn launch(&mut self, gpa: u64, bytes: u64, vmsa: bool) -> Result<(), &'static str> {
        let size = if bytes == LARGE { Size::Large } else { Size::Small };
        for at in (gpa..gpa + bytes).step_by(size.bytes() as usize) {
            if self.rmp.launch(at, &guest_page(at, size), vmsa) != result::SUCCESS {
                return Err("expected pages that the RMP can hold");
            }
        }
        Ok(())
    }

    /// Gives all RAM that is still the host's to the guest, not validated: what KVM does on the first touch.
    pub(super) fn assign_the_rest(&mut self, shared: &[u64]) {
        let (low, high) = self.map.ends();
        for range in [0..low, 4 << 30..high] {
            for head in range.step_by(LARGE as usize) {
                let whole = self.map.is_ram(head, LARGE) && !shared.iter().any(|page| page & !(LARGE - 1) == head);
                if whole && self.rmp.rmpupdate(head, &guest_page(head, Size::Large)) == result::SUCCESS {
                    continue;
                }
                for page in (head..head + LARGE).step_by(PAGE as usize) {
                    let free = self.rmp.entry(page).is_some_and(|entry| !entry.assigned());
                    if free && self.map.is_ram(page, PAGE) && !shared.contains(&page) {
                        self.rmp.rmpupdate(page, &guest_page(page, Size::Small));
                    }
                }
            }
        }
    }

    /// Fills what has become noise and was not looked at since. Each page gets a word of its own: that is what QEMU can
    /// write fastest.
    fn settle(&mut self, gpa: u64, bytes: u64) {
        for page in (gpa..gpa + bytes).step_by(PAGE as usize) {
            if !self.has(page) || !self.rmp.take_noise(page) {
                continue;
            }
            let words = [self.next_random(); LINE];
            let at = physical::pointer(page).cast::<[u64; LINE]>();
            for line in 0..PAGE as usize / size_of_val(&words) {
                // SAFETY: within a page of the guest's RAM, by the check above; no reference into it exists.
                unsafe { at.wrapping_add(line).write(words) };
            }
        }
    }

    /// Makes a leaf for an access, or says why there is none.
    pub(super) fn resolve(&mut self, missing: &Missing) -> Resolution {
        let &Missing { address, kind, user, vmpl, privacy } = missing;
        let gpa = match privacy {
            Privacy::Below(ALIAS) if address & (C_MASK | ALIAS) == ALIAS => address ^ ALIAS,
            _ => address & (C_MASK - 1),
        };
        let private = match privacy {
            Privacy::CBit => address & C_MASK != 0,
            Privacy::Forced => true,
            Privacy::Below(_) if address & C_MASK != 0 => return Resolution::ReservedBit,
            Privacy::Below(top) => address < top,
        };
        if !self.has(gpa) {
            return Resolution::Emulated;
        }
        let spa = self.backing(gpa);
        let entry = self.rmp.entry(spa).unwrap_or(Entry::HYPERVISOR);
        // The host maps every page in the size that the RMP has for it.
        let leaf = entry.size();
        let access = Access { gpa, spa, kind, private, user, vmpl, leaf };
        match check(&self.rmp, ASID, &access) {
            Ok(()) if private => self.map_private(gpa, vmpl, leaf, kind),
            Ok(()) if !entry.assigned() => self.map_shared(gpa, vmpl, privacy),
            Ok(()) => self.show_private(gpa, vmpl, privacy, kind),
            Err(Fault { effect: Effect::NotValidated, .. }) => Resolution::NotValidated,
            Err(Fault { rule: Rule::VmplRights, effect: Effect::NestedFault(bits) }) => Resolution::VmplFault(bits),
            Err(Fault { rule, effect: Effect::NestedFault(bits) }) => {
                Resolution::Broken(Broken { rule, gpa: address, found: bits })
            }
        }
    }

    fn map_private(&mut self, gpa: u64, vmpl: u8, size: Size, kind: Kind) -> Resolution {
        let head = gpa & !(size.bytes() - 1);
        let leaf = private_leaf(&self.rmp, ASID, vmpl, head, head, size);
        let mut rights = Rights::empty();
        rights.set(Rights::WRITE, leaf.write);
        rights.set(Rights::EXECUTE, leaf.execute);
        if kind == Kind::Fetch && !leaf.execute {
            // Allowed at this privilege level only, which a leaf cannot say.
            return Resolution::Broken(Broken { rule: Rule::NotModelled, gpa, found: 1 });
        }
        // One large leaf for what is the same throughout, however many entries say it: QEMU finds its way through that faster.
        let region = gpa & !(LARGE - 1);
        if size == Size::Large || self.rmp.is_even(region) {
            self.settle(region, LARGE);
            return self.place(vmpl, C_MASK | region, region, LARGE, rights);
        }
        self.settle(gpa & !(AROUND - 1), AROUND);
        self.map_around(head, vmpl);
        self.place(vmpl, C_MASK | head, head, PAGE, rights)
    }

    /// Small pages come in crowds, and each would cost a fault: maps those beside one that are as open as can be.
    fn map_around(&mut self, page: u64, vmpl: u8) {
        let first = page & !(AROUND - 1);
        let open = Leaf { read: true, write: true, execute: true };
        for other in (first..first + AROUND).step_by(PAGE as usize) {
            if self.rmp.entry(other).is_some_and(|entry| entry.size() == Size::Small)
                && self.has(other)
                && private_leaf(&self.rmp, ASID, vmpl, other, other, Size::Small) == open
            {
                self.place(vmpl, C_MASK | other, other, PAGE, Rights::all());
            }
        }
    }

    fn map_shared(&mut self, gpa: u64, vmpl: u8, privacy: Privacy) -> Resolution {
        let page = gpa & !(PAGE - 1);
        if self.watch.is_some_and(|watch| watch.hides(page)) {
            return Resolution::Watched;
        }
        self.settle(page, PAGE);
        self.place(vmpl, shared_name(page, privacy), page, PAGE, Rights::WRITE)
    }

    /// A private page in the shared view: noise to who reads it, itself to who fetches from it or walks through it.
    fn show_private(&mut self, gpa: u64, vmpl: u8, privacy: Privacy, kind: Kind) -> Resolution {
        let page = gpa & !(PAGE - 1);
        let at = shared_name(page, privacy);
        match kind {
            Kind::Read | Kind::Write => self.place(vmpl, at, self.noise, PAGE, Rights::empty()),
            Kind::TableWalk => Resolution::PublicTable,
            Kind::Fetch => {
                self.settle(page, PAGE);
                self.place(vmpl, at, page, PAGE, Rights::EXECUTE)
            }
        }
    }

    /// Shows a page of page tables in the shared view, for want of a better way: see `docs/fidelity.md`.
    pub(super) fn expose_table(&mut self, gpa: u64, vmpl: u8) -> Resolution {
        let page = gpa & !(PAGE - 1);
        self.settle(page, PAGE);
        self.place(vmpl, page, page, PAGE, Rights::WRITE)
    }

    fn place(&mut self, vmpl: u8, gpa: u64, spa: u64, bytes: u64, rights: Rights) -> Resolution {
        let view = self.views.get_mut(usize::from(vmpl)).and_then(Option::as_mut);
        match view.map(|view| view.tables.map(gpa, spa, bytes, rights)) {
            Some(Ok(())) => Resolution::Mapped,
            _ => Resolution::Broken(Broken { rule: Rule::NotModelled, gpa, found: 2 }),
        }
    }

    /// Takes a page out of views, and out of the other processors' reach. Memory for the tables can run out only when a large
    /// leaf is split, and then the page must not stay: the run ends.
    fn forget(&mut self, places: &[u64], bytes: u64) {
        let mut reachable = false;
        for view in self.views.iter_mut().flatten() {
            for place in places {
                if bytes == PAGE && view.tables.find(*place).is_none() {
                    continue;
                }
                reachable = true;
                if view.tables.unmap(*place, bytes).is_err() {
                    self.broken = Some(Broken { rule: Rule::NotModelled, gpa: *place, found: 3 });
                }
            }
        }
        if reachable {
            quiesce(self.current);
        }
    }

    /// The rights or the validation of a page changed, which the shared view does not show.
    pub(super) fn refresh(&mut self, gpa: u64, size: Size) {
        let head = gpa & !(size.bytes() - 1);
        self.forget(&[C_MASK | head], size.bytes());
    }

    /// Reads a VMSA's content.
    pub(super) fn read_vmsa(&self, gpa: u64, into: &mut Vmsa) -> bool {
        self.memory.copy_from(gpa, into.as_mut_bytes()).is_ok()
    }

    /// Where a VMSA's content differs from what it was; at its start if it has none.
    pub(super) fn vmsa_differs(&self, gpa: u64, from: &[u8]) -> Option<usize> {
        self.memory.difference(gpa, from).unwrap_or(Some(0))
    }

    /// Stores what an exit stores in a VMSA, where [`Self::read_vmsa`] has found it. The rest is as it was.
    pub(super) fn write_vmsa(&mut self, gpa: u64, vmsa: &Vmsa) -> bool {
        vmsa.as_bytes().get(..state::STORED).is_some_and(|stored| self.memory.write(gpa, stored).is_ok())
    }

    /// The table, for the instructions that change it.
    pub(super) fn rmp(&mut self) -> (&mut Rmp<'static>, &Assumptions) {
        (&mut self.rmp, &self.assumptions)
    }

    /// Walks the guest's tables.
    pub(super) fn walk(&self, paging: &Paging, address: u64) -> Result<Mapping, Lost> {
        walk(paging, address, |gpa| self.memory.read(gpa).ok())
    }

    /// Copies from the guest's RAM what the hardware itself reads, whoever owns it.
    pub(super) fn hardware_read(&self, gpa: u64, into: &mut [u8]) -> bool {
        self.memory.copy_from(gpa, into).is_ok()
    }

    /// Copies to the guest's RAM on behalf of the processor, if the running VMPL may write there.
    pub(super) fn processor_write(&mut self, mapping: &Mapping, vmpl: u8, from: &[u8]) -> bool {
        let leaf = self.rmp.entry(mapping.gpa).map_or(Size::Small, |entry| entry.size());
        let (gpa, private) = (mapping.gpa, mapping.private);
        let access = Access { gpa, spa: gpa, kind: Kind::Write, private, user: false, vmpl, leaf };
        if !self.has(gpa) || check(&self.rmp, ASID, &access).is_err() {
            return false;
        }
        self.settle(gpa & !(PAGE - 1), PAGE);
        self.memory.write(gpa, from).is_ok()
    }
}

/// Every place in a tree where a page can be.
const fn names(gpa: u64) -> [u64; 3] {
    [gpa, C_MASK | gpa, C_MASK | ALIAS | gpa]
}

/// Where a shared page is. Without a C-bit there is one view, in which private and shared addresses are different ones.
fn shared_name(page: u64, privacy: Privacy) -> u64 {
    match privacy {
        Privacy::CBit => page,
        Privacy::Below(ALIAS) => C_MASK | ALIAS | page,
        Privacy::Forced | Privacy::Below(_) => C_MASK | page,
    }
}

const fn guest_page(gpa: u64, size: Size) -> State {
    State { assigned: true, size, immutable: false, gpa, asid: ASID }
}
