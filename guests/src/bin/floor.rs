// SPDX-License-Identifier: MIT OR Apache-2.0
//! The floor: the least that a host can do for an exit. Runs the guest given as module (`-initrd`, a PVH ELF) under a bare
//! VMRUN loop, so that the benchmark has something to be compared with.
//!
//! No VMLOAD or VMSAVE, no TLB control, 2 MiB nested pages, answers that are constants, an instruction length that is known
//! for the kind of exit. It saves and loads all general registers, because any host must. Only what `exit-bench` measures is
//! intercepted; everything else the guest does to the machine directly, so this host protects nothing.
//!
//! Layouts: APM vol. 2, chapter 15 and appendix B, through `specs::svm`.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::arch::global_asm;
use core::arch::x86_64::__cpuid;
use core::mem::offset_of;
use core::ptr;
use guests::instructions::{read_msr, write_msr};
use guests::{elf, guest, machine, say};
use specs::apic::LAPIC_BASE;
use specs::msr::{EFER, MTRR_CAP};
use specs::pvh::{Module, StartInfo};
use specs::svm::{VmcbSegment, exit};
use specs::vmcb::{IOPM_BYTES, MSR_VM_HSAVE_PA, MSRPM_BYTES, Misc1, Misc2, Vmcb, VmcbControl, VmcbSave};
use zerocopy::FromZeros;

/// EFER.SVME.
const SVME: u64 = 1 << 12;
/// The port that the benchmark reads: four bytes.
const PORT: usize = 0x608;
const LARGE_PAGE: u64 = 2 << 20;
/// Present, writable, user (nested walks are user accesses); a large page besides.
const TABLE: u64 = 7;
const LEAF: u64 = 0x87;
/// VMCB attributes: type, S, P in bits 7:0; AVL, L, D, G in bits 11:8. Flat 32-bit segments.
const CODE: VmcbSegment = VmcbSegment { selector: 8, attributes: 0xc9b, limit: u32::MAX, base: 0 };
const DATA: VmcbSegment = VmcbSegment { selector: 16, attributes: 0xc93, limit: u32::MAX, base: 0 };

const fn control(offset: usize) -> usize {
    offset_of!(Vmcb, control) + offset
}

const fn save(offset: usize) -> usize {
    offset_of!(Vmcb, save) + offset
}

// `floor_run(vmcb, start_info)` returns the exit code that it has no answer for.
// From one VMRUN to the next: 38 to 40 instructions.
global_asm!(
    r#"
    .pushsection .text, "ax"
floor_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov rax, rdi
    mov rbx, rsi
3:  vmrun rax
    push rbx
    push rcx
    push rdx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov ecx, [rax + {exit_code}]
    cmp ecx, {exit_cpuid}
    je 4f
    cmp ecx, {exit_msr}
    je 5f
    cmp ecx, {exit_ioio}
    je 6f
    cmp ecx, {exit_npf}
    je 7f
    add rsp, 14 * 8
    mov eax, ecx
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

4:  mov dword ptr [rsp + 13 * 8], 0x75726f46    // CPUID: EBX, EDX, ECX
    mov dword ptr [rsp + 12 * 8], 0
    mov dword ptr [rsp + 11 * 8], 0
    mov qword ptr [rax + {rax}], 13
    add qword ptr [rax + {rip}], 2
    jmp 8f
5:  mov qword ptr [rsp + 11 * 8], 0             // RDMSR: EDX
    mov qword ptr [rax + {rax}], 0x508
    add qword ptr [rax + {rip}], 2
    jmp 8f
6:  mov qword ptr [rax + {rax}], 0              // IN EAX, DX
    add qword ptr [rax + {rip}], 1
    jmp 8f
7:  mov qword ptr [rax + {rax}], 0x50014        // MOV EAX, [RDI]
    add qword ptr [rax + {rip}], 2
8:  pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rdx
    pop rcx
    pop rbx
    jmp 3b
    .popsection
    "#,
    exit_code = const control(offset_of!(VmcbControl, exit_code)),
    exit_cpuid = const exit::CPUID,
    exit_msr = const exit::MSR,
    exit_ioio = const exit::IOIO,
    exit_npf = const exit::NPF,
    rax = const save(offset_of!(VmcbSave, rax)),
    rip = const save(offset_of!(VmcbSave, rip)),
);

unsafe extern "C" {
    fn floor_run(vmcb: u64, start_info: u64) -> u32;
}

guest!(run);

/// All that the processor reads by physical address.
#[repr(C, align(4096))]
struct Structures {
    vmcb: [u8; size_of::<Vmcb>()],
    host_save: [u8; 4096],
    io_map: [u8; IOPM_BYTES],
    msr_map: [u8; MSRPM_BYTES],
    top: [u64; 512],
    third: [u64; 512],
    second: [[u64; 512]; 4],
}

