// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fault of the host ends in one line, not in a reset: 32 gates that all lead to the same place. The other gates are for
//! interrupts, which the host takes in two places only, [`window`] and [`sleep`]; everywhere else GIF is clear.

use super::console;
use core::arch::{asm, global_asm};
use reference_host::report::Stop;

const VECTORS: usize = 256;
/// How many of them are exceptions.
const EXCEPTIONS: usize = 32;
/// Bytes of each stub.
const STUB: u64 = 16;
/// Gate type: present 64-bit interrupt gate.
const INTERRUPT_GATE: u64 = 0x8e00;
/// The host's code selector.
const CODE: u64 = 8;
/// Vectors with an error code (APM vol. 2, table 8-1).
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x1f << 10 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

global_asm!(
    r#"
    .pushsection .text, "ax"
    .balign 16
exception_stubs:
    .set vector, 0
    .rept {vectors}
    .balign {stub}
    .if vector < {exceptions}
    push vector
    jmp exception_common
    .else
    .byte 0xb8                          // mov eax, vector
    .long vector
    jmp interrupt_common
    .endif
    .set vector, vector + 1
    .endr
interrupt_common:
    and qword ptr [rsp + 16], -513      // return with IF clear
    iretq
exception_common:
    mov rdi, [rsp]
    mov rsi, [rsp + 8]
    mov rdx, [rsp + 16]
    and rsp, -16
    call {report}
    ud2
    .popsection
    "#,
    vectors = const VECTORS,
    exceptions = const EXCEPTIONS,
    stub = const STUB,
    report = sym report,
);

unsafe extern "C" {
    safe static exception_stubs: u8;
}

extern "C" fn report(vector: u64, first: u64, second: u64) -> ! {
    // An error code lies before the instruction pointer.
    let rip = if WITH_ERROR_CODE >> vector & 1 != 0 { second } else { first };
    console::stop(&Stop::Exception(vector, rip))
}

#[repr(C, align(16))]
struct Idt([[u64; 2]; VECTORS]);

#[repr(C, packed)]
struct Register {
    limit: u16,
    base: u64,
}

/// Loads the interrupt descriptor table.
pub(super) fn install() {
    static mut IDT: Idt = Idt([[0; 2]; VECTORS]);
    let stubs = &raw const exception_stubs as u64;
    let mut gates = [[0; 2]; VECTORS];
    for (vector, gate) in (0..).zip(gates.iter_mut()) {
        let address = stubs + vector * STUB;
        *gate = [address & 0xffff | CODE << 16 | INTERRUPT_GATE << 32 | (address >> 16 & 0xffff) << 48, address >> 32];
    }
    let idt = &raw mut IDT;
    // SAFETY: this runs once, before anything else and on one processor; the static is not used elsewhere.
    unsafe { idt.write(Idt(gates)) };
    let register = Register { limit: (size_of::<Idt>() - 1) as u16, base: idt as u64 };
    // SAFETY: the table is static and complete, its gates lead to code that never returns.
    unsafe { asm!("lidt [{}]", in(reg) &raw const register, options(readonly, nostack, preserves_flags)) };
}

/// Takes one pending interrupt, if there is one, and returns its vector. GIF is clear and IF set before and after.
pub(super) fn window() -> Option<u8> {
    let vector: u32;
    // SAFETY: GIF is open for exactly the instructions between STGI and CLGI; a handler that runs there changes only EAX and
    // leaves IF clear. The stack is ours. The flags end as they began.
    unsafe { asm!("cli", "xor eax, eax", "stgi", "sti", "nop", "nop", "cli", "clgi", "sti", out("eax") vector) };
    taken(vector)
}

/// Sleeps until an interrupt comes, unless one is pending already, and returns its vector.
pub(super) fn sleep() -> Option<u8> {
    let vector: u32;
    // SAFETY: as in `window`. An interrupt that is pending when IF is set is taken after HLT has begun, because STI holds
    // it off for one instruction, and ends it.
    unsafe { asm!("cli", "xor eax, eax", "stgi", "sti", "hlt", "cli", "clgi", "sti", out("eax") vector) };
    taken(vector)
}

fn taken(vector: u32) -> Option<u8> {
    u8::try_from(vector).ok().filter(|&vector| vector != 0)
}
