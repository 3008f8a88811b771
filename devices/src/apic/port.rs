// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of a local APIC that other processors touch: a letter box, and a name plate to match destinations against.
//!
//! # The letter box
//! A sender puts a vector's bit into a word of `edge` or `level` and then sets that word's flag in `attention`. The owner
//! takes all flags with one swap, and then the words that they name. So:
//!
//! - *Nothing is lost.* The flag is set with Release after the bit, and the owner's swap is an Acquire that reads from
//!   that update or from a later one. All updates of `attention` are read-modify-writes, which continue a release
//!   sequence, so the swap synchronizes with every sender whose flag it takes, and the words can be taken relaxed.
//! - *A flag without a bit is harmless*: the owner took the bit early, on behalf of an older flag.
//! - *One kick is enough.* Only the sender that finds `attention` empty kicks. A sender that finds it non-empty wrote its
//!   flag before the owner's next swap (had the swap come first, it would have found zero), and that swap is still to
//!   come: the sender that made `attention` non-empty kicks after its own update, and the owner looks at `attention`
//!   after each kick and before each entry. Until that kick the second interrupt is no later than the first one.
//!
//! `edge` and `level` are two sets, rather than one set of vectors and one of trigger modes, because two sources may post
//! the same vector at the same time and a vector must never be seen with half of a trigger mode.
//!
//! # The name plate
//! All that a sender needs to know is packed into one word, so that it sees one state, never a mixture. The owner stores
//! it (Release) before it enters the guest again; a sender that learned of the change through guest memory loads it
//! (Acquire) later.
//!
//! Hostile party: the guest, as sender on one processor and owner on another. Any interleaving leaves a valid state.

use crate::apic::lapic::Mode;
use crate::apic::vectors;
use specs::apic;
use vmm_interface::sync::{AtomicU32, Ordering};
use vmm_interface::{DeliveryMode, TriggerMode};

// Flags of `attention`. Bits 7:0 name words of `edge`, bits 15:8 words of `level`.
const LEVEL_SHIFT: u32 = 8;
const NMI: u32 = 1 << 16;
const SECOND_NMI: u32 = 1 << 17;
const INIT: u32 = 1 << 18;
const STARTUP: u32 = 1 << 19;
const SMI: u32 = 1 << 20;
const EXT_INT: u32 = 1 << 21;
const POKE: u32 = 1 << 22;

/// What arrived for a vCPU besides vectors. Each flag is reported once; whoever takes it must keep it until it is done.
///
/// With `init` set, whatever else is set arrived after the INIT: INIT discards what was pending before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Signals {
    /// An NMI.
    pub nmi: bool,
    /// One more NMI. A processor handles one and latches one, so two that arrive together are two.
    pub second_nmi: bool,
    /// INIT. To be handled before `startup`.
    pub init: bool,
    /// A start-up IPI with the page number of its start address.
    pub startup: Option<u8>,
    /// An SMI.
    pub smi: bool,
    /// An ExtINT message: the vector is to be fetched from the 8259s.
    pub extint: bool,
    /// [`super::Fabric::poke`] was called: someone changed something that the run loop looks at.
    pub poked: bool,
}

impl Signals {
    /// Nothing.
    pub const NONE: Self =
        Self { nmi: false, second_nmi: false, init: false, startup: None, smi: false, extint: false, poked: false };

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }
}

/// What a sender knows of a local APIC, unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) mode: Mode,
    /// Enabled by software; takes vectors.
    pub(super) enabled: bool,
    /// Bits 31:24 of the LDR, xAPIC mode only.
    pub(super) logical_id: u8,
    /// Bits 31:28 of the DFR.
    pub(super) format: u8,
    /// The task priority, for lowest-priority arbitration.
    pub(super) priority: u8,
}

impl Identity {
    const ENABLED: u32 = 1 << 20;

