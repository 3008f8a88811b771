// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the instruction after an exiting one begins, when the platform could not tell.
//!
//! The bytes at RIP are read through the guest's page tables and decoded, once for all that is done about the exit; they must be
//! such an instruction. The backend hears where the code page lies, so that it can find the next such instruction by itself.

use platform::{Exit, ExitReason, GuestCpu, IoAccess};
use vc_handlers::{Env, Found, Outcome, emulate};

/// Whether an exit is an instruction's, so that [`Exit::next_rip`] means something. String I/O is decoded by its handler.
fn is_instruction(reason: &ExitReason) -> bool {
    !matches!(
        reason,
        ExitReason::Io(IoAccess { string: true, .. })
            | ExitReason::Memory(_)
            | ExitReason::Exception(_)
            | ExitReason::HostInterrupt
            | ExitReason::InterruptWindow
            | ExitReason::NmiWindow
            | ExitReason::Shutdown
            | ExitReason::Init
            | ExitReason::Broken(..)
    )
}

/// Fills in [`Exit::next_rip`] where the platform could not, and gives the instruction then. `Err` is what becomes of the guest
/// if its code cannot be read any more.
#[inline]
pub(crate) fn complete(exit: &mut Exit, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Result<Option<Found>, Outcome> {
    if exit.next_rip != 0 || !is_instruction(&exit.reason) { Ok(None) } else { decode(exit, cpu, env).map(Some) }
}

#[cold]
fn decode(exit: &mut Exit, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Result<Found, Outcome> {
    let found = emulate::find(&exit.reason, cpu, env)?;
    cpu.remember_code_page(found.gpa());
    exit.next_rip = found.next_rip();
    Ok(found)
}
