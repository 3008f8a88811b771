// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the PVH entry (32-bit, unpaged, EBX = start information) to Rust in 64-bit mode, with the low 4 GiB mapped one to one.
//!
//! Sources: Xen docs/misc/pvh.pandoc for the state at the entry, APM vol. 2, 14.6 for the way to long mode.

use core::arch::global_asm;

global_asm!(
    r#"
    .pushsection .note.pvh, "a", @note
    .balign 4
    .long 4
    .long 8
    .long {phys32_entry}
    .asciz "Xen"
    .quad pvh_entry
    .popsection

    .pushsection .text.entry, "ax"
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    // Tables: top, third level, four second levels.
    mov edi, offset guest_tables
    lea eax, [edi + 0x1003]
    mov [edi], eax
    lea esi, [edi + 0x1000]
    mov ecx, 4
2:  add eax, 0x1000
    mov [esi], eax
    add esi, 8
    loop 2b
    lea esi, [edi + 0x2000]
    mov eax, 0x83               // present, writable, large
3:  mov [esi], eax
    add esi, 8
    add eax, 0x200000
    jnc 3b

    mov cr3, edi
    mov eax, cr4
    or eax, 0x20                // PAE
    mov cr4, eax
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or eax, 0x100               // LME
    wrmsr
    mov eax, cr0
    or eax, 0x80010000          // PG, and WP as every operating system sets it
    mov cr0, eax
    lgdt [guest_gdt_register]
    .byte 0xea                  // far jump
    .long guest_long_mode
    .word 8

    .code64
guest_long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    lea rsp, [rip + guest_stack_top]
    xor ebp, ebp
    mov edi, ebx
    call guest_main
    ud2
    .popsection

    .pushsection .data.gdt, "aw"
    .balign 8
guest_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .global guest_gdt_register
guest_gdt_register:
    .word 23
    .quad guest_gdt
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 4096
guest_tables:
    .skip 6 * 4096
guest_stack:
    .skip 65536
guest_stack_top:
    .popsection
    "#,
    phys32_entry = const specs::pvh::NOTE_PHYS32_ENTRY,
);
