// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start-up: gates for exceptions, the TD's attributes against the image's policy, Parados's own memory.

use platform::{PageRange, Reason, Termination};
use platform_shared::exceptions::{OnException, set_handler};

use super::accept::accept_own;
use super::ending::Ending;
use super::{identity, interrupts};
use crate::launched::wrong_attributes;

/// Why the platform cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// The host has not given the memory that its map promises.
    Host,
    /// The heap does not suffice for one processor.
    ProcessorMemory,
    /// Another processor did not come up, or another one than was called.
    ProcessorStart,
}

impl StartError {
    /// The reason that the host is told.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Host => Reason::PagesRefused,
            Self::ProcessorMemory => Reason::ProcessorMemory,
            Self::ProcessorStart => Reason::ProcessorStart,
        }
    }
}

/// Leads exceptions in Parados itself to `on_exception`. First of all.
pub fn early(on_exception: OnException) {
    set_handler(on_exception);
    interrupts::install();
}

/// Ends the VM unless this is a TD of the attributes that the image's policy asks for.
pub fn check_attributes(wanted: u64) {
    let Ok(information) = identity::information() else { Ending::end(Termination::Fatal(Reason::MissingFeature, 0)) };
    let wrong = wrong_attributes(information.attributes.bits(), wanted);
    if wrong != 0 {
        Ending::end(Termination::Fatal(Reason::PolicyMismatch, wrong));
    }
}

/// Accepts Parados's own memory behind the image, for the heap. Once.
pub fn take_memory(range: PageRange) -> Result<PageRange, StartError> {
    // SAFETY: the range follows the image, and nothing uses it yet.
    unsafe { accept_own(range) }.map_err(|_| StartError::Host)?;
    Ok(range)
}
