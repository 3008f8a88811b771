// SPDX-License-Identifier: MIT OR Apache-2.0
//! The virtual machine: what all of its vCPUs share.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use devices::acpi;
use devices::apic::{Fabric, Lapic};
use devices::memory_map::MemoryMap;
use devices::pc::{Pc, PcConfig, PcHost};
use image_abi::{LaunchBlock, flag, payload};
use journal::{Event, Journal};
use platform::{
    Clock, Console, Gpa, GuestMemory, HostAccess, Instant, MemoryError, Outbound, PageRange, PageViews, Platform,
    Reason, Releasable, Termination, VcpuState, Visibility, Waker,
};
use vc_handlers::cpuid::{CpuidTable, PolicyConfig, RawCpuid};
use vmm_interface::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use vmm_interface::{DispatchError, InterruptMessage, Lifecycle};

use crate::Launch;
use crate::digest::{DigestError, judge_payload};
use crate::mem::Image;
use crate::pages::{Exchange, PageCounts, PageStates, Transition};
use crate::payload::BootInformation;
use crate::statistics::{Consent, MachineFigures, Report, Statistics, window};

/// How many bytes of the payload were held against digests, and how long that took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hashed {
    /// Bytes.
    pub bytes: u64,
    /// Nanoseconds.
    pub nanoseconds: u64,
}

/// The virtual machine.
pub struct Machine<P: Platform + 'static> {
    pub(crate) platform: &'static P,
    /// Letter boxes and counters, one of each for each vCPU.
    pub(crate) fabric: Fabric<Statistics>,
    pub(crate) cpuid: CpuidTable,
    pub(crate) pc: Mutex<Pc>,
    /// When the PC next wants to be called, in nanoseconds: a copy for the boot processor, which calls it.
    pub(crate) pc_deadline: AtomicU64,
    /// The 8259s' output, which is the boot processor's LINT0.
    pub(crate) lint0: AtomicBool,
    /// The terminal has input for which the UART had no room.
    pub(crate) input_waits: AtomicBool,
    pages: PageStates<P::Pages>,
    /// One for each vCPU, until it takes its own.
    lapics: Mutex<Vec<Option<&'static mut Lapic>>>,
    /// The boot processor's first state.
    pub(crate) start: VcpuState,
    flags: u32,
    hashed: Hashed,
    /// A processor is ending the VM.
    ended: AtomicBool,
    /// What Parados remembers.
    journal: &'static Journal,
}

impl<P: Platform> Machine<P> {
    /// Gives the guest its memory, builds its PC and prepares its payload. `raw` reads the processor model's CPUID. The caller
    /// has built the decoder's tables (`vc_handlers::emulate::initialise`), because it knows best when.
    #[inline(never)]
    pub fn new(
        platform: &'static P,
        pages: P::Pages,
        image: &Image,
        launch: &Launch,
        raw: &impl RawCpuid,
        journal: &'static Journal,
    ) -> Result<Self, Reason> {
        let pages = give_memory(pages, platform.views(), launch).map_err(of_memory)?;
        let hashed = hash_payload(platform, &launch.block)?;
        let map = MemoryMap::new(launch.low_end, launch.high_bytes, &[launch.region]);
        let map = map.map_err(|_| Reason::BadMemoryMap)?;
        let rsdp = place_acpi_tables(platform.memory(), launch)?;
        let block = &launch.block;
        let start = BootInformation {
            launch,
            map: &map,
            rsdp,
            tsc_hz: platform.clock().tsc_hz(),
            command_line: image.bytes(&block.command_line),
            setup_header: image.bytes(&block.setup_header),
        }
        .place(platform.memory())?;
        let pc = Pc::new(&PcConfig {
            processors: launch.processors,
            memory_below_4g: launch.low_end,
            memory_above_4g: launch.high_bytes,
            test_devices: block.has(flag::TEST_DEVICES),
            command_console: block.has(flag::COMMAND),
            unix_time: devices::rtc::time_of(|register| platform.host().clock_register(register)).unwrap_or(0),
        });
        let pc = pc.map_err(|error| match error {
            DispatchError::OutOfMemory => Reason::OutOfMemory,
            DispatchError::Overlap | DispatchError::Empty => Reason::BadMachine,
        })?;
        let fabric = Fabric::new(launch.processors).map_err(no_heap)?;
        let mut lapics = new_lapics(launch.processors, &fabric)?.iter_mut();
        let machine = Self {
            platform,
            fabric,
            cpuid: CpuidTable::new(raw, &policy(platform.clock(), launch)).map_err(|_| Reason::BadCpuid)?,
            pc_deadline: AtomicU64::new(pc.deadline().0),
            pc: Mutex::new(pc),
            lint0: AtomicBool::new(false),
            input_waits: AtomicBool::new(false),
            pages,
            lapics: Mutex::new(each(launch.processors, |_| lapics.next())?),
            start,
            flags: block.flags,
            hashed,
            ended: AtomicBool::new(false),
            journal,
        };
        if block.payload_kind == payload::MULTIBOOT {
            machine.with_pc(BOOT_PROCESSOR, |pc, around| pc.start_as_bios(around));
        }
        Ok(machine)
    }

