// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that touches the machine.

mod console;
mod enter;
mod entry;
mod exceptions;
mod firmware;
mod msr;
mod physical;
mod processors;
mod relocate;
mod snp;
mod tdx;

use core::convert::Infallible;
use core::fmt::Write;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use processors::Stacks;
use reference_host::context::Context;
use reference_host::handover::Slot;
use reference_host::image::Image;
use reference_host::loader::{Machine, Platform, load, platform};
use reference_host::memory::{GuestMap, PageSet, Room};
use reference_host::processors::Processors;
use reference_host::report::Stop;

/// A stack on which a native image is entered, or an INIT from it waited for.
const NATIVE_STACK: u64 = 16 << 10;

/// Called by the entry code, on the boot stack, with the boot page tables.
extern "C" fn host_main(start_info: u64) -> ! {
    exceptions::install();
    match run(start_info) {
        Ok(never) => match never {},
        Err(stop) => console::stop(&stop),
    }
}

fn run(start_info: u64) -> Result<Infallible, Stop> {
    let boot = firmware::boot_parameters(start_info)?;
    let (ram, count) = firmware::ram()?;
    let map = GuestMap::new(boot.options.memory);
    let room = Room::plan(ram.get(..count).unwrap_or(&[]), &map, boot.image)?;
    let vm = Processors::choose(firmware::processors(), boot.options.processors)?;
    let machine = Machine { map, processors: vm.count };

    relocate::move_program(room.block, room.image.end.max(room.bitmap.end).max(room.rest.end))?;
    let above = physical::Above::claim(&room, boot.image);
    let mut placed = PageSet::new(map, above.bitmap);
    let mut guest = physical::GuestMemory::new(map);

    let image = Image::parse(above.image)?;
    let platform = platform(&image, boot.options.platform)?;
    if platform == Platform::Snp {
        return snp::run(&image, machine, vm, &boot.options, &room, &mut placed);
    }
    if platform == Platform::Tdx {
        return tdx::run(&image, machine, &boot.options, &room, &mut placed);
    }
    if boot.options.hostile.is_some() {
        return Err(Stop::Machine("hostile= in -append needs an SNP image"));
    }
    let context = load(&image, &machine, &mut guest, &mut placed)?;
    let slot = Slot::find(&guest, &context)?;
    let rip = context.registers().rip;
    // A console that cannot be written to has nowhere to report that.
    let _ = writeln!(
        console::Console,
        "[host] native image, {} MiB, {} processors: entering at {rip:#x}",
        boot.options.memory >> 20,
        machine.processors
    );
    firmware::silence_interrupt_controllers();
    let (stacks, _) = Stacks::take(&vm, NATIVE_STACK, room.rest)?;
    let handover = Handover { map, context, slot, block: room.block };
    HANDOVER.store((&raw const handover).cast_mut(), Ordering::Release);
    processors::run(vm, stacks, &mut guest, enter_native)
}

/// What the VM's boot processor enters a native image with.
struct Handover {
    map: GuestMap,
    context: Context,
    slot: Slot,
    block: u64,
}

static HANDOVER: AtomicPtr<Handover> = AtomicPtr::new(ptr::null_mut());

/// A processor of a native VM. All but the first wait for the image to start them.
fn enter_native(number: u32) -> ! {
    if number != 0 {
        processors::rest();
    }
    // SAFETY: `run` stored it before it started the processors, and does not return.
    let Handover { map, context, slot, block } = unsafe { &*HANDOVER.load(Ordering::Acquire) };
    match enter::enter(&mut physical::GuestMemory::new(*map), context, *slot, *block) {
        Ok(never) => match never {},
        Err(stop) => console::stop(&stop),
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::stop(&Stop::Panic(info.location().map_or(0, core::panic::Location::line)))
}
