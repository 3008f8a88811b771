// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaves the host: loads the image's processor state from a page that the host's tables and, for the moment, the image's
//! map at the same address. The code is copied there, so it must not depend on where it is.

use super::physical::GuestMemory;
use super::relocate::{self, PRESENT_WRITABLE, Table};
use core::arch::{asm, global_asm};
use core::convert::Infallible;
use core::mem::offset_of;
use igvm_defs::IgvmNativeVpContextX64 as Registers;
use reference_host::context::Context;
use reference_host::handover::{DATA_OFFSET, HandoverData, Slot};
use reference_host::loader::GuestRam;
use reference_host::memory::PAGE;
use reference_host::report::Stop;
use zerocopy::IntoBytes;

/// Where a register is in the page.
const fn register(offset: usize) -> usize {
    DATA_OFFSET as usize + offset_of!(HandoverData, registers) + offset
}

/// Where a table register is in the page: its limit is behind six bytes of padding.
const fn table(offset: usize) -> usize {
    DATA_OFFSET as usize + offset + 6
}

global_asm!(
    r#"
    .pushsection .rodata.handover, "a"
    .balign 16
handover_start:                         // RDI: the page
    mov rbx, rdi
    lea rsp, [rbx + 0x1000]
    lgdt [rbx + {switch_gdt}]
    movzx eax, word ptr [rbx + {code_selector}]
    push rax
    lea rax, [rip + 2f]
    push rax
    retfq
2:  movzx eax, word ptr [rbx + {data_selector}]
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov ecx, 0xc0000080                 // EFER, before the tables that may need NXE
    mov eax, [rbx + {efer}]
    mov edx, [rbx + {efer} + 4]
    wrmsr
    mov rax, [rbx + {cr4}]
    mov cr4, rax
    mov rax, [rbx + {cr3}]
    mov cr3, rax
    mov rax, [rbx + {cr0}]
    mov cr0, rax
    mov ecx, 0xc0000101                 // GS base
    mov eax, [rbx + {gs_base}]
    mov edx, [rbx + {gs_base} + 4]
    wrmsr
    lidt [rbx + {idt}]
    lgdt [rbx + {gdt}]
    lea rsp, [rbx + {rflags}]
    popfq
    mov rax, [rbx + {rax}]
    mov rcx, [rbx + {rcx}]
    mov rdx, [rbx + {rdx}]
    mov rsp, [rbx + {rsp}]
    mov rbp, [rbx + {rbp}]
    mov rsi, [rbx + {rsi}]
    mov rdi, [rbx + {rdi}]
    mov r8, [rbx + {r8}]
    mov r9, [rbx + {r9}]
    mov r10, [rbx + {r10}]
    mov r11, [rbx + {r11}]
    mov r12, [rbx + {r12}]
    mov r13, [rbx + {r13}]
    mov r14, [rbx + {r14}]
    mov r15, [rbx + {r15}]
    // The borrowed entry is absent again after this; the processor still has its translation of this page, which QEMU
    // cannot drop within a run of straight code.
    mov rbx, [rbx + {entry}]
    mov qword ptr [rbx], 0
    mov rbx, [rip + handover_start + {rbx}]
    jmp qword ptr [rip + handover_start + {rip}]
handover_end:
    .popsection
    "#,
    entry = const DATA_OFFSET as usize + offset_of!(HandoverData, entry),
    switch_gdt = const table(offset_of!(HandoverData, switch_gdt)),
    gdt = const table(offset_of!(HandoverData, gdt)),
    idt = const table(offset_of!(HandoverData, idt)),
    code_selector = const register(offset_of!(Registers, code_selector)),
    data_selector = const register(offset_of!(Registers, data_selector)),
    efer = const register(offset_of!(Registers, efer)),
    cr0 = const register(offset_of!(Registers, cr0)),
    cr3 = const register(offset_of!(Registers, cr3)),
    cr4 = const register(offset_of!(Registers, cr4)),
    gs_base = const register(offset_of!(Registers, gs_base)),
    rflags = const register(offset_of!(Registers, rflags)),
    rip = const register(offset_of!(Registers, rip)),
    rax = const register(offset_of!(Registers, rax)),
    rcx = const register(offset_of!(Registers, rcx)),
    rdx = const register(offset_of!(Registers, rdx)),
    rbx = const register(offset_of!(Registers, rbx)),
    rsp = const register(offset_of!(Registers, rsp)),
    rbp = const register(offset_of!(Registers, rbp)),
    rsi = const register(offset_of!(Registers, rsi)),
    rdi = const register(offset_of!(Registers, rdi)),
    r8 = const register(offset_of!(Registers, r8)),
    r9 = const register(offset_of!(Registers, r9)),
    r10 = const register(offset_of!(Registers, r10)),
    r11 = const register(offset_of!(Registers, r11)),
    r12 = const register(offset_of!(Registers, r12)),
    r13 = const register(offset_of!(Registers, r13)),
    r14 = const register(offset_of!(Registers, r14)),
    r15 = const register(offset_of!(Registers, r15)),
);

