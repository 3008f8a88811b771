// SPDX-License-Identifier: MIT OR Apache-2.0
//! Physical memory through the direct map. Guest RAM is only ever copied to and from; no reference into it exists.

use super::entry::DIRECT;
use super::firmware::Plain;
use core::ptr;
use core::slice;
use reference_host::loader::{GuestRam, OutsideRam};
use reference_host::memory::{GuestMap, Range, Room};
use reference_host::report::Stop;

/// What the boot page tables map.
const BOOT_LIMIT: u64 = 4 << 30;

/// Where a physical address is mapped.
pub(super) fn pointer(address: u64) -> *mut u8 {
    ptr::with_exposed_provenance_mut((DIRECT + address) as usize)
}

/// Copies a structure out of the first 4 GiB.
pub(super) fn read<T: Plain>(address: u64) -> Result<T, Stop> {
    let mut value = T::new_zeroed();
    let bytes = size_of::<T>();
    if address.checked_add(bytes as u64).is_none_or(|end| end > BOOT_LIMIT) {
        return Err(Stop::Machine("the PVH start information points beyond 4 GiB"));
    }
    // SAFETY: the boot tables and the final ones map the first 4 GiB; a read of what is not RAM gives ones. The source is
    // not `value`, and any bytes are a valid `T`.
    unsafe { ptr::copy_nonoverlapping(pointer(address), value.as_mut_bytes().as_mut_ptr(), bytes) };
    Ok(value)
}

/// The memory above the guest's RAM that this program uses besides its own block.
pub(super) struct Above {
    /// The IGVM file.
    pub(super) image: &'static [u8],
    /// Room for the bitmap of placed pages.
    pub(super) bitmap: &'static mut [u8],
}

impl Above {
    /// Moves the file out of the guest's way. Called once, after the program has moved: the final tables map it all.
    pub(super) fn claim(room: &Room, image: Range) -> Self {
        let bytes = image.bytes() as usize;
        let target = pointer(room.image.start);
        if room.image != image {
            // SAFETY: both ranges are mapped RAM; the target is free by `Room::plan`, and may overlap the source.
            unsafe { ptr::copy(pointer(image.start), target, bytes) };
        }
        // SAFETY: `Room::plan` keeps the file, the bitmap, the program and the guest's RAM apart, and `GuestMemory` writes
        // only the latter, so the file does not change any more.
        let image = unsafe { slice::from_raw_parts(target, bytes) };
        // SAFETY: the same; this is the only reference, because `claim` is called once.
        let bitmap = unsafe { slice::from_raw_parts_mut(pointer(room.bitmap.start), room.bitmap.bytes() as usize) };
        Self { image, bitmap }
    }
}

/// Words that are compared at once.
const LINE: usize = 8;

/// The guest's RAM.
pub(super) struct GuestMemory {
    map: GuestMap,
}

impl GuestMemory {
    /// The RAM that `map` describes, which `Room::plan` has found to exist.
    pub(super) const fn new(map: GuestMap) -> Self {
        Self { map }
    }
}

impl GuestMemory {
    /// Copies out of the guest's RAM.
    pub(super) fn copy_from(&self, gpa: u64, into: &mut [u8]) -> Result<(), OutsideRam> {
        if !self.map.contains(gpa, into.len() as u64) {
            return Err(OutsideRam);
        }
        // SAFETY: as in `write`, the other way round.
        unsafe { ptr::copy_nonoverlapping(pointer(gpa), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Where the guest's RAM differs from some bytes, whole words of eight of them: the offset of the first such word. Nothing
    /// is copied, and no word is read twice but one that differs.
    pub(super) fn difference(&self, gpa: u64, bytes: &[u8]) -> Result<Option<usize>, OutsideRam> {
        let (words, _) = bytes.as_chunks::<8>();
        if !self.map.contains(gpa, size_of_val(words) as u64) {
            return Err(OutsideRam);
        }
        let found = pointer(gpa).cast::<u64>();
        let changed = |at: usize, word: &[u8; 8]| {
            // SAFETY: as in `write`; the check has covered as many words as there are. The address need not be aligned.
            let found = unsafe { found.wrapping_add(at).read_unaligned() };
            found ^ u64::from_ne_bytes(*word)
        };
        // One branch for several words: nearly always there is no change at all.
        let (lines, _) = words.as_chunks::<LINE>();
        let same = lines.iter().zip((0..).step_by(LINE)).take_while(|([a, b, c, d, e, f, g, h], at)| {
            let low = changed(*at, a) | changed(at + 1, b) | changed(at + 2, c) | changed(at + 3, d);
            low | changed(at + 4, e) | changed(at + 5, f) | changed(at + 6, g) | changed(at + 7, h) == 0
        });
        let mut rest = words.iter().enumerate().skip(same.count() * LINE);
        Ok(rest.find(|(at, word)| changed(*at, word) != 0).map(|(word, _)| word * 8))
    }
}

impl GuestRam for GuestMemory {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), OutsideRam> {
        if !self.map.contains(gpa, bytes.len() as u64) {
            return Err(OutsideRam);
        }
        // SAFETY: the target is the guest's RAM by the check, and mapped; Rust objects never lie there, `bytes` included.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), pointer(gpa), bytes.len()) };
        Ok(())
    }

    fn zero(&mut self, gpa: u64, bytes: u64) -> Result<(), OutsideRam> {
        if !self.map.contains(gpa, bytes) {
            return Err(OutsideRam);
        }
        // SAFETY: as in `write`.
        unsafe { ptr::write_bytes(pointer(gpa), 0, bytes as usize) };
        Ok(())
    }

    fn read(&self, gpa: u64) -> Result<u64, OutsideRam> {
        if !self.map.contains(gpa, 8) {
            return Err(OutsideRam);
        }
        // SAFETY: as in `write`; the address need not be aligned.
        Ok(unsafe { ptr::read_unaligned(pointer(gpa).cast::<u64>()) })
    }
}
