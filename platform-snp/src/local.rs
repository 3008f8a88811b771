// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each processor has of its own: its GHCB, its doorbell, and what its GHCB MSR holds. GS leads to it: VMPL0 has its own.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use specs::ghcb::msr as protocol;
use specs::msr::GS_BASE;
use specs::sev::MSR_GHCB;
use x86_64::registers::model_specific::Msr;

use crate::ghcb::SharedPage;
use crate::instructions::vmgexit;

/// A processor's own.
pub(crate) struct Local {
    /// Itself, for who reads through GS.
    own: AtomicU64,
    /// Addresses of the two pages; 0 before there are any.
    ghcb: AtomicU64,
    doorbell: AtomicU64,
    /// The GHCB MSR's value, so that it is written only when it changes.
    msr: AtomicU64,
}

/// The boot processor's, which must exist before the heap.
static BOOT: Local = Local::new();

impl Local {
    /// One without pages.
    pub(crate) const fn new() -> Self {
        Self { own: AtomicU64::new(0), ghcb: AtomicU64::new(0), doorbell: AtomicU64::new(0), msr: AtomicU64::new(0) }
    }

    /// The boot processor's.
    pub(crate) fn boot() -> &'static Self {
        &BOOT
    }

    /// Makes this the running processor's own.
    pub(crate) fn enter(&'static self) {
        let address = core::ptr::from_ref(self).expose_provenance() as u64;
        self.own.store(address, Ordering::Relaxed);
        // SAFETY: nothing else uses GS, and the structure lives for ever.
        unsafe { Msr::new(GS_BASE).write(address) };
    }

    /// The running processor's own. Every processor has entered one before it does anything else.
    pub(crate) fn current() -> &'static Self {
        let address: usize;
        // SAFETY: `enter` has set GS to a structure whose first word is its own address.
        unsafe { asm!("mov {}, gs:[0]", out(reg) address, options(nostack, pure, readonly, preserves_flags)) };
        // SAFETY: as above; it lives for ever and has atomics only.
        unsafe { &*core::ptr::with_exposed_provenance(address) }
    }

    /// Gives the processor its pages, both of them shared with the host.
    pub(crate) fn set_pages(&self, ghcb: u64, doorbell: u64) {
        self.ghcb.store(ghcb, Ordering::Relaxed);
        self.doorbell.store(doorbell, Ordering::Relaxed);
    }

    /// The GHCB, if there is one.
    pub(crate) fn ghcb(&self) -> Option<&'static SharedPage> {
        page(self.ghcb.load(Ordering::Relaxed))
    }

    /// The doorbell, if there is one.
    pub(crate) fn doorbell(&self) -> Option<&'static SharedPage> {
        page(self.doorbell.load(Ordering::Relaxed))
    }

    /// Writes the GHCB MSR, unless it has the value.
    pub(crate) fn set_msr(&self, value: u64) {
        if self.msr.swap(value, Ordering::Relaxed) != value {
            // SAFETY: the register only tells the host something.
            unsafe { Msr::new(MSR_GHCB).write(value) };
        }
    }

    /// A request of the MSR protocol and its answer.
    pub(crate) fn ask(&self, request: u64) -> u64 {
        self.set_msr(request);
        vmgexit();
        // SAFETY: reading has no effect.
        let answer = unsafe { Msr::new(MSR_GHCB).read() };
        self.msr.store(answer, Ordering::Relaxed);
        answer
    }
}

/// A page that is shared with the host.
pub(crate) fn page(address: u64) -> Option<&'static SharedPage> {
    if address & protocol::FUNCTION != 0 || address == 0 {
        return None;
    }
    // SAFETY: the addresses are those of pages that `start` and `shared_pool` have mapped for ever, for this use alone. They are made
    // of atomics, so that the host may write them at any time.
    Some(unsafe { &*core::ptr::with_exposed_provenance(address as usize) })
}