unsafe extern "C" {
    safe static handover_start: u8;
    safe static handover_end: u8;
}

#[repr(C, align(4096))]
struct Page([u8; PAGE as usize]);

/// The page for the switch, and the tables below the borrowed entry.
#[repr(C, align(4096))]
struct Bridge {
    third: Table,
    second: Table,
    first: Table,
    page: Page,
}

static mut BRIDGE: Bridge =
    Bridge { third: [0; 512], second: [0; 512], first: [0; 512], page: Page([0; PAGE as usize]) };

/// Enters the image through `slot`; `block` is where the program is now.
pub(super) fn enter(guest: &mut GuestMemory, context: &Context, slot: Slot, block: u64) -> Result<Infallible, Stop> {
    let start = &raw const handover_start;
    let bytes = &raw const handover_end as usize - start as usize;
    // SAFETY: the two symbols bound one run of constant bytes.
    let code = unsafe { core::slice::from_raw_parts(start, bytes) };
    let data = HandoverData::new(context, slot);

    let bridge = &raw mut BRIDGE;
    let base = relocate::physical_address(bridge.cast(), block);
    let at = |offset: usize| base + offset as u64;
    // SAFETY: this function does not return, so it is the only user of the static.
    let bridge = unsafe { &mut *bridge };
    let [entry, ..] = &mut bridge.third;
    *entry = at(offset_of!(Bridge, second)) | PRESENT_WRITABLE;
    let [entry, ..] = &mut bridge.second;
    *entry = at(offset_of!(Bridge, first)) | PRESENT_WRITABLE;
    let [page, table, ..] = &mut bridge.first;
    *page = at(offset_of!(Bridge, page)) | PRESENT_WRITABLE;
    *table = context.root() | PRESENT_WRITABLE;
    let (front, back) = bridge.page.0.split_at_mut(DATA_OFFSET as usize);
    let outgrown = Stop::Machine("the handover code has outgrown its page");
    front.get_mut(..code.len()).ok_or(outgrown)?.copy_from_slice(code);
    back.get_mut(..size_of_val(&data)).ok_or(outgrown)?.copy_from_slice(data.as_bytes());

    let third = at(offset_of!(Bridge, third));
    relocate::link(slot.number(), third);
    guest
        .write(context.root() + slot.number() * 8, (third | PRESENT_WRITABLE).as_bytes())
        .map_err(|_| Stop::Machine("the image's top page table is not RAM"))?;
    // SAFETY: the final tables map the page at `slot`, and so do the image's by the entry just written; the code there is
    // complete, and `Context` has checked that each register can be loaded. Nothing of the host is used afterwards.
    unsafe { asm!("jmp rdi", in("rdi") slot.page(), options(noreturn)) }
}