static mut STRUCTURES: Structures = Structures {
    vmcb: [0; size_of::<Vmcb>()],
    host_save: [0; 4096],
    io_map: [0; IOPM_BYTES],
    msr_map: [0; MSRPM_BYTES],
    top: [0; 512],
    third: [0; 512],
    second: [[0; 512]; 4],
};

fn run(start_info: u64) -> u32 {
    if __cpuid(0x8000_0001).ecx & 1 << 2 == 0 {
        say!("floor: this processor has no SVM");
        return 2;
    }
    let Some(entry) = load_guest(start_info) else {
        say!("floor: pass a PVH ELF with -initrd");
        return 3;
    };
    let structures = &raw mut STRUCTURES;
    // SAFETY: this is the only use of the static; the processor uses it after the reference has ended.
    let vmcb = prepare(unsafe { &mut *structures }, entry);
    write_msr(EFER, read_msr(EFER) | SVME);
    write_msr(MSR_VM_HSAVE_PA, structures as u64 + offset_of!(Structures, host_save) as u64);
    // SAFETY: the VMCB is complete. The guest can reach this program's memory, but has no reason to.
    let code = unsafe { floor_run(vmcb, start_info) };
    // SAFETY: the processor has left the guest and is done with the VMCB.
    let state: Vmcb = machine::read(vmcb);
    let (detail, rip) = (state.control.exit_info1, state.save.rip);
    say!("floor: no answer for exit {code:#x}, {detail:#x}, at {rip:#x}");
    4
}

/// Copies the guest's segments to where they belong; its entry point.
fn load_guest(start_info: u64) -> Option<u32> {
    let info: StartInfo = machine::read(start_info);
    if info.module_count != 1 {
        return None;
    }
    let module: Module = machine::read(info.modules);
    let start: *const u8 = ptr::with_exposed_provenance(module.start as usize);
    // SAFETY: the boot loader put the module there; it is mapped, and nothing writes to it.
    let file = unsafe { core::slice::from_raw_parts(start, module.bytes as usize) };
    for segment in elf::segments(file)? {
        let target: *mut u8 = ptr::with_exposed_provenance_mut(segment.address as usize);
        // SAFETY: guests are linked below this program, where nothing else is.
        unsafe { ptr::copy_nonoverlapping(segment.bytes.as_ptr(), target, segment.bytes.len()) };
        let rest = target.wrapping_add(segment.bytes.len());
        // SAFETY: the same.
        unsafe { ptr::write_bytes(rest, 0, segment.zeros as usize) };
    }
    elf::pvh_entry(file)
}

fn set_bit(map: &mut [u8], bit: usize) {
    if let Some(byte) = map.get_mut(bit / 8) {
        *byte |= 1 << (bit % 8);
    }
}

/// Fills everything for a guest that starts at `entry`; the address of the VMCB.
fn prepare(structures: &mut Structures, entry: u32) -> u64 {
    for port in PORT..PORT + 4 {
        set_bit(&mut structures.io_map, port);
    }
    // Two bits an MSR, the first for reads.
    set_bit(&mut structures.msr_map, 2 * MTRR_CAP as usize);
    let base = &raw const *structures as u64;
    let at = |offset: usize| base + offset as u64;
    let second = at(offset_of!(Structures, second));
    for (entry, table) in structures.third.iter_mut().zip((second..).step_by(4096)).take(4) {
        *entry = table | TABLE;
    }
    for (entry, page) in structures.second.iter_mut().flatten().zip((0u64..).step_by(LARGE_PAGE as usize)) {
        *entry = if (page..page + LARGE_PAGE).contains(&LAPIC_BASE) { 0 } else { page | LEAF };
    }
    let [first, ..] = &mut structures.top;
    *first = at(offset_of!(Structures, third)) | TABLE;

    let mut vmcb = Vmcb::new_zeroed();
    vmcb.control.intercept_misc1 = (Misc1::CPUID | Misc1::IOIO | Misc1::MSR | Misc1::SHUTDOWN).bits();
    vmcb.control.intercept_misc2 = Misc2::VMRUN.bits();
    vmcb.control.iopm_base = at(offset_of!(Structures, io_map));
    vmcb.control.msrpm_base = at(offset_of!(Structures, msr_map));
    vmcb.control.asid = 1;
    vmcb.control.nested_paging = 1;
    vmcb.control.nested_cr3 = at(offset_of!(Structures, top));
    vmcb.save.cs = CODE;
    (vmcb.save.ds, vmcb.save.es, vmcb.save.ss) = (DATA, DATA, DATA);
    vmcb.save.efer = SVME;
    vmcb.save.cr0 = 0x11;
    vmcb.save.dr6 = 0xffff_0ff0;
    vmcb.save.dr7 = 0x400;
    vmcb.save.rflags = 2;
    vmcb.save.g_pat = 0x0007_0406_0007_0406;
    vmcb.save.rip = entry.into();
    let bytes = zerocopy::IntoBytes::as_bytes(&vmcb);
    structures.vmcb.copy_from_slice(bytes);
    at(offset_of!(Structures, vmcb))
}
