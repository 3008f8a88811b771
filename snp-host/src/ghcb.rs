// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GHCB page as the host sees it. Its fields are copied once, and each part of a scratch area is read once, so that a guest
//! that writes them meanwhile changes nothing that was checked.

use crate::{Hardware, NotShared};
use specs::ghcb::{answer, malformed, page};
use specs::svm::event;

const BYTES: u64 = 4096;
/// How much of the page has fields: the rest is the guest's buffer, and what stands behind it.
const FIELDS: usize = 1024;
/// The last eight bytes: reserved, version, usage.
const TAIL: u64 = page::USAGE as u64 - 4;
/// How far outside memory may be used as scratch area: as much as KVM takes.
const SCRATCH_LIMIT: u64 = 16 * 4096;

/// A snapshot of the page's fields.
pub struct Ghcb {
    gpa: u64,
    bytes: [u8; FIELDS],
    /// Version and usage.
    tail: [u8; 8],
    valid: [u8; 16],
}

impl Ghcb {
    /// Copies the page.
    pub(crate) fn read(gpa: u64, hardware: &mut impl Hardware) -> Result<Self, NotShared> {
        let mut ghcb = Self { gpa, bytes: [0; FIELDS], tail: [0; 8], valid: [0; 16] };
        hardware.read_shared(gpa, &mut ghcb.bytes)?;
        hardware.read_shared(gpa + TAIL, &mut ghcb.tail)?;
        if let Some(bitmap) = ghcb.bytes.get(page::VALID_BITMAP..page::VALID_BITMAP + 16) {
            ghcb.valid.copy_from_slice(bitmap);
        }
        Ok(ghcb)
    }

    /// Eight bytes at an offset, whether valid or not.
    pub(crate) fn raw(&self, offset: usize) -> u64 {
        let word = self.bytes.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok());
        word.map_or(0, u64::from_le_bytes)
    }

    /// The usage field: 0 is the base protocol.
    pub(crate) const fn usage(&self) -> u32 {
        let [.., a, b, c, d] = self.tail;
        u32::from_le_bytes([a, b, c, d])
    }

    /// Whether the guest says that it has filled in the field.
    pub(crate) fn has(&self, offset: usize) -> bool {
        let bit = offset / 8;
        self.valid.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 != 0)
    }

    /// Answers: the fields given are valid afterwards, and no others.
    pub(crate) fn reply(&self, hardware: &mut impl Hardware, fields: &[(usize, u64)]) -> Result<(), NotShared> {
        let mut valid = [0u8; 16];
        for (offset, value) in fields {
            hardware.write_shared(self.gpa + *offset as u64, &value.to_le_bytes())?;
            if let Some(byte) = valid.get_mut(offset / 64) {
                *byte |= 1 << (offset / 8 % 8);
            }
        }
        hardware.write_shared(self.gpa + page::VALID_BITMAP as u64, &valid)
    }
}

/// How a request is answered in SW_EXITINFO1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Ok {
        /// SW_EXITINFO2.
        info2: u64,
    },
    /// The guest shall raise #GP(0).
    GeneralProtection,
    /// The request is malformed: one of `specs::ghcb::malformed`.
    Malformed(u64),
}

impl Answer {
    /// Done, and nothing to say.
    pub const OK: Self = Self::Ok { info2: 0 };
    /// The scratch area is not where it may be.
    pub const SCRATCH: Self = Self::Malformed(malformed::SCRATCH);

    /// SW_EXITINFO1 and 2.
    pub const fn encode(self) -> (u64, u64) {
        const GP: u64 = event::VALID | event::ERROR_CODE_VALID | event::TYPE_EXCEPTION | 13;
        match self {
            Self::Ok { info2 } => (answer::OK, info2),
            Self::GeneralProtection => (answer::EXCEPTION, GP),
            Self::Malformed(reason) => (answer::MALFORMED, reason),
        }
    }
}

/// The scratch area of a request: a part of the page's own buffer, or shared memory elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Scratch {
    start: u64,
    bytes: u64,
}

