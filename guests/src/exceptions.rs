// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions that a probe expects: `attempt!` runs one instruction, and says which exception it raised, if any.
//!
//! Interrupts from 30h on are counted, and the address that they interrupted is kept, unless `interrupts` takes them over.

use core::sync::atomic::{AtomicU64, Ordering};

/// No exception.
const NONE: u64 = u64::MAX;
/// Where to go on after an exception; 0 if none is expected.
pub static RECOVERY: AtomicU64 = AtomicU64::new(0);
static FAULT: AtomicU64 = AtomicU64::new(NONE);
static ERROR_CODE: AtomicU64 = AtomicU64::new(0);
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static INTERRUPTED: AtomicU64 = AtomicU64::new(0);

/// The first vector that counts as an interrupt.
pub const FIRST_INTERRUPT: u8 = 0x30;

/// Takes the vector of the exception since the last call.
pub fn take_fault() -> Option<u8> {
    RECOVERY.store(0, Ordering::Relaxed);
    u8::try_from(FAULT.swap(NONE, Ordering::Relaxed)).ok()
}

/// The error code of the last exception that was taken.
pub fn error_code() -> u64 {
    ERROR_CODE.load(Ordering::Relaxed)
}

/// Takes how many interrupts came since the last call, and where the last one came.
pub fn take_interrupts() -> (u64, u64) {
    (INTERRUPTS.swap(0, Ordering::Relaxed), INTERRUPTED.load(Ordering::Relaxed))
}

/// Runs an instruction with operands as for `asm!`; gives the vector of the exception that it raised.
#[macro_export]
macro_rules! attempt {
    ($instruction:literal $(, $($operands:tt)*)?) => {{
        // SAFETY: an exception resumes behind the instruction, and without one nothing else happens than the probe asks for.
        unsafe {
            core::arch::asm!(
                "lea {recovery}, [rip + 2f]",
                "mov [rip + {slot}], {recovery}",
                $instruction,
                "2:",
                recovery = out(reg) _,
                slot = sym $crate::exceptions::RECOVERY,
                $($($operands)*)?
            );
        };
        $crate::exceptions::take_fault()
    }};
}

/// What the stubs and the processor pushed.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// RBX, R11 to R8, RDI, RSI, RDX, RCX, RAX.
    pub registers: [u64; 10],
    /// The vector.
    pub vector: u64,
    /// The error code, or 0.
    pub error_code: u64,
    /// Where it came.
    pub rip: u64,
    /// CS.
    pub cs: u64,
    /// RFLAGS.
    pub flags: u64,
}

#[cfg(target_os = "none")]
pub use bare::{forget, install, load_installed, set_hook};

/// There are no exceptions to install handlers for on a hosted target.
#[cfg(not(target_os = "none"))]
pub fn forget() {}

/// As `forget`.
#[cfg(not(target_os = "none"))]
pub fn load_installed() {}

/// As `forget`.
#[cfg(not(target_os = "none"))]
pub fn set_hook(_: fn(&mut Frame)) {}

#[cfg(target_os = "none")]
mod bare {
    use super::{ERROR_CODE, FAULT, FIRST_INTERRUPT, Frame, INTERRUPTED, INTERRUPTS, RECOVERY};
    use crate::machine::{exit, lapic};
    use crate::say;
    use core::arch::{asm, global_asm};
    use core::sync::atomic::{AtomicUsize, Ordering};

    const VECTORS: usize = 256;
    const STUB: u64 = 16;
    const INTERRUPT_GATE: u64 = 0x8e00;
    const CODE: u64 = 8;
    const NMI: u64 = 2;
    const HV: u64 = specs::sev::VECTOR_HV as u64;
    /// Vectors with an error code (APM vol. 2, table 8-1).
    const WITH_ERROR_CODE: u32 = 1 << 8 | 0x1f << 10 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

