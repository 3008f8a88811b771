// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start-up: the GHCB negotiated and registered, Parados's own memory accepted, interrupts by the doorbell, the guest's VMSA
//! handed to the host.

use alloc::alloc::Layout;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, Ordering};

use image_abi::{LaunchBlock, flag};
use platform::{Clock, Gpa, MemoryError, PAGE_SIZE, PageRange, PageSize, RamMap, Reason, SHARED_BIT, Termination};
use platform_shared::clock::{TscClock, tsc};
use platform_shared::descriptor::Descriptors;
use platform_shared::exceptions::{OnException, set_handler};
use platform_shared::heap::page_views;
use platform_shared::own_tables::{self, c_mask};
use specs::cpuid::leaf;
use specs::ghcb::{msr, page_state};
use specs::sev::{VmplRights, cpuid_page, leaf as sev_leaf, result};
use specs::vmsa::Vmsa;

use crate::accept::{accept_own, rescind_own};
use crate::acceptance::Acceptance;
use crate::attester::SnpAttester;
use crate::clock::Measurement;
use crate::console::CONSOLES;
use crate::cpu::{FEATURES, SnpCpu};
use crate::ending::{Ending, Request};
use crate::ghcb::{self, Refusal};
use crate::instructions::rmpadjust;
use crate::interrupts::{DescriptorTable, descriptor_table};
use crate::local::Local;
use crate::machine::{Snp, SnpPages};
use crate::message::Channel;
use crate::{accept, apic, msr_protocol, power_button, shared_pool, smp};

/// Why the platform cannot run a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// The host refused to change a page's state.
    Pages,
    /// The host registered no GHCB.
    Registration,
    /// The host refused a request, or nothing to make one with is there.
    Request,
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
            Self::Pages => Reason::PagesRefused,
            Self::Registration => Reason::NotRegistered,
            Self::Request => Reason::RequestRefused,
            Self::NoTimer => Reason::NoClock,
            Self::OutOfMemory => Reason::OutOfMemory,
            Self::ProcessorMemory => Reason::ProcessorMemory,
            Self::ProcessorStart => Reason::ProcessorStart,
        }
    }
}

impl From<MemoryError> for StartError {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Exhausted => Self::OutOfMemory,
            MemoryError::NotMemory | MemoryError::WrongState | MemoryError::Host => Self::Pages,
        }
    }
}

impl From<Refusal> for StartError {
    fn from(_: Refusal) -> Self {
        Self::Request
    }
}

/// Leads exceptions in Parados itself to `on_exception`, and sees whether the host offers what is needed. First of all.
pub fn early(on_exception: OnException) {
    set_handler(on_exception);
    let local = Local::boot();
    local.enter();
    let answer = local.ask(msr::SEV_INFO_REQUEST);
    if !msr_protocol::speaks_our_version(answer, c_mask()) {
        Ending::end(Termination::Fatal(Reason::MissingFeature, answer));
    }
    let missing = msr_protocol::missing_features(local.ask(msr::FEATURES_REQUEST));
    if missing != 0 {
        Ending::end(Termination::Fatal(Reason::MissingFeature, missing));
    }
}

/// The page that answers CPUID.
static CPUID: AtomicPtr<cpuid_page::Page> = AtomicPtr::new(core::ptr::null_mut());

/// CPUID as the firmware has checked it: EAX, EBX, ECX, EDX. Zero before [`take_memory`].
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let page = CPUID.load(Ordering::Acquire);
    if page.is_null() {
        return [0; 4];
    }
    // SAFETY: `take_memory` stored the address of a page of the image that nobody writes.
    crate::cpuid::answer(unsafe { &*page }, leaf, subleaf)
}

/// Looks whether the processor has what is needed, accepts Parados's own memory behind the image, sets up the boot processor's
/// GHCB and doorbell at its start, and returns the rest, for the heap. Once.
pub fn take_memory(block: &LaunchBlock, range: PageRange) -> Result<PageRange, StartError> {
    CPUID.store(core::ptr::with_exposed_provenance_mut(block.cpuid_page.start as usize), Ordering::Release);
    let missing = crate::cpuid::missing(cpuid(sev_leaf::NUMBER, 0));
    if missing != 0 {
        Ending::end(Termination::Fatal(Reason::MissingFeature, u64::from(missing) << 32));
    }
    // SAFETY: the range follows the image, nothing uses it yet, and the image's tables map it.
    unsafe { accept_own(range)? };
    let start = range.start();
    let (ghcb, doorbell) = (start.0, start.0 + PAGE_SIZE);
    share(ghcb)?;
    share(doorbell)?;
    Local::boot().set_pages(ghcb, doorbell);
    connect(Local::boot())?;
    PageRange::new(Gpa(start.0 + 2 * PAGE_SIZE), range.end())
        .filter(|rest| rest.bytes() > 0)
        .ok_or(StartError::OutOfMemory)
}

