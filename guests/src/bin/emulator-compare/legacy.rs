// SPDX-License-Identifier: MIT OR Apache-2.0
//! Out of long mode into a case in protected, virtual-8086 or real mode, and back (APM vol. 2, 14.6 and 14.7).
//!
//! In protected mode an exception at the same level would push its frame on the stack of the case, which may lie on a
//! device. So every vector has a task gate: the processor puts the registers into the task's state segment (APM vol. 2,
//! 12.3) and takes up a task with a stack of its own. Real mode has no such thing: there the stack of the case is memory.

use core::arch::global_asm;

use crate::exchange::{WAY_REAL, WAY_VIRTUAL, at};

/// Where the code of real mode lies; it finds its data in the last part.
pub(crate) const REAL_CODE: u64 = 0x8000;
const REAL_SEGMENT: u64 = REAL_CODE >> 4;
/// Offsets from [`REAL_CODE`]: registers, in the order of [`RealSlots`], and the interrupt vectors.
pub(crate) const REAL_SLOTS: u64 = 0xe00;
pub(crate) const REAL_VECTORS: u64 = 0xf00;
/// The end of a stack.
const REAL_STACK: u64 = 0xe00;

/// Registers on the way into real mode and out of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RealSlots {
    /// In encoding order.
    pub(crate) gprs: [u32; 8],
    pub(crate) far_stack: [u16; 3],
    pub(crate) far_code: [u16; 2],
    pub(crate) ds: u16,
    pub(crate) es: u16,
    pub(crate) gs: u16,
    pub(crate) rflags: u32,
    pub(crate) vector: u16,
    pub(crate) rip: u16,
    pub(crate) cs: u16,
    pub(crate) flags: u16,
    pub(crate) gdtr: [u16; 3],
    pub(crate) idtr: [u16; 3],
    /// For the way back.
    pub(crate) back_gdtr: [u16; 3],
    pub(crate) status: u16,
}

/// Where the slots are, for assembly.
mod slot {
    use super::{REAL_SLOTS, RealSlots};
    use core::mem::offset_of;
    const BASE: usize = REAL_SLOTS as usize;
    pub(super) const GPRS: usize = BASE;
    pub(super) const FAR_STACK: usize = BASE + offset_of!(RealSlots, far_stack);
    pub(super) const FAR_CODE: usize = BASE + offset_of!(RealSlots, far_code);
    pub(super) const DS: usize = BASE + offset_of!(RealSlots, ds);
    pub(super) const ES: usize = BASE + offset_of!(RealSlots, es);
    pub(super) const GS: usize = BASE + offset_of!(RealSlots, gs);
    pub(super) const RFLAGS: usize = BASE + offset_of!(RealSlots, rflags);
    pub(super) const VECTOR: usize = BASE + offset_of!(RealSlots, vector);
    pub(super) const RIP: usize = BASE + offset_of!(RealSlots, rip);
    pub(super) const CS: usize = BASE + offset_of!(RealSlots, cs);
    pub(super) const FLAGS: usize = BASE + offset_of!(RealSlots, flags);
    pub(super) const GDTR: usize = BASE + offset_of!(RealSlots, gdtr);
    pub(super) const IDTR: usize = BASE + offset_of!(RealSlots, idtr);
    pub(super) const BACK_GDTR: usize = BASE + offset_of!(RealSlots, back_gdtr);
    pub(super) const STATUS: usize = BASE + offset_of!(RealSlots, status);
}

global_asm!(
    r#"
    .pushsection .text, "ax"
compare_run_legacy:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + COMPARE_EXCHANGE + {host_rsp}], rsp
    push 0x18
    lea rax, [rip + 2f]
    push rax
    retfq
    .code32
