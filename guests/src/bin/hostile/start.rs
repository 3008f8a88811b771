// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a victim starts: from the start-up IPI into the mode of its job, by a page of conventional memory.
//!
//! Sources: SDM vol. 3A, 10.4.4 for the protocol, 8.7 for tasks; APM vol. 2, 12.4 and 14.6.

use core::sync::atomic::Ordering::SeqCst;
use guests::apic::{self, command};

use crate::area::{self, Area, area};

/// The mode that the trampoline goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Start {
    Long = 0,
    Tasks = 1,
    Real = 2,
}

/// Selectors of the victims' descriptor table: see `tables`.
const TASK: usize = 0x20;
const HANDLER: usize = 0x28;

core::arch::global_asm!(
    r#"
    .pushsection .text, "ax"
    .global hostile_trampoline, hostile_trampoline_end
    .code16
hostile_trampoline:
    cli
    cld
    mov ax, cs
    mov ds, ax
    mov ebp, [0xf04]            // the area
    mov bx, [0xf00]             // what to start
    cmp bx, 2
    jne 2f
    .byte 0x66, 0x0f, 0x01, 0x1e, 0x28, 0x0f    // lidt [0xf28]
    .byte 0xff, 0x2e, 0x08, 0x0f                // far jump to what 0xf08 says
2:  mov esi, [0xf10]            // CR3 of long mode
    mov edi, [0xf18]            // CR3 of the tasks, or 0
    mov edx, [0xf1c]            // CR4 of the tasks
    .byte 0x66, 0x0f, 0x01, 0x16, 0x20, 0x0f    // lgdt [0xf20]
    mov eax, cr0
    and eax, 0x9fffffff         // CD and NW
    or eax, 0x21                // NE and PE
    mov cr0, eax
    .byte 0x66, 0xea            // far jump
    .long hostile_flat
    .word 0x18
hostile_trampoline_end:
    .code32
hostile_flat:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    lea esp, [ebp + {stack}]
    cmp bx, 1
    je 3f
    mov cr3, esi
    mov eax, 0x620              // OSXMMEXCPT, OSFXSR, PAE
    mov cr4, eax
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or eax, 0x900               // NXE, LME
    wrmsr
    mov eax, cr0
    or eax, 0x80010000          // PG, WP
    mov cr0, eax
    .byte 0xea                  // far jump
    .long hostile_long
    .word 8
    // Tasks: each exception of the foreign code switches to this one, which starts the next piece.
3:  lea eax, [ebp + {idt}]
    push eax
    sub esp, 2
    mov word ptr [esp], 2047
    lidt [esp]
    test edi, edi
    jz 4f
    mov cr4, edx
    mov cr3, edi
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
4:  mov eax, {handler}
    ltr ax
    .global hostile_tasks
hostile_tasks:
    lea esp, [ebp + {stack}]    // an error code may lie there
    cld
    lock inc dword ptr [ebp + {beat}]
    mov dword ptr [0xfee000b0], 0
    mov eax, [ebp + {next}]
    cmp eax, [ebp + {limit}]
    jae 5f
    inc dword ptr [ebp + {next}]
    imul esi, eax, 104
    add esi, [ebp + {images}]
    lea edi, [ebp + {task}]
    mov ecx, 26
    rep movsd
    mov dword ptr [ebp + {handler_tss}], {task_selector}
    pushfd
    or dword ptr [esp], 0x4000  // NT: the IRET goes to the other task
    popfd
    iretd
    jmp hostile_tasks
5:  mov dword ptr [ebp + {state}], {done}
6:  cli
    hlt
    jmp 6b
    // NMIs end the foreign code by an address beyond its segment, and leave the handler alone.
    .global hostile_nmi_task
hostile_nmi_task:
    lock inc dword ptr [ebp + {nmis}]
    cmp word ptr [ebp + {nmi_tss}], {task_selector}
    jne 7f
    mov dword ptr [ebp + {task} + 0x20], 0xfffffff0
7:  iretd
    jmp hostile_nmi_task
    .code64
hostile_long:
    mov ebp, ebp
    lea rsp, [rbp + {stack}]
    mov rdi, rbp
    xor ebp, ebp
    call {victim}
    ud2
    // Real mode: handler of all vectors, at 400h of the victim's segment.
    .code16
    .global hostile_real, hostile_real_end
hostile_real:
    cli
    cld
    mov ax, cs
    mov ds, ax
    mov ss, ax
    mov sp, 0xf000
    pushf                       // NMIs are open again after an IRET
    push cs
    .byte 0x68                  // push the offset of the next label
    .short 0x400 + 8f - hostile_real
    iret
8:  inc dword ptr [0x604]
    mov bx, [0x600]
    cmp bx, [0x602]
    jae 9f
    inc word ptr [0x600]
    shl bx, 6
    add bx, 0x6000
    mov es, [bx]
    mov fs, [bx + 2]
    mov gs, [bx + 4]
    mov sp, [bx + 12]
    push word ptr [bx + 6]
    popf
    push word ptr [bx + 10]
    push word ptr [bx + 8]
    push word ptr [bx + 14]
    mov eax, [bx + 16]
    mov ecx, [bx + 20]
    mov edx, [bx + 24]
    mov ebp, [bx + 28]
    mov esi, [bx + 32]
    mov edi, [bx + 36]
    mov ebx, [bx + 40]
    pop ds
    retf
9:  mov word ptr [0x608], {done}
    cli
    hlt
    jmp 9b
hostile_real_end:
    .code64
    .popsection
    "#,
    stack = const area::OFFSET_STACK_TOP,
    idt = const area::OFFSET_IDT32,
    handler = const HANDLER,
    beat = const area::OFFSET_BEAT,
    next = const area::OFFSET_NEXT,
    limit = const area::OFFSET_LIMIT,
    images = const area::OFFSET_IMAGES,
    task = const area::OFFSET_TASK,
    handler_tss = const area::OFFSET_HANDLER,
    task_selector = const TASK,
    nmi_tss = const area::OFFSET_NMI,
    nmis = const area::OFFSET_NMIS,
    state = const area::OFFSET_STATE,
    done = const area::state::DONE,
    victim = sym crate::victim::main,
);

