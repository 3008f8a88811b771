// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an image for TDX has besides its pages: the platform, and the page at the reset vector.
//!
//! All processors of a TD start at FFFFFFF0h, in 32-bit mode without paging (TDXBASE, initial state of TD vCPUs), and the format
//! has no way to say otherwise. So the paravisor brings the page of the reset vector along, assembled from its source, and
//! what the code there has to know is put at the start of that page.

use crate::PAGE;
use crate::build::COMPATIBILITY_MASK;
use crate::layout::Layout;
use crate::paravisor::Paravisor;
use igvm::IgvmPlatformHeader;
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPlatformType};
use image_abi::{RESET_MAGIC, RESET_PAGE, ResetParameters};
use zerocopy::IntoBytes;

/// The only version of the platform (IGVM, `IGVM_TDX_PLATFORM_VERSION`).
const VERSION: u16 = 1;

/// The shared bit of a guest-physical address if the TD's addresses have 48 bits: as many as four-level tables of the host have.
const SHARED: u64 = 1 << 47;

pub(crate) fn platform() -> IgvmPlatformHeader {
    IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: COMPATIBILITY_MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::TDX,
        platform_version: VERSION,
        shared_gpa_boundary: SHARED,
    })
}

/// The page at the reset vector, told where to go.
pub(crate) fn reset_page(paravisor: &Paravisor<'_>, layout: &Layout<'_>) -> Option<(u64, Vec<u8>)> {
    // Both lie within the image's region, far below 4 GiB.
    let (entry, launch_block) = (paravisor.entry as u32, layout.launch_block as u32);
    let parameters = ResetParameters { magic: RESET_MAGIC, entry, launch_block };
    let mut page = paravisor.reset.as_ref()?.to_vec();
    page.resize(PAGE as usize, 0);
    page.iter_mut().zip(parameters.as_bytes()).for_each(|(to, from)| *to = *from);
    Some((RESET_PAGE, page))
}
