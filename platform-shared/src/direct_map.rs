// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory, through Parados's identity map of all RAM.
//!
//! Other processors of the guest may write what is copied here at any time, so the copies are made by instructions that
//! the compiler cannot see into, and nothing is read twice.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use platform::{Gpa, GuestMemory, Hold, MemoryError, Visibility};

/// What of the identity map is the guest's.
///
/// # Safety
/// A pointer that [`Self::pointer`] gives leads to guest RAM in that view and stays mapped for ever. While it is held, it is valid
/// for all of the bytes, and none of them is Parados's own.
pub unsafe trait Reach {
    /// Where `bytes` bytes at `gpa` are, and what keeps them there.
    fn pointer(&self, gpa: Gpa, view: Visibility, bytes: usize) -> Result<(*mut u8, Hold<'_>), MemoryError>;
}

/// The guest's memory.
pub struct DirectMap<R>(R);

impl<R> DirectMap<R> {
    /// The memory that `reach` reaches.
    pub const fn new(reach: R) -> Self {
        Self(reach)
    }

    /// What is the guest's.
    pub const fn reach(&self) -> &R {
        &self.0
    }
}

impl<R: Reach> GuestMemory for DirectMap<R> {
    fn copy_in(&self, gpa: Gpa, view: Visibility, buffer: &mut [u8]) -> Result<(), MemoryError> {
        if buffer.is_empty() {
            return Ok(());
        }
        let (source, _hold) = self.0.pointer(gpa, view, buffer.len())?;
        // SAFETY: `source` is guest RAM for the whole length, which is held; `buffer` is ours.
        unsafe { copy(buffer.as_mut_ptr(), source, buffer.len()) };
        Ok(())
    }

    fn copy_out(&self, gpa: Gpa, view: Visibility, data: &[u8]) -> Result<(), MemoryError> {
        if data.is_empty() {
            return Ok(());
        }
        let (target, _hold) = self.0.pointer(gpa, view, data.len())?;
        // SAFETY: `target` is guest RAM for the whole length, which is held; `data` is ours.
        unsafe { copy(target, data.as_ptr(), data.len()) };
        Ok(())
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        view: Visibility,
        width: usize,
        current: u128,
        new: u128,
    ) -> Result<u128, MemoryError> {
        if !matches!(width, 1 | 2 | 4 | 8 | 16) || !gpa.0.is_multiple_of(width as u64) {
            return Err(MemoryError::NotMemory);
        }
        let (at, _hold) = self.0.pointer(gpa, view, width)?;
        macro_rules! exchange {
            ($atomic:ty, $int:ty) => {{
                // SAFETY: `at` is valid and aligned for this width, checked above, and held.
                let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
                let found = cell.compare_exchange(current as $int, new as $int, Ordering::SeqCst, Ordering::SeqCst);
                u128::from(found.unwrap_or_else(|found| found))
            }};
        }
        Ok(match width {
            1 => exchange!(AtomicU8, u8),
            2 => exchange!(AtomicU16, u16),
            4 => exchange!(AtomicU32, u32),
            8 => exchange!(AtomicU64, u64),
            // SAFETY: `at` is valid and aligned to 16 bytes, checked above, and held.
            _ => unsafe { compare_exchange_16(at, current, new) },
        })
    }
}

/// Copies bytes one of whose ends the guest may be writing.
///
/// # Safety
/// Both pointers are valid for `bytes` bytes and do not overlap.
unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) {
    match bytes {
        // SAFETY: the pointers are valid for the width; MOV has no alignment rule.
        4 => unsafe {
            asm!("mov {t:e}, [{from}]", "mov [{to}], {t:e}", t = out(reg) _, from = in(reg) from, to = in(reg) to, options(nostack, preserves_flags));
        },
        // SAFETY: as above.
        8 => unsafe {
            asm!("mov {t}, [{from}]", "mov [{to}], {t}", t = out(reg) _, from = in(reg) from, to = in(reg) to, options(nostack, preserves_flags));
        },
        // SAFETY: as above, for the whole length; the direction flag is clear by the calling convention.
        _ => unsafe {
            asm!("rep movsb", inout("rcx") bytes => _, inout("rsi") from => _, inout("rdi") to => _, options(nostack, preserves_flags));
        },
    }
}

/// LOCK CMPXCHG16B, which the compiler offers no stable name for.
///
/// # Safety
/// `at` is valid for 16 bytes and aligned to 16.
unsafe fn compare_exchange_16(at: *mut u8, current: u128, new: u128) -> u128 {
    let (mut low, mut high) = (current as u64, (current >> 64) as u64);
    // SAFETY: the caller vouches for `at`. RBX is the compiler's, so it is swapped in and out around the instruction.
    unsafe {
        asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b [{at}]",
            "xchg rbx, {new_low}",
            new_low = inout(reg) new as u64 => _,
            at = in(reg) at,
            inout("rax") low,
            inout("rdx") high,
            in("rcx") (new >> 64) as u64,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}
