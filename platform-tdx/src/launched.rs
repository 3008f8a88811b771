// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the TD was launched as: its attributes, and the memory that was there from the start.
//!
//! Hostile party: the host, which chose both.

use core::ptr;

use image_abi::{PLACED_RANGES, Range};
use platform::{Gpa, Hold, MemoryError, Visibility};
use platform_shared::direct_map::{DirectMap, Reach};
use specs::tdx::attribute;

/// ATTRIBUTES that an image's policy decides. The others say what the processor offers; each of them shows in a report.
pub(crate) const DECIDED: u64 = attribute::DEBUG | attribute::SEPT_VE_DISABLE | attribute::MIGRATABLE;

/// The attributes that are not what the image's policy asks for.
pub const fn wrong_attributes(attributes: u64, wanted: u64) -> u64 {
    (attributes ^ wanted) & DECIDED
}

/// Pages that the launch placed: private memory, accepted, and the guest's.
#[derive(Clone, Copy, Debug)]
pub struct Placed([Range; PLACED_RANGES]);

/// The part of the guest's memory that exists so far.
pub type TdxMemory = DirectMap<Placed>;

impl Placed {
    /// What the launch block lists.
    ///
    /// # Safety
    /// `ranges` is the launch block's list, whose pages are identity-mapped and no part of the image.
    pub const unsafe fn new(ranges: [Range; PLACED_RANGES]) -> Self {
        Self(ranges)
    }
}

// SAFETY: what the launch placed outside of the image is identity-mapped RAM of the guest's, by the duty of `Placed::new`, and
// nothing unmaps it.
unsafe impl Reach for Placed {
    /// All of it in one range: ranges that touch are one in the list.
    fn pointer(&self, gpa: Gpa, view: Visibility, bytes: usize) -> Result<(*mut u8, Hold<'_>), MemoryError> {
        let end = gpa.0.checked_add(bytes as u64).ok_or(MemoryError::NotMemory)?;
        let within = |range: &Range| range.start <= gpa.0 && end <= range.end();
        if view == Visibility::Shared || !self.0.iter().any(within) {
            return Err(MemoryError::NotMemory);
        }
        Ok((ptr::with_exposed_provenance_mut(gpa.0 as usize), Hold::of_fixed(gpa)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_decides_must_be_as_it_says() {
        let (debug, no_ve, migratable, perfmon) = (1, 1 << 28, 1 << 29, 1 << 63);
        assert_eq!(wrong_attributes(0, 0), 0);
        assert_eq!(wrong_attributes(perfmon | no_ve, no_ve), 0);
        assert_eq!(wrong_attributes(debug, 0), debug);
        assert_eq!(wrong_attributes(0, debug), debug);
        assert_eq!(wrong_attributes(migratable, no_ve), no_ve | migratable);
    }

    #[test]
    fn only_what_the_launch_placed_is_reached_and_only_as_private_memory() {
        let mut ranges = [Range::default(); PLACED_RANGES];
        ranges[0] = Range { start: 0x1000, bytes: 0x2000 };
        ranges[1] = Range { start: 0x8000, bytes: 0x1000 };
        // SAFETY: nothing is read or written here.
        let placed = unsafe { Placed::new(ranges) };
        let reach =
            |gpa, bytes| placed.pointer(Gpa(gpa), Visibility::Private, bytes).map(|(pointer, _)| pointer.addr());
        assert_eq!(reach(0x1000, 0x2000), Ok(0x1000));
        assert_eq!(reach(0x8fff, 1), Ok(0x8fff));
        for (gpa, bytes) in [(0xfff, 2), (0x2fff, 2), (0x5000, 1), (0x1000, 0x8000), (0, 1), (u64::MAX, 2)] {
            assert_eq!(reach(gpa, bytes), Err(MemoryError::NotMemory), "{bytes} bytes at {gpa:#x}");
        }
        assert_eq!(placed.pointer(Gpa(0x1000), Visibility::Shared, 1).err(), Some(MemoryError::NotMemory));
    }
}
