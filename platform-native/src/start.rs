// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start-up: QEMU's own hardware made quiet and ours, SVM on, nested tables built, the other processors running.

use alloc::alloc::Layout;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::AtomicU64;

use image_abi::{LaunchBlock, flag};
use platform::{MemoryError, PageRange, RamMap, Reason, Termination};
use platform_shared::clock::{self, TscClock};
use platform_shared::descriptor::Descriptors;
use platform_shared::exceptions::{OnException, set_handler};
use platform_shared::heap::page_views;
use platform_shared::own_tables;
use specs::vmcb::{MSR_VM_CR, MSR_VM_HSAVE_PA, VM_CR_SVMDIS, Vmcb};
use svm::NestedTables;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;

use crate::clock::Measurement;
use crate::console::CONSOLES;
use crate::cpu::NativeCpu;
use crate::ending::{Ending, QemuExit};
use crate::interrupts::{DescriptorTable, descriptor_table};
use crate::machine::{HeapTables, Native, NativePages, Parts};
use crate::memory::{GuestRam, NativeMemory};
use crate::{apic, port, power_button, smp};

/// CPUID 8000_0001h ECX: SVM.
const SVM: u32 = 1 << 2;
/// CPUID 8000_0001h EDX: 1 GiB pages.
const HUGE_PAGES: u32 = 1 << 26;
/// CPUID 1 ECX: XSAVE.
const XSAVE: u32 = 1 << 26;
/// QEMU's IOAPIC.
const IOAPIC: usize = 0xfec0_0000;

/// Why the platform cannot run a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// The processor has no SVM, or firmware locked it.
    NoSvm,
    /// The TSC's frequency could not be measured.
    NoTimer,
    /// The heap does not suffice.
    OutOfMemory,
    /// The heap does not suffice for one processor.
    ProcessorMemory,
    /// Another processor did not come up.
    ProcessorStart,
}

impl StartError {
    /// The reason that the host is told.
    pub const fn reason(self) -> Reason {
        match self {
            Self::NoSvm => Reason::MissingFeature,
            Self::NoTimer => Reason::NoClock,
            Self::OutOfMemory => Reason::OutOfMemory,
            Self::ProcessorMemory => Reason::ProcessorMemory,
            Self::ProcessorStart => Reason::ProcessorStart,
        }
    }
}

impl From<MemoryError> for StartError {
    fn from(_: MemoryError) -> Self {
        Self::OutOfMemory
    }
}

/// Leads exceptions in Parados itself to `on_exception`. First of all.
pub fn early(on_exception: OnException) {
    set_handler(on_exception);
}

/// Memory behind the image for the heap. Here it is all of it, as it is.
pub const fn take_memory(_: &LaunchBlock, range: PageRange) -> Result<PageRange, StartError> {
    Ok(range)
}

/// CPUID as the hardware answers it: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = __cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// The page that [`expose`] was given.
#[cfg(feature = "planted-leak")]
static EXPOSED: AtomicU64 = AtomicU64::new(0);

/// Gives the guest a page of Parados's own memory: a bug on purpose, to show that tests find one. Before [`prepare`].
#[cfg(feature = "planted-leak")]
pub fn expose(page: u64) {
    EXPOSED.store(page, core::sync::atomic::Ordering::Relaxed);
}

