// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plays an SNP processor and its host: launches the image's pages, and runs its boot processor.

mod ahead;
mod alternate;
mod devices;
mod exits;
mod instructions;
mod launch;
mod machine;
mod shared;
mod step;
mod switch;
mod vcpu;
mod vector;

use super::console::{Console, out_byte, out_dword};
use super::processors::Stacks;
use super::{firmware, physical, processors, relocate};
use core::arch::asm;
use core::convert::Infallible;
use core::fmt::Write;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
pub(super) use devices::native_cpuid;
use devices::{Forwarded, read_msr, write_msr};
use launch::Launcher;
use machine::Machine;
use reference_host::image::Image;
use reference_host::loader::{self, load_snp};
use reference_host::memory::{PAGE, PageSet, Range, Room};
use reference_host::options::Options;
use reference_host::processors::Processors;
use reference_host::report::{Hex, Stop};
use reference_host::snp::C_BIT;
use shared::{Counts, Orders, Shared, Spin};
use snp_host::{Host, PROCESSORS};
use snp_model::assumed::Assumptions;
use specs::vmcb::{MSR_VM_CR, MSR_VM_HSAVE_PA, VM_CR_SVMDIS, Vmcb};
use specs::vmsa::Vmsa;
use specs::{cpuid as leaves, msr};
use svm::{IoPermissions, MsrPermissions};
use vcpu::{Places, Vcpu};

/// MSRs that VMRUN and VMLOAD switch, and that a host leaves to an SNP guest. QEMU takes any address for those that hold one, so
/// writes of these exit.
const MSR_PERMISSIONS: MsrPermissions = MsrPermissions::INTERCEPT_ALL
    .with_direct_reads(msr::FS_BASE)
    .with_direct_reads(msr::GS_BASE)
    .with_direct_reads(msr::KERNEL_GS_BASE)
    .with_direct_access(msr::STAR)
    .with_direct_reads(msr::LSTAR)
    .with_direct_reads(msr::CSTAR)
    .with_direct_access(msr::SFMASK)
    .with_direct_access(msr::SYSENTER_CS)
    .with_direct_access(msr::SYSENTER_ESP)
    .with_direct_access(msr::SYSENTER_EIP)
    .with_direct_access(msr::PAT)
    .with_direct_reads(msr::EFER);

static IO_PERMISSIONS: IoPermissions = IoPermissions::INTERCEPT_ALL;
static MSR_MAP: MsrPermissions = MSR_PERMISSIONS;

/// What a processor needs in memory besides its stack: a VMCB, and room for the host's state.
const PROCESSOR_BYTES: u64 = 2 * PAGE;
/// Bytes of a processor's stack: as the boot processor's, see `entry`.
const STACK: u64 = 256 << 10;

/// What other processors find when they start.
static COMMON: AtomicPtr<Common> = AtomicPtr::new(ptr::null_mut());

struct Common {
    shared: &'static Spin<Shared>,
    /// [`PROCESSOR_BYTES`] for each processor.
    pages: Range,
    /// Where the program is.
    block: u64,
    /// The GHCB MSR at reset.
    ghcb: u64,
    strict: bool,
    /// The boot processor's, as it was launched.
    vmsa: Vmsa,
}

/// Loads the image and runs it to its end.
pub(super) fn run(
    image: &Image<'_>,
    options: loader::Machine,
    vm: Processors,
    command: &Options,
    room: &Room,
    placed: &mut PageSet<'_>,
) -> Result<Infallible, Stop> {
    let options = loader::Machine { map: options.map.with_shadow_ram(), ..options };
    let rules = command.rules;
    check_processor()?;
    uncover_low_memory();
    let (stacks, pages, rest) = divide(room.rest, &vm)?;
    let mut machine = Machine::new(options.map, rest)?;
    let mut devices = Forwarded::default();
    if rules.contrary {
        machine.assumptions = Assumptions::CONTRARY;
        devices.firmware.enforce_only_what_has_a_source();
    }
    let strict = !rules.permissive;
    let mut launcher = Launcher::new(&mut machine, &mut devices.firmware, options.map, vm.count);
    let mut guest = physical::GuestMemory::new(options.map);
    let loaded = load_snp(image, &options, &mut guest, placed, &mut launcher);
    loaded.map_err(|stop| launcher.refused.map_or(stop, Stop::Firmware))?;
    let vmsa = launcher.vmsa.take().ok_or_else(loader::no_context)?;
    let digest = launcher.finish().map_err(Stop::Firmware)?;
    let debug = launcher.debug;
    devices.debug_ports = rules.debug_ports || debug;
    firmware::silence_interrupt_controllers();
    // A console that cannot be written to has nowhere to report that.
    let _ = writeln!(Console, "[host] SEV-SNP image: entering at {:#x}, features {:#x}", vmsa.rip, vmsa.sev_features);
    let _ = writeln!(Console, "[host] launch digest {}", Hex(&digest));
    let mut host = Host::new(C_BIT, options.processors);
    host.launched(vmsa.sev_features);
    if let Some(script) = command.hostile {
        host.play(script);
        let _ = writeln!(Console, "[host] hostile: {}", script.name);
    }
    let ghcb = host.initial_msr();
    let orders = [Orders::default(); PROCESSORS];
    let shared = Spin::new(Shared { machine, host, devices, orders, counts: Counts::default() });
    let shared = &raw const shared;
    // SAFETY: this function does not return, so what is on its stack stays.
    let shared = unsafe { &*shared };
    let common = Common { shared, pages, block: room.block, ghcb, strict, vmsa };
    COMMON.store((&raw const common).cast_mut(), Ordering::Release);
    processors::run(vm, stacks, &mut guest, run_processor)
}

