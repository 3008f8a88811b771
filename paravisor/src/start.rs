// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the first instruction to the guest's.
//!
//! The loader, or the platform's own start code, has entered long mode with the image's page tables, a stack, and the launch
//! block's address in RDI; so there is nothing to do in assembly but to call Rust with an aligned stack.

use alloc::vec::Vec;
use core::arch::x86_64::_rdtsc;
use core::fmt;
use core::sync::atomic::{AtomicPtr, Ordering};

extern crate alloc;

use image_abi::{LaunchBlock, canary, flag};
use paravisor_core::{Hashed, Launch, Machine, Vcpu, attest};
use platform::{Clock, Outbound, Platform, Reason, Releasable};
use vc_handlers::cpuid::Registers;

use crate::backend::{self, Measurement, prepare, take_memory};
use crate::journal::JOURNAL;
use crate::opening::{give_up, open};
use crate::{Backend, heap};

#[cfg(not(feature = "snp"))]
core::arch::global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    "    xor ebp, ebp",
    "    and rsp, -16",
    "    call parados_main",
    "    ud2",
    ".text",
);

/// The machine, for the processors that join later.
static MACHINE: AtomicPtr<Machine<Backend>> = AtomicPtr::new(core::ptr::null_mut());

/// Called by the start code.
#[unsafe(no_mangle)]
extern "C" fn parados_main(block: *const LaunchBlock) -> ! {
    let native = build(block);
    if let Err(error) = native.start_others(run) {
        give_up(error.reason(), 2);
    }
    run(native, 0)
}

/// Builds the machine. A function of its own, so that its large frame is gone when the guest runs.
#[inline(never)]
fn build(block: *const LaunchBlock) -> &'static Backend {
    // SAFETY: RDTSC has no side effect.
    let tsc = unsafe { _rdtsc() };
    // SAFETY: the loader passes the launch block's address and has placed the image; nothing of it is written to.
    let (image, launch) = unsafe { open(block) };
    let memory = match take_memory(&launch.block, launch.heap()) {
        Ok(memory) => memory,
        Err(error) => give_up(error.reason(), 3),
    };
    // SAFETY: the range follows the image within Parados's region, which nothing else uses; called once.
    unsafe { heap::initialise(memory) };
    let measurement = Measurement::begin();
    // The decoder's tables take longer to build than everything else, and the measurement wants a while.
    vc_handlers::emulate::initialise();
    let canary = launch.block.has(flag::CANARY).then(plant_canary);
    #[cfg(feature = "planted-leak")]
    backend::expose(canary.map_or(0, |canary| canary.0.as_ptr().addr() as u64));
    let (native, pages) = match prepare(launch.ram, &launch.block, launch.processors, tsc, measurement) {
        Ok(parts) => parts,
        Err(error) => give_up(error.reason(), 0),
    };
    let machine = match Machine::new(native, pages, &image, &launch, &raw_cpuid, &JOURNAL) {
        Ok(machine) => leak(machine),
        Err(reason) => give_up(reason, 1),
    };
    let hashed = machine.hashed();
    MACHINE.store(machine, Ordering::Release);
    if let Some(Canary(words)) = canary {
        let (start, words) = (words.as_ptr().addr(), words.len());
        native.record(Outbound::released(&CanaryPlace { start, words }));
    }
    report(&launch, native, tsc, hashed);
    attest(native);
    native
}

/// Runs vCPU `index` on this processor.
fn run(native: &'static Backend, index: u32) -> ! {
    // SAFETY: `start` stored a leaked machine before any processor came here.
    let machine: &'static Machine<Backend> = unsafe { &*MACHINE.load(Ordering::Acquire) };
    let cpu = match native.processor(index) {
        Ok(cpu) => cpu,
        Err(error) => {
            let reason = error.reason();
            give_up(reason, reason.detail_of_processor(index))
        }
    };
    match Vcpu::new(machine, index, cpu) {
        Some(vcpu) => vcpu.run(),
        None => give_up(Reason::NoVcpu, u64::from(index)),
    }
}

/// The processor model's CPUID.
fn raw_cpuid(leaf: u32, subleaf: u32) -> Registers {
    let [eax, ebx, ecx, edx] = backend::cpuid(leaf, subleaf);
    Registers { eax, ebx, ecx, edx }
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

/// Where the canary lies.
struct CanaryPlace {
    start: usize,
    words: usize,
}

impl fmt::Display for CanaryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{\"canary\":{{\"start\":{},\"words\":{}}}}}", self.start, self.words)
    }
}

/// Whoever asked for a canary wants to find it, and it hides nothing.
impl Releasable for CanaryPlace {}

/// Figures for whoever started the VM.
fn report(launch: &Launch, native: &Backend, tsc: u64, hashed: Hashed) {
    let clock = native.clock();
    let (private, free, image) = (launch.private_bytes(), heap::free(), launch.block.image.bytes);
    native.record(Outbound::released(&MemoryFigures { private, free, image }));
    let guest_tsc = clock.cycles();
    native.record(Outbound::released(&StartFigures { entry_tsc: tsc, guest_tsc, tsc_hz: clock.tsc_hz(), hashed }));
}

/// What Parados takes of the VM's memory.
struct MemoryFigures {
    private: u64,
    free: usize,
    image: u64,
}

impl fmt::Display for MemoryFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{\"memory\":{{\"private_bytes\":{},\"heap_free_bytes\":{}", self.private, self.free)?;
        write!(f, ",\"image_bytes\":{}}}}}", self.image)
    }
}

/// Follows from the image and from what the host gave the VM.
impl Releasable for MemoryFigures {}

/// When what happened during the start.
struct StartFigures {
    entry_tsc: u64,
    guest_tsc: u64,
    tsc_hz: u64,
    hashed: Hashed,
}

impl fmt::Display for StartFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{\"start\":{{\"entry_tsc\":{},\"guest_tsc\":{}", self.entry_tsc, self.guest_tsc)?;
        write!(f, ",\"tsc_hz\":{}", self.tsc_hz)?;
        let Hashed { bytes, nanoseconds } = self.hashed;
        write!(f, ",\"hashed_bytes\":{bytes},\"hashed_ns\":{nanoseconds}}}}}")
    }
}

/// The host starts the VM and sees when it begins to work.
impl Releasable for StartFigures {}

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