/// Turns a page of Parados's own, which nothing uses, into a shared one, before there is a GHCB to ask through.
fn share(page: u64) -> Result<(), StartError> {
    // SAFETY: the caller's page is fresh.
    unsafe { rescind_own(Gpa(page))? };
    let answer = Local::current().ask(msr_protocol::page_state(page, page_state::SHARED));
    if !msr_protocol::is_changed(answer) {
        return Err(StartError::Pages);
    }
    own_tables::share(page).map_err(|_| StartError::OutOfMemory)
}

/// Takes what the firmware left in the secrets page: VMPCK0 to Parados, the other keys to nobody. Nothing reads the page again.
fn take_secrets(page: u64) -> Result<Channel, StartError> {
    if page == 0 {
        return Ok(Channel::closed());
    }
    own_tables::set_code(page, false).map_err(|_| StartError::OutOfMemory)?;
    // SAFETY: the launch block names a whole page of the image, whose content is the firmware's; it is mapped, and nobody else
    // has a reference to it.
    let secrets = unsafe { &mut *core::ptr::with_exposed_provenance_mut::<[u8; PAGE_SIZE as usize]>(page as usize) };
    let channel = Channel::take(secrets);
    own_tables::unmap(page).map_err(|_| StartError::OutOfMemory)?;
    Ok(channel)
}

/// Registers the running processor's GHCB, and empties both pages.
fn connect(local: &'static Local) -> Result<(), StartError> {
    let (Some(ghcb), Some(doorbell)) = (local.ghcb(), local.doorbell()) else { return Err(StartError::Request) };
    let gpa = ghcb.address();
    if !msr_protocol::is_registered(local.ask(msr_protocol::register(gpa)), gpa) {
        return Err(StartError::Registration);
    }
    ghcb.clear();
    doorbell.clear();
    Ok(())
}

/// Puts another processor into the state in which guests run.
pub(crate) fn set_up_processor(local: &'static Local) -> Result<(), StartError> {
    connect(local)?;
    Box::leak(boxed(Descriptors::default())?).load();
    load_gates();
    ring_the_doorbell()?;
    Ok(apic::enable()?)
}

/// The interrupt descriptor table of all processors.
static GATES: AtomicPtr<DescriptorTable> = AtomicPtr::new(core::ptr::null_mut());

fn load_gates() {
    // SAFETY: `prepare` stored a leaked table before any processor came here.
    if let Some(table) = unsafe { GATES.load(Ordering::Acquire).as_ref() } {
        table.load::<Request>();
    }
}

/// Takes over the machine and builds the platform for a guest with this memory. Runs once, on the boot processor, with
/// a heap. `measurement` has begun since Parados's start.
#[inline(never)]
pub fn prepare(
    ram: RamMap,
    block: &LaunchBlock,
    processors: u32,
    _tsc: u64,
    measurement: Measurement,
) -> Result<(&'static Snp, SnpPages), StartError> {
    Box::leak(boxed(Descriptors::default())?).load();
    GATES.store(Box::leak(boxed(descriptor_table())?), Ordering::Release);
    load_gates();
    let end = ram.iter().last().map_or(0, |range| range.end().0);
    own_tables::map_up_to(end, false).map_err(|_| StartError::OutOfMemory)?;
    own_tables::map_first_page().map_err(|_| StartError::OutOfMemory)?;
    ring_the_doorbell()?;
    shared_pool::make(u64::from(processors.saturating_sub(1)) * 2 + shared_pool::BUFFERS)?;
    apic::enable()?;
    CONSOLES.initialise()?;
    apic::route_console()?;
    power_button::initialise();
    let clock = measurement.finish().ok_or(StartError::NoTimer)?;
    let apic_hz = measure_apic(&clock)?;
    let views = if block.has(flag::PAGE_CONVERSION) {
        own_tables::map_shared_up_to(end).map_err(|_| StartError::OutOfMemory)?;
        Some(page_views(end)?)
    } else {
        None
    };
    let acceptance = Acceptance::new(ram, &block.placed, views)?;
    let attester = SnpAttester::new(take_secrets(block.secrets_page.start)?, clock.tsc_hz());
    let snp: &'static Snp = Box::leak(boxed(Snp::new(acceptance, clock, processors, apic_hz, attester))?);
    Ok((snp, SnpPages { snp }))
}

/// Tells the host where this processor's doorbell is. From here on #HV may come.
fn ring_the_doorbell() -> Result<(), StartError> {
    let doorbell = Local::current().doorbell().ok_or(StartError::Request)?;
    Ok(ghcb::set_doorbell(doorbell.address())?)
}

impl Snp {
    /// The virtual processor that this processor will run.
    pub fn processor(&'static self, index: u32) -> Result<SnpCpu, StartError> {
        let local = Local::current();
        let doorbell = local.doorbell().ok_or(StartError::Request)?;
        let vmsa = new_vmsa().map_err(|_| StartError::ProcessorMemory)?;
        let gpa = core::ptr::from_mut(vmsa).expose_provenance() as u64;
        // A guest that may share pages finds them where every platform has them; another one has no use for shared addresses.
        let virtual_tom = if self.acceptance().views().is_some() { SHARED_BIT } else { c_mask() >> 1 };
        let [.., edx] = cpuid(leaf::SVM, 0);
        let cpu = SnpCpu::new(self, local, doorbell, vmsa, virtual_tom, edx & leaf::SVM_EDX_VNMI != 0);
        mark_vmsa(gpa)?;
        ghcb::create(index, accept::GUEST_VMPL, gpa, FEATURES.bits())?;
        Ok(cpu)
    }

