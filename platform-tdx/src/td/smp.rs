// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other processors: each waits at the mailbox since the launch (`entry`), gets a stack with a guard page, and is called by its
//! index.
//!
//! They are called one after the other, so one mailbox does for all. Nothing runs on them yet: they see whether they are who was
//! called, and sleep. Hostile party: the host, which may let a processor run late or never.

use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use image_abi::{LaunchBlock, Mailbox};
use platform::{Reason, Termination};
use platform_shared::stack;
use tdx_guest::tdvmcall::hlt;

use super::ending::Ending;
use super::start::StartError;
use super::{identity, interrupts};

/// How often the boot processor looks whether another one has arrived: seconds, where PAUSE takes a hundred cycles.
const PATIENCE: u32 = 1 << 27;

/// The last processor that has arrived.
static ARRIVED: AtomicU32 = AtomicU32::new(0);

/// The launch block's [`Mailbox`], as it is written.
#[repr(C)]
struct Cells {
    processor: AtomicU32,
    _reserved: u32,
    stack: AtomicU64,
    entry: AtomicU64,
}

const _: () = assert!(
    offset_of!(Cells, processor) == offset_of!(Mailbox, processor)
        && offset_of!(Cells, stack) == offset_of!(Mailbox, stack)
        && offset_of!(Cells, entry) == offset_of!(Mailbox, entry)
);

/// Calls processors 1 to `processors` - 1. The error comes with the processor.
pub fn start_others(block: &LaunchBlock, processors: u32) -> Result<(), (StartError, u32)> {
    let mailbox = ptr::with_exposed_provenance::<Cells>(block.mailbox.start as usize);
    // SAFETY: the launch block gives the mailbox a page of its own, mapped for ever. The code that waits reads and writes it as one
    // reads and writes atomics.
    let mailbox = unsafe { &*mailbox };
    for index in 1..processors {
        // Whoever was called before has arrived, so it has read these.
        mailbox.stack.store(stack::new().map_err(|_| (StartError::ProcessorMemory, index))?, Ordering::Relaxed);
        mailbox.entry.store(arrive as *const () as u64, Ordering::Relaxed);
        mailbox.processor.store(index, Ordering::Release);
        let arrived = || ARRIVED.load(Ordering::Acquire) == index;
        let looks = |_| {
            core::hint::spin_loop();
            arrived()
        };
        if !(0..PATIENCE).any(looks) {
            return Err((StartError::ProcessorStart, index));
        }
    }
    Ok(())
}

/// The first Rust code of another processor, with an empty stack.
extern "C" fn arrive(index: u32) -> ! {
    interrupts::load();
    if !identity::information().is_ok_and(|information| information.vcpu_index == index) {
        Ending::end(Termination::Fatal(Reason::ProcessorStart, index.into()));
    }
    ARRIVED.store(index, Ordering::Release);
    loop {
        // Interrupts are off. The host wakes the processor when it likes, which changes nothing.
        hlt();
    }
}
