// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who ends the VM: the first processor that wants to, and no other one says anything from then on.
//!
//! To claim the end and to carry it out are two steps, because a crash has much to write in between, and the guest's other
//! processors still run: one that powers off or resets meanwhile must not make the host believe that all is well.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, Ordering};

use platform::{EndClaim, Termination};

use crate::log::{Channel, Lines};

/// How a backend ends the VM.
pub trait Terminal {
    /// The way to the host.
    type Channel: Channel + 'static;

    /// Where lines are written.
    fn lines() -> &'static Lines<Self::Channel>;

    /// A number of the running processor that no other one has.
    fn processor() -> u32;

    /// What is done once, after the record of the end.
    fn announce(_: Termination) {}

    /// Has the host end the VM.
    fn finish(how: Termination) -> !;

    /// What is left to a processor whose VM has ended.
    fn stop() -> ! {
        loop {
            core::hint::spin_loop();
        }
    }
}

static CLAIM: EndClaim = EndClaim::new();

/// The right to end the VM, which one processor has.
pub struct Ending<T>(PhantomData<T>);

impl<T: Terminal> Ending<T> {
    /// Claims the end of the VM. Returns to one processor alone, and others are silent from then on; for them all is over here.
    pub fn claim() -> Self {
        if !CLAIM.take(T::processor()) {
            T::stop();
        }
        T::lines().silence_others();
        Self(PhantomData)
    }

    /// Ends the VM. The first caller wins; others stop.
    pub fn end(how: Termination) -> ! {
        Self::claim().carry_out(how)
    }

    /// Ends the VM: a record of how, then the host's part.
    pub fn carry_out(self, how: Termination) -> ! {
        static BEGUN: AtomicBool = AtomicBool::new(false);
        // A processor that dies here has only the host's part left.
        if !BEGUN.swap(true, Ordering::AcqRel) {
            Lines::<T::Channel>::end(how);
            T::announce(how);
        }
        T::finish(how)
    }
}

impl<T> fmt::Debug for Ending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ending")
    }
}
