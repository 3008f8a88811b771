// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that `tdx-guest` (0.3.1) does not have, or not as they are needed: all of them, and why. Whatever is not here is called
//! through that crate.
//!
//! | call | what the crate lacks |
//! |---|---|
//! | TDG.VP.VMCALL&lt;ReportFatalError&gt; | the code in R12, by which a host's operator tells reasons apart: `report_fatal_error` writes zero there |
//!
//! Not called yet, because no guest runs; they will be here too:
//!
//! | call | what the crate lacks |
//! |---|---|
//! | TDG.VP.ENTER | `enter_l2_vcpu` drops all results unless RAX is zero, and RAX holds the exit's reason; RBX, RSI, RDI, R14 and R15, which tell of the exit too, never come back; RDI and RBP are used across a call that may change both |
//! | TDG.MEM.PAGE.ATTR.RD | `read_page_attr` passes the address of a byte slice where the leaf wants a guest-physical one |
//! | TDG.MEM.PAGE.ATTR.WR | nobody can make `write_page_attr`'s argument: its fields are private |
//!
//! Sources: TDXABI (TDG leaves), GHCI (TDG.VP.VMCALL). Hostile party: the host, which answers what goes through TDG.VP.VMCALL.

use core::arch::global_asm;

use platform::{Gpr, Termination};

// RDI: sixteen registers, by their numbers in instructions. All but RSP and RBP are loaded, and what the call leaves in them is
// dropped. RBP is not among what the host is shown and may set.
global_asm!(
    ".section .text.tdx_tell, \"ax\"",
    ".global tdx_tell",
    "tdx_tell:",
    "    push rbx",
    "    push rbp",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    mov rax, [rdi]",
    "    mov rcx, [rdi + 8]",
    "    mov rdx, [rdi + 16]",
    "    mov rbx, [rdi + 24]",
    "    mov rsi, [rdi + 48]",
    "    mov r8, [rdi + 64]",
    "    mov r9, [rdi + 72]",
    "    mov r10, [rdi + 80]",
    "    mov r11, [rdi + 88]",
    "    mov r12, [rdi + 96]",
    "    mov r13, [rdi + 104]",
    "    mov r14, [rdi + 112]",
    "    mov r15, [rdi + 120]",
    "    mov rdi, [rdi + 56]",
    "    tdcall",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbp",
    "    pop rbx",
    "    ret",
    ".text",
);

unsafe extern "C" {
    fn tdx_tell(registers: *const [u64; Gpr::ALL.len()]);
}

/// Asks the host to end the TD. It should not come back from that, and may.
pub(crate) fn report_fatal_error(how: Termination) {
    let mut registers = [0; Gpr::ALL.len()];
    for (register, value) in crate::fatal_error_call(how) {
        if let Some(slot) = registers.get_mut(register as usize) {
            *slot = value;
        }
    }
    // SAFETY: the stub keeps what a callee keeps and writes to no memory but its stack; the host reaches no private memory.
    unsafe { tdx_tell(&raw const registers) };
}