/// Takes over the machine and builds the platform for a guest with this memory. Runs once, on the boot processor, with
/// a heap. `tsc` is the time-stamp counter at Parados's start, and `measurement` one that has begun since then.
#[inline(never)]
pub fn prepare(
    ram: RamMap,
    block: &LaunchBlock,
    processors: u32,
    tsc: u64,
    measurement: Measurement,
) -> Result<(&'static Native, NativePages), StartError> {
    if !has_svm() {
        return Err(StartError::NoSvm);
    }
    load_descriptors()?;
    let table: &'static DescriptorTable = Box::leak(boxed(descriptor_table(true))?);
    table.load::<QemuExit>();
    quiet_interrupt_controllers();
    let huge = extended(0x8000_0001).edx & HUGE_PAGES != 0;
    let end = ram.iter().last().map_or(0, |range| range.end().0);
    own_tables::map_up_to(end, huge).map_err(|_| StartError::OutOfMemory)?;
    own_tables::map_first_page().map_err(|_| StartError::OutOfMemory)?;
    uncover_low_memory();
    apic::enable();
    let Ok(()) = CONSOLES.initialise();
    power_button::initialise();
    route_interrupts();
    let clock = measurement.finish(tsc).ok_or(StartError::NoTimer)?;
    let tables = NestedTables::new(HeapTables, huge).ok_or(StartError::OutOfMemory)?;
    let mut pages = NativePages { tables, native: None };
    #[cfg(feature = "planted-leak")]
    {
        let page = EXPOSED.load(core::sync::atomic::Ordering::Relaxed);
        pages.tables.map(page, page, 4096, svm::Rights::all()).map_err(|_| StartError::OutOfMemory)?;
    }
    let views = if block.has(flag::PAGE_CONVERSION) { Some(page_views(end)?) } else { None };
    let mut flushed = Vec::new();
    flushed.try_reserve_exact(processors as usize).map_err(|_| StartError::OutOfMemory)?;
    flushed.resize_with(processors as usize, || AtomicU64::new(0));
    let parts = Parts {
        memory: NativeMemory::new(GuestRam { ram, views }),
        clock,
        processors,
        nested_root: pages.tables.root(),
        descriptor_table: Box::leak(boxed(descriptor_table(false))?),
        has_xsave: basic(1).ecx & XSAVE != 0,
        apic_hz: measure_apic(&clock),
        flushed: flushed.into_boxed_slice(),
    };
    let native: &'static Native = Box::leak(boxed(Native::new(parts))?);
    pages.native = Some(native);
    set_up_processor(native, 0);
    Ok((native, pages))
}

impl Native {
    /// The virtual processor that this processor will run.
    pub fn processor(&'static self, index: u32) -> Result<NativeCpu, StartError> {
        let vmcb: &'static mut Vmcb = Box::leak(zeroed().map_err(|_| StartError::ProcessorMemory)?);
        Ok(NativeCpu::new(self, index, vmcb))
    }

    /// Starts the other processors; each runs `body`.
    pub fn start_others(&'static self, body: fn(&'static Self, u32) -> !) -> Result<(), StartError> {
        smp::start_others(self, body)
    }
}

/// Puts this processor into the state in which guests run: own descriptors, SVM on, GIF clear, IF set.
pub(crate) fn set_up_processor(native: &'static Native, index: u32) {
    if index != 0 {
        if load_descriptors().is_err() {
            Ending::end(Termination::Fatal(Reason::ProcessorMemory, u64::from(index)));
        }
        apic::enable();
    }
    native.descriptor_table().load::<QemuExit>();
    let Ok(save_area) = zeroed::<Vmcb>() else {
        Ending::end(Termination::Fatal(Reason::ProcessorMemory, u64::from(index)))
    };
    let save_area = Box::leak(save_area);
    // SAFETY: SVM exists (checked by the boot processor) and turning it on changes nothing by itself.
    unsafe { Efer::update(|flags| flags.insert(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE)) };
    // SAFETY: the page is fresh and is used by VMRUN alone from here on.
    unsafe { Msr::new(MSR_VM_HSAVE_PA).write(core::ptr::from_mut(save_area).expose_provenance() as u64) };
    // SAFETY: the bits let Parados read and set the guest's vector registers (`vector`) and switch nothing else on;
    // every processor in long mode has SSE. #VMEXIT restores these values from the host save area.
    unsafe { Cr0::update(|flags| flags.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED)) };
    // SAFETY: as above.
    unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE)) };
    if native.has_xsave() {
        // SAFETY: the processor has XSAVE; the bit lets Parados read and set the guest's XCR0.
        unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::OSXSAVE)) };
    }
    // SAFETY: interrupts are taken only in `interrupts::window` and `sleep` from here on.
    unsafe { core::arch::asm!("clgi", "sti") };
    if index == 0 {
        apic::open_nmi();
    }
}

fn basic(leaf: u32) -> core::arch::x86_64::CpuidResult {
    __cpuid(leaf)
}

/// An extended leaf, zero where the processor has no such leaf.
fn extended(leaf: u32) -> core::arch::x86_64::CpuidResult {
    if basic(0x8000_0000).eax >= leaf {
        basic(leaf)
    } else {
        core::arch::x86_64::CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 }
    }
}

fn has_svm() -> bool {
    // SAFETY: VM_CR exists wherever CPUID reports SVM.
    extended(0x8000_0001).ecx & SVM != 0 && unsafe { Msr::new(MSR_VM_CR).read() } & VM_CR_SVMDIS == 0
}

fn load_descriptors() -> Result<(), StartError> {
    Box::leak(boxed(Descriptors::default())?).load();
    Ok(())
}

