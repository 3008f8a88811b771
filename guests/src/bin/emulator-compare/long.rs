// SPDX-License-Identifier: MIT OR Apache-2.0
//! Into a case in long mode, by IRETQ, and out of it through an interrupt gate with a stack of its own: the stack of the
//! case may lie on a device, where no exception's frame can go.

use core::arch::global_asm;

use crate::exchange::at;

global_asm!(
    r#"
    .pushsection .text, "ax"
compare_run_long:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + COMPARE_EXCHANGE + {host_rsp}], rsp
    mov ax, [rip + COMPARE_EXCHANGE + {ds}]
    mov ds, ax
    mov ax, [rip + COMPARE_EXCHANGE + {es}]
    mov es, ax
    mov ax, [rip + COMPARE_EXCHANGE + {gs}]
    mov gs, ax
    push qword ptr [rip + COMPARE_EXCHANGE + {ss}]
    push qword ptr [rip + COMPARE_EXCHANGE + 32]
    push qword ptr [rip + COMPARE_EXCHANGE + {flags}]
    push qword ptr [rip + COMPARE_EXCHANGE + {cs}]
    push qword ptr [rip + COMPARE_EXCHANGE + {rip}]
    mov rax, [rip + COMPARE_EXCHANGE]
    mov rcx, [rip + COMPARE_EXCHANGE + 8]
    mov rdx, [rip + COMPARE_EXCHANGE + 16]
    mov rbx, [rip + COMPARE_EXCHANGE + 24]
    mov rbp, [rip + COMPARE_EXCHANGE + 40]
    mov rsi, [rip + COMPARE_EXCHANGE + 48]
    mov rdi, [rip + COMPARE_EXCHANGE + 56]
    mov r8, [rip + COMPARE_EXCHANGE + 64]
    mov r9, [rip + COMPARE_EXCHANGE + 72]
    mov r10, [rip + COMPARE_EXCHANGE + 80]
    mov r11, [rip + COMPARE_EXCHANGE + 88]
    mov r12, [rip + COMPARE_EXCHANGE + 96]
    mov r13, [rip + COMPARE_EXCHANGE + 104]
    mov r14, [rip + COMPARE_EXCHANGE + 112]
    mov r15, [rip + COMPARE_EXCHANGE + 120]
    iretq

    .balign 16
compare_long_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if ((({with_error_code} >> vector) & 1) == 0)
    push 0
    .endif
    push vector
    jmp compare_long_end
    .set vector, vector + 1
    .endr
compare_long_end:
    mov [rip + COMPARE_EXCHANGE], rax
    mov [rip + COMPARE_EXCHANGE + 8], rcx
    mov [rip + COMPARE_EXCHANGE + 16], rdx
    mov [rip + COMPARE_EXCHANGE + 24], rbx
    mov [rip + COMPARE_EXCHANGE + 40], rbp
    mov [rip + COMPARE_EXCHANGE + 48], rsi
    mov [rip + COMPARE_EXCHANGE + 56], rdi
    mov [rip + COMPARE_EXCHANGE + 64], r8
    mov [rip + COMPARE_EXCHANGE + 72], r9
    mov [rip + COMPARE_EXCHANGE + 80], r10
    mov [rip + COMPARE_EXCHANGE + 88], r11
    mov [rip + COMPARE_EXCHANGE + 96], r12
    mov [rip + COMPARE_EXCHANGE + 104], r13
    mov [rip + COMPARE_EXCHANGE + 112], r14
    mov [rip + COMPARE_EXCHANGE + 120], r15
    pop qword ptr [rip + COMPARE_EXCHANGE + {vector}]
    pop qword ptr [rip + COMPARE_EXCHANGE + {error}]
    pop qword ptr [rip + COMPARE_EXCHANGE + {rip}]
    pop qword ptr [rip + COMPARE_EXCHANGE + {cs}]
    pop qword ptr [rip + COMPARE_EXCHANGE + {flags}]
    pop qword ptr [rip + COMPARE_EXCHANGE + 32]
    pop qword ptr [rip + COMPARE_EXCHANGE + {ss}]
    mov word ptr [rip + COMPARE_EXCHANGE + {ds}], ds
    mov word ptr [rip + COMPARE_EXCHANGE + {es}], es
    mov word ptr [rip + COMPARE_EXCHANGE + {gs}], gs
    sgdt [rip + COMPARE_EXCHANGE + {gdtr}]
    sidt [rip + COMPARE_EXCHANGE + {idtr}]
    sldt word ptr [rip + COMPARE_EXCHANGE + {ldtr}]
    str word ptr [rip + COMPARE_EXCHANGE + {tr}]
    mov rax, cr2
    mov [rip + COMPARE_EXCHANGE + {cr2}], rax
    mov rax, cr0
    mov [rip + COMPARE_EXCHANGE + {cr0}], rax
compare_back_in_rust:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov rsp, [rip + COMPARE_EXCHANGE + {host_rsp}]
    push 2
    popfq
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

// RDI: sixteen times 32 bytes.
compare_load_ymm:
    .set number, 0
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovups ymm\number, [rdi + 32 * \number]
    .endr
    ret
compare_store_ymm:
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovups [rdi + 32 * \number], ymm\number
    .endr
    ret
compare_load_xmm:
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movups xmm\number, [rdi + 32 * \number]
    .endr
    ret
compare_store_xmm:
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movups [rdi + 32 * \number], xmm\number
    .endr
    ret
    .popsection
    "#,
    rip = const at::RIP,
    cs = const at::CS,
    flags = const at::FLAGS,
    ss = const at::SS,
    ds = const at::DS,
    es = const at::ES,
    gs = const at::GS,
    vector = const at::VECTOR,
    error = const at::ERROR,
    cr2 = const at::CR2,
    cr0 = const at::CR0,
    gdtr = const at::GDTR,
    idtr = const at::IDTR,
    ldtr = const at::LDTR,
    tr = const at::TR,
    host_rsp = const at::HOST_RSP,
    with_error_code = const super::WITH_ERROR_CODE,
);

unsafe extern "C" {
    /// Runs the case in the exchange.
    pub(crate) fn compare_run_long();
    pub(crate) fn compare_load_ymm(from: *const [u8; 32]);
    pub(crate) fn compare_store_ymm(to: *mut [u8; 32]);
    pub(crate) fn compare_load_xmm(from: *const [u8; 32]);
    pub(crate) fn compare_store_xmm(to: *mut [u8; 32]);
    pub(crate) safe static compare_long_stubs: u8;
}