impl Scratch {
    /// As SW_SCRATCH names it.
    pub(crate) fn new(ghcb: &Ghcb, bytes: u64) -> Option<Self> {
        let start = ghcb.raw(page::SW_SCRATCH);
        let end = start.checked_add(bytes)?;
        let buffer = ghcb.gpa + page::SHARED_BUFFER as u64;
        let buffer_end = buffer + page::SHARED_BUFFER_BYTES as u64;
        let beside = start >= ghcb.gpa + BYTES || end <= ghcb.gpa;
        let fits = if beside {
            bytes <= SCRATCH_LIMIT
        } else {
            // KVM wants the whole of what is used inside the buffer.
            start >= buffer && end <= buffer_end
        };
        fits.then_some(Self { start, bytes })
    }

    pub(crate) fn read(&self, hardware: &mut impl Hardware, offset: u64, into: &mut [u8]) -> Result<(), NotShared> {
        self.check(offset, into.len())?;
        hardware.read_shared(self.start + offset, into)
    }

    pub(crate) fn write(&self, hardware: &mut impl Hardware, offset: u64, from: &[u8]) -> Result<(), NotShared> {
        self.check(offset, from.len())?;
        hardware.write_shared(self.start + offset, from)
    }

    fn check(&self, offset: u64, bytes: usize) -> Result<(), NotShared> {
        let end = offset.checked_add(bytes as u64).ok_or(NotShared)?;
        if end <= self.bytes { Ok(()) } else { Err(NotShared) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{GHCB, Machine};

    fn with_scratch(at: u64) -> Ghcb {
        let mut machine = Machine::default();
        machine.memory.write_shared(GHCB + page::SW_SCRATCH as u64, &at.to_le_bytes()).unwrap();
        Ghcb::read(GHCB, &mut machine.memory).unwrap()
    }

    #[test]
    fn scratch_lies_wholly_in_the_buffer_or_wholly_outside_the_page() {
        let fits = |at, bytes| Scratch::new(&with_scratch(at), bytes).is_some();
        assert!(fits(GHCB + 0x800, 2032) && fits(GHCB + 0xfe8, 8));
        for (at, bytes) in [(GHCB + 0x7f8, 16), (GHCB + 0xfe8, 16), (GHCB, 8), (GHCB - 8, 16), (u64::MAX - 3, 8)] {
            assert!(!fits(at, bytes), "{at:#x}");
        }
        assert!(fits(GHCB + 0x1000, 8) && fits(GHCB - 8, 8));
        assert!(!fits(GHCB + 0x1000, SCRATCH_LIMIT + 1));
    }

    #[test]
    fn later_writes_of_the_guest_do_not_change_the_snapshot() {
        let mut machine = Machine::default();
        machine.memory.write_shared(GHCB + page::RAX as u64, &[1; 8]).unwrap();
        let ghcb = Ghcb::read(GHCB, &mut machine.memory).unwrap();
        machine.memory.write_shared(GHCB + page::RAX as u64, &[2; 8]).unwrap();
        machine.memory.write_shared(GHCB + page::USAGE as u64, &[2; 4]).unwrap();
        assert_eq!((ghcb.raw(page::RAX), ghcb.usage()), (0x0101_0101_0101_0101, 0));
    }

    #[test]
    fn nothing_is_read_beyond_what_was_asked_for() {
        let mut machine = Machine::default();
        let scratch = Scratch::new(&with_scratch(GHCB + 0x800), 8).unwrap();
        assert_eq!(scratch.read(&mut machine.memory, 4, &mut [0; 8]), Err(NotShared));
        assert_eq!(scratch.write(&mut machine.memory, u64::MAX, &[0; 8]), Err(NotShared));
    }

    #[test]
    fn answers_are_encoded_as_the_guest_reads_them() {
        assert_eq!(Answer::OK.encode(), (0, 0));
        assert_eq!(Answer::GeneralProtection.encode(), (1, 0x8000_0b0d));
        assert_eq!(Answer::SCRATCH.encode(), (2, 3));
    }
}
