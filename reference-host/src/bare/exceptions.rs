// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fault of the host ends in one line, not in a reset: gates that all lead to the same place. Interrupts are taken in
//! [`window`] and [`sleep`] only. An NMI is how one processor calls another: it ends these, [`doze`] and [`hear`], and means
//! nothing anywhere else. Outside of the four, GIF is clear.
//!
//! A guest may give its interrupts any vector from 16 on, and below 32 these are exceptions' as well. Where they arrive tells
//! them apart: nothing can fault in the four places.

use super::{console, processors};
use core::arch::{asm, global_asm};
use reference_host::report::Stop;

const VECTORS: usize = 256;
/// #NMI.
const NMI: usize = 2;
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
event_stubs:
    .set vector, 0
    .rept {vectors}
    .balign {stub}
    .if vector == {nmi}
    jmp event_nmi
    .else
    push vector
    jmp event_common
    .endif
    .set vector, vector + 1
    .endr

event_common:
    // With an error code this is no address in the windows, and without one the compiler expects RCX and RDX to be lost.
    mov rcx, [rsp + 8]
    lea rdx, [rip + windows]
    cmp rcx, rdx
    jb 2f
    lea rdx, [rip + windows_end]
    cmp rcx, rdx
    jae 2f
    pop rax                             // the vector
    lea rdx, [rip + windows_done]
    mov [rsp], rdx
    and qword ptr [rsp + 16], -513      // return with IF clear
    iretq
2:  mov rdi, [rsp]
    mov rsi, [rsp + 8]
    mov rdx, [rsp + 16]
    and rsp, -16
    call {report}
    ud2

event_nmi:
    push rcx
    push rdx
    mov rcx, [rsp + 16]
    lea rdx, [rip + windows]
    cmp rcx, rdx
    jb 2f
    lea rdx, [rip + windows_end]
    cmp rcx, rdx
    jae 2f
    lea rdx, [rip + windows_done]
    mov [rsp + 16], rdx
    and qword ptr [rsp + 32], -513
2:  pop rdx
    pop rcx
    iretq

    // All four begin and end with GIF clear and IF set, and return the vector that they took, or 0. STI holds interrupts
    // off for one instruction, so one that is pending already ends HLT.
windows:
    .global interrupt_window
interrupt_window:
    cli
    xor eax, eax
    stgi
    sti
    nop
    nop
    cli
    jmp windows_done
    .global interrupt_sleep
interrupt_sleep:
    cli
    xor eax, eax
    stgi
    sti
    hlt
    jmp windows_done
    .global interrupt_hear
interrupt_hear:
    cli
    xor eax, eax
    stgi
    nop
    jmp windows_done
    .global interrupt_doze
interrupt_doze:
    cli
    xor eax, eax
    stgi
    hlt
windows_end:
    nop
windows_done:
    cli
    clgi
    sti
    ret
    .popsection
    "#,
    vectors = const VECTORS,
    nmi = const NMI,
    stub = const STUB,
    report = sym report,
);

unsafe extern "C" {
    fn interrupt_window() -> u32;
    fn interrupt_sleep() -> u32;
    fn interrupt_hear() -> u32;
    fn interrupt_doze() -> u32;
}

unsafe extern "C" {
    safe static event_stubs: u8;
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

static mut IDT: Idt = Idt([[0; 2]; VECTORS]);

/// Fills the interrupt descriptor table and loads it.
pub(super) fn install() {
    let stubs = &raw const event_stubs as u64;
    let mut gates = [[0; 2]; VECTORS];
    for (vector, gate) in (0..).zip(gates.iter_mut()) {
        let address = stubs + vector * STUB;
        *gate = [address & 0xffff | CODE << 16 | INTERRUPT_GATE << 32 | (address >> 16 & 0xffff) << 48, address >> 32];
    }
    let idt = &raw mut IDT;
    // SAFETY: this runs once, before anything else and on one processor; from then on the table is only read.
    unsafe { idt.write(Idt(gates)) };
    load();
}

/// Loads the table, on any processor.
pub(super) fn load() {
    let register = Register { limit: (size_of::<Idt>() - 1) as u16, base: &raw const IDT as u64 };
    // SAFETY: the table is static, and `install` has filled it with gates whose code returns only into the three windows.
    unsafe { asm!("lidt [{}]", in(reg) &raw const register, options(readonly, nostack, preserves_flags)) };
}

/// Takes one pending interrupt, if there is one, and returns its vector. GIF is clear and IF set before and after.
pub(super) fn window() -> Option<u8> {
    // SAFETY: GIF is open only within the assembly, whose handlers keep to the C ABI there. The stack is ours.
    taken(unsafe { interrupt_window() })
}

/// Takes a pending NMI. Interrupts wait.
pub(super) fn hear() {
    // SAFETY: as in `window`; IF is clear throughout.
    taken(unsafe { interrupt_hear() });
}

/// Sleeps until an interrupt or an NMI comes, unless one is pending already, and returns the interrupt's vector.
pub(super) fn sleep() -> Option<u8> {
    processors::look_again();
    // SAFETY: as in `window`.
    taken(unsafe { interrupt_sleep() })
}

/// Sleeps until an NMI comes, unless one is pending already. Interrupts wait.
pub(super) fn doze() {
    // SAFETY: as in `window`; IF is clear throughout.
    taken(unsafe { interrupt_doze() });
}

fn taken(vector: u32) -> Option<u8> {
    u8::try_from(vector).ok().filter(|&vector| vector != 0)
}
