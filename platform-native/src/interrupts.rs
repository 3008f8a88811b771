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

use platform_shared::exceptions::{self, EXCEPTIONS};

use crate::apic;

/// The NMI, which returns like an interrupt.
const NMI: usize = 2;

// One 16-byte stub for each vector.
global_asm!(
    ".section .text.interrupt_stubs, \"ax\"",
    ".balign 16",
    ".global native_interrupt_stubs",
    "native_interrupt_stubs:",
    ".set vector, 0",
    ".rept 256",
    "    .balign 16",
    "    .byte 0xb8", // mov eax, vector
    "    .long vector",
    "    jmp 2f",
    "    .set vector, vector + 1",
    ".endr",
    ".balign 16",
    "2:  and qword ptr [rsp + 16], -513",
    "    iretq",
    ".text",
);

unsafe extern "C" {
    static native_interrupt_stubs: [[u8; 16]; 256];
}

/// The interrupt descriptor table of all processors.
pub(crate) type DescriptorTable = exceptions::DescriptorTable<256>;

/// Gates to the stubs; `start_up` gives #DF its own stack.
pub(crate) fn descriptor_table(start_up: bool) -> DescriptorTable {
    let stub = |vector: usize| {
        if vector < EXCEPTIONS && vector != NMI {
            return exceptions::stub(vector);
        }
        (&raw const native_interrupt_stubs).cast::<[u8; 16]>().wrapping_add(vector).cast()
    };
    // SAFETY: the stubs return with IRETQ, or never.
    unsafe { DescriptorTable::new(start_up, stub) }
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
    apic::look_again();
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
