// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first steps of the image, which are the same whatever becomes of it, and its giving up.

use image_abi::LaunchBlock;
use paravisor_core::{Image, Launch};
use platform::{Reason, Termination};

use crate::{backend, crash, journal};

/// Leads exceptions to the crash record, and reads what the image and the host say about the launch.
///
/// # Safety
/// `block` is the launch block's address, which the start code passes. The image is placed and its own tables map it, and none of
/// the ranges that the core reads is written to from here on. Called once.
pub(crate) unsafe fn open(block: *const LaunchBlock) -> (Image, Launch) {
    backend::early(crash::exception);
    // SAFETY: as the caller promises.
    let Some(image) = (unsafe { Image::at(block) }) else { give_up(Reason::BadLaunchBlock, 0) };
    let launch = match Launch::read(&image) {
        Ok(launch) => launch,
        Err(reason) => give_up(reason, 0),
    };
    journal::initialise(&launch.block);
    (image, launch)
}

/// Ends the VM because the start cannot go on. `detail` is its step where the reason's detail says so.
pub(crate) fn give_up(reason: Reason, detail: u64) -> ! {
    log::error!("{reason}, detail {detail:#x}");
    backend::Ending::end(Termination::Fatal(reason, detail))
}
