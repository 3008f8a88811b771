// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first instructions of the boot processor: from 32-bit mode without paging to long mode on the image's page tables.
//!
//! Nobody knows at build time where the C-bit is, so the tables lack it. The code finds it in the CPUID page, which the
//! firmware has checked (a host that lies about it does not get that far), looks in SEV_STATUS whether SNP is active, and
//! patches the bit into every entry: the tables are private memory, as is all memory without paging (APM vol. 2,
//! 15.34.5). CR3 can have it only in 64-bit mode; until then the processor walks the tables as private memory anyway.
//!
//! The image's `parados_main` is called with the launch block's address. What goes wrong ends the VM through the GHCB MSR.
//! Hostile party: the host, which calls the code at this address and nowhere else, because the VMSA is measured.

use core::arch::global_asm;
use core::mem::offset_of;

use image_abi::LaunchBlock;
use platform::Reason;
use platform_shared::own_tables::C_MASK;
use specs::ghcb::msr;
use specs::sev::{MSR_GHCB, MSR_SEV_STATUS, cpuid_page, leaf};

/// What the MSR protocol says to end the VM because a feature is missing.
const MISSING_FEATURE: u64 = {
    let (set, code) = Reason::MissingFeature.ghcb();
    msr::TERMINATE | (set as u64) << 12 | (code as u64) << 16
};

/// SEV, SEV-ES and SEV-SNP in SEV_STATUS.
const ACTIVE: u32 = 7;

global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    ".code32",
    "_start:",
    "    cli",
    "    cld",
    // EDI: the launch block. The leaf that tells the C-bit's place.
    "    mov ebx, [edi + {cpuid_page}]",
    "    mov ecx, [ebx]",
    "    cmp ecx, {functions}",
    "    ja 9f",
    "    add ebx, 16",
    "2:  test ecx, ecx",
    "    jz 9f",
    "    cmp dword ptr [ebx], {leaf}",
    "    je 3f",
    "    add ebx, {function_bytes}",
    "    dec ecx",
    "    jmp 2b",
    "3:  mov ecx, [ebx + {ebx_of_function}]",
    "    and ecx, {c_bit}",
    "    sub ecx, 32",
    "    jb 9f",
    "    cmp ecx, 52 - 32",
    "    jae 9f",
    "    mov ebp, 1",
    "    shl ebp, cl",
    // The processor's own word on what is active.
    "    mov ecx, {status}",
    "    rdmsr",
    "    and eax, {active}",
    "    cmp eax, {active}",
    "    jne 9f",
    // EBP, the upper half of the mask, goes into every entry that is present.
    "    mov ebx, [edi + {tables}]",
    "    mov ecx, [edi + {tables} + 8]",
    "    shr ecx, 3",
    "4:  test byte ptr [ebx], 1",
    "    jz 5f",
    "    or [ebx + 4], ebp",
    "5:  add ebx, 8",
    "    dec ecx",
    "    jnz 4b",
    // Long mode, in the order of APM vol. 2, 14.6.
    "    mov eax, cr4",
    "    or eax, 0xa0", // PAE, PGE
    "    mov cr4, eax",
    "    mov eax, [edi + {tables}]",
    "    mov cr3, eax",
    "    mov ecx, 0xc0000080", // EFER: LME, NXE
    "    rdmsr",
    "    or eax, 0x900",
    "    wrmsr",
    "    mov eax, 0x80010033", // CR0: PG, WP, NE, ET, MP, PE
    "    mov cr0, eax",
    "    mov eax, offset snp_long_mode",
    "    push 8",
    "    push eax",
    "    retf",
    // EAX: the reason. Nobody answers.
    "9:  mov ecx, {ghcb}",
    "    mov eax, {missing}",
    "    xor edx, edx",
    "    wrmsr",
    "    rep vmmcall",
    "    jmp 9b",
    ".code64",
    "snp_long_mode:",
    "    mov eax, 0x10",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov ss, eax",
    "    mov eax, ebp",
    "    shl rax, 32",
    "    mov [rip + {mask}], rax",
    "    mov rcx, cr3",
    "    or rcx, rax",
    "    mov cr3, rcx",
    // The tables' global entries were loaded without it, too.
    "    mov rax, cr4",
    "    xor rax, 0x80",
    "    mov cr4, rax",
    "    xor rax, 0x80",
    "    mov cr4, rax",
    "    mov edi, edi",
    "    xor ebp, ebp",
    "    and rsp, -16",
    "    call parados_main",
    "    ud2",
    ".text",
    cpuid_page = const offset_of!(LaunchBlock, cpuid_page),
    functions = const cpuid_page::FUNCTIONS,
    function_bytes = const size_of::<cpuid_page::Function>(),
    leaf = const leaf::NUMBER,
    ebx_of_function = const offset_of!(cpuid_page::Function, ebx),
    c_bit = const leaf::EBX_C_BIT,
    status = const MSR_SEV_STATUS,
    active = const ACTIVE,
    tables = const offset_of!(LaunchBlock, page_tables),
    ghcb = const MSR_GHCB,
    missing = const MISSING_FEATURE,
    mask = sym C_MASK,
);
