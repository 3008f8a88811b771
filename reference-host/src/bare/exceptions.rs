// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fault of the host ends in one line, not in a reset: 32 gates that all lead to the same place.

use super::console;
use core::arch::{asm, global_asm};
use reference_host::report::Stop;

const VECTORS: usize = 32;
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
    push vector
    jmp exception_common
    .set vector, vector + 1
    .endr
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
