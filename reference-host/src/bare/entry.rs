// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the PVH entry (32-bit, unpaged, EBX = start information) to Rust in 64-bit mode.
//!
//! Sources: Xen docs/misc/pvh.pandoc for the state at the entry, APM vol. 2, 14.6 for the way to long mode.
//!
//! The boot page tables map the first 4 GiB one to one, the same at [`DIRECT`], and the program's 2 MiB at its link address.

use core::arch::global_asm;

/// Where all physical memory is mapped.
pub(super) const DIRECT: u64 = 0xffff_8000_0000_0000;
/// The link address.
pub(super) const BLOCK_VIRTUAL: u64 = 0xffff_ffff_8000_0000;
/// Where QEMU loads the program; the same as in the linker script.
const BLOCK_PHYSICAL: u32 = 16 << 20;
/// A page-table entry: present, writable; a large page besides.
const TABLE: u32 = 3;
const LARGE_PAGE: u32 = 0x83;
/// A switch of VMPLs holds several VMSAs on the stack, each a page; the firmware's signatures take 40 KiB.
const STACK_BYTES: usize = 256 << 10;

global_asm!(
    r#"
    .pushsection .note.pvh, "a", @note
    .balign 4
    .long 4                     // name: "Xen", with its zero
    .long 8                     // descriptor: 8 bytes in an ELF64, as QEMU reads it
    .long {phys32_entry}
    .asciz "Xen"
    .quad pvh_entry_physical
    .popsection

    .pushsection .text.entry, "ax"
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    // The tables, one page each: top, third level low, third level high, four second level low, one second level high.
    mov edi, offset boot_tables_physical
    lea eax, [edi + 0x1000 + {table}]
    mov [edi], eax
    mov [edi + 256 * 8], eax
    lea eax, [edi + 0x2000 + {table}]
    mov [edi + 511 * 8], eax
    lea eax, [edi + 0x3000 + {table}]
    mov [edi + 0x1000], eax
    add eax, 0x1000
    mov [edi + 0x1008], eax
    add eax, 0x1000
    mov [edi + 0x1010], eax
    add eax, 0x1000
    mov [edi + 0x1018], eax
    add eax, 0x1000
    mov [edi + 0x2000 + 510 * 8], eax
    mov dword ptr [edi + 0x7000], {block} + {large}
    lea esi, [edi + 0x3000]
    mov eax, {large}
2:  mov [esi], eax
    add esi, 8
    add eax, 0x200000
    jnc 2b

    mov cr3, edi
    mov eax, cr4
    or eax, 0x20                // PAE
    mov cr4, eax
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or eax, 0x900               // LME, NXE: the image's tables may use bit 63
    wrmsr
    mov eax, cr0
    or eax, 0x80010000          // PG, WP
    mov cr0, eax
    lgdt [boot_gdt_register_physical]
    .byte 0xea                  // far jump
    .long long_mode_physical
    .word 8

    .code64
    .global long_mode
long_mode:
    movabs rax, offset long_mode_high
    jmp rax
long_mode_high:
    lgdt [rip + high_gdt_register]
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    lea rsp, [rip + boot_stack + {stack}]
    xor ebp, ebp
    mov edi, ebx
    call {main}
    ud2
    .popsection

    .pushsection .rodata.boot, "a"
    .balign 8
    .global boot_gdt
    .global boot_gdt_register
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_register:
    .word 23
    .long boot_gdt_physical
    .global high_gdt_register
high_gdt_register:
    .word 23
    .quad boot_gdt
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 4096
    .global boot_tables
boot_tables:
    .skip 8 * 4096
boot_stack:
    .skip {stack}
    .popsection
    "#,
    phys32_entry = const specs::pvh::NOTE_PHYS32_ENTRY,
    table = const TABLE,
    large = const LARGE_PAGE,
    block = const BLOCK_PHYSICAL,
    stack = const STACK_BYTES,
    main = sym super::host_main,
);