    /// What judging the payload by its digests took.
    pub const fn hashed(&self) -> Hashed {
        self.hashed
    }

    /// The local APIC of vCPU `index`; once.
    pub(crate) fn take_lapic(&self, index: u32) -> Option<&'static mut Lapic> {
        self.lapics.lock().get_mut(index as usize)?.take()
    }

    /// Whether the machine has what kvm-unit-tests wants.
    pub(crate) const fn has_test_devices(&self) -> bool {
        self.flags & flag::TEST_DEVICES != 0
    }

    /// Remembers an event.
    #[inline]
    pub(crate) fn note<E: Event>(&self, event: &E) {
        if self.journal.wants::<E>() {
            self.journal.emit(event);
            // An image for debugging shows it.
            log::logger().flush();
        }
    }

    /// Remembers an event and tells the host.
    pub(crate) fn tell<E: Event + Releasable>(&self, event: &E) {
        self.journal.tell(event, |line| self.platform.say(line));
    }

    /// Ends the VM for a request of the guest.
    pub(crate) fn end(&self, change: Lifecycle) -> ! {
        self.finish(match change {
            Lifecycle::PowerOff => Termination::PowerOff,
            Lifecycle::Reset => Termination::Reset,
            Lifecycle::TestExit(value) => Termination::TestExit(value),
            // The measured policy put the device there, for this.
            Lifecycle::TestCrash => panic!("the guest asked for it"),
        })
    }

    /// Ends the VM: the first processor that wants to. Another one waits here, so that its words do not come between.
    pub(crate) fn finish(&self, how: Termination) -> ! {
        if !self.claim_end() {
            loop {
                core::hint::spin_loop();
            }
        }
        log::logger().flush();
        if let Some(consent) = Consent::from_policy(self.flags) {
            self.report(consent);
        }
        self.platform.end(how)
    }

    /// Whether the caller is the first who ends the VM.
    pub(crate) fn claim_end(&self) -> bool {
        !self.ended.swap(true, Ordering::AcqRel)
    }

    /// Tells the host what the vCPUs did: a record about the machine, and one for each vCPU.
    #[cold]
    fn report(&self, consent: Consent) {
        let clock = self.platform.clock();
        let figures = MachineFigures { tsc_hz: clock.tsc_hz(), nanoseconds: clock.now().0, pages: self.page_counts() };
        let record = Report { consent, figures: format_args!("{{\"stats\":{figures}}}") };
        self.platform.record(Outbound::released(&record));
        for index in 0..self.fabric.processors() {
            if let Some(statistics) = self.fabric.beside(index) {
                let figures = format_args!("{{\"vcpu\":{{\"index\":{index},{statistics}}}}}");
                self.platform.record(Outbound::released(&Report { consent, figures }));
            }
        }
    }

    /// What became of the guest's pages, unless they are being moved just now.
    fn page_counts(&self) -> Option<PageCounts> {
        self.pages.counts()
    }

    /// Whether the guest can read the statistics at `gpa`.
    #[inline]
    pub(crate) fn shows_statistics_at(&self, gpa: Gpa) -> bool {
        window::contains(gpa) && self.flags & flag::GUEST_STATISTICS != 0
    }

    /// A read from the window of statistics.
    #[cold]
    pub(crate) fn read_statistics(&self, gpa: Gpa, width: u8) -> u64 {
        let clock = self.platform.clock();
        let header = || window::Header {
            processors: self.fabric.processors(),
            tsc_hz: clock.tsc_hz(),
            nanoseconds: clock.now().0,
            pages: self.page_counts().unwrap_or_default(),
        };
        window::read(gpa, width, header, |index| self.fabric.beside(index))
    }

    /// Whether memory answers at `gpa`, as the guest named it.
    #[inline]
    pub(crate) fn is_memory(&self, gpa: Gpa) -> bool {
        self.pages.is_memory(gpa)
    }

    /// Whether memory answers at `gpa` now, or can do so after the guest has moved a page.
    pub(crate) fn may_become_memory(&self, gpa: Gpa) -> bool {
        self.pages.may_become_memory(gpa)
    }

    /// Whether guests may share pages with the host.
    pub(crate) const fn converts_pages(&self) -> bool {
        self.flags & flag::PAGE_CONVERSION != 0
    }

    /// Moves pages at the start of `range` to the other side.
    pub(crate) fn exchange(&self, range: PageRange, to: Visibility) -> Result<Exchange, MemoryError> {
        self.pages.exchange(range, to)
    }

    /// Calls the PC on behalf of vCPU `index`, with the machine around it.
    pub(crate) fn with_pc<R>(&self, index: u32, call: impl FnOnce(&mut Pc, &mut Around<'_, P>) -> R) -> R {
        let mut around = Around { machine: self, index, ending: None };
        let mut pc = self.pc.lock();
        let result = call(&mut pc, &mut around);
        let deadline = pc.deadline().0;
        // Under the lock, so that the copy is never older than the last change.
        let old = self.pc_deadline.load(Ordering::Relaxed);
        if deadline != old {
            self.pc_deadline.store(deadline, Ordering::Release);
            if deadline < old {
                self.fabric.poke(BOOT_PROCESSOR, &self.others(index));
            }
        }
        drop(pc);
        if let Some(change) = around.ending {
            self.end(change);
        }
        result
    }

    /// The other processors, as vCPU `index` wakes them.
    pub(crate) fn others(&self, index: u32) -> Others<'_, P::Host> {
        Others { host: self.platform.host(), index }
    }

    /// Moves terminal input into the UART while both have some.
    pub(crate) fn pump_input(&self, index: u32) {
        // The UART's FIFO is 16 bytes; what does not fit waits for the guest to read.
        const BATCH: usize = 64;
        self.with_pc(index, |pc, around| {
            let mut waits = true;
            for _ in 0..BATCH {
                if !pc.console_has_room(Console::Terminal) {
                    break;
                }
                match around.machine.platform.host().receive(Console::Terminal) {
                    Some(byte) => pc.receive(Console::Terminal, byte, around),
                    None => {
                        waits = false;
                        break;
                    }
                };
            }
            // Under the lock: a processor that makes room afterwards must see that input waits for it.
            around.machine.input_waits.store(waits, Ordering::Release);
        });
    }
}

