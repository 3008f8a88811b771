// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts and NMIs for the guests that are about them: counted for each processor and vector, with the order in which
//! they came, and handlers for the vectors that need more than an EOI.
//!
//! Each processor knows itself by GS, whose base is its [`Cpu`].

use crate::exceptions::{Frame, set_hook};
use crate::instructions::write_msr;
use crate::{apic, exceptions};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// More processors than this stay in the trampoline.
pub const MAX_PROCESSORS: usize = 64;
/// The NMI's vector.
pub const NMI: u8 = 2;
/// The spurious vector that [`crate::apic::enable`] sets. Nothing is in service for it.
pub const SPURIOUS: u8 = 0xff;
/// How many interrupts the log holds.
const LOG: usize = 64;
const GS_BASE: u32 = 0xc000_0101;

/// What runs for a vector instead of an EOI.
pub type Handler = fn(&mut Frame);

/// What is kept for each processor.
#[derive(Debug)]
#[repr(C)]
pub struct Cpu {
    index: AtomicUsize,
    /// Whether its local APIC is in x2APIC mode.
    pub x2apic: AtomicBool,
    counts: [AtomicU32; 256],
    log: [AtomicU8; LOG],
    logged: AtomicUsize,
    /// RIP that the last interrupt found.
    pub last_rip: AtomicU64,
    /// A stop for interrupts at an address where none may come, and how many did.
    pub forbidden_rip: AtomicU64,
    /// See `forbidden_rip`.
    pub forbidden: AtomicU32,
}

impl Cpu {
    const fn new() -> Self {
        Self {
            index: AtomicUsize::new(0),
            x2apic: AtomicBool::new(false),
            counts: [const { AtomicU32::new(0) }; 256],
            log: [const { AtomicU8::new(0) }; LOG],
            logged: AtomicUsize::new(0),
            last_rip: AtomicU64::new(0),
            forbidden_rip: AtomicU64::new(0),
            forbidden: AtomicU32::new(0),
        }
    }

    /// How many interrupts with this vector came since [`Self::clear`].
    pub fn count(&self, vector: u8) -> u32 {
        self.counts.get(usize::from(vector)).map_or(0, |count| count.load(SeqCst))
    }

    /// How many interrupts and NMIs of any vector came.
    pub fn total(&self) -> u32 {
        self.counts.iter().map(|count| count.load(SeqCst)).sum()
    }

    /// Whether exactly these vectors came, in this order.
    pub fn came(&self, vectors: &[u8]) -> bool {
        self.logged.load(SeqCst) == vectors.len()
            && self.log.iter().zip(vectors).all(|(logged, vector)| logged.load(SeqCst) == *vector)
    }

    /// The first vectors that came, packed into hexadecimal digits for a message.
    pub fn log(&self) -> u128 {
        let count = self.logged.load(SeqCst).min(16);
        self.log.iter().take(count).fold(0, |all, vector| all << 8 | u128::from(vector.load(SeqCst)))
    }

    /// Forgets what came.
    pub fn clear(&self) {
        self.counts.iter().for_each(|count| count.store(0, SeqCst));
        self.logged.store(0, SeqCst);
        self.forbidden.store(0, SeqCst);
        self.forbidden_rip.store(0, SeqCst);
    }

    fn note(&self, vector: u8, rip: u64) {
        if let Some(count) = self.counts.get(usize::from(vector)) {
            count.fetch_add(1, SeqCst);
        }
        let at = self.logged.fetch_add(1, SeqCst);
        if let Some(slot) = self.log.get(at) {
            slot.store(vector, SeqCst);
        }
        self.last_rip.store(rip, SeqCst);
        if rip == self.forbidden_rip.load(SeqCst) {
            self.forbidden.fetch_add(1, SeqCst);
        }
    }
}

static CPUS: [Cpu; MAX_PROCESSORS] = [const { Cpu::new() }; MAX_PROCESSORS];
static HANDLERS: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

/// The record of a processor.
pub fn cpu(index: usize) -> &'static Cpu {
    let [first, ..] = &CPUS;
    CPUS.get(index).unwrap_or(first)
}

/// The number of the processor that asks.
pub fn here() -> usize {
    let index;
    // SAFETY: GS points to this processor's `Cpu`, which starts with its number.
    unsafe { asm!("mov {}, gs:[0]", out(reg) index, options(nostack, readonly, preserves_flags)) };
    index
}

/// The record of the processor that asks.
pub fn me() -> &'static Cpu {
    cpu(here())
}

/// Takes over the interrupts of processor `index`, which is the one that calls.
pub fn take_over(index: usize) {
    let this = cpu(index);
    this.index.store(index, SeqCst);
    write_msr(GS_BASE, core::ptr::from_ref(this) as u64);
    exceptions::load_installed();
    set_hook(dispatch);
}

/// Sets what runs for a vector; `None` for the EOI of the local APIC.
pub fn set_handler(vector: u8, handler: Option<Handler>) {
    if let Some(slot) = HANDLERS.get(usize::from(vector)) {
        slot.store(handler.map_or(0, |handler| handler as usize), SeqCst);
    }
}

fn dispatch(frame: &mut Frame) {
    let vector = frame.vector as u8;
    me().note(vector, frame.rip);
    let handler = HANDLERS.get(usize::from(vector)).map_or(0, |slot| slot.load(SeqCst));
    if handler != 0 {
        // SAFETY: only `set_handler` stores there, and what it stores is a `Handler`.
        let handler = unsafe { core::mem::transmute::<usize, Handler>(handler) };
        handler(frame);
    } else if vector != NMI && vector != SPURIOUS {
        apic::end_of_interrupt();
    }
}
