// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who ends the VM: the first processor that wants to, and no other one says anything from then on.
//!
//! To claim the end and to carry it out are two steps, because a crash has much to write in between, and the guest's other
//! processors still run: one that powers off or resets meanwhile must not make the host believe that all is well.

use core::sync::atomic::{AtomicBool, Ordering};

use platform::{EndClaim, Termination};

use crate::{apic, log, port};

/// QEMU's `isa-debug-exit`.
const EXIT_PORT: u16 = 0xf4;

static CLAIM: EndClaim = EndClaim::new();

/// The right to end the VM, which one processor has.
#[derive(Debug)]
pub struct Ending(());

impl Ending {
    /// A record of how, then QEMU's exit.
    pub fn carry_out(self, how: Termination) -> ! {
        static BEGUN: AtomicBool = AtomicBool::new(false);
        // A processor that dies here has only the exit left.
        if !BEGUN.swap(true, Ordering::AcqRel) {
            log::end(how);
        }
        port::write::<u32>(EXIT_PORT, 0);
        stop()
    }
}

/// Claims the end of the VM. Returns to one processor alone, and others are silent from then on; for them all is over here.
pub fn claim_end() -> Ending {
    if !CLAIM.take(apic::id()) {
        stop();
    }
    log::silence_others();
    Ending(())
}

/// Ends the VM. The first caller wins; others stop.
pub fn end(how: Termination) -> ! {
    claim_end().carry_out(how)
}

/// What is left to a processor whose VM has ended.
fn stop() -> ! {
    loop {
        x86_64::instructions::hlt();
    }
}
