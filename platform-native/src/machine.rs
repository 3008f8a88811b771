// SPDX-License-Identifier: MIT OR Apache-2.0
//! The native platform as one value.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::boxed::Box;

use platform::{
    Clock, Console, Gpa, GuestPages, HostAccess, HostEvent, HostEvents, Instant, MemoryError, Outbound, PageRange,
    PageSize, PageViews, Platform, SHARED_BIT, Termination, Timer, Waker,
};
use platform_shared::clock::TscClock;
use svm::{IoPermissions, MsrPermissions, NestedTables, Rights, TableMemory};

use crate::console::CONSOLES;
use crate::cpu::NativeCpu;
use crate::ending::Ending;
use crate::interrupts::{self, DescriptorTable};
use crate::live::LIVE_MSRS;
use crate::memory::NativeMemory;
use crate::{apic, log, power_button};

/// Every port exits.
static IO_PERMISSIONS: IoPermissions = IoPermissions::INTERCEPT_ALL;

/// Every MSR exits, but for reads of those that the processor keeps for the guest. QEMU takes any value for them, where a
/// processor refuses addresses that are not canonical, so writes are checked here.
static MSR_PERMISSIONS: MsrPermissions = {
    let mut map = MsrPermissions::INTERCEPT_ALL;
    let mut index = 0;
    while index < LIVE_MSRS.len() {
        #[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            map = map.with_direct_reads(LIVE_MSRS[index]);
        }
        index += 1;
    }
    map
};

/// The host: QEMU's devices, and the other processors.
pub struct NativeHost;

impl HostAccess for NativeHost {
    fn transmit(&self, console: Console, byte: u8) {
        CONSOLES.transmit(console, byte);
    }

    fn receive(&self, console: Console) -> Option<u8> {
        CONSOLES.receive(console)
    }

    fn clock_register(&self, register: u8) -> u8 {
        CONSOLES.clock_register(register)
    }
}

impl Waker for NativeHost {
    fn kick(&self, index: u32) {
        apic::send(index, apic::KICK_VECTOR);
    }
}

/// The native platform. One for the whole image, never freed.
pub struct Native {
    memory: NativeMemory,
    clock: TscClock,
    host: NativeHost,
    processors: u32,
    nested_root: u64,
    descriptor_table: &'static DescriptorTable,
    has_xsave: bool,
    apic_hz: u64,
    /// Counts changes of the nested tables that make old translations wrong.
    generation: AtomicU64,
    /// The generation that each processor has flushed for.
    flushed: Box<[AtomicU64]>,
}

/// What [`Native::new`] puts together.
pub(crate) struct Parts {
    pub(crate) memory: NativeMemory,
    pub(crate) clock: TscClock,
    pub(crate) processors: u32,
    pub(crate) nested_root: u64,
    pub(crate) descriptor_table: &'static DescriptorTable,
    pub(crate) has_xsave: bool,
    pub(crate) apic_hz: u64,
    pub(crate) flushed: Box<[AtomicU64]>,
}

impl Native {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            memory: parts.memory,
            clock: parts.clock,
            host: NativeHost,
            processors: parts.processors,
            nested_root: parts.nested_root,
            descriptor_table: parts.descriptor_table,
            has_xsave: parts.has_xsave,
            apic_hz: parts.apic_hz,
            generation: AtomicU64::new(0),
            flushed: parts.flushed,
        }
    }

    pub(crate) fn io_permissions(&self) -> u64 {
        (&raw const IO_PERMISSIONS).expose_provenance() as u64
    }

    pub(crate) fn msr_permissions(&self) -> u64 {
        (&raw const MSR_PERMISSIONS).expose_provenance() as u64
    }

    pub(crate) fn tsc_offset(&self) -> u64 {
        self.clock.guest_offset()
    }

    pub(crate) fn nested_root(&self) -> u64 {
        self.nested_root
    }

    pub(crate) fn descriptor_table(&self) -> &'static DescriptorTable {
        self.descriptor_table
    }

    pub(crate) fn has_xsave(&self) -> bool {
        self.has_xsave
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn acknowledge_generation(&self, index: u32, generation: u64) {
        if let Some(slot) = self.flushed.get(index as usize) {
            slot.store(generation, Ordering::Release);
        }
    }

    /// The guest's memory, without Parados's own.
    pub fn ram(&self) -> &platform::RamMap {
        &self.memory.reach().ram
    }
}

impl Platform for Native {
    type Cpu = NativeCpu;
    type Memory = NativeMemory;
    type Pages = NativePages;
    type Clock = TscClock;
    type Host = NativeHost;

    fn memory(&self) -> &NativeMemory {
        &self.memory
    }

    fn clock(&self) -> &TscClock {
        &self.clock
    }

    fn host(&self) -> &NativeHost {
        &self.host
    }

    fn views(&self) -> Option<&PageViews> {
        self.memory.reach().views.as_ref()
    }

    fn processors(&self) -> u32 {
        self.processors
    }

    fn record(&self, json: Outbound<'_>) {
        log::LINES.record(json);
    }

    fn say(&self, line: Outbound<'_>) -> bool {
        log::say(line)
    }

    fn end(&self, how: Termination) -> ! {
        Ending::end(how)
    }
}