/// Why memory of the guest's, or the states of its pages, keep the machine from being built.
const fn of_memory(error: MemoryError) -> Reason {
    match error {
        MemoryError::Exhausted => Reason::OutOfMemory,
        MemoryError::NotMemory | MemoryError::WrongState => Reason::BadMemoryMap,
        MemoryError::Host => Reason::PagesRefused,
    }
}

fn no_heap(_: TryReserveError) -> Reason {
    Reason::OutOfMemory
}

/// The vCPU that calls the PC when a device's deadline comes, and that the 8259s interrupt.
pub(crate) const BOOT_PROCESSOR: u32 = 0;

/// The local APICs, as firmware leaves them. Others can send to them from now on, before their processors have come up.
#[inline(never)]
fn new_lapics(processors: u32, fabric: &Fabric<Statistics>) -> Result<&'static mut [Lapic], Reason> {
    let lapics = each(processors, |index| Lapic::new(index, index == BOOT_PROCESSOR))?.leak();
    for (index, lapic) in (0..).zip(lapics.iter_mut()) {
        lapic.enter_virtual_wire();
        if let Some(port) = fabric.port(index) {
            lapic.publish(port);
        }
    }
    Ok(lapics)
}

/// One value for each vCPU.
fn each<T>(processors: u32, value: impl FnMut(u32) -> T) -> Result<Vec<T>, Reason> {
    let mut all = Vec::new();
    all.try_reserve_exact(processors as usize).map_err(no_heap)?;
    all.extend((0..processors).map(value));
    Ok(all)
}

