// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own interrupts and exceptions.
//!
//! Interrupts are taken in two places only, [`window`] and [`sleep`]; everywhere else GIF is clear. Their handler is two
//! instructions that leave the vector in EAX and return with interrupts off, so no state is shared with it and no nesting
//! exists. An exception in Parados is a bug and ends the VM.
//!
//! While a guest's state is loaded, TR is the guest's (see `svm::entry`), so no gate may use an IST then: with a stack
//! overflow the processor would take the stack pointer from a task-state segment that the guest chose. Two interrupt
//! descriptor tables differ in exactly this: the one for start-up gives #DF a stack of its own; under the other one a
//! stack overflow hits the guard page and becomes a shutdown of the processor, which ends the VM.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicPtr, Ordering};

use platform::{OWN_REGISTERS, OWN_RSP, OwnException, OwnRegisters, Reason, Termination};

use crate::descriptor::{CODE_SELECTOR, DOUBLE_FAULT_IST};
use crate::ending;

// One 16-byte stub for each vector. Vector 2, the NMI, returns like an interrupt.
global_asm!(
    ".section .text.interrupt_stubs, \"ax\"",
    ".balign 16",
    ".global native_interrupt_stubs",
    "native_interrupt_stubs:",
    ".set vector, 0",
    ".rept 256",
    "    .balign 16",
    "    .if vector == 2 || vector >= 32",
    "    .byte 0xb8", // mov eax, vector
    "    .long vector",
    "    jmp 2f",
    "    .else",
    "    .byte 0x6a", // push vector: an exception's registers are wanted whole
    "    .byte vector",
    "    jmp 3f",
    "    .endif",
    "    .set vector, vector + 1",
    ".endr",
    ".balign 16",
    "2:  and qword ptr [rsp + 16], -513",
    "    iretq",
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
    static native_interrupt_stubs: [[u8; 16]; 256];
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
/// #DF.
const DOUBLE_FAULT: usize = 8;

/// An interrupt descriptor table for all processors; read-only once made.
#[repr(C, align(16))]
pub(crate) struct DescriptorTable([Gate; 256]);

impl DescriptorTable {
    /// Gates to the stubs; `start_up` gives #DF its own stack.
    pub(crate) fn new(start_up: bool) -> Self {
        let gate = |vector: usize| {
            let stubs = &raw const native_interrupt_stubs;
            let address = stubs.cast::<[u8; 16]>().wrapping_add(vector).expose_provenance() as u64;
            Gate {
                offset_low: address as u16,
                selector: CODE_SELECTOR,
                ist: if start_up && vector == DOUBLE_FAULT { DOUBLE_FAULT_IST } else { 0 },
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
        // SAFETY: the pointer describes a table that lives for ever and whose gates lead to the stubs above.
        unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
    }
}

/// Takes one pending interrupt, if there is one, and returns its vector. GIF is clear and IF set before and after.
pub(crate) fn window() -> Option<u8> {
    let vector: u32;
    // SAFETY: the sequence opens GIF for exactly the instructions between STGI and CLGI; a handler that runs there changes
    // only EAX and leaves IF clear. The stack is ours. The flags end as they began.
    unsafe {
        asm!("cli", "xor eax, eax", "stgi", "sti", "nop", "nop", "cli", "clgi", "sti", out("eax") vector);
    }
    taken(vector)
}

/// Sleeps until an interrupt comes, unless one is pending already, and returns its vector.
pub(crate) fn sleep() -> Option<u8> {
    let vector: u32;
    // SAFETY: as in `window`. An interrupt that is pending when IF is set is taken after HLT has begun, because STI holds
    // it off for one instruction, and ends it: no kick is slept through.
    unsafe {
        asm!("cli", "xor eax, eax", "stgi", "sti", "hlt", "cli", "clgi", "sti", out("eax") vector);
    }
    taken(vector)
}

fn taken(vector: u32) -> Option<u8> {
    u8::try_from(vector).ok().filter(|&vector| vector != 0)
}

/// What becomes of an exception in Parados itself.
pub type OnException = fn(&OwnException) -> !;

/// The handler, set before the first descriptor table is loaded.
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
