// SPDX-License-Identifier: MIT OR Apache-2.0
//! What belongs to one victim: descriptor tables, task segments, page tables, stacks, and the words by which the warden
//! and the victim talk. All of it is out of the victim's foreign code's sight, as far as segments and page tables go.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// How many victims: vCPUs 1 and up.
pub(crate) const VICTIMS: usize = 2;
/// Foreign code and its data, in physical memory: one piece for each victim.
const SANDBOXES: u64 = 16 << 20;
/// Bytes of a piece.
pub(crate) const SANDBOX: u64 = 8 << 20;
/// Real-mode segments of the victims: 64 KiB each, apart.
const REAL: u64 = 0x2_0000;
const REAL_STEP: u64 = 0x2_0000;
/// The pages where the victims start.
const TRAMPOLINES: u64 = 0x8000;

/// How many pieces of foreign code a job has, and the bytes of each.
pub(crate) const BLOBS: usize = 64;
/// See [`BLOBS`].
pub(crate) const BLOB_BYTES: u64 = 256;
/// Where they lie in the sandbox.
pub(crate) const BLOBS_AT: u64 = 0x1000;

/// A page of words.
pub(crate) type Page = [AtomicU64; 512];

/// Everything of one victim.
#[repr(C, align(16384))]
pub(crate) struct Area {
    /// Exceptions and interrupts come here; its first word is the area's address.
    pub(crate) stack_faults: [AtomicU64; 2048],
    /// As the other one, for NMIs.
    pub(crate) stack_nmis: [AtomicU64; 2048],
    pub(crate) stack: [AtomicU64; 4096],
    pub(crate) gdt: Page,
    pub(crate) idt64: Page,
    /// The 64-bit task segment, then the bitmap of ports.
    pub(crate) tss64: [AtomicU64; 1536],
    /// 256 task gates.
    pub(crate) idt32: Page,
    /// The foreign code's task segment, then the bitmap of ports.
    pub(crate) task: [AtomicU32; 3072],
    pub(crate) pml4: Page,
    pub(crate) pdpt: Page,
    /// Page directories of the four GiB.
    pub(crate) pds: [Page; 4],
    /// Page tables: of the first 2 MiB, of the guest's own program, of absurd entries, of the end of RAM.
    pub(crate) pts: [Page; 4],
    /// Task segments to start foreign code with, or register sets of real mode.
    pub(crate) images: [[AtomicU32; 26]; BLOBS],
    /// The task segments of what handles its exceptions and its NMIs.
    pub(crate) handler: [AtomicU32; 64],
    pub(crate) nmi: [AtomicU32; 64],
    pub(crate) words: Words,
}

const _: () = assert!(offset_of!(Area, pml4) % 4096 == 0 && offset_of!(Area, pts) % 4096 == 0, "page tables are pages");

/// Words by which the warden, the victim and its handlers talk.
#[repr(C)]
pub(crate) struct Words {
    /// Foreign code runs: whatever comes next ends it.
    pub(crate) armed: AtomicU32,
    /// The vector that ended it, plus one.
    pub(crate) vector: AtomicU32,
    /// Where to go on after an exception in the victim's own code; 0 if none is expected.
    pub(crate) recovery: AtomicU64,
    /// The stack pointer there.
    pub(crate) stack: AtomicU64,
    /// The vector of that exception, plus one.
    pub(crate) fault: AtomicU32,
    /// See [`state`].
    pub(crate) state: AtomicU32,
    /// Pieces of foreign code, or accesses: moves while the victim lives.
    pub(crate) beat: AtomicU32,
    /// The next image, and how many there are.
    pub(crate) next: AtomicU32,
    pub(crate) limit: AtomicU32,
    /// Linear address of the images.
    pub(crate) images: AtomicU32,
    pub(crate) interrupts: AtomicU32,
    pub(crate) nmis: AtomicU32,
    /// Interrupts in a row during one beat, and which.
    pub(crate) storm: AtomicU32,
    pub(crate) storm_beat: AtomicU32,
    /// The stack pointer to come back to from foreign code.
    pub(crate) saved: AtomicU64,
    /// Accesses that exited for certain.
    pub(crate) exits: AtomicU64,
    /// What looked like the canary, and where.
    pub(crate) leak: AtomicU64,
    /// What to do: see `plan`.
    pub(crate) job: AtomicU64,
    pub(crate) seed: AtomicU64,
    pub(crate) part: AtomicU64,
    /// Why the victim is lost: vector, error code, RIP.
    pub(crate) lost: [AtomicU64; 3],
}

