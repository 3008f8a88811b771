// SPDX-License-Identifier: MIT OR Apache-2.0
//! The start in a TD, where no guest runs yet: all that a launch can get wrong is found, the payload is judged, the other processors
//! are called, and then the VM ends with a reason of its own.
//!
//! When the backend runs guests, `start` takes over.

use image_abi::LaunchBlock;
use paravisor_core::{DigestError, judge_payload};
use platform::Reason;
use platform_tdx::{Placed, TdxMemory};

use crate::opening::{give_up, open};
use crate::{backend, heap};

extern crate alloc;

/// Called by the start code, on the boot processor.
#[unsafe(no_mangle)]
extern "C" fn parados_main(block: *const LaunchBlock) -> ! {
    // SAFETY: the start code passes the launch block's address, which measured pages told it; nothing of the image is written to.
    let (_, launch) = unsafe { open(block) };
    backend::check_attributes(launch.block.td_attributes);
    let memory = match backend::take_memory(launch.heap()) {
        Ok(memory) => memory,
        Err(error) => give_up(error.reason(), 3),
    };
    // SAFETY: the range follows the image within Parados's region, which nothing else uses; called once.
    unsafe { heap::initialise(memory) };
    // SAFETY: this is the launch block's own list.
    let guest = TdxMemory::new(unsafe { Placed::new(launch.block.placed) });
    let hashed = match judge_payload(&guest, &launch.block) {
        Ok(bytes) => bytes,
        Err(DigestError::Mismatch(_)) => give_up(Reason::PayloadMismatch, 1),
        Err(DigestError::Memory) => give_up(Reason::BadMemoryMap, 1),
    };
    if let Err((error, processor)) = backend::start_others(&launch.block, launch.processors) {
        let reason = error.reason();
        give_up(reason, reason.detail_of_processor(processor));
    }
    log::info!(
        "attributes as the policy says, {hashed} bytes of the payload judged, {} processors, {} bytes of heap left",
        launch.processors,
        heap::free()
    );
    give_up(Reason::NoGuestYet, 0)
}
