// SPDX-License-Identifier: MIT OR Apache-2.0
//! The world switch: guest registers in, VMRUN, guest registers out.
//!
//! Nothing else is switched. Parados is built without floating point and never touches FS, GS, the system-call MSRs or the
//! debug registers, so all of these stay the guest's while Parados runs; VMLOAD and VMSAVE are for start-up and
//! snapshots. That costs nothing on an exit and leaks nothing, because there is only one guest.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("SVM exists on x86-64 alone");

/// The general-purpose registers that VMRUN does not switch, in encoding order; RAX and RSP are in the VMCB and their
/// places here are unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuestRegisters(pub [u64; 16]);

/// Enters the guest of the VMCB at system-physical address `vmcb` and returns at its next exit.
///
/// GIF is clear and RFLAGS.IF set on return, as they must be on entry: a physical interrupt that arrives in between stays
/// pending and makes the next VMRUN exit at once.
///
/// # Safety
/// 1. EFER.SVME is set and VM_HSAVE_PA names a page that nothing else uses.
/// 2. `vmcb` is the address of a valid VMCB that the caller owns, whose intercepts and nested tables keep the guest away
///    from all memory that is not the guest's.
/// 3. GIF is clear, RFLAGS.IF is set.
#[inline]
pub unsafe fn enter(vmcb: u64, registers: &mut GuestRegisters) {
    // SAFETY: the caller's three points are VMRUN's. The assembly restores every register that it does not declare, and
    // touches only `registers` and the stack.
    unsafe {
        core::arch::asm!(
            "push rbx",
            "push rbp",
            "push rdi",
            "mov rbx, [rdi + 3*8]",
            "mov rcx, [rdi + 1*8]",
            "mov rdx, [rdi + 2*8]",
            "mov rbp, [rdi + 5*8]",
            "mov rsi, [rdi + 6*8]",
            "mov r8, [rdi + 8*8]",
            "mov r9, [rdi + 9*8]",
            "mov r10, [rdi + 10*8]",
            "mov r11, [rdi + 11*8]",
            "mov r12, [rdi + 12*8]",
            "mov r13, [rdi + 13*8]",
            "mov r14, [rdi + 14*8]",
            "mov r15, [rdi + 15*8]",
            "mov rdi, [rdi + 7*8]",
            "vmrun rax",
            "mov rax, rdi",
            "mov rdi, [rsp]",
            "mov [rdi + 1*8], rcx",
            "mov [rdi + 2*8], rdx",
            "mov [rdi + 3*8], rbx",
            "mov [rdi + 5*8], rbp",
            "mov [rdi + 6*8], rsi",
            "mov [rdi + 7*8], rax",
            "mov [rdi + 8*8], r8",
            "mov [rdi + 9*8], r9",
            "mov [rdi + 10*8], r10",
            "mov [rdi + 11*8], r11",
            "mov [rdi + 12*8], r12",
            "mov [rdi + 13*8], r13",
            "mov [rdi + 14*8], r14",
            "mov [rdi + 15*8], r15",
            "pop rdi",
            "pop rbp",
            "pop rbx",
            inout("rax") vmcb => _,
            in("rdi") core::ptr::from_mut(registers),
            lateout("rcx") _, lateout("rdx") _, lateout("rsi") _,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
        );
    }
}

/// VMSAVE: copies FS, GS, TR, LDTR and the system-call MSRs from the processor into the VMCB at `vmcb`.
///
/// # Safety
/// EFER.SVME is set and the caller owns the VMCB.
pub unsafe fn save_guest_state(vmcb: u64) {
    // SAFETY: VMSAVE writes only the VMCB, which the caller owns.
    unsafe { core::arch::asm!("vmsave rax", in("rax") vmcb) };
}

/// VMLOAD: the reverse of [`save_guest_state`].
///
/// # Safety
/// EFER.SVME is set, the VMCB is valid, and the caller does not depend on FS, GS, TR or LDTR afterwards.
pub unsafe fn load_guest_state(vmcb: u64) {
    // SAFETY: VMLOAD changes only the state that the caller has given up.
    unsafe { core::arch::asm!("vmload rax", in("rax") vmcb) };
}