    const fn pack(self) -> u32 {
        let mode = match self.mode {
            Mode::Disabled => 0,
            Mode::XApic => 1,
            Mode::X2Apic => 2,
        };
        let enabled = if self.enabled { Self::ENABLED } else { 0 };
        self.logical_id as u32 | (self.priority as u32) << 8 | (self.format as u32 & 15) << 16 | enabled | mode << 24
    }

    const fn unpack(word: u32) -> Self {
        Self {
            mode: match word >> 24 {
                1 => Mode::XApic,
                2 => Mode::X2Apic,
                _ => Mode::Disabled,
            },
            enabled: word & Self::ENABLED != 0,
            logical_id: word as u8,
            format: (word >> 16) as u8 & 15,
            priority: (word >> 8) as u8,
        }
    }

    /// Whether a message in this delivery mode is taken. An APIC that software disabled still takes INIT, NMI, SMI and
    /// SIPI; one that is disabled globally takes nothing (11.4.3, 11.4.7.2).
    pub(super) fn accepts(&self, mode: DeliveryMode) -> bool {
        match (self.mode, mode) {
            (Mode::Disabled, _) => false,
            (_, DeliveryMode::Init | DeliveryMode::Nmi | DeliveryMode::Smi | DeliveryMode::Startup) => true,
            (_, DeliveryMode::Fixed | DeliveryMode::LowestPriority | DeliveryMode::ExtInt) => self.enabled,
        }
    }

    /// Whether a physical destination means this APIC. `wide` destinations have 32 bits; in others FFh is everybody
    /// (11.6.2.1, 11.12.9).
    pub(super) fn physical_match(&self, id: u32, destination: u32, wide: bool) -> bool {
        broadcast(destination, wide)
            || match self.mode {
                Mode::XApic => id & 0xff == destination,
                Mode::X2Apic | Mode::Disabled => id == destination,
            }
    }

    /// Whether a logical destination includes this APIC (11.6.2.2, 11.12.10).
    pub(super) fn logical_match(&self, id: u32, destination: u32, wide: bool) -> bool {
        if broadcast(destination, wide) {
            return true;
        }
        if self.mode == Mode::X2Apic {
            let logical = apic::x2apic_logical_id(id);
            return destination >> 16 == logical >> 16 && destination & logical & 0xffff != 0;
        }
        let logical = u32::from(self.logical_id);
        match u32::from(self.format) {
            _ if destination > 0xff => false,
            apic::DESTINATION_FLAT => destination & logical != 0,
            apic::DESTINATION_CLUSTER => destination >> 4 == logical >> 4 && destination & logical & 0xf != 0,
            _ => false,
        }
    }
}

const fn broadcast(destination: u32, wide: bool) -> bool {
    destination == u32::MAX || destination == 0xff && !wide
}

/// The shared part of one local APIC. A cache line's alignment, so that vCPUs do not share one.
#[derive(Debug)]
#[repr(align(64))]
pub struct ApicPort {
    id: u32,
    attention: AtomicU32,
    identity: AtomicU32,
    /// The page number of the last start-up IPI.
    startup: AtomicU32,
    edge: [AtomicU32; 8],
    level: [AtomicU32; 8],
}

