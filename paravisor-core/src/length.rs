// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the instruction after an exiting one begins, when the platform could not tell.
//!
//! The bytes at RIP are read through the guest's page tables and decoded; they must be such an instruction. The backend hears where the code page lies, so
//! that it can find the next such instruction by itself.

use platform::{Exit, ExitReason, GuestCpu};
use vc_handlers::{Env, Outcome, emulate};

/// Whether an exit is an instruction's, so that [`Exit::next_rip`] means something. String I/O is decoded by its handler,
/// and knows.
fn is_instruction(reason: &ExitReason) -> bool {
    !matches!(
        reason,
        ExitReason::Memory(_)
            | ExitReason::Exception(_)
            | ExitReason::HostInterrupt
            | ExitReason::InterruptWindow
            | ExitReason::NmiWindow
            | ExitReason::Shutdown
            | ExitReason::Init
            | ExitReason::Broken(..)
    )
}

/// Fills in [`Exit::next_rip`] where the platform could not. `Err` is what becomes of the guest if its code cannot be read
/// any more.
#[inline]
pub(crate) fn complete(exit: &mut Exit, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Result<(), Outcome> {
    if exit.next_rip != 0 || !is_instruction(&exit.reason) { Ok(()) } else { decode(exit, cpu, env) }
}

#[cold]
fn decode(exit: &mut Exit, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Result<(), Outcome> {
    cpu.remember_code_page(emulate::locate(cpu, env)?);
    exit.next_rip = emulate::next_rip(&exit.reason, cpu, env)?;
    Ok(())
}
