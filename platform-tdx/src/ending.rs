// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who ends the VM, and how: a record, and the GHCI's report of a fatal error.
//!
//! The first processor that wants to ends it, and no other one says anything from then on. To claim the end and to carry it
//! out are two steps, because a crash has much to write in between.

use core::sync::atomic::{AtomicBool, Ordering};

use platform::{EndClaim, Termination};

use crate::{log, tdcall};

static CLAIM: EndClaim = EndClaim::new();

/// The right to end the VM, which one processor has.
#[derive(Debug)]
pub struct Ending(());

impl Ending {
    /// Ends the VM. Whatever the host answers, it is asked again and again.
    pub fn carry_out(self, how: Termination) -> ! {
        static BEGUN: AtomicBool = AtomicBool::new(false);
        // A processor that dies here has only the report left.
        if !BEGUN.swap(true, Ordering::AcqRel) {
            log::end(how);
        }
        loop {
            tdcall::report_fatal_error(how);
        }
    }
}

/// Claims the end of the VM. Returns to one processor alone, and others are silent from then on; for them all is over here.
pub fn claim_end() -> Ending {
    // Without a module there is one processor: the one that finds that out.
    let processor = tdcall::information().map_or(0, |information| information.index);
    if !CLAIM.take(processor) {
        loop {
            core::hint::spin_loop();
        }
    }
    log::silence_others();
    Ending(())
}

/// Ends the VM. The first caller wins; others stop.
pub fn end(how: Termination) -> ! {
    claim_end().carry_out(how)
}
