// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions in Parados itself: the gates of an interrupt descriptor table, and how a stub tells what happened. Such an
//! exception is a bug, or a host that does what it must not, and ends the VM.

use core::arch::global_asm;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use platform::{OWN_REGISTERS, OWN_RSP, OwnException, OwnRegisters, Reason, Termination};
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::idt::{Entry, HandlerFunc};

use crate::descriptor::DOUBLE_FAULT_IST;
use crate::ending::{Ending, Terminal};

/// Vectors below this are exceptions.
pub const EXCEPTIONS: usize = 32;

// One 16-byte stub for each exception.
global_asm!(
    ".section .text.exception_stubs, \"ax\"",
    ".balign 16",
    ".global exception_stubs",
    "exception_stubs:",
    ".set vector, 0",
    ".rept {exceptions}",
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
    exceptions = const EXCEPTIONS,
    exception = sym exception,
);

unsafe extern "C" {
    static exception_stubs: [[u8; 16]; EXCEPTIONS];
}

/// What handles the exception of this vector, and never returns. #DF's for a vector that is none.
pub fn stub(vector: usize) -> *const u8 {
    let index = if vector < EXCEPTIONS { vector } else { DOUBLE_FAULT };
    (&raw const exception_stubs).cast::<[u8; 16]>().wrapping_add(index).cast()
}

/// #DF.
const DOUBLE_FAULT: usize = 8;

/// An interrupt descriptor table for all processors, of the first `VECTORS` vectors; read-only once made.
#[repr(C, align(16))]
pub struct DescriptorTable<const VECTORS: usize>([Entry<HandlerFunc>; VECTORS]);

impl<const VECTORS: usize> DescriptorTable<VECTORS> {
    /// Gates to `handler_of(vector)` in the code segment in force. `own_stack` gives #DF the stack of [`crate::descriptor::Descriptors`].
    ///
    /// # Safety
    /// Each handler is code that ends as an interrupt handler must, or never.
    pub unsafe fn new(own_stack: bool, handler_of: impl Fn(usize) -> *const u8) -> Self {
        Self(core::array::from_fn(|vector| {
            let mut gate = Entry::missing();
            let handler = VirtAddr::new_truncate(handler_of(vector).expose_provenance() as u64);
            // SAFETY: the caller's handlers are fit for interrupts.
            let options = unsafe { gate.set_handler_addr(handler) };
            if own_stack && vector == DOUBLE_FAULT {
                // SAFETY: every processor that loads such a table has the stack, and no other gate uses it.
                unsafe { options.set_stack_index(DOUBLE_FAULT_IST) };
            }
            gate
        }))
    }

    /// Makes this the processor's table. Without a handler ([`set_handler`]) an exception ends the VM.
    pub fn load<T: Terminal>(&'static self) {
        let none = ptr::null_mut();
        let early = end_early::<T> as *mut ();
        let _ = ON_EXCEPTION.compare_exchange(none, early, Ordering::AcqRel, Ordering::Relaxed);
        let base = VirtAddr::new_truncate(ptr::from_ref(self).expose_provenance() as u64);
        let pointer = DescriptorTablePointer { limit: (size_of::<Self>() - 1) as u16, base };
        // SAFETY: the pointer describes a table that lives for ever and whose gates lead to handlers, as `new` was promised.
        unsafe { lidt(&pointer) };
    }
}

/// What becomes of an exception in Parados itself.
pub type OnException = fn(&OwnException) -> !;

/// The handler, set before the first descriptor table is loaded.
static ON_EXCEPTION: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Sets what becomes of exceptions. First of all.
pub fn set_handler(handler: OnException) {
    ON_EXCEPTION.store(handler as *mut (), Ordering::Release);
}

fn end_early<T: Terminal>(exception: &OwnException) -> ! {
    Ending::<T>::claim().carry_out(Termination::Fatal(Reason::EarlyException, exception.vector.into()))
}

/// How many registers the stubs push.
const PUSHED: usize = 16;

/// An exception, with a stub's stack pointer.
extern "C" fn exception(frame: *const u64) -> ! {
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
    // SAFETY: a table has been loaded, so `load` or `set_handler` has stored an `OnException`.
    let handler = unsafe { core::mem::transmute::<*mut (), OnException>(handler) };
    handler(&exception)
}

/// CR0, CR2, CR3 and CR4.
pub fn control_registers() -> [u64; 4] {
    use x86_64::registers::control::{Cr0, Cr2, Cr3, Cr4};
    [Cr0::read_raw(), Cr2::read_raw(), Cr3::read_raw().0.start_address().as_u64(), Cr4::read_raw()]
}