fn policy(clock: &impl Clock, launch: &Launch) -> PolicyConfig {
    PolicyConfig {
        processors: launch.processors,
        tsc_hz: clock.tsc_hz(),
        apic_timer_hz: devices::apic::TIMER_HZ as u32,
        invariant_tsc: true,
        page_conversion: launch.block.has(flag::PAGE_CONVERSION),
        components: PolicyConfig::DEFAULT_COMPONENTS,
    }
}

#[inline(never)]
fn give_memory<H: platform::GuestPages>(
    hardware: H,
    views: Option<&'static PageViews>,
    launch: &Launch,
) -> Result<PageStates<H>, MemoryError> {
    let end = launch.ram.iter().last().map_or(Gpa(0), |range| range.end());
    let mut pages = PageStates::new(end, hardware, views)?;
    pages.claim(launch.region)?;
    for range in launch.ram.iter() {
        pages.convert(range, Transition::Accept)?;
    }
    Ok(pages)
}

/// Judges the payload. The guest has its memory, which is private by now, and has not run.
#[inline(never)]
fn hash_payload<P: Platform>(platform: &P, block: &LaunchBlock) -> Result<Hashed, Reason> {
    let begun = platform.clock().now();
    let bytes = judge_payload(platform.memory(), block).map_err(|error| match error {
        DigestError::Mismatch(at) => {
            log::error!("the payload at {:#x} is not the one that was measured", at.0);
            Reason::PayloadMismatch
        }
        DigestError::Memory => Reason::BadMachine,
    })?;
    Ok(Hashed { bytes, nanoseconds: platform.clock().now().since(begun) })
}

#[inline(never)]
fn place_acpi_tables(memory: &impl GuestMemory, launch: &Launch) -> Result<u64, Reason> {
    let description = acpi::Description {
        processors: launch.processors,
        command_console: launch.block.has(flag::COMMAND),
        low_memory_end: launch.low_end,
    };
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(acpi::BYTES).map_err(no_heap)?;
    buffer.resize(acpi::BYTES, 0);
    let tables = acpi::build(&description, &mut buffer, acpi::BASE).map_err(|_| Reason::BadMachine)?;
    let bytes = buffer.get(..tables.used).unwrap_or(&buffer);
    memory.copy_out(Gpa(acpi::BASE), Visibility::Private, bytes).map_err(of_memory)?;
    Ok(tables.rsdp)
}

/// Kicks every processor but the one that asks: it looks at its letter box before it enters its guest again anyway.
pub(crate) struct Others<'a, H> {
    host: &'a H,
    index: u32,
}

impl<H: Waker> Waker for Others<'_, H> {
    fn kick(&self, index: u32) {
        if index != self.index {
            self.host.kick(index);
        }
    }
}

/// What the PC sees of the machine during one call.
pub(crate) struct Around<'a, P: Platform + 'static> {
    machine: &'a Machine<P>,
    index: u32,
    ending: Option<Lifecycle>,
}

impl<P: Platform> PcHost for Around<'_, P> {
    fn now(&self) -> Instant {
        self.machine.platform.clock().now()
    }

    fn transmit(&mut self, console: Console, byte: u8) {
        self.machine.platform.host().transmit(console, byte);
    }

    fn send(&mut self, message: &InterruptMessage) -> bool {
        self.machine.fabric.deliver(None, message, &self.machine.others(self.index)) != 0
    }

    fn pic_output(&mut self, asserted: bool) {
        self.machine.lint0.store(asserted, Ordering::Release);
        self.machine.fabric.poke(BOOT_PROCESSOR, &self.machine.others(self.index));
    }

    fn request(&mut self, change: Lifecycle) {
        self.ending.get_or_insert(change);
    }
}