    /// Starts the other processors; each runs `body`.
    pub fn start_others(&'static self, body: fn(&'static Self, u32) -> !) -> Result<(), StartError> {
        smp::start_others(self, body)
    }
}

/// Makes a page that has been filled in a VMSA; where it is.
pub(crate) fn make_vmsa(vmsa: &'static mut Vmsa) -> Result<u64, StartError> {
    let gpa = core::ptr::from_mut(vmsa).expose_provenance() as u64;
    mark_vmsa(gpa)?;
    Ok(gpa)
}

/// Makes a page a VMSA, or looks whether one may be changed: that fails while a processor runs it.
pub(crate) fn mark_vmsa(gpa: u64) -> Result<(), StartError> {
    // SAFETY: the page is for a VMSA alone, which is nobody's to read or write but VMPL0's: VMPL1 gets no right.
    let code = unsafe { rmpadjust(gpa, false, 1, VmplRights::empty(), true) };
    if code == result::SUCCESS { Ok(()) } else { Err(StartError::Pages) }
}

/// A zeroed page for a VMSA.
pub(crate) fn new_vmsa() -> Result<&'static mut Vmsa, StartError> {
    // SAFETY: the layout's size is not zero.
    let fresh = || unsafe { alloc::alloc::alloc_zeroed(Layout::new::<Vmsa>()) };
    let page = off_large_borders(fresh).ok_or(StartError::OutOfMemory)?;
    // SAFETY: the page is not null, fresh and zeroed, has the type's layout, is never freed, and all-zero bytes are a valid VMSA.
    Ok(unsafe { &mut *page.cast::<Vmsa>() })
}

/// The first of two fresh pages that does not begin at a multiple of 2 MiB, as no VMSA may (an erratum; KVM refuses such a
/// page). Null is one.
fn off_large_borders(mut fresh: impl FnMut() -> *mut u8) -> Option<*mut u8> {
    let suits = |page: &*mut u8| !(page.addr() as u64).is_multiple_of(PageSize::Large.bytes());
    Some(fresh()).filter(suits).or_else(|| Some(fresh()).filter(suits))
}

/// A box; an error if the heap is full.
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, StartError> {
    platform_shared::heap::boxed(value).ok_or(StartError::OutOfMemory)
}

/// Counts the timer's ticks over a millisecond of the clock; Hz. A host that counts wrong makes timers late or early, and
/// early ones cost it time.
fn measure_apic(clock: &TscClock) -> Result<u64, StartError> {
    let hz = clock.tsc_hz();
    apic::start_timer(u32::MAX)?;
    let (begun, first) = bracketed_timer()?;
    while tsc().wrapping_sub(begun) < hz / 1000 {}
    let (ended, last) = bracketed_timer()?;
    apic::start_timer(0)?;
    let (ticks, passed) = (first.wrapping_sub(last), ended.wrapping_sub(begun));
    Ok((u128::from(ticks) * u128::from(hz) / u128::from(passed.max(1))) as u64)
}

/// The TSC and what is left of the timer at one time: of some readings between two of the TSC, the tightest.
fn bracketed_timer() -> Result<(u64, u32), StartError> {
    const READINGS: usize = 6;
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..READINGS {
        let before = tsc();
        let left = apic::timer_left()?;
        let slack = tsc().wrapping_sub(before);
        if slack < best.0 {
            best = (slack, before.wrapping_add(slack / 2), left);
        }
    }
    Ok((best.1, best.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmsa_never_begins_at_a_multiple_of_2_mib() {
        let of = |addresses: [usize; 2]| {
            let mut fresh = addresses.into_iter().map(core::ptr::without_provenance_mut);
            off_large_borders(|| fresh.next().unwrap()).map(|page| page.addr())
        };
        assert_eq!(of([0x80f_f000, 0x810_0000]), Some(0x80f_f000));
        assert_eq!(of([0x820_0000, 0x820_1000]), Some(0x820_1000));
        assert_eq!(of([0x820_0000, 0x840_0000]), None);
        assert_eq!(of([0x820_0000, 0]), None, "the heap is full");
        assert_eq!(of([0, 0]), None);
    }

    #[test]
    fn a_vmsa_is_a_zeroed_page_of_its_own() {
        use zerocopy::IntoBytes;
        let vmsa = new_vmsa().unwrap();
        let place = core::ptr::from_ref(vmsa).addr() as u64;
        assert!(place.is_multiple_of(PAGE_SIZE) && !place.is_multiple_of(PageSize::Large.bytes()));
        assert!(vmsa.as_bytes().iter().all(|byte| *byte == 0));
    }
}
