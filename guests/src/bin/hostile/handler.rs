// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions and interrupts of a victim in long mode, and the way into foreign code and back.
//!
//! Every gate has a stack of its own by IST, so that no stack pointer of foreign code matters. While the victim is armed,
//! whatever comes ends the foreign code; else an exception goes where `probe!` says, and an interrupt returns.

use core::sync::atomic::Ordering::SeqCst;

use crate::area::{self, Area, Words, state};
use crate::canary;

const STUB: u64 = 32;

core::arch::global_asm!(
    r#"
    .pushsection .text, "ax"
    .balign 32
hostile_stubs:
    .set vector, 0
    .rept 256
    .balign 32
    test spl, 8
    jz 3f
    push 0
3:  push vector
    jmp 2f
    .set vector, vector + 1
    .endr
    // What comes as an interrupt pushes no error code, also with the vector of an exception that does; the stack, aligned
    // to 16 bytes before, tells.
2:  push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push rbp
    push rdi
    push rsi
    push rdx
    push rcx
    push rbx
    push rax
    cld
    mov rdi, rsp
    mov rsi, rsp
    and rsi, -16384
    mov rsi, [rsi]
    mov rbx, rsp
    and rsp, -16
    call {handle}
    mov rsp, rbx
    pop rax
    pop rbx
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    pop rbp
    pop r8
    pop r9
    pop r10
    pop r11
    pop r12
    pop r13
    pop r14
    pop r15
    add rsp, 16
    iretq

    // enter(area, entry): foreign code, until something ends it.
hostile_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdi + {saved}], rsp
    mov rax, [rsi + 160]
    mov ds, ax
    mov rax, [rsi + 168]
    mov es, ax
    mov rax, [rsi + 176]
    mov fs, ax
    mov rax, [rsi + 184]
    mov gs, ax
    push qword ptr [rsi + 152]
    push qword ptr [rsi + 144]
    push qword ptr [rsi + 136]
    push qword ptr [rsi + 128]
    push qword ptr [rsi + 120]
    mov dword ptr [rdi + {armed}], 1
    mov rax, [rsi]
    mov rbx, [rsi + 8]
    mov rcx, [rsi + 16]
    mov rdx, [rsi + 24]
    mov rdi, [rsi + 40]
    mov rbp, [rsi + 48]
    mov r8, [rsi + 56]
    mov r9, [rsi + 64]
    mov r10, [rsi + 72]
    mov r11, [rsi + 80]
    mov r12, [rsi + 88]
    mov r13, [rsi + 96]
    mov r14, [rsi + 104]
    mov r15, [rsi + 112]
    mov rsi, [rsi + 32]
    iretq
    // The handler returns to here, with the stack as it was.
hostile_left:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .popsection
    "#,
    saved = const area::OFFSET_SAVED,
    armed = const area::OFFSET_ARMED,
    handle = sym handle,
);

unsafe extern "C" {
    safe static hostile_stubs: u8;
    safe static hostile_left: u8;
    fn hostile_enter(area: &Area, entry: &Entry);
}

/// How foreign code starts.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Entry {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
    pub(crate) registers: [u64; 15],
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) flags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
    /// DS, ES, FS, GS.
    pub(crate) segments: [u64; 4],
}

/// What the stubs and the processor pushed.
#[repr(C)]
pub(crate) struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

/// The stub of a vector.
pub(crate) fn stub(vector: u64) -> u64 {
    (&raw const hostile_stubs).addr() as u64 + vector * STUB
}

/// Runs foreign code to its end; the vector that ended it. CR3 must map both the code and this program.
pub(crate) fn enter(area: &Area, entry: &Entry) -> u32 {
    // SAFETY: the handler comes back with the stack and the preserved registers as they were. What the foreign code does to
    // memory it does to what the page tables show it.
    unsafe { hostile_enter(area, entry) };
    area.beat();
    area.words.vector.swap(0, SeqCst).wrapping_sub(1)
}

