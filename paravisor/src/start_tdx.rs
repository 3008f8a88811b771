// SPDX-License-Identifier: MIT OR Apache-2.0
//! The start in a TD, where no guest runs yet: all that a launch can get wrong is found, the payload is judged, the other processors
//! are called, and then the VM ends with a reason of its own.
//!
//! When the backend runs guests, `start` takes over.

use image_abi::LaunchBlock;
use paravisor_core::{DigestError, Image, Launch, judge_payload};
use platform::{Reason, Termination};
use platform_tdx::{Placed, TdxMemory};

use crate::{backend, crash, heap, journal};

extern crate alloc;

/// Called by the start code, on the boot processor.
#[unsafe(no_mangle)]
extern "C" fn parados_main(block: *const LaunchBlock) -> ! {
    backend::early(crash::exception);
    // SAFETY: the start code passes the launch block's address, which measured pages told it; the image's own tables map what it
    // names, and none of the ranges that the core reads is written to from here on.
    let Some(image) = (unsafe { Image::at(block) }) else { give_up(Reason::BadLaunchBlock, 0) };
    let launch = match Launch::read(&image) {
        Ok(launch) => launch,
        Err(error) => give_up(error.reason(), 0),
    };
    journal::initialise(&launch.block);
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
        give_up(reason, if reason == Reason::ProcessorMemory { processor.into() } else { 2 });
    }
    log::info!(
        "attributes as the policy says, {hashed} bytes of the payload judged, {} processors, {} bytes of heap left",
        launch.processors,
        heap::free()
    );
    give_up(Reason::NoGuestYet, 0)
}

fn give_up(reason: Reason, detail: u64) -> ! {
    log::error!("{reason}, detail {detail:#x}");
    backend::end(Termination::Fatal(reason, detail))
}