2:  mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0xfffffeff
    wrmsr
    mov eax, [COMPARE_EXCHANGE + {case_cr4}]
    mov cr4, eax
    lgdt [COMPARE_EXCHANGE + {legacy_gdtr}]
    cmp dword ptr [COMPARE_EXCHANGE + {way}], {real}
    je compare_to_real
    mov eax, [COMPARE_EXCHANGE + {case_cr3}]
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    lidt [COMPARE_EXCHANGE + {legacy_idtr}]
    mov eax, 0x30
    lldt ax
    mov eax, 0x40
    ltr ax
    cmp dword ptr [COMPARE_EXCHANGE + {way}], {virtual}
    je 4f
    // Protected mode.
    push dword ptr [COMPARE_EXCHANGE + {flags}]
    popfd
    mov ax, [COMPARE_EXCHANGE + {es}]
    mov es, eax
    mov ax, [COMPARE_EXCHANGE + {gs}]
    mov gs, eax
    mov eax, [COMPARE_EXCHANGE]
    mov ecx, [COMPARE_EXCHANGE + 8]
    mov edx, [COMPARE_EXCHANGE + 16]
    mov ebx, [COMPARE_EXCHANGE + 24]
    mov ebp, [COMPARE_EXCHANGE + 40]
    mov esi, [COMPARE_EXCHANGE + 48]
    mov edi, [COMPARE_EXCHANGE + 56]
    .byte 0x0f, 0xb2, 0x25              // lss esp, far_stack
    .long COMPARE_EXCHANGE + {far_stack}
    mov ds, word ptr [COMPARE_EXCHANGE + {ds}]
    .byte 0x2e, 0xff, 0x2d              // jmp far cs:far_code
    .long COMPARE_EXCHANGE + {far_code}
    // Virtual-8086 mode.
4:  push dword ptr [COMPARE_EXCHANGE + {gs}]
    push 0
    push dword ptr [COMPARE_EXCHANGE + {ds}]
    push dword ptr [COMPARE_EXCHANGE + {es}]
    push dword ptr [COMPARE_EXCHANGE + {ss}]
    push dword ptr [COMPARE_EXCHANGE + 32]
    push dword ptr [COMPARE_EXCHANGE + {flags}]
    push dword ptr [COMPARE_EXCHANGE + {cs}]
    push dword ptr [COMPARE_EXCHANGE + {rip}]
    mov eax, [COMPARE_EXCHANGE]
    mov ecx, [COMPARE_EXCHANGE + 8]
    mov edx, [COMPARE_EXCHANGE + 16]
    mov ebx, [COMPARE_EXCHANGE + 24]
    mov ebp, [COMPARE_EXCHANGE + 40]
    mov esi, [COMPARE_EXCHANGE + 48]
    mov edi, [COMPARE_EXCHANGE + 56]
    iretd

    // The tasks of the exceptions start here.
    .balign 16
compare_task_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if ((({with_error_code} >> vector) & 1) == 0)
    xor ecx, ecx
    .else
    pop ecx
    .endif
    mov ebx, vector
    jmp compare_task_end
    .set vector, vector + 1
    .endr
compare_task_end:
    clts
    mov [COMPARE_EXCHANGE + {vector}], ebx
    mov [COMPARE_EXCHANGE + {error}], ecx
    sgdt [COMPARE_EXCHANGE + {gdtr}]
    sidt [COMPARE_EXCHANGE + {idtr}]
    mov eax, cr2
    mov [COMPARE_EXCHANGE + {cr2}], eax
    mov eax, cr0
    mov [COMPARE_EXCHANGE + {cr0}], eax
compare_to_long:
    mov eax, [COMPARE_EXCHANGE + {host_cr0}]
    and eax, 0x7fffffff
    mov cr0, eax
    mov eax, [COMPARE_EXCHANGE + {host_cr4}]
    mov cr4, eax
    mov eax, [COMPARE_EXCHANGE + {host_cr3}]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, [COMPARE_EXCHANGE + {host_cr0}]
    mov cr0, eax
    lgdt [COMPARE_EXCHANGE + {long_gdtr}]
    .byte 0xea
    .long compare_back_in_rust
    .word 8

compare_to_real:
    lidt [COMPARE_EXCHANGE + {real_idtr}]
    .byte 0xea
    .long {real_code} + compare_real_start - compare_real
    .word 0x20
compare_from_real:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    jmp compare_to_long

    // The part that is copied below 1 MiB.
    .balign 16
compare_real:
    .code16
compare_real_start:
    mov ax, 0x28
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    .byte 0xea
    .word 5f - compare_real
    .word {real_segment}
