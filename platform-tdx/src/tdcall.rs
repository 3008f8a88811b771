// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls to the TDX module and, through it, to the host (TDXABI, TDG leaves; GHCI, TDG.VP.VMCALL).
//!
//! Hostile party: the host, which answers what goes through TDG.VP.VMCALL.

use core::arch::global_asm;

use platform::{Gpr, Termination};
use specs::tdx::{leaf, status, vmcall};

// RDI: sixteen registers, by their numbers in instructions, before and after. RSP and RBP stay: no call that is made here shows or
// changes them.
global_asm!(
    ".section .text.tdx_call, \"ax\"",
    ".global tdx_call",
    "tdx_call:",
    "    push rbx",
    "    push rbp",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    push rdi",
    "    mov rax, [rdi]",
    "    mov rcx, [rdi + 8]",
    "    mov rdx, [rdi + 16]",
    "    mov rbx, [rdi + 24]",
    "    mov rsi, [rdi + 48]",
    "    mov r8, [rdi + 64]",
    "    mov r9, [rdi + 72]",
    "    mov r10, [rdi + 80]",
    "    mov r11, [rdi + 88]",
    "    mov r12, [rdi + 96]",
    "    mov r13, [rdi + 104]",
    "    mov r14, [rdi + 112]",
    "    mov r15, [rdi + 120]",
    "    mov rdi, [rdi + 56]",
    "    tdcall",
    "    xchg rdi, [rsp]",
    "    mov [rdi], rax",
    "    mov [rdi + 8], rcx",
    "    mov [rdi + 16], rdx",
    "    mov [rdi + 24], rbx",
    "    mov [rdi + 48], rsi",
    "    mov [rdi + 64], r8",
    "    mov [rdi + 72], r9",
    "    mov [rdi + 80], r10",
    "    mov [rdi + 88], r11",
    "    mov [rdi + 96], r12",
    "    mov [rdi + 104], r13",
    "    mov [rdi + 112], r14",
    "    mov [rdi + 120], r15",
    "    pop rax",
    "    mov [rdi + 56], rax",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbp",
    "    pop rbx",
    "    ret",
    ".text",
);

unsafe extern "C" {
    fn tdx_call(registers: *mut [u64; 16]);
}

/// The registers of a call.
struct Call([u64; Gpr::ALL.len()]);

impl Call {
    fn new(registers: &[(Gpr, u64)]) -> Self {
        let mut call = Self([0; Gpr::ALL.len()]);
        for (register, value) in registers {
            if let Some(slot) = call.0.get_mut(*register as usize) {
                *slot = *value;
            }
        }
        call
    }

    fn get(&self, register: Gpr) -> u64 {
        self.0.get(register as usize).copied().unwrap_or_default()
    }

    /// The call.
    ///
    /// # Safety
    /// It changes no memory that anybody uses.
    unsafe fn make(&mut self) {
        // SAFETY: the stub keeps what a callee keeps and writes to `self` alone; the caller vouches for what the module does.
        unsafe { tdx_call(&raw mut self.0) };
    }

    /// What the module says of it: bits 63:32 of RAX.
    fn status(&self) -> u32 {
        (self.get(Gpr::Rax) >> 32) as u32
    }
}

/// What the module says of the TD and of this processor.
pub(crate) struct Information {
    /// ATTRIBUTES.
    pub(crate) attributes: u64,
    /// This processor's index.
    pub(crate) index: u32,
}

/// The module did not answer, which it does not fail to do in a TD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoModule;

/// Asks the module (TDG.VP.INFO).
pub(crate) fn information() -> Result<Information, NoModule> {
    let mut call = Call::new(&[(Gpr::Rax, leaf::VP_INFO)]);
    // SAFETY: the leaf has registers only.
    unsafe { call.make() };
    if call.status() != status::SUCCESS {
        return Err(NoModule);
    }
    Ok(Information { attributes: call.get(Gpr::Rdx), index: call.get(Gpr::R9) as u32 })
}

/// Which size an acceptance asks for (TDG.MEM.PAGE.ACCEPT, RCX bits 2:0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    Small = 0,
    Large = 1,
}

/// Accepts a page: it is private memory from then on, and zero. Whether the module did so; it does not if the page was in use before,
/// or if the host has smaller pages there.
///
/// # Safety
/// Nothing uses the page.
pub(crate) unsafe fn accept(gpa: u64, level: Level) -> bool {
    let mut call = Call::new(&[(Gpr::Rax, leaf::MEM_PAGE_ACCEPT), (Gpr::Rcx, gpa | level as u64)]);
    // SAFETY: the caller vouches for the page.
    unsafe { call.make() };
    call.status() == status::SUCCESS
}

/// Asks the host for something that R10 to R15 say, and that touches no memory.
fn ask(function: u64, arguments: [u64; 4]) {
    let [r12, r13, r14, r15] = arguments;
    let mut call = Call::new(&[
        (Gpr::Rax, leaf::VP_VMCALL),
        (Gpr::Rcx, vmcall::R10_TO_R15),
        (Gpr::R11, function),
        (Gpr::R12, r12),
        (Gpr::R13, r13),
        (Gpr::R14, r14),
        (Gpr::R15, r15),
    ]);
    // SAFETY: private memory is out of the host's reach, and registers that it sets are dropped.
    unsafe { call.make() };
}

/// Writes a byte to a port of the host's; lost if the host does not take it.
pub(crate) fn port_write(port: u16, byte: u8) {
    ask(vmcall::IO, [1, 1, port.into(), byte.into()]);
}

/// Sleeps, with interrupts off, until the host wakes this processor, which it may do at once.
pub(crate) fn sleep() {
    ask(vmcall::HLT, [1, 0, 0, 0]);
}

/// Asks the host to end the TD. It should not come back from that, and may.
pub(crate) fn report_fatal_error(how: Termination) {
    // SAFETY: as in `ask`.
    unsafe { Call::new(&how.fatal_error_call()).make() };
}