/// [`Words::state`].
pub(crate) mod state {
    pub(crate) const STARTED: u32 = 1;
    pub(crate) const DONE: u32 = 2;
    /// An exception in the victim's own code, which nobody expected.
    pub(crate) const LOST: u32 = 3;
}

pub(crate) const OFFSET_ARMED: usize = offset_of!(Area, words) + offset_of!(Words, armed);
pub(crate) const OFFSET_SAVED: usize = offset_of!(Area, words) + offset_of!(Words, saved);
pub(crate) const OFFSET_STATE: usize = offset_of!(Area, words) + offset_of!(Words, state);
pub(crate) const OFFSET_BEAT: usize = offset_of!(Area, words) + offset_of!(Words, beat);
pub(crate) const OFFSET_NEXT: usize = offset_of!(Area, words) + offset_of!(Words, next);
pub(crate) const OFFSET_LIMIT: usize = offset_of!(Area, words) + offset_of!(Words, limit);
pub(crate) const OFFSET_IMAGES: usize = offset_of!(Area, words) + offset_of!(Words, images);
pub(crate) const OFFSET_TASK: usize = offset_of!(Area, task);
pub(crate) const OFFSET_STACK_TOP: usize = offset_of!(Area, stack) + 4096 * 8;
pub(crate) const OFFSET_HANDLER: usize = offset_of!(Area, handler);
pub(crate) const OFFSET_NMI: usize = offset_of!(Area, nmi);
pub(crate) const OFFSET_NMIS: usize = offset_of!(Area, words) + offset_of!(Words, nmis);
pub(crate) const OFFSET_IDT32: usize = offset_of!(Area, idt32);

// SAFETY: all of it is integers, for which zero is a value.
static AREAS: [Area; VICTIMS] = unsafe { core::mem::zeroed() };

/// A victim's area.
pub(crate) fn area(victim: usize) -> &'static Area {
    let [first, ..] = &AREAS;
    AREAS.get(victim).unwrap_or(first)
}

impl Area {
    pub(crate) fn index(&self) -> u64 {
        let [first, ..] = &AREAS;
        (core::ptr::from_ref(self).addr() - core::ptr::from_ref(first).addr()) as u64 / size_of::<Self>() as u64
    }

    pub(crate) fn address(&self) -> u64 {
        core::ptr::from_ref(self).addr() as u64
    }

    pub(crate) fn sandbox(&self) -> u64 {
        SANDBOXES + self.index() * SANDBOX
    }

    pub(crate) fn real(&self) -> u64 {
        REAL + self.index() * REAL_STEP
    }

    pub(crate) fn trampoline(&self) -> u64 {
        TRAMPOLINES + self.index() * 4096
    }

    /// Whether an NMI would find a handler.
    pub(crate) fn takes_nmis(&self) -> bool {
        self.words.beat.load(SeqCst) != 0
    }

    /// A piece of foreign code is over, or an access is.
    pub(crate) fn beat(&self) {
        self.words.beat.fetch_add(1, SeqCst);
    }

    /// An access that exits for certain, on every platform.
    pub(crate) fn exits(&self, count: u64) {
        self.words.exits.fetch_add(count, SeqCst);
        self.beat();
    }
}

/// The address of a static.
pub(crate) fn address_of<T>(of: &T) -> u64 {
    core::ptr::from_ref(of).addr() as u64
}

/// Fills in a table.
pub(crate) fn put(table: &[AtomicU64], index: u64, value: u64) {
    if let Some(slot) = table.get(index as usize) {
        slot.store(value, SeqCst);
    }
}
