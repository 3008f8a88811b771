// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the first instruction, in 64-bit mode with page tables that somebody else made, to Rust.

use crate::{checks, doorbell, ghcb, hostile, misdeeds, smp};
use core::arch::global_asm;

global_asm!(
    r#"
    .pushsection .text.snp, "ax"
    .global snp_entry
snp_entry:
    cli
    cld
    lgdt [rip + snp_gdt_register]
    lea rsp, [rip + snp_stack_top]
    push 8
    lea rax, [rip + 2f]
    push rax
    retfq
2:  mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor ebp, ebp
    call guest_main
    ud2
    // Another processor, whose VMSA has all the rest.
    .global snp_other_entry
snp_other_entry:
    lea rsp, [rip + snp_other_stack_top]
    xor ebp, ebp
    call {other}
    ud2
    .popsection

    .pushsection .data.snp, "aw"
    .balign 8
snp_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
snp_gdt_register:
    .word 23
    .quad snp_gdt
    .popsection

    .pushsection .bss.snp, "aw", @nobits
    .balign 4096
    .skip 65536
snp_stack_top:
    .skip 65536
snp_other_stack_top:
    .popsection
    "#,
    other = sym smp::other,
);

unsafe extern "C" {
    /// Where another processor starts, with this program's tables loaded.
    pub(crate) safe static snp_other_entry: u8;
}

/// Called by the entry code.
#[unsafe(no_mangle)]
extern "C" fn guest_main(task: u64) -> ! {
    guests::exceptions::install();
    match task {
        0 => checks::all(),
        11 => doorbell::all(),
        12 => smp::all(),
        17 => checks::console(),
        18 => ghcb::terminate(15, hostile::second_thought()),
        19 => ghcb::terminate(15, hostile::low_vector()),
        20 => ghcb::terminate(15, hostile::stray_entry()),
        21 => ghcb::terminate(15, hostile::snatched_page()),
        other => misdeeds::commit(other),
    }
    ghcb::terminate(15, 0)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    ghcb::failed(info.location().map_or(0, core::panic::Location::line))
}