/// A box; an error if the heap is full.
fn boxed<T>(value: T) -> Result<Box<T>, StartError> {
    platform_shared::heap::boxed(value).ok_or(StartError::OutOfMemory)
}

/// A zeroed box that never passes through the stack.
fn zeroed<T: zerocopy::FromZeros>() -> Result<Box<T>, StartError> {
    const { assert!(size_of::<T>() != 0) };
    // SAFETY: the layout's size is not zero.
    let block = unsafe { alloc::alloc::alloc_zeroed(Layout::new::<T>()) };
    if block.is_null() {
        return Err(StartError::OutOfMemory);
    }
    // SAFETY: the block is fresh, has `T`'s layout, and all-zero bytes are a valid `T`.
    Ok(unsafe { Box::from_raw(block.cast()) })
}

/// Masks both 8259s, which firmware leaves running with vectors that collide with exceptions.
fn quiet_interrupt_controllers() {
    for mask in [0x21, 0xa1] {
        port::write::<u8>(mask, 0xff);
    }
}

/// Makes C0000–FFFFF plain RAM instead of the firmware's ROM copies, and empties it: the q35 host bridge's PAM registers
/// (Intel 3 Series Express Chipset data sheet, 5.1.18).
fn uncover_low_memory() {
    const PAM0: u32 = 0x90;
    for register in 0..7u32 {
        let offset = PAM0 + register;
        // PAM0 controls F0000–FFFFF with its upper half; the others two 16 KiB pieces each.
        let value: u8 = if register == 0 { 0x30 } else { 0x33 };
        // Configuration mechanism 1. Nothing of Parados lies in the memory that these registers switch.
        port::write::<u32>(0xcf8, 0x8000_0000 | offset & !3);
        port::write(0xcfc + (offset & 3) as u16, value);
    }
    // SAFETY: the range is guest memory that the guest has not seen and that holds only the firmware's leftovers.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(0xc_0000).write_bytes(0, 0x4_0000) };
}

/// Sends the console UART's interrupt (pin 4, edge) and the SCI (pin 9, level) to this processor; all other pins stay
/// masked.
fn route_interrupts() {
    const PINS: u32 = 24;
    const MASKED: u32 = 1 << 16;
    const LEVEL: u32 = 1 << 15;
    let routes = [(4, u32::from(apic::CONSOLE_VECTOR)), (9, LEVEL | u32::from(apic::POWER_VECTOR))];
    for pin in 0..PINS {
        write_ioapic(0x10 + 2 * pin, MASKED);
    }
    for (pin, entry) in routes {
        write_ioapic(0x11 + 2 * pin, apic::id() << 24);
        write_ioapic(0x10 + 2 * pin, entry);
    }
}

/// Writes a register of QEMU's IOAPIC through its select and window registers.
fn write_ioapic(register: u32, value: u32) {
    for (offset, value) in [(0, register), (0x10, value)] {
        let at = core::ptr::with_exposed_provenance_mut::<u32>(IOAPIC + offset);
        // SAFETY: the page is the IOAPIC's, mapped uncached; the guest cannot reach it.
        unsafe { at.write_volatile(value) };
    }
}

/// Counts the APIC timer's ticks over a millisecond of the clock; Hz.
fn measure_apic(clock: &TscClock) -> u64 {
    let hz = platform::Clock::tsc_hz(clock);
    apic::start_timer(u32::MAX);
    let (begun, first) = bracketed_timer();
    while clock::tsc().wrapping_sub(begun) < hz / 1000 {}
    let (ended, last) = bracketed_timer();
    apic::start_timer(0);
    let (ticks, passed) = (first.wrapping_sub(last), ended.wrapping_sub(begun));
    (u128::from(ticks) * u128::from(hz) / u128::from(passed.max(1))) as u64
}

/// The TSC and what is left of the APIC timer at one time: of some readings between two of the TSC, the tightest. An access
/// to the emulated APIC takes microseconds, so a single reading would make a deadline a second away 10 ms late.
fn bracketed_timer() -> (u64, u32) {
    const READINGS: usize = 8;
    let one = |_| {
        let before = clock::tsc();
        let left = apic::timer_left();
        let slack = clock::tsc().wrapping_sub(before);
        (slack, before.wrapping_add(slack / 2), left)
    };
    let (_, tsc, left) = (1..READINGS).map(one).fold(one(0), |best, next| if next.0 < best.0 { next } else { best });
    (tsc, left)
}
