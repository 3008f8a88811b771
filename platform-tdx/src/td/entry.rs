// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first instructions of every processor of a TD: from the reset vector, in 32-bit mode without paging, to long mode on the
//! image's page tables.
//!
//! A TD's processors all start at FFFFFFF0h (TDXBASE, initial state of TD vCPUs): flat segments, paging off, EFER.LME and NXE set
//! for good, EBX the width of guest-physical addresses, ESI the processor's index. There is no INIT and no SIPI, so the boot
//! processor is number 0, and the others wait for it at the mailbox. Where paging is off all memory is private, and the
//! image's tables have no shared bit, so they are private memory and lead to private memory, whatever EBX says.
//!
//! Neither CPUID nor an MSR nor a port is touched before there are gates for #VE.
//!
//! Hostile party: the host, which chooses RCX, R8 and when a processor runs, and nothing else: the code and what it reads are
//! measured pages.

use core::arch::global_asm;
use core::mem::offset_of;

use image_abi::{LaunchBlock, Mailbox, RESET_MAGIC, RESET_PAGE, Range, ResetParameters};

/// The reset vector in its page.
const VECTOR: usize = 0xff0;

global_asm!(
    ".section .reset, \"ax\"",
    ".code32",
    "tdx_reset_page:",
    // Filled in by igvm-tools.
    "    .quad {magic}",
    "    .skip {parameters} - 8",
    "    .org tdx_reset_page + {vector}",
    "    mov edi, dword ptr [{launch_block}]",
    "    jmp dword ptr [{entry}]",
    "    .org tdx_reset_page + 4096",
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    "    cli",
    "    cld",
    "    lgdt [tdx_gdt_pointer]",
    // EDI: the launch block; ESI: the processor; EBP: the mailbox, of processors other than the first.
    "    xor ebp, ebp",
    "    test esi, esi",
    "    jz 3f",
    "    mov ebp, [edi + {mailbox}]",
    "2:  pause",
    "    cmp [ebp + {called}], esi",
    "    jne 2b",
    // Long mode, in the order of SDM vol. 3A, 11.8.5; LME is set already.
    "3:  mov eax, cr4",
    "    or eax, 0xa0", // PAE, PGE
    "    mov cr4, eax",
    "    mov eax, [edi + {tables}]",
    "    mov cr3, eax",
    "    mov eax, 0x80010033", // CR0: PG, WP, NE, ET, MP, PE
    "    mov cr0, eax",
    "    jmp fword ptr [tdx_far]",
    ".code64",
    "tdx_long_mode:",
    "    mov eax, 0x10",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov ss, eax",
    "    mov edi, edi",
    "    mov esi, esi",
    "    mov ebp, ebp",
    "    test esi, esi",
    "    jnz 4f",
    "    mov rsp, [rdi + {stack}]",
    "    add rsp, [rdi + {stack} + {bytes}]",
    "    xor ebp, ebp",
    "    call parados_main",
    "    ud2",
    // What the caller wrote before it called.
    "4:  mov rsp, [rbp + {its_stack}]",
    "    mov rax, [rbp + {its_entry}]",
    "    mov dword ptr [rbp + {called}], 0",
    "    mov edi, esi",
    "    xor ebp, ebp",
    "    call rax",
    "    ud2",
    // The accessed bits are set, so that no processor writes here.
    ".balign 8",
    "tdx_gdt:",
    "    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "tdx_gdt_pointer:",
    "    .word . - tdx_gdt - 1",
    "    .long tdx_gdt",
    "tdx_far:",
    "    .long tdx_long_mode",
    "    .word 8",
    ".text",
    magic = const u64::from_le_bytes(RESET_MAGIC),
    parameters = const size_of::<ResetParameters>(),
    vector = const VECTOR,
    launch_block = const RESET_PAGE + offset_of!(ResetParameters, launch_block) as u64,
    entry = const RESET_PAGE + offset_of!(ResetParameters, entry) as u64,
    mailbox = const offset_of!(LaunchBlock, mailbox),
    tables = const offset_of!(LaunchBlock, page_tables),
    stack = const offset_of!(LaunchBlock, stack),
    bytes = const offset_of!(Range, bytes),
    called = const offset_of!(Mailbox, processor),
    its_stack = const offset_of!(Mailbox, stack),
    its_entry = const offset_of!(Mailbox, entry),
);