unsafe extern "C" {
    static hostile_trampoline: u8;
    static hostile_trampoline_end: u8;
    static hostile_real: u8;
    static hostile_real_end: u8;
    safe static hostile_tasks: u8;
    safe static hostile_nmi_task: u8;
}

/// Where the tasks that handle exceptions and NMIs begin.
pub(crate) fn task_entries() -> (u32, u32) {
    ((&raw const hostile_tasks).addr() as u32, (&raw const hostile_nmi_task).addr() as u32)
}

/// Where real mode's handler goes in the victim's segment.
pub(crate) const REAL_HANDLER: u64 = 0x400;
/// Words of the real-mode handler: next image, their number, beat, state.
pub(crate) const REAL_NEXT: u64 = 0x600;
pub(crate) const REAL_LIMIT: u64 = 0x602;
pub(crate) const REAL_BEAT: u64 = 0x604;
pub(crate) const REAL_STATE: u64 = 0x608;
pub(crate) const REAL_IMAGES: u64 = 0x6000;

/// A place in conventional memory.
pub(crate) fn place<T>(address: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// Writes to memory that is none of the program's own.
pub(crate) fn poke<T>(address: u64, value: T) {
    // SAFETY: the callers write to sandboxes, conventional memory and the trampolines, where nothing of Rust's lies.
    unsafe { place::<T>(address).write_unaligned(value) };
}

/// Reads such memory.
pub(crate) fn peek<T: Copy>(address: u64) -> T {
    // SAFETY: as in `poke`; integers may have any value.
    unsafe { place::<T>(address).read_volatile() }
}

fn copy(to: u64, from: *const u8, end: *const u8) {
    // SAFETY: the code between two labels of the program goes to a page for it.
    unsafe { place::<u8>(to).copy_from(from, end.addr() - from.addr()) };
}

/// Copies the real-mode handler to where it belongs.
pub(crate) fn place_real_handler(area: &Area) {
    copy(area.real() + REAL_HANDLER, &raw const hostile_real, &raw const hostile_real_end);
}

/// INIT and a start-up IPI for a victim.
pub(crate) fn start(victim: usize, start: Start, cr3: u64, cr4: u64, boot: u64) {
    let area = area(victim);
    park(victim);
    let page = area.trampoline();
    copy(page, &raw const hostile_trampoline, &raw const hostile_trampoline_end);
    let words = [(0xf00, start as u64), (0xf04, area.address()), (0xf10, boot), (0xf18, cr3), (0xf1c, cr4)];
    for (slot, word) in words {
        poke(page + slot, word as u32);
    }
    poke(page + 0xf08, (REAL_HANDLER | area.real() >> 4 << 16) as u32);
    for (slot, limit, base) in [(0xf20, 4095, area::address_of(&area.gdt)), (0xf28, 0x3ff, area.real())] {
        poke(page + slot, limit as u16);
        poke(page + slot + 2, base as u32);
    }
    area.words.state.store(area::state::STARTED, SeqCst);
    apic::send(victim as u32 + 1, command::STARTUP | (page >> 12) as u32);
}

/// INIT: the victim stands still until it is started.
pub(crate) fn park(victim: usize) {
    apic::send(victim as u32 + 1, command::INIT | command::LEVEL);
}
