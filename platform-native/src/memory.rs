// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory, through Parados's identity map of all RAM.
//!
//! Other processors of the guest may write what is copied here at any time, so the copies are made by instructions that
//! the compiler cannot see into, and nothing is read twice.

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use platform::{Gpa, GuestMemory, MemoryError, RamMap, Visibility};

/// The guest's memory; knows which addresses are the guest's.
pub struct NativeMemory {
    ram: RamMap,
}

impl NativeMemory {
    pub(crate) const fn new(ram: RamMap) -> Self {
        Self { ram }
    }

    /// The guest's memory, without Parados's own.
    pub(crate) const fn ram(&self) -> &RamMap {
        &self.ram
    }

    fn pointer(&self, gpa: Gpa, bytes: usize) -> Result<*mut u8, MemoryError> {
        if self.ram.contains(gpa, bytes as u64) {
            Ok(ptr::with_exposed_provenance_mut(gpa.0 as usize))
        } else {
            Err(MemoryError::NotMemory)
        }
    }
}

impl GuestMemory for NativeMemory {
    fn copy_in(&self, gpa: Gpa, _: Visibility, buffer: &mut [u8]) -> Result<(), MemoryError> {
        if buffer.is_empty() {
            return Ok(());
        }
        let source = self.pointer(gpa, buffer.len())?;
        // SAFETY: `source` is identity-mapped guest RAM for the whole length, checked above; `buffer` is ours.
        unsafe { copy(buffer.as_mut_ptr(), source, buffer.len()) };
        Ok(())
    }

    fn copy_out(&self, gpa: Gpa, _: Visibility, data: &[u8]) -> Result<(), MemoryError> {
        if data.is_empty() {
            return Ok(());
        }
        let target = self.pointer(gpa, data.len())?;
        // SAFETY: `target` is identity-mapped guest RAM for the whole length, checked above; `data` is ours.
        unsafe { copy(target, data.as_ptr(), data.len()) };
        Ok(())
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        _: Visibility,
        width: usize,
        current: u128,
        new: u128,
    ) -> Result<u128, MemoryError> {
        if !matches!(width, 1 | 2 | 4 | 8 | 16) || !gpa.0.is_multiple_of(width as u64) {
            return Err(MemoryError::NotMemory);
        }
        let at = self.pointer(gpa, width)?;
        macro_rules! exchange {
            ($atomic:ty, $int:ty) => {{
                // SAFETY: `at` is valid and aligned for this width, checked above, and RAM is never unmapped.
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
            // SAFETY: `at` is valid and aligned to 16 bytes, checked above.
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

#[cfg(test)]
mod tests {
    use super::*;
    use platform::PageRange;

    #[repr(align(4096))]
    struct Page(#[allow(dead_code, reason = "reached by address alone")] [u8; 4096]);

    fn memory() -> (&'static mut Page, NativeMemory, Gpa) {
        let page = Box::leak(Box::new(Page([0; 4096])));
        let gpa = Gpa(ptr::from_mut(page).expose_provenance() as u64);
        let mut ram = RamMap::default();
        ram.push(PageRange::new(gpa, Gpa(gpa.0 + 4096)).unwrap()).unwrap();
        (page, NativeMemory::new(ram), gpa)
    }

    #[test]
    fn copies_of_every_length_arrive() {
        let (_page, memory, gpa) = memory();
        for bytes in 0..40 {
            let data: Vec<u8> = (0..bytes).map(|n| n as u8 + 1).collect();
            memory.copy_out(Gpa(gpa.0 + 3), Visibility::Private, &data).unwrap();
            let mut back = vec![0; data.len()];
            memory.copy_in(Gpa(gpa.0 + 3), Visibility::Private, &mut back).unwrap();
            assert_eq!(back, data);
        }
    }

    #[test]
    fn memory_that_is_not_the_guests_is_refused() {
        let (_page, memory, gpa) = memory();
        let mut byte = [0; 2];
        assert_eq!(memory.copy_in(Gpa(gpa.0 + 4095), Visibility::Private, &mut byte), Err(MemoryError::NotMemory));
        assert_eq!(memory.copy_out(Gpa(gpa.0 - 1), Visibility::Private, &[1]), Err(MemoryError::NotMemory));
        assert_eq!(memory.copy_in(Gpa(u64::MAX), Visibility::Private, &mut byte), Err(MemoryError::NotMemory));
    }

    #[test]
    fn exchanges_of_every_width_compare_and_report() {
        let (_page, memory, gpa) = memory();
        for width in [1, 2, 4, 8, 16] {
            let mask = if width == 16 { u128::MAX } else { (1 << (8 * width)) - 1 };
            let (old, new) = (0, 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10 & mask);
            let at = Gpa(gpa.0 + 32 * width as u64);
            assert_eq!(memory.compare_exchange(at, Visibility::Private, width, old, new), Ok(0));
            assert_eq!(memory.compare_exchange(at, Visibility::Private, width, old, 5), Ok(new));
            assert_eq!(
                memory.compare_exchange(Gpa(at.0 + 1), Visibility::Private, width, new, 0),
                if width == 1 { Ok(0) } else { Err(MemoryError::NotMemory) }
            );
        }
    }
}