    global_asm!(
        r#"
        .pushsection .text, "ax"
        .balign 16
    exception_stubs:
        .set vector, 0
        .rept {vectors}
        .balign {stub}
        .if (vector > 31) || ((({with_error_code} >> vector) & 1) == 0)
        push 0
        .endif
        push vector
        jmp exception_common
        .set vector, vector + 1
        .endr
    exception_common:
        cld
        push rax
        push rcx
        push rdx
        push rsi
        push rdi
        push r8
        push r9
        push r10
        push r11
        push rbx
        mov rdi, rsp
        mov rbx, rsp
        and rsp, -16
        call {handle}
        mov rsp, rbx
        pop rbx
        pop r11
        pop r10
        pop r9
        pop r8
        pop rdi
        pop rsi
        pop rdx
        pop rcx
        pop rax
        add rsp, 16
        iretq
        .popsection
        "#,
        vectors = const VECTORS,
        stub = const STUB,
        with_error_code = const WITH_ERROR_CODE,
        handle = sym handle,
    );

    unsafe extern "C" {
        safe static exception_stubs: u8;
    }

    /// Who takes NMIs, #HV and interrupts; 0 for nobody.
    static HOOK: AtomicUsize = AtomicUsize::new(0);

    /// Hands NMIs, #HV and all vectors from 20h on to `hook`.
    pub fn set_hook(hook: fn(&mut Frame)) {
        HOOK.store(hook as usize, Ordering::Release);
    }

    extern "C" fn handle(frame: &mut Frame) {
        let hook = HOOK.load(Ordering::Acquire);
        if hook != 0 && (frame.vector == NMI || frame.vector == HV || frame.vector >= 32) {
            // SAFETY: only `set_hook` stores there, and what it stores is such a function.
            let hook = unsafe { core::mem::transmute::<usize, fn(&mut Frame)>(hook) };
            return hook(frame);
        }
        if frame.vector >= u64::from(FIRST_INTERRUPT) {
            INTERRUPTS.fetch_add(1, Ordering::Relaxed);
            INTERRUPTED.store(frame.rip, Ordering::Relaxed);
            lapic::end_of_interrupt();
            return;
        }
        let recovery = RECOVERY.swap(0, Ordering::Relaxed);
        if recovery == 0 {
            let Frame { vector, error_code, rip, .. } = frame;
            say!("unexpected exception {vector}, error code {error_code:#x}, at {rip:#x}");
            exit(0x3e);
        }
        FAULT.store(frame.vector, Ordering::Relaxed);
        ERROR_CODE.store(frame.error_code, Ordering::Relaxed);
        frame.rip = recovery;
    }

    #[repr(C, packed)]
    struct Register {
        limit: u16,
        base: u64,
    }

    fn load(base: u64, limit: u16) {
        let register = Register { limit, base };
        // SAFETY: either the table is static and complete, or the guest is about to crash on purpose.
        unsafe { asm!("lidt [{}]", in(reg) &raw const register, options(readonly, nostack, preserves_flags)) };
    }

    static mut IDT: [[u64; 2]; VECTORS] = [[0; 2]; VECTORS];

    /// Loads the table that [`install`] made, on another processor.
    pub fn load_installed() {
        load(&raw const IDT as u64, (VECTORS * 16 - 1) as u16);
    }

    /// Makes and loads the interrupt descriptor table. Called once, at the start.
    pub fn install() {
        let stubs = &raw const exception_stubs as u64;
        let mut gates = [[0; 2]; VECTORS];
        for (vector, gate) in (0..).zip(gates.iter_mut()) {
            let address = stubs + vector * STUB;
            *gate =
                [address & 0xffff | CODE << 16 | INTERRUPT_GATE << 32 | (address >> 16 & 0xffff) << 48, address >> 32];
        }
        let idt = &raw mut IDT;
        // SAFETY: the processor alone reads the static, and there is one yet.
        unsafe { idt.write(gates) };
        load_installed();
    }

    /// Loads an empty table, so that any exception is a triple fault.
    pub fn forget() {
        load(0, 0);
    }
}
