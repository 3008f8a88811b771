// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting the other processors: each gets a VMSA of its own for VMPL0, in long mode on Parados's page tables, a stack with a
//! guard page, and its two shared pages; then the host creates it (GHCB 2.0, 4.1.9).
//!
//! The boot processor makes all of that before the first of them runs, because nobody else changes the page tables. APIC IDs
//! count from 0. Hostile party: the host, which may start a processor late, never, or twice: the VMSA is in use then, and
//! the place of its vCPU is taken.

use core::arch::global_asm;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use alloc::boxed::Box;

use platform::{Clock, Platform, Termination};
use platform_shared::own_tables::c_mask;
use platform_shared::{clock, stack};
use specs::svm::VmcbSegment;
use specs::vmsa::{SevFeatures, Vmsa};
use x86_64::registers::control::{Cr0, Cr3, Cr4};

use crate::ending::Ending;
use crate::local::Local;
use crate::machine::Snp;
use crate::start::{self, StartError, boxed, make_vmsa, new_vmsa};
use crate::{ghcb, shared_pool};

/// How long the processors get, in seconds.
const PATIENCE: u64 = 20;

/// SEV_FEATURES of VMPL0, as the launch has them.
const FEATURES: SevFeatures = SevFeatures::SNP_ACTIVE.union(SevFeatures::RESTRICTED_INJECTION);
/// EFER: LME, LMA, NXE, SVME.
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12;
const PAT: u64 = 0x0007_0406_0007_0406;
/// 64-bit code and data in the form of a VMSA.
const CODE: u16 = 0xa9b;
const DATA: u16 = 0xc93;
const LDT: u16 = 0x82;
const BUSY_TSS: u16 = 0x8b;

// RDI: the processor's number; RSI: its `Local`. The stack is empty, so the call aligns it as the ABI wants.
global_asm!(
    ".section .text.snp_processor, \"ax\"",
    ".global snp_processor_start",
    "snp_processor_start:",
    "    xor ebp, ebp",
    "    call {arrive}",
    "    ud2",
    ".text",
    arrive = sym arrive,
);

unsafe extern "C" {
    static snp_processor_start: u8;
}

static SNP: AtomicPtr<Snp> = AtomicPtr::new(ptr::null_mut());
static BODY: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static ARRIVED: AtomicU32 = AtomicU32::new(1);

