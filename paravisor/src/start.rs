// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the first instruction to the guest's.
//!
//! The loader has entered long mode with the image's page tables, a stack, and the launch block's address in RDI; so there
//! is nothing to do in assembly but to call Rust with an aligned stack.

use alloc::vec::Vec;
use core::arch::x86_64::{__cpuid_count, _rdtsc};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicPtr, Ordering};

extern crate alloc;

use image_abi::{LaunchBlock, canary, flag};
use log::LevelFilter;
use paravisor_core::{Image, Launch, Machine, Vcpu};
use platform::{Clock, Platform, Reason, Termination};
use platform_native::{Measurement, Native, emergency, prepare};
use vc_handlers::cpuid::Registers;

use crate::heap;

core::arch::global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    "    xor ebp, ebp",
    "    and rsp, -16",
    "    call {start}",
    "    ud2",
    ".text",
    start = sym start,
);

/// The machine, for the processors that join later.
static MACHINE: AtomicPtr<Machine<Native>> = AtomicPtr::new(core::ptr::null_mut());

extern "C" fn start(block: *const LaunchBlock) -> ! {
    let native = build(block);
    if let Err(error) = native.start_others(run) {
        give_up(error.reason(), 2);
    }
    run(native, 0)
}

/// Builds the machine. A function of its own, so that its large frame is gone when the guest runs.
#[inline(never)]
fn build(block: *const LaunchBlock) -> &'static Native {
    // SAFETY: RDTSC has no side effect.
    let tsc = unsafe { _rdtsc() };
    // SAFETY: the loader passes the launch block's address and has placed the image, which its own tables map; none of the
    // ranges that the core reads is written to from here on.
    let Some(image) = (unsafe { Image::at(block) }) else { give_up(Reason::BadLaunchBlock, 0) };
    let launch = match Launch::read(&image) {
        Ok(launch) => launch,
        Err(error) => give_up(error.reason(), 0),
    };
    let level = if launch.block.has(flag::DEBUG_LOG) { LevelFilter::Info } else { LevelFilter::Off };
    platform_native::early(level);
    // SAFETY: the range follows the image within Parados's region, which nothing else uses; called once.
    unsafe { heap::initialise(launch.heap()) };
    let measurement = Measurement::begin();
    // The decoder's tables take longer to build than everything else, and the measurement wants a while.
    vc_handlers::emulate::initialise();
    let canary = launch.block.has(flag::CANARY).then(plant_canary);
    #[cfg(feature = "planted-leak")]
    platform_native::expose(canary.map_or(0, |canary| canary.0.as_ptr().addr() as u64));
    let (native, pages) = match prepare(launch.ram, launch.processors, tsc, measurement) {
        Ok(parts) => parts,
        Err(error) => give_up(error.reason(), 0),
    };
    let machine = match Machine::new(native, pages, &image, &launch, &raw_cpuid) {
        Ok(machine) => leak(machine),
        Err(error) => give_up(error.reason(), 1),
    };
    MACHINE.store(machine, Ordering::Release);
    if let Some(Canary(words)) = canary {
        let (start, words) = (words.as_ptr().addr(), words.len());
        native.record(format_args!("{{\"canary\":{{\"start\":{start},\"words\":{words}}}}}"));
    }
    report(&launch, native, tsc);
    native
}

/// Runs vCPU `index` on this processor.
fn run(native: &'static Native, index: u32) -> ! {
    // SAFETY: `start` stored a leaked machine before any processor came here.
    let machine: &'static Machine<Native> = unsafe { &*MACHINE.load(Ordering::Acquire) };
    let cpu = match native.processor(index) {
        Ok(cpu) => cpu,
        Err(error) => give_up(error.reason(), u64::from(index)),
    };
    match Vcpu::new(machine, index, cpu) {
        Some(vcpu) => vcpu.run(),
        None => give_up(Reason::ProcessorStart, u64::from(index)),
    }
}

/// The processor model's CPUID is the hardware's own.
fn raw_cpuid(leaf: u32, subleaf: u32) -> Registers {
    let result = __cpuid_count(leaf, subleaf);
    Registers { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
}

/// A page of words for which tests look: from inside, where they must not be found, and from outside, where they must be
/// as they were.
#[repr(C, align(4096))]
struct Canary([u64; canary::WORDS as usize]);

/// Leaves a canary between Parados's own structures.
#[inline(never)]
fn plant_canary() -> &'static Canary {
    let mut words = [0; canary::WORDS as usize];
    (0..).zip(&mut words).for_each(|(index, word)| *word = canary::word(index));
    leak(Canary(words))
}

/// Figures for whoever started the VM.
fn report(launch: &Launch, native: &Native, tsc: u64) {
    let clock = native.clock();
    native.record(format_args!(
        "{{\"memory\":{{\"private_bytes\":{},\"heap_free_bytes\":{},\"image_bytes\":{}}}}}",
        launch.private_bytes(),
        heap::free(),
        launch.block.image.bytes
    ));
    native.record(format_args!(
        "{{\"start\":{{\"entry_tsc\":{tsc},\"guest_tsc\":{},\"tsc_hz\":{}}}}}",
        tsc.wrapping_add(clock.guest_tsc()),
        clock.tsc_hz()
    ));
}

fn give_up(reason: Reason, detail: u64) -> ! {
    emergency(format_args!("error: {reason}, step {detail}"));
    platform_native::end(Termination::Fatal(reason, detail))
}

/// Puts `value` on the heap for ever.
fn leak<T>(value: T) -> &'static mut T {
    let mut room = Vec::new();
    if room.try_reserve_exact(1).is_err() {
        give_up(Reason::OutOfMemory, 3);
    }
    room.push(value);
    match room.leak() {
        [value] => value,
        _ => give_up(Reason::OutOfMemory, 3),
    }
}

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    emergency(format_args!("error: {information}"));
    let line = information.location().map_or(0, |location| u64::from(location.line()));
    platform_native::end(Termination::Fatal(Reason::Panic, line))
}
