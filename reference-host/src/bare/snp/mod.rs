// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plays an SNP processor and its host: launches the image's pages, and runs its boot processor.

mod devices;
mod exits;
mod instructions;
mod launch;
mod machine;
mod switch;
mod vcpu;
mod vector;

use super::console::{self, Console, out_byte, out_dword};
use super::{firmware, physical, relocate};
use core::arch::asm;
use core::convert::Infallible;
use core::fmt::Write;
use devices::{Forwarded, native_cpuid, read_msr, write_msr};
use launch::Launcher;
use machine::Machine;
use reference_host::image::Image;
use reference_host::loader::{self, load_snp};
use reference_host::memory::{PAGE, PageSet, Room};
use reference_host::options::Rules;
use reference_host::report::{Hex, Stop};
use reference_host::snp::C_BIT;
use snp_host::Host;
use snp_model::assumed::Assumptions;
use specs::svm::{MSR_VM_CR, MSR_VM_HSAVE_PA, VM_CR_SVMDIS, Vmcb};
use specs::{cpuid as leaves, msr};
use svm::{IoPermissions, MsrPermissions};
use vcpu::{Places, Vcpu};

/// MSRs that VMRUN and VMLOAD switch, and that a host leaves to an SNP guest.
const MSR_PERMISSIONS: MsrPermissions = MsrPermissions::INTERCEPT_ALL
    .with_direct_access(msr::FS_BASE)
    .with_direct_access(msr::GS_BASE)
    .with_direct_access(msr::KERNEL_GS_BASE)
    .with_direct_access(msr::STAR)
    .with_direct_access(msr::LSTAR)
    .with_direct_access(msr::CSTAR)
    .with_direct_access(msr::SFMASK)
    .with_direct_access(msr::SYSENTER_CS)
    .with_direct_access(msr::SYSENTER_ESP)
    .with_direct_access(msr::SYSENTER_EIP)
    .with_direct_access(msr::PAT)
    .with_direct_reads(msr::EFER);

static IO_PERMISSIONS: IoPermissions = IoPermissions::INTERCEPT_ALL;
static MSR_MAP: MsrPermissions = MSR_PERMISSIONS;

#[repr(C, align(4096))]
struct SaveArea([u8; PAGE as usize]);

static mut HOST_SAVE: SaveArea = SaveArea([0; PAGE as usize]);
static mut VMCB: Vmcb = zerocopy::transmute!([0u8; PAGE as usize]);

/// Loads the image and runs it to its end.
pub(super) fn run(
    image: &Image<'_>,
    options: loader::Machine,
    rules: Rules,
    room: &Room,
    placed: &mut PageSet<'_>,
) -> Result<Infallible, Stop> {
    let options = loader::Machine { map: options.map.with_shadow_ram(), ..options };
    uncover_low_memory();
    let mut machine = Machine::new(options.map, room.rest)?;
    let mut devices = Forwarded::default();
    if rules.contrary {
        machine.assumptions = Assumptions::CONTRARY;
        devices.firmware.enforce_only_what_has_a_source();
    }
    let strict = !rules.permissive;
    let mut launcher = Launcher::new(&mut machine, &mut devices.firmware, options.map);
    let mut guest = physical::GuestMemory::new(options.map);
    let loaded = load_snp(image, &options, &mut guest, placed, &mut launcher);
    loaded.map_err(|stop| launcher.refused.map_or(stop, Stop::Firmware))?;
    let vmsa = launcher.vmsa.take().ok_or_else(loader::no_context)?;
    let digest = launcher.finish().map_err(Stop::Firmware)?;
    let places = start_svm(room.block)?;
    firmware::silence_interrupt_controllers();
    // A console that cannot be written to has nowhere to report that.
    let _ = writeln!(Console, "[host] SEV-SNP image: entering at {:#x}, features {:#x}", vmsa.rip, vmsa.sev_features);
    let _ = writeln!(Console, "[host] launch digest {}", Hex(&digest));
    let mut host = Host::new(C_BIT, 1);
    let vmcb = &raw mut VMCB;
    // SAFETY: this function does not return, so it is the only user of the static.
    let vmcb = unsafe { &mut *vmcb };
    let mut vcpu = Vcpu::new(vmcb, &places, &vmsa, host.initial_msr(), strict);
    let end = vcpu.run(&mut machine, &mut host, &mut devices);
    let _ = writeln!(Console, "[host] {} exits", vcpu.exits);
    console::stop(&Stop::Ended(end))
}

/// Turns SVM on.
fn start_svm(block: u64) -> Result<Places, Stop> {
    let [.., ecx, _] = native_cpuid(0x8000_0001, 0);
    if ecx & leaves::ExtendedEcx::SVM.bits() == 0 || read_msr(MSR_VM_CR) & VM_CR_SVMDIS != 0 {
        return Err(Stop::Machine("the processor model has no SVM: choose -cpu EPYC or max"));
    }
    let [bits, ..] = native_cpuid(0x8000_0008, 0);
    if bits & 0xff <= u32::from(C_BIT) {
        return Err(Stop::Machine("the C-bit needs more physical address bits: choose -cpu EPYC,phys-bits=52"));
    }
    let at = |object: *const u8| relocate::physical_address(object, block);
    let host_save = at((&raw const HOST_SAVE).cast());
    // SAFETY: SVME only makes the instructions exist.
    unsafe { write_msr(msr::EFER, read_msr(msr::EFER) | 1 << 12) };
    // SAFETY: the page is ours and used for nothing else.
    unsafe { write_msr(MSR_VM_HSAVE_PA, host_save) };
    // SAFETY: interrupts are held off by GIF from here on, outside of `exceptions::window` and `sleep`; the table has a gate
    // for each.
    unsafe { asm!("clgi", "sti", options(nomem, nostack)) };
    Ok(Places {
        vmcb: at((&raw const VMCB).cast()),
        io_permissions: at((&raw const IO_PERMISSIONS).cast()),
        msr_permissions: at((&raw const MSR_MAP).cast()),
    })
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
