// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which memory is the guest's.

use core::ptr;

use platform::{Gpa, Hold, MemoryError, PageViews, RamMap, Visibility};
use platform_shared::direct_map::{DirectMap, Reach};

/// The guest's memory, without Parados's own.
pub type NativeMemory = DirectMap<GuestRam>;

/// The guest's RAM, and which of it is shared. Both views are the same memory here; who asks for a page in the wrong one is
/// refused all the same, as where it would be another page.
pub struct GuestRam {
    pub(crate) ram: RamMap,
    pub(crate) views: Option<PageViews>,
}

// SAFETY: the RAM is identity-mapped and never unmapped, and the map leaves Parados's own memory out.
unsafe impl Reach for GuestRam {
    #[inline]
    fn pointer(&self, gpa: Gpa, view: Visibility, bytes: usize) -> Result<(*mut u8, Hold<'_>), MemoryError> {
        let hold = Hold::new(&self.ram, self.views.as_ref(), gpa, bytes as u64, view)?;
        Ok((ptr::with_exposed_provenance_mut(hold.at.0 as usize), hold))
    }
}

#[cfg(test)]
mod tests {
    use platform::{GuestMemory, PageRange};

    use super::*;

    #[repr(align(4096))]
    struct Page(#[allow(dead_code, reason = "reached by address alone")] [u8; 4096]);

    fn memory() -> (&'static mut Page, NativeMemory, Gpa) {
        let page = Box::leak(Box::new(Page([0; 4096])));
        let gpa = Gpa(ptr::from_mut(page).expose_provenance() as u64);
        let mut ram = RamMap::default();
        ram.push(PageRange::new(gpa, Gpa(gpa.0 + 4096)).unwrap()).unwrap();
        (page, NativeMemory::new(GuestRam { ram, views: None }), gpa)
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

    /// What is for the host must not be read or left where the guest keeps its secrets, nor the other way round.
    #[test]
    fn a_buffer_for_the_host_is_no_private_page() {
        let gpa = Gpa(0x5000);
        let mut ram = RamMap::default();
        ram.push(PageRange::new(Gpa(0), Gpa(0x8000)).unwrap()).unwrap();
        let views = platform_shared::heap::page_views(0x8000).unwrap();
        let page = PageRange::new(gpa, Gpa(0x6000)).unwrap();
        views.begin(page);
        views.finish(page, Visibility::Shared);
        let memory = GuestRam { ram, views: Some(views) };
        let shared = |gpa: u64| Gpa(gpa | platform::SHARED_BIT);
        assert_eq!(memory.pointer(shared(0x5008), Visibility::Shared, 8).unwrap().0.addr(), 0x5008);
        assert_eq!(memory.pointer(Gpa(0x4008), Visibility::Private, 8).unwrap().0.addr(), 0x4008);
        for (gpa, view) in [
            (gpa, Visibility::Private),
            (gpa, Visibility::Shared),
            (Gpa(0x4000), Visibility::Shared),
            (shared(0x4000), Visibility::Shared),
            (shared(0x5000), Visibility::Private),
        ] {
            assert_eq!(memory.pointer(gpa, view, 8).err(), Some(MemoryError::NotMemory), "{gpa:?} {view:?}");
        }
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
