// SPDX-License-Identifier: MIT OR Apache-2.0
//! The image's own memory, as the loader left it: the one place where the core reads memory by address.
//!
//! Nobody but the loader writes there: the pages are Parados's own, out of the guest's reach, and a confidential platform
//! keeps the host away from them.

use core::{ptr, slice};

use image_abi::{IMAGE_BASE, LaunchBlock, MAGIC, REGION_LIMIT, Range};

/// The memory that the image placed, and the launch block in it.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    block: LaunchBlock,
}

impl Image {
    /// The image whose launch block is at `block`; `None` if that is no launch block of ours.
    ///
    /// # Safety
    /// 1. `block` points to the launch block that the image's loader placed.
    /// 2. The ranges that the block gives are mapped at their own addresses, readable, for ever, and nobody writes to the
    ///    setup header, the command line and the parameter areas any more.
    pub unsafe fn at(block: *const LaunchBlock) -> Option<Self> {
        // SAFETY: the caller's first point.
        let block = unsafe { block.read() };
        let ours = block.magic == MAGIC && block.image.start == IMAGE_BASE && block.image.bytes <= REGION_LIMIT;
        ours.then_some(Self { block })
    }

    /// An image that is nothing but its launch block.
    #[cfg(test)]
    pub(crate) const fn of(block: LaunchBlock) -> Self {
        Self { block }
    }

    /// The launch block.
    pub const fn block(&self) -> &LaunchBlock {
        &self.block
    }

    /// The bytes of a range that the launch block names; none if it is empty or not within the image.
    pub(crate) fn bytes(&self, range: &Range) -> &[u8] {
        let image = &self.block.image;
        if range.bytes == 0 || range.start < image.start || range.end() > image.end() {
            return &[];
        }
        let start = ptr::with_exposed_provenance(range.start as usize);
        // SAFETY: the range lies in the image, whose memory the caller of `at` vouched for; it is no longer than
        // `REGION_LIMIT`.
        unsafe { slice::from_raw_parts(start, range.bytes as usize) }
    }
}