/// What each processor runs once it is set up.
pub(crate) type Body = fn(&'static Snp, u32) -> !;

/// Starts all other processors; each ends up in `body`, set up like this one.
pub(crate) fn start_others(snp: &'static Snp, body: Body) -> Result<(), StartError> {
    let processors = snp.processors();
    SNP.store(ptr::from_ref(snp).cast_mut(), Ordering::Release);
    BODY.store(body as *mut (), Ordering::Release);
    let mut vmsas = alloc::vec::Vec::new();
    vmsas.try_reserve_exact(processors as usize).map_err(|_| StartError::OutOfMemory)?;
    for index in 1..processors {
        vmsas.push(prepare(index)?);
    }
    for (index, gpa) in (1..).zip(&vmsas) {
        ghcb::create(index, 0, *gpa, FEATURES.bits())?;
    }
    let hz = snp.clock().tsc_hz();
    let begun = clock::tsc();
    while ARRIVED.load(Ordering::Acquire) < processors {
        if clock::tsc().wrapping_sub(begun) > PATIENCE * hz {
            return Err(StartError::ProcessorStart);
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// Everything that processor `index` needs; where its VMSA is.
fn prepare(index: u32) -> Result<u64, StartError> {
    let local: &'static Local = Box::leak(boxed(Local::new())?);
    local.set_pages(shared_pool::take()?.address(), shared_pool::take()?.address());
    let vmsa = new_vmsa()?;
    let controls = [Cr0::read_raw(), Cr3::read_raw().0.start_address().as_u64() | c_mask(), Cr4::read_raw()];
    fill(vmsa, stack::new().map_err(|_| StartError::OutOfMemory)?, index, local, controls);
    make_vmsa(vmsa)
}

/// The processor's first state, with this CR0, CR3 and CR4. It has no gates yet: an event of the host's leads nowhere.
fn fill(vmsa: &mut Vmsa, stack: u64, index: u32, local: &'static Local, controls: [u64; 3]) {
    let flat = |selector, attributes| VmcbSegment { selector, attributes, limit: u32::MAX, base: 0 };
    let system = |attributes| VmcbSegment { selector: 0, attributes, limit: 0xffff, base: 0 };
    vmsa.cs = flat(0x08, CODE);
    let data = flat(0x10, DATA);
    (vmsa.ds, vmsa.es, vmsa.ss, vmsa.fs, vmsa.gs) = (data, data, data, data, data);
    (vmsa.ldtr, vmsa.tr) = (system(LDT), system(BUSY_TSS));
    ([vmsa.cr0, vmsa.cr3, vmsa.cr4], vmsa.efer) = (controls, EFER);
    (vmsa.dr6, vmsa.dr7, vmsa.rflags, vmsa.g_pat) = (0xffff_0ff0, 0x400, 2, PAT);
    vmsa.rip = (&raw const snp_processor_start).expose_provenance() as u64;
    vmsa.rsp = stack;
    (vmsa.rdi, vmsa.rsi) = (index.into(), ptr::from_ref(local).expose_provenance() as u64);
    (vmsa.xcr0, vmsa.mxcsr, vmsa.x87_fcw) = (1, 0x1f80, 0x37f);
    vmsa.sev_features = FEATURES.bits();
}

/// The first Rust code of another processor.
extern "C" fn arrive(index: u32, local: *const Local) -> ! {
    // SAFETY: `fill` passed a structure that lives for ever.
    let local: &'static Local = unsafe { &*local };
    local.enter();
    // SAFETY: `start_others` stored a reference that lives for ever before it had the processor created.
    let snp = unsafe { &*SNP.load(Ordering::Acquire) };
    let body = BODY.load(Ordering::Acquire);
    // SAFETY: the pointer was made from a `Body` in `start_others`.
    let body = unsafe { core::mem::transmute::<*mut (), Body>(body) };
    if let Err(error) = start::set_up_processor(local) {
        Ending::end(Termination::Fatal(error.reason(), error.reason().detail_of_processor(index)));
    }
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    body(snp, index)
}

#[cfg(test)]
mod tests {
    use platform::Reason;
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn a_processor_starts_at_vmpl0_with_restricted_injection_and_without_gates() {
        let mut vmsa = Vmsa::new_zeroed();
        fill(&mut vmsa, 0x900_0000, 3, Local::boot(), [0x8001_0033, 1 << 47 | 0x80a_0000, 0xa0]);
        assert_eq!((vmsa.vmpl, vmsa.cpl, vmsa.sev_features), (0, 0, 0b1001), "SNPActive, RestrictedInjection");
        assert_eq!((vmsa.cr0, vmsa.cr3, vmsa.cr4), (0x8001_0033, 0x8000_080a_0000, 0xa0));
        assert_eq!((vmsa.efer, vmsa.rflags), (0x1d00, 2), "SVME, NXE, long mode; no interrupts");
        assert_eq!((vmsa.idtr.base, vmsa.idtr.limit), (0, 0));
        assert_eq!((vmsa.rsp, vmsa.rdi), (0x900_0000, 3));
        assert_eq!(vmsa.rsi, ptr::from_ref(Local::boot()).addr() as u64);
        assert_eq!(
            (vmsa.event_injection, vmsa.virtual_tom, snp_model::reserved::first_reserved_byte(&vmsa)),
            (0, 0, None)
        );
    }

    /// The host was told the processor's number as if it were a step of the start.
    #[test]
    fn a_processor_is_named_only_where_its_own_memory_is_the_reason() {
        assert_eq!(Reason::ProcessorMemory.detail_of_processor(5), 5);
        for error in [StartError::Pages, StartError::NoTimer, StartError::OutOfMemory, StartError::ProcessorStart] {
            assert_eq!(error.reason().detail_of_processor(5), 2, "{error:?}");
        }
    }
}
