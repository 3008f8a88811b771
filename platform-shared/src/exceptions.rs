// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions in Parados itself: the gates of an interrupt descriptor table, and how a stub tells what happened. Such an
//! exception is a bug, or a host that does what it must not, and ends the VM.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, Ordering};

use platform::{OWN_REGISTERS, OWN_RSP, OwnException, OwnRegisters};

use crate::descriptor::{CODE_SELECTOR, DOUBLE_FAULT_IST};

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
/// #DF.
const DOUBLE_FAULT: usize = 8;

/// An interrupt descriptor table for all processors, of the first `VECTORS` vectors; read-only once made.
#[repr(C, align(16))]
pub struct DescriptorTable<const VECTORS: usize>([Gate; VECTORS]);

impl<const VECTORS: usize> DescriptorTable<VECTORS> {
    /// Gates to `handler_of(vector)`. `own_stack` gives #DF the stack of [`crate::descriptor::Descriptors`].
    ///
    /// # Safety
    /// Each handler is code that ends as an interrupt handler must, or never.
    pub unsafe fn new(own_stack: bool, handler_of: impl Fn(usize) -> *const u8) -> Self {
        Self(core::array::from_fn(|vector| {
            let address = handler_of(vector).expose_provenance() as u64;
            Gate {
                offset_low: address as u16,
                selector: CODE_SELECTOR,
                ist: if own_stack && vector == DOUBLE_FAULT { DOUBLE_FAULT_IST } else { 0 },
                attributes: INTERRUPT_GATE,
                offset_middle: (address >> 16) as u16,
                offset_high: (address >> 32) as u32,
                reserved: 0,
            }
        }))
    }

    /// Makes this the processor's table.
    pub fn load(&'static self) {
        #[repr(C, packed)]
        struct Pointer {
            limit: u16,
            base: u64,
        }
        let pointer = Pointer {
            limit: (size_of::<Self>() - 1) as u16,
            base: core::ptr::from_ref(self).expose_provenance() as u64,
        };
        // SAFETY: the pointer describes a table that lives for ever and whose gates lead to handlers, as `new` was promised.
        unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
    }
}

/// What a stub does once it has pushed the vector: registers in the order of `OwnRegisters`, from RAX at the lowest address (the
/// place of RSP is filled in later), and the call of `{exception}`, whose argument is for [`handle`].
#[macro_export]
macro_rules! call_exception {
    () => {
        "push r15; push r14; push r13; push r12; push r11; push r10; push r9; push r8
         push rdi; push rsi; push rbp; push rsp; push rbx; push rdx; push rcx; push rax
         mov rdi, rsp
         and rsp, -16
         call {exception}
         ud2"
    };
}

/// What becomes of an exception in Parados itself.
pub type OnException = fn(&OwnException) -> !;

/// The handler, set before the first descriptor table is loaded.
static ON_EXCEPTION: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Sets what becomes of exceptions. First of all.
pub fn set_handler(handler: OnException) {
    ON_EXCEPTION.store(handler as *mut (), Ordering::Release);
}

/// How many registers [`call_exception!`] pushes.
const PUSHED: usize = 16;

/// Hands an exception on. `early` is what becomes of a vector before [`set_handler`].
///
/// # Safety
/// `frame` is the argument of `{exception}` in [`call_exception!`].
pub unsafe fn handle(frame: *const u64, early: fn(u8) -> !) -> ! {
    // SAFETY: above the stub's stack pointer lie the registers, the vector, an error code for some vectors, and RIP, CS, RFLAGS,
    // RSP and SS: 22 words, or 23.
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
        early(vector);
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