5:  mov ax, cs
    mov ds, ax
    mov fs, ax
    mov ss, ax
    mov sp, {real_stack}
    .byte 0x66, 0xff, 0x36              // push rflags
    .word {s_rflags}
    .byte 0x66, 0x9d                    // popfd
    mov es, word ptr [{s_es}]
    mov gs, word ptr [{s_gs}]
    mov eax, [{s_gprs}]
    mov ecx, [{s_gprs} + 4]
    mov edx, [{s_gprs} + 8]
    mov ebx, [{s_gprs} + 12]
    mov ebp, [{s_gprs} + 20]
    mov esi, [{s_gprs} + 24]
    mov edi, [{s_gprs} + 28]
    .byte 0x66, 0x0f, 0xb2, 0x26        // lss esp, far_stack
    .word {s_far_stack}
    mov ds, word ptr [{s_ds}]
    .byte 0x2e, 0xff, 0x2e              // jmp far cs:far_code
    .word {s_far_code}

    .balign 8
compare_real_stubs:
    .set vector, 0
    .rept 32
    .balign 8
    .byte 0x6a, vector                  // push
    .byte 0xe9                          // jmp
    .word compare_real_end - . - 2
    .set vector, vector + 1
    .endr
compare_real_end:
    mov cs:[{s_gprs}], eax
    mov cs:[{s_gprs} + 4], ecx
    mov cs:[{s_gprs} + 8], edx
    mov cs:[{s_gprs} + 12], ebx
    mov cs:[{s_gprs} + 16], esp
    mov cs:[{s_gprs} + 20], ebp
    mov cs:[{s_gprs} + 24], esi
    mov cs:[{s_gprs} + 28], edi
    mov word ptr cs:[{s_ds}], ds
    mov word ptr cs:[{s_es}], es
    mov word ptr cs:[{s_gs}], gs
    pop word ptr cs:[{s_vector}]
    pop word ptr cs:[{s_rip}]
    pop word ptr cs:[{s_cs}]
    pop word ptr cs:[{s_flags}]
    cld
    mov ax, cs
    mov ds, ax
    sgdt [{s_gdtr}]
    sidt [{s_idtr}]
    smsw word ptr [{s_status}]
    .byte 0x66, 0x0f, 0x01, 0x16        // lgdt
    .word {s_back_gdtr}
    mov eax, cr0
    and al, 0xf1
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long compare_from_real
    .word 0x18
compare_real_finish:
    .code64
    .popsection
    "#,
    rip = const at::RIP,
    cs = const at::CS,
    flags = const at::FLAGS,
    ss = const at::SS,
    ds = const at::DS,
    es = const at::ES,
    gs = const at::GS,
    far_stack = const at::FAR_STACK,
    far_code = const at::FAR_CODE,
    vector = const at::VECTOR,
    error = const at::ERROR,
    cr2 = const at::CR2,
    cr0 = const at::CR0,
    gdtr = const at::GDTR,
    idtr = const at::IDTR,
    case_cr3 = const at::CASE_CR3,
    case_cr4 = const at::CASE_CR4,
    way = const at::WAY,
    host_rsp = const at::HOST_RSP,
    host_cr0 = const at::HOST_CR0,
    host_cr3 = const at::HOST_CR3,
    host_cr4 = const at::HOST_CR4,
    long_gdtr = const at::LONG_GDTR,
    legacy_gdtr = const at::LEGACY_GDTR,
    legacy_idtr = const at::LEGACY_IDTR,
    real_idtr = const at::REAL_IDTR,
    virtual = const WAY_VIRTUAL,
    real = const WAY_REAL,
    real_code = const REAL_CODE,
    real_segment = const REAL_SEGMENT,
    real_stack = const REAL_STACK,
    s_gprs = const slot::GPRS,
    s_far_stack = const slot::FAR_STACK,
    s_far_code = const slot::FAR_CODE,
    s_ds = const slot::DS,
    s_es = const slot::ES,
    s_gs = const slot::GS,
    s_rflags = const slot::RFLAGS,
    s_vector = const slot::VECTOR,
    s_rip = const slot::RIP,
    s_cs = const slot::CS,
    s_flags = const slot::FLAGS,
    s_gdtr = const slot::GDTR,
    s_idtr = const slot::IDTR,
    s_back_gdtr = const slot::BACK_GDTR,
    s_status = const slot::STATUS,
    with_error_code = const super::WITH_ERROR_CODE,
);

unsafe extern "C" {
    /// Runs the case in the exchange, and for real mode in its slots.
    pub(crate) fn compare_run_legacy();
    pub(crate) safe static compare_task_stubs: u8;
    pub(crate) safe static compare_real: u8;
    pub(crate) safe static compare_real_stubs: u8;
    pub(crate) safe static compare_real_finish: u8;
}
