// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own exceptions. With restricted injection nothing else comes: no interrupt, no NMI, only #HV, whose handler is in
//! `instructions`.
//!
//! #VC is an exception like the others, and ends the VM: Parados executes no instruction that exits without asking (it says
//! CPUID, ports and MSRs to the host by itself), and touches no memory that it has not accepted. So a #VC means that the
//! host has taken a page away or intercepts what it must not.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicPtr, Ordering};

use platform::{OWN_REGISTERS, OWN_RSP, OwnException, OwnRegisters, Reason, Termination};
use specs::sev::VECTOR_HV;

use crate::descriptor::{CODE_SELECTOR, DOUBLE_FAULT_IST};
use crate::ending;
use crate::instructions::snp_hv;

// One 16-byte stub for each exception. The vectors above are never delivered, so the table ends before them.
global_asm!(
    ".section .text.exception_stubs, \"ax\"",
    ".balign 16",
    ".global snp_exception_stubs",
    "snp_exception_stubs:",
    ".set vector, 0",
    ".rept 32",
    "    .balign 16",
    "    .byte 0x6a, vector", // push
    "    jmp 3f",
    "    .set vector, vector + 1",
    ".endr",
    // In the order of `OwnRegisters`, from RAX at the lowest address. The place of RSP is filled in later.
    "3:  push r15",
    "    push r14",
    "    push r13",
    "    push r12",
    "    push r11",
    "    push r10",
    "    push r9",
    "    push r8",
    "    push rdi",
    "    push rsi",
    "    push rbp",
    "    push rsp",
    "    push rbx",
    "    push rdx",
    "    push rcx",
    "    push rax",
    "    mov rdi, rsp",
    "    and rsp, -16",
    "    call {exception}",
    "    ud2",
    ".text",
    exception = sym exception,
);

unsafe extern "C" {
    static snp_exception_stubs: [[u8; 16]; EXCEPTIONS];
}

/// A 64-bit interrupt gate (APM vol. 2, 4.8.4).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    attributes: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

/// Present, DPL 0, 64-bit interrupt gate.
const INTERRUPT_GATE: u8 = 0x8e;
/// Vectors below this are exceptions.
const EXCEPTIONS: usize = 32;
/// #DF.
const DOUBLE_FAULT: usize = 8;

/// The interrupt descriptor table of all processors; read-only once made.
#[repr(C, align(16))]
pub(crate) struct DescriptorTable([Gate; EXCEPTIONS]);

impl DescriptorTable {
    /// Gates to the stubs, and #HV's to its handler.
    pub(crate) fn new() -> Self {
        let gate = |vector: usize| {
            let stub = (&raw const snp_exception_stubs).cast::<[u8; 16]>().wrapping_add(vector).cast::<u8>();
            let handler = if vector == usize::from(VECTOR_HV) { &raw const snp_hv } else { stub };
            let address = handler.expose_provenance() as u64;
            Gate {
                offset_low: address as u16,
                selector: CODE_SELECTOR,
                ist: if vector == DOUBLE_FAULT { DOUBLE_FAULT_IST } else { 0 },
                attributes: INTERRUPT_GATE,
                offset_middle: (address >> 16) as u16,
                offset_high: (address >> 32) as u32,
                reserved: 0,
            }
        };
        Self(core::array::from_fn(gate))
    }

    /// Makes this the processor's table.
    pub(crate) fn load(&'static self) {
        #[repr(C, packed)]
        struct Pointer {
            limit: u16,
            base: u64,
        }
        let pointer = Pointer {
            limit: (size_of::<Self>() - 1) as u16,
            base: core::ptr::from_ref(self).expose_provenance() as u64,
        };
        // SAFETY: the pointer describes a table that lives for ever and whose gates lead to the handlers above.
        unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
    }
}

/// What becomes of an exception in Parados itself.
pub type OnException = fn(&OwnException) -> !;

/// The handler, set before the descriptor table is loaded.
static ON_EXCEPTION: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

pub(crate) fn set_handler(handler: OnException) {
    ON_EXCEPTION.store(handler as *mut (), Ordering::Release);
}

/// How many registers the stub pushes.
const PUSHED: usize = 16;

/// An exception: sixteen registers, the vector, an error code for some vectors, and the processor's frame of RIP, CS, RFLAGS,
/// RSP and SS.
extern "C" fn exception(frame: *const u64) -> ! {
    // SAFETY: the stub passes its stack pointer, above which lie the words that it and the processor pushed: 22, and one more
    // with an error code.
    let word = |index: usize| unsafe { frame.wrapping_add(index).read() };
    let vector = word(PUSHED) as u8;
    let has_code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
    let hardware = |index: usize| word(PUSHED + 1 + usize::from(has_code) + index);
    let mut registers: OwnRegisters = [0; OWN_REGISTERS.len()];
    registers.iter_mut().take(PUSHED).enumerate().for_each(|(index, register)| *register = word(index));
    let rest = [hardware(0), hardware(2)].into_iter().chain(control_registers());
    registers.iter_mut().skip(PUSHED).zip(rest).for_each(|(register, value)| *register = value);
    if let Some(rsp) = registers.get_mut(OWN_RSP) {
        *rsp = hardware(3);
    }
    let exception = OwnException { vector, error_code: if has_code { word(PUSHED + 1) } else { 0 }, registers };
    let handler = ON_EXCEPTION.load(Ordering::Acquire);
    if handler.is_null() {
        ending::end(Termination::Fatal(Reason::EarlyException, vector.into()));
    }
    // SAFETY: the pointer was made from an `OnException` in `set_handler`.
    let handler = unsafe { core::mem::transmute::<*mut (), OnException>(handler) };
    handler(&exception)
}

/// CR0, CR2, CR3 and CR4.
pub fn control_registers() -> [u64; 4] {
    use x86_64::registers::control::{Cr0, Cr2, Cr3, Cr4};
    [Cr0::read_raw(), Cr2::read_raw(), Cr3::read_raw().0.start_address().as_u64(), Cr4::read_raw()]
}