/// Memory for the processors' stacks, for all processors' pages, and what is left.
fn divide(room: Range, vm: &Processors) -> Result<(Stacks, Range, Range), Stop> {
    if vm.count as usize > PROCESSORS {
        return Err(Stop::Machine("an SNP guest has at most 64 processors here"));
    }
    let (stacks, rest) = Stacks::take(vm, STACK, room)?;
    let pages = Range { start: rest.start, end: rest.start + u64::from(vm.count) * PROCESSOR_BYTES };
    let rest = Range { start: pages.end, end: room.end };
    if rest.start > rest.end {
        return Err(Stop::Machine("no room for the processors: give QEMU more memory above the guest's"));
    }
    Ok((stacks, pages, rest))
}

/// What a processor does.
fn run_processor(number: u32) -> ! {
    // SAFETY: `run` stored it before it started the processors, and does not return.
    let common = unsafe { &*COMMON.load(Ordering::Acquire) };
    let mut vcpu = vcpu(common, number);
    if number == 0 {
        vcpu.launched(&common.vmsa);
    }
    vcpu.run(common.shared)
}

/// A virtual processor on this processor, with SVM turned on.
fn vcpu(common: &Common, number: u32) -> Vcpu {
    let vmcb = common.pages.start + u64::from(number) * PROCESSOR_BYTES;
    start_svm(vmcb + PAGE);
    let at = |object: *const u8| relocate::physical_address(object, common.block);
    let places = Places {
        vmcb,
        io_permissions: at((&raw const IO_PERMISSIONS).cast()),
        msr_permissions: at((&raw const MSR_MAP).cast()),
    };
    let page = physical::pointer(vmcb).cast::<Vmcb>();
    // SAFETY: the page is this processor's, by its number; `divide` keeps it apart from everything else.
    unsafe { page.write(zerocopy::transmute!([0u8; PAGE as usize])) };
    // SAFETY: as above; this is the only reference, and the page holds a VMCB now.
    let page = unsafe { &mut *page };
    Vcpu::new(number, page, &places, common.ghcb, common.strict)
}

/// Whether this machine has SVM.
pub(super) fn check_svm() -> Result<(), Stop> {
    let [.., ecx, _] = native_cpuid(0x8000_0001, 0);
    if ecx & leaves::ExtendedEcx::SVM.bits() == 0 || read_msr(MSR_VM_CR) & VM_CR_SVMDIS != 0 {
        return Err(Stop::Processor("the processor model has no SVM: choose -cpu EPYC or max"));
    }
    Ok(())
}

/// Whether the model can run on this machine.
fn check_processor() -> Result<(), Stop> {
    check_svm()?;
    let [bits, ..] = native_cpuid(0x8000_0008, 0);
    if bits & 0xff <= u32::from(C_BIT) {
        return Err(Stop::Processor("the C-bit needs more physical address bits: choose -cpu EPYC,phys-bits=52"));
    }
    let [.., ecx, _] = native_cpuid(1, 0);
    if ecx & leaves::Leaf1Ecx::RDRAND.bits() == 0 {
        return Err(Stop::Processor("keys of a launch need random numbers, and the processor model has no RDRAND"));
    }
    Ok(())
}

/// Turns SVM on, with a page for the host's state.
pub(super) fn start_svm(host_save: u64) {
    // SAFETY: SVME only makes the instructions exist.
    unsafe { write_msr(msr::EFER, read_msr(msr::EFER) | 1 << 12) };
    // SAFETY: the page is this processor's and used for nothing else.
    unsafe { write_msr(MSR_VM_HSAVE_PA, host_save) };
    // SAFETY: interrupts are held off by GIF from here on, outside of the windows in `exceptions`; the table has a gate
    // for each.
    unsafe { asm!("clgi", "sti", options(nomem, nostack)) };
}

/// Makes C0000–FFFFF plain RAM instead of the firmware's ROM copies: the q35 host bridge's PAM registers (Intel 3 Series
/// Express Chipset data sheet, 5.1.18). What the firmware left there is no image's business.
fn uncover_low_memory() {
    const PAM0: u32 = 0x90;
    for register in 0..7u32 {
        let offset = PAM0 + register;
        // PAM0 controls F0000–FFFFF with its upper half; the others two 16 KiB pieces each.
        let value: u8 = if register == 0 { 0x30 } else { 0x33 };
        out_dword(0xcf8, 0x8000_0000 | offset & !3);
        out_byte(0xcfc + (offset & 3) as u16, value);
    }
}
