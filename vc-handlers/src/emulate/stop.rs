// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why an emulation ends before the instruction is complete.

use platform::{Exception, Gpa, MemoryError, Reason, Visibility};

/// What ends an emulation early, sorted by whose doing it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// The instruction faults, as on hardware.
    Fault(Exception),
    /// The guest keeps changing what the instruction works on; it is executed again from the start.
    Retry,
    /// An instruction, or a use of one, that the emulator does not know.
    Unsupported,
    /// The host or Parados failed.
    Terminate(Reason, u64),
}

pub(super) type Result<T> = core::result::Result<T, Stop>;

impl Stop {
    pub(super) const GENERAL_PROTECTION: Self = Self::Fault(Exception::GENERAL_PROTECTION);
    pub(super) const UNDEFINED: Self = Self::Fault(Exception::UNDEFINED);
}

/// `Some` if memory answered, `None` if no memory lies at `gpa` after all, so that it answers as a device does.
pub(super) fn memory<T>(result: core::result::Result<T, MemoryError>, gpa: Gpa) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MemoryError::NotMemory) => Ok(None),
        // The page is changing its state at this moment.
        Err(MemoryError::WrongState) => Err(Stop::Retry),
        Err(MemoryError::Host) => Err(Stop::Terminate(Reason::GuestMemory, gpa.0)),
        Err(MemoryError::Exhausted) => Err(Stop::Terminate(Reason::MemoryExhausted, gpa.0)),
    }
}

/// Like [`memory`], for an operand, which the guest may also have in memory that it shares with the host. Code and page
/// tables are private always.
pub(super) fn operand<T>(
    gpa: Gpa,
    mut access: impl FnMut(Visibility) -> core::result::Result<T, MemoryError>,
) -> Result<Option<T>> {
    match access(Visibility::Private) {
        Err(MemoryError::NotMemory) => memory(access(Visibility::Shared), gpa),
        result => memory(result, gpa),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ended the VM with a reason that other paths used too, with details of other meanings.
    #[test]
    fn memory_that_fails_has_reasons_of_its_own() {
        let of = |error| memory::<()>(Err(error), Gpa(0x5000));
        assert_eq!(of(MemoryError::Host), Err(Stop::Terminate(Reason::GuestMemory, 0x5000)));
        assert_eq!(of(MemoryError::Exhausted), Err(Stop::Terminate(Reason::MemoryExhausted, 0x5000)));
        assert_eq!((of(MemoryError::NotMemory), of(MemoryError::WrongState)), (Ok(None), Err(Stop::Retry)));
    }
}