impl ApicPort {
    /// The letter box of the APIC with this ID, which is as after a reset.
    pub(super) fn new(id: u32) -> Self {
        let identity = Identity {
            mode: Mode::XApic,
            enabled: false,
            logical_id: 0,
            format: apic::DESTINATION_FLAT as u8,
            priority: 0,
        };
        Self {
            id,
            attention: AtomicU32::new(0),
            identity: AtomicU32::new(identity.pack()),
            startup: AtomicU32::new(0),
            edge: core::array::from_fn(|_| AtomicU32::new(0)),
            level: core::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// The APIC ID, fixed for ever.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether [`super::Lapic::absorb`] would find something. One load; the run loop asks after each kick and before each
    /// entry.
    #[inline]
    pub fn needs_attention(&self) -> bool {
        // Acquire is free on x86. A set flag that this load misses has a kick behind it.
        self.attention.load(Ordering::Acquire) != 0
    }

    pub(super) fn identity(&self) -> Identity {
        Identity::unpack(self.identity.load(Ordering::Acquire))
    }

    pub(super) fn publish(&self, identity: Identity) {
        self.identity.store(identity.pack(), Ordering::Release);
    }

    /// Posts a vector. True if the owner must be kicked, as for all the posts.
    pub(super) fn post(&self, vector: u8, trigger: TriggerMode) -> bool {
        let (at, bit) = vectors::position(vector);
        let (set, flag) = match trigger {
            TriggerMode::Edge => (&self.edge, 1 << at),
            TriggerMode::Level => (&self.level, 1 << at << LEVEL_SHIFT),
        };
        if let Some(word) = set.get(usize::from(at)) {
            // Relaxed: the flag's Release orders it.
            word.fetch_or(bit, Ordering::Relaxed);
        }
        self.raise(flag)
    }

    pub(super) fn post_nmi(&self) -> bool {
        let before = self.attention.fetch_or(NMI, Ordering::Release);
        if before & NMI == 0 {
            return before == 0;
        }
        // The owner may have taken the first flag in between. Then this one stands alone and still counts as one NMI.
        self.raise(SECOND_NMI)
    }

    pub(super) fn post_init(&self) -> bool {
        // INIT discards what is pending. Not one atomic step with the flag, and need not be: a message of a third
        // processor that falls in between is one that came after the INIT.
        self.attention.fetch_and(!(NMI | SECOND_NMI | STARTUP | SMI | EXT_INT), Ordering::Relaxed);
        // A kick that the cleared flags asked for is spurious at worst, so the answer below may ask for another one.
        self.raise(INIT)
    }

    pub(super) fn post_startup(&self, page: u8) -> bool {
        // Of two at the same time, either page may win.
        self.startup.store(u32::from(page), Ordering::Relaxed);
        self.raise(STARTUP)
    }

    pub(super) fn post_smi(&self) -> bool {
        self.raise(SMI)
    }

    pub(super) fn post_extint(&self) -> bool {
        self.raise(EXT_INT)
    }

    pub(super) fn poke(&self) -> bool {
        self.raise(POKE)
    }

    fn raise(&self, flag: u32) -> bool {
        self.attention.fetch_or(flag, Ordering::Release) == 0
    }

    /// Takes everything. `vectors` is called with each word that was posted: whether an INIT was, the word's number, its
    /// bits, and how they trigger. Level-triggered ones come last, so that a vector that is both gets its EOI broadcast:
    /// an IOAPIC that did not wait for it ignores it.
    pub(super) fn take(&self, mut vectors: impl FnMut(bool, u8, u32, TriggerMode)) -> Signals {
        if self.attention.load(Ordering::Relaxed) == 0 {
            return Signals::NONE;
        }
        let flags = self.attention.swap(0, Ordering::Acquire);
        for (shift, set, trigger) in
            [(0, &self.edge, TriggerMode::Edge), (LEVEL_SHIFT, &self.level, TriggerMode::Level)]
        {
            let words = flags >> shift & 0xff;
            for (at, word) in (0..).zip(set).filter(|(at, _)| words & 1 << at != 0) {
                vectors(flags & INIT != 0, at, word.swap(0, Ordering::Relaxed), trigger);
            }
        }
        Signals {
            nmi: flags & (NMI | SECOND_NMI) != 0,
            second_nmi: flags & NMI != 0 && flags & SECOND_NMI != 0,
            init: flags & INIT != 0,
            startup: (flags & STARTUP != 0).then(|| self.startup.load(Ordering::Relaxed) as u8),
            smi: flags & SMI != 0,
            extint: flags & EXT_INT != 0,
            poked: flags & POKE != 0,
        }
    }
}
