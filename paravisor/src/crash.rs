// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of Parados by its own fault: a panic, or an exception that it raised.
//!
//! What is left is the crash record and the journal, in private memory, and the reason that the host is told. An image for
//! debugging also prints them, and the stack, from which `cargo xtask symbolize` finds the calls: the unwinder and its tables
//! stay out of the image.
//!
//! Everything here may be the second death: it allocates nothing, waits for no lock for long, and gives up at once if a record
//! exists.

use core::fmt;
use core::panic::PanicInfo;

use journal::Crash;
use platform::{DebugImage, OWN_REGISTERS, OWN_RSP, Outbound, OwnException, OwnRegisters, Reason, Termination};

use crate::backend::{Ending, control_registers, is_mapped, last_words};
use crate::journal::{CRASH, JOURNAL, debug_image};

/// Words of the stack that are printed: the deepest call takes less.
const STACK_WORDS: u64 = 1024;
/// Entries of the journal that are printed.
const ENTRIES: usize = 16;
const PAGE: u64 = 4096;

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    let registers = registers();
    let location = information.location().map(|location| (location.file(), location.line(), location.column()));
    let detail = location.map_or(0, |(_, line, _)| line.into());
    let message = format_args!("{}", information.message());
    die(&Crash { reason: Reason::Panic, detail, location, message, registers })
}

/// An exception in Parados itself.
pub(crate) fn exception(exception: &OwnException) -> ! {
    let OwnException { vector, error_code, registers } = *exception;
    let [.., rip, _, _, cr2, _, _] = registers;
    let detail = u64::from(vector) << 56 | rip & ((1 << 56) - 1);
    let message = format_args!("exception {vector} at {rip:#x}, error code {error_code:#x}, CR2 {cr2:#x}");
    die(&Crash { reason: Reason::OwnException, detail, location: None, message, registers })
}

#[inline(never)]
fn die(crash: &Crash<'_>) -> ! {
    // First of all: while this writes, the guest's other processors may power off or reset.
    let ending = Ending::claim();
    if CRASH.write(crash, &JOURNAL)
        && let Some(debug) = debug_image()
    {
        print(crash, debug);
    }
    ending.carry_out(Termination::Fatal(crash.reason, crash.detail))
}

/// The registers here: those that a caller keeps are still the caller's, and the stack leads to it.
#[inline(always)]
fn registers() -> OwnRegisters {
    let mut registers: OwnRegisters = [0; OWN_REGISTERS.len()];
    // SAFETY: the sixteen stores go into the array, and RIP and RFLAGS into the two places behind; nothing else is changed but
    // the scratch register, and the stack is balanced.
    unsafe {
        core::arch::asm!(
            "mov [rax], rax",
            "mov [rax + 8], rcx",
            "mov [rax + 16], rdx",
            "mov [rax + 24], rbx",
            "mov [rax + 32], rsp",
            "mov [rax + 40], rbp",
            "mov [rax + 48], rsi",
            "mov [rax + 56], rdi",
            "mov [rax + 64], r8",
            "mov [rax + 72], r9",
            "mov [rax + 80], r10",
            "mov [rax + 88], r11",
            "mov [rax + 96], r12",
            "mov [rax + 104], r13",
            "mov [rax + 112], r14",
            "mov [rax + 120], r15",
            "lea rcx, [rip]",
            "mov [rax + 128], rcx",
            "pushfq",
            "pop qword ptr [rax + 136]",
            in("rax") registers.as_mut_ptr(),
            out("rcx") _,
        );
    }
    registers.iter_mut().skip(18).zip(control_registers()).for_each(|(register, value)| *register = value);
    registers
}

fn print(crash: &Crash<'_>, debug: DebugImage) {
    let say = |text: fmt::Arguments<'_>| last_words(Outbound::debugging(debug, text));
    if let Some((file, line, column)) = crash.location {
        say(format_args!("crash: panicked at {file}:{line}:{column}"));
    }
    say(format_args!("crash: {}: {}", crash.reason, crash.message));
    for (names, values) in OWN_REGISTERS.chunks(4).zip(crash.registers.chunks(4)) {
        say(format_args!("crash: registers{}", Registers { names, values }));
    }
    JOURNAL.last(ENTRIES, |entry| say(format_args!("crash: log: {entry}")));
    let rsp = crash.registers.get(OWN_RSP).copied().unwrap_or_default() & !7;
    for line in (rsp..rsp.saturating_add(8 * STACK_WORDS)).step_by(32) {
        let Some(words) = stack(line) else { break };
        let [a, b, c, d] = words;
        say(format_args!("crash: stack {line:#x}: {a:#x} {b:#x} {c:#x} {d:#x}"));
    }
    say(format_args!("crash: `cargo xtask symbolize` reads these lines"));
}

/// Four words of the stack; `None` where its pages end.
fn stack(address: u64) -> Option<[u64; 4]> {
    let mut words = [0; 4];
    for (at, word) in (address..).step_by(8).zip(&mut words) {
        // The page below the next stack is absent.
        if (at == address || at.is_multiple_of(PAGE)) && !is_mapped(at) {
            return None;
        }
        // SAFETY: the page is mapped, and reading memory has no effect; the stack is this processor's own.
        *word = unsafe { core::ptr::with_exposed_provenance::<u64>(at as usize).read_volatile() };
    }
    Some(words)
}

struct Registers<'a> {
    names: &'a [&'static str],
    values: &'a [u64],
}

impl fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.names.iter().zip(self.values).try_for_each(|(name, value)| write!(f, " {name} {value:#x}"))
    }
}