impl Timer for NativeCpu {
    fn arm(&mut self, deadline: Instant) {
        let deadline = self.timer_deadline(deadline);
        if self.armed == Some(deadline) {
            return;
        }
        self.armed = Some(deadline);
        if deadline == Instant::NEVER {
            apic::start_timer(0);
            return;
        }
        let nanos = deadline.since(self.native.clock.now());
        let ticks = u128::from(nanos) * u128::from(self.native.apic_hz) / 1_000_000_000;
        // A deadline beyond the counter's reach comes in several turns; a past one at once.
        apic::start_timer(u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
    }

    fn wait(&mut self) {
        self.obey_flush();
        self.taken = interrupts::sleep();
    }
}

impl HostEvents for NativeCpu {
    fn take(&mut self) -> Option<HostEvent> {
        const NMI: u8 = 2;
        loop {
            let vector = self.taken.take().or_else(interrupts::window)?;
            self.obey_flush();
            let event = match vector {
                NMI => return Some(HostEvent::Nmi),
                apic::SPURIOUS_VECTOR => continue,
                apic::TIMER_VECTOR => {
                    self.armed = None;
                    HostEvent::Kick
                }
                apic::KICK_VECTOR => HostEvent::Kick,
                apic::CONSOLE_VECTOR => HostEvent::ConsoleInput,
                // Acknowledged at its source before the EOI, because the line is level-triggered.
                apic::POWER_VECTOR if power_button::take() => HostEvent::PowerButton,
                apic::POWER_VECTOR => HostEvent::Kick,
                other => HostEvent::Unexpected(other),
            };
            apic::end_of_interrupt();
            return Some(event);
        }
    }
}

/// Nested page tables, identity-mapped memory out of the heap.
pub(crate) struct HeapTables;

// SAFETY: `allocate` hands out fresh, zeroed, page-aligned heap memory that is never freed; memory is identity-mapped, so
// the address is the pointer.
unsafe impl TableMemory for HeapTables {
    fn allocate(&mut self) -> Option<u64> {
        let layout = alloc::alloc::Layout::from_size_align(4096, 4096).ok()?;
        // SAFETY: the layout's size is not zero.
        let page = unsafe { alloc::alloc::alloc_zeroed(layout) };
        (!page.is_null()).then(|| page.expose_provenance() as u64)
    }

    fn table(&self, physical: u64) -> *mut [u64; 512] {
        core::ptr::with_exposed_provenance_mut(physical as usize)
    }
}

/// The hardware side of page states: presence in the nested tables. Native memory is never encrypted, so a shared page is
/// a private one with another name: it lies at its shared address, where no code is executed, and at no other. It is emptied on
/// its way, as it is where the two are different memory.
pub struct NativePages {
    pub(crate) tables: NestedTables<HeapTables>,
    pub(crate) native: Option<&'static Native>,
}

/// Zeroes guest memory that the guest cannot reach just now.
fn empty(range: PageRange) {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(range.start().0 as usize);
    // SAFETY: the range is guest RAM, identity-mapped and never unmapped; it is in no nested table, no access of Parados's own is
    // under way, and later ones wait for the move to end.
    unsafe { start.write_bytes(0, range.bytes() as usize) };
}

impl NativePages {
    fn map_shared(&mut self, range: PageRange) -> Result<(), MemoryError> {
        let Gpa(start) = range.start();
        let mapped = self.tables.map(SHARED_BIT | start, start, range.bytes(), Rights::WRITE);
        mapped.map_err(|_| MemoryError::Exhausted)
    }

    fn unmap_shared(&mut self, range: PageRange) -> Result<(), MemoryError> {
        self.tables.unmap(SHARED_BIT | range.start().0, range.bytes()).map_err(|_| MemoryError::Exhausted)
    }

    fn map(&mut self, range: PageRange) -> Result<(), MemoryError> {
        let Gpa(start) = range.start();
        self.tables.map(start, start, range.bytes(), Rights::all()).map_err(|_| MemoryError::Exhausted)
    }
}

impl GuestPages for NativePages {
    fn accept(&mut self, range: PageRange, _: PageSize) -> Result<(), MemoryError> {
        self.map(range)
    }

    fn share(&mut self, range: PageRange, _: PageSize) -> Result<u64, MemoryError> {
        empty(range);
        match self.map_shared(range) {
            Ok(()) => Ok(range.bytes()),
            Err(error) => {
                self.unmap_shared(range)?;
                self.map(range)?;
                Err(error)
            }
        }
    }

    fn unshare(&mut self, range: PageRange, _: PageSize) -> Result<u64, MemoryError> {
        let taken = self.unmap_shared(range);
        self.flush();
        if taken.is_ok() {
            empty(range);
        }
        match taken.and_then(|()| self.map(range)) {
            Ok(()) => Ok(range.bytes()),
            Err(error) => {
                self.tables.unmap(range.start().0, range.bytes()).map_err(|_| MemoryError::Exhausted)?;
                self.map_shared(range)?;
                Err(error)
            }
        }
    }

    fn trap(&mut self, range: PageRange, _: PageSize) -> Result<(), MemoryError> {
        self.tables.unmap(range.start().0, range.bytes()).map_err(|_| MemoryError::Exhausted)
    }

    /// Returns when every processor has left its guest once. No processor may wait for this one meanwhile.
    fn flush(&mut self) {
        let Some(native) = self.native else { return };
        let generation = native.generation.fetch_add(1, Ordering::AcqRel) + 1;
        let own = apic::id();
        // This one as well: it leaves its guest at once, and then drops what it holds.
        for index in 0..native.processors {
            native.host.kick(index);
        }
        native.acknowledge_generation(own, generation);
        for slot in &native.flushed {
            while slot.load(Ordering::Acquire) < generation {
                core::hint::spin_loop();
            }
        }
    }
}
