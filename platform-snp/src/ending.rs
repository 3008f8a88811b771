// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who ends the VM, and how: a record, what powers the host's machine off or resets it, and the GHCB's request to terminate.
//!
//! The first processor that wants to ends it, and no other one says anything from then on. To claim the end and to carry it
//! out are two steps, because a crash has much to write in between and the guest's other processors still run.

use core::sync::atomic::{AtomicBool, Ordering};

use platform::{EndClaim, Termination};

use crate::local::Local;
use crate::{ghcb, log};

/// PM1 control of the q35 and what powers it off (ACPI 6.5, 4.8.3.2); reset control of the ICH9 and what resets.
const PM1_CONTROL: u16 = 0x604;
const POWER_OFF: u32 = 1 << 13;
const RESET_CONTROL: u16 = 0xcf9;
const RESET: u32 = 6;

static CLAIM: EndClaim = EndClaim::new();

/// The right to end the VM, which one processor has.
#[derive(Debug)]
pub struct Ending(());

impl Ending {
    /// Ends the VM. Whatever the host answers to the ports, its last request is to terminate, again and again.
    pub fn carry_out(self, how: Termination) -> ! {
        static BEGUN: AtomicBool = AtomicBool::new(false);
        // A processor that dies here has only the request left.
        if !BEGUN.swap(true, Ordering::AcqRel) {
            log::end(how);
            let _ = match how {
                Termination::PowerOff => ghcb::port_write(PM1_CONTROL, 2, POWER_OFF),
                Termination::Reset => ghcb::port_write(RESET_CONTROL, 1, RESET),
                Termination::TripleFault | Termination::TestExit(_) | Termination::Fatal(..) => Ok(()),
            };
        }
        loop {
            Local::current().ask(how.ghcb_request());
        }
    }
}

/// Claims the end of the VM. Returns to one processor alone, and others are silent from then on; for them all is over here.
pub fn claim_end() -> Ending {
    // Each processor's own structure has an address of its own, all of them below 4 GiB.
    let processor = core::ptr::from_ref(Local::current()).addr() as u32;
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