extern "C" fn handle(frame: &mut Frame, area: &Area) {
    const FLAGS: u64 = 2;
    const TRAP: u64 = 1 << 8 | 1 << 18;
    let words = &area.words;
    if words.armed.swap(0, SeqCst) != 0 {
        words.vector.store(frame.vector as u32 + 1, SeqCst);
        if let Some(value) = frame.registers.into_iter().find(|value| canary::is_word(*value)) {
            words.leak.store(value, SeqCst);
        }
        frame.rip = (&raw const hostile_left).addr() as u64;
        (frame.cs, frame.ss, frame.flags) = (crate::tables::CODE, crate::tables::DATA, FLAGS);
        frame.rsp = words.saved.load(SeqCst);
        return;
    }
    let recovery = words.recovery.swap(0, SeqCst);
    match frame.vector {
        2 => {
            words.nmis.fetch_add(1, SeqCst);
            words.recovery.store(recovery, SeqCst);
        }
        ..=31 if recovery != 0 => {
            words.fault.store(frame.vector as u32 + 1, SeqCst);
            frame.rip = recovery;
            frame.rsp = words.stack.load(SeqCst);
            (frame.cs, frame.ss) = (crate::tables::CODE, crate::tables::DATA);
            frame.flags &= !TRAP;
        }
        1 => {
            clear_breakpoints();
            frame.flags &= !TRAP;
        }
        32.. => {
            words.recovery.store(recovery, SeqCst);
            give_up_in_a_storm(words);
            end_of_interrupt();
        }
        vector => {
            for (slot, value) in words.lost.iter().zip([vector, frame.error, frame.rip]) {
                slot.store(value, SeqCst);
            }
            words.state.store(state::LOST, SeqCst);
            guests::machine::halt_forever();
        }
    }
}

/// DR7 as after a reset.
pub(crate) fn clear_breakpoints() {
    // SAFETY: no breakpoints are what Rust's code expects.
    unsafe { core::arch::asm!("mov dr7, {}", in(reg) 0x400u64, options(nomem, nostack, preserves_flags)) };
}

/// A line that stays up, or a timer that is too fast, interrupts again behind each end of an interrupt, so that the victim
/// never comes to its next access. That is the end of its job.
fn give_up_in_a_storm(words: &Words) {
    const MOST_AT_ONCE: u32 = 256;
    words.interrupts.fetch_add(1, SeqCst);
    let beat = words.beat.load(SeqCst);
    if words.storm_beat.swap(beat, SeqCst) != beat {
        words.storm.store(0, SeqCst);
    }
    if words.storm.fetch_add(1, SeqCst) >= MOST_AT_ONCE {
        words.storm.store(0, SeqCst);
        words.state.store(state::DONE, SeqCst);
        guests::machine::halt_forever();
    }
}

/// Writes a register of the local APIC in whatever mode that is.
fn write_apic(register: u64, value: u32) {
    use guests::apic::{BASE_ENABLED, BASE_EXTENDED, BASE_MSR, msr};
    let mode = guests::instructions::read_msr(BASE_MSR) & (BASE_ENABLED | BASE_EXTENDED);
    if mode == BASE_ENABLED {
        guests::machine::lapic::write(register, value);
    } else if mode != 0 {
        guests::instructions::write_msr(msr(register), value.into());
    }
}

/// In whatever mode the local APIC is.
pub(crate) fn end_of_interrupt() {
    write_apic(guests::apic::register::END_OF_INTERRUPT, 0);
}

/// Runs instructions with operands as for `asm!`; the vector of the exception that they raised.
macro_rules! probe {
    ($area:expr, $instruction:literal $(, $($operands:tt)*)?) => {{
        let words = &$area.words;
        // SAFETY: an exception resumes behind the instructions; else nothing happens but what the probe asks for.
        unsafe {
            core::arch::asm!(
                "lea {recovery}, [rip + 2f]",
                "mov [{slot} + 8], rsp",
                "mov [{slot}], {recovery}",
                $instruction,
                "2:",
                recovery = out(reg) _,
                slot = in(reg) words.recovery.as_ptr(),
                $($($operands)*)?
            );
        };
        words.recovery.store(0, core::sync::atomic::Ordering::SeqCst);
        words.fault.swap(0, core::sync::atomic::Ordering::SeqCst).checked_sub(1)
    }};
}
pub(crate) use probe;
