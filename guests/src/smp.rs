// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other processors: started by INIT and start-up IPIs through a trampoline in low memory, after which each waits in
//! HLT for jobs.
//!
//! Sources: SDM vol. 3A, 10.4.4 for the protocol, APM vol. 2, 14.6 for the way to long mode.

use crate::apic::{self, command};
use crate::instructions::{close, in_byte, out_byte, read_cr3, sleep};
use crate::interrupts::{self, MAX_PROCESSORS, take_over};
use crate::{machine, time};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};

/// Wakes a processor that has a job.
pub const CALL: u8 = 0xf1;
/// Where the trampoline goes: a page of conventional memory.
const TRAMPOLINE: u64 = 0x8000;
/// What the trampoline reads (CR3), and what it leaves (CR0 and EDX as the start-up IPI set them).
const CR3_SLOT: u64 = 0x8f00;
const CR0_SLOT: u64 = 0x8f10;
const SIGNATURE_SLOT: u64 = 0x8f14;
/// How long a processor may take to arrive, in microseconds.
const PATIENCE: u64 = 5_000_000;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    r#"
    .pushsection .text, "ax"
    .global smp_trampoline
    .global smp_trampoline_end
    .code16
smp_trampoline:
    cli
    cld
    xor ax, ax
    mov ds, ax
    mov [0x8f14], edx
    mov eax, cr0
    mov [0x8f10], eax
    mov eax, [0x8f00]
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                // PAE
    mov cr4, eax
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or eax, 0x100               // LME
    wrmsr
    lgdt [0x8f20]
    mov eax, cr0
    and eax, 0x9fffffff         // CD and NW
    or eax, 0x80000001          // PG and PE
    mov cr0, eax
    .byte 0x66, 0xea            // far jump
    .long smp_long_mode
    .word 8
smp_trampoline_end:
    .code64
smp_long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov eax, 1
    cpuid
    shr ebx, 24
    mov edi, ebx
    cmp edi, {processors}
    jae 3f
    lea rsp, [rip + smp_stacks + {stack}]
    mov eax, ebx
    imul rax, rax, {stack}
    add rsp, rax
    xor ebp, ebp
    call {arrive}
3:  cli
    hlt
    jmp 3b
    .popsection

    .pushsection .bss.stacks, "aw", @nobits
    .balign 4096
smp_stacks:
    .skip {processors} * {stack}
    .popsection
    "#,
    processors = const MAX_PROCESSORS,
    stack = const 16384,
    arrive = sym arrive,
);

/// What a processor is given to do.
pub type Job = fn(usize);

struct Slot {
    /// How often the processor came out of the trampoline.
    arrivals: AtomicU32,
    job: AtomicUsize,
    /// The spurious-vector register as the processor found it.
    spurious: AtomicU32,
}

static SLOTS: [Slot; MAX_PROCESSORS] =
    [const { Slot { arrivals: AtomicU32::new(0), job: AtomicUsize::new(0), spurious: AtomicU32::new(0) } };
        MAX_PROCESSORS];

fn slot(index: usize) -> &'static Slot {
    let [first, ..] = &SLOTS;
    SLOTS.get(index).unwrap_or(first)
}

/// Prepares the boot processor, and starts the others. Returns how many there are in all, or how many came if some did not.
pub fn start() -> Result<usize, usize> {
    take_over(0);
    mask_8259s();
    apic::enable();
    let expected = machine::processors().clamp(1, MAX_PROCESSORS);
    prepare_trampoline();
    for index in 1..expected {
        start_one(index);
    }
    let came = 1 + (1..expected).filter(|index| time::wait(PATIENCE, || arrivals(*index) > 0)).count();
    if came == expected { Ok(came) } else { Err(came) }
}

/// Masks all inputs of the 8259s.
pub fn mask_8259s() {
    // Reading them proves that they are there; on a machine without them the writes go nowhere.
    let _ = (in_byte(0x21), in_byte(0xa1));
    out_byte(0x21, 0xff);
    out_byte(0xa1, 0xff);
}

/// Starts a processor: INIT, 10 ms, start-up IPI, twice.
pub fn start_one(index: usize) {
    send_init(index);
    time::delay(10_000);
    for _ in 0..2 {
        send_startup(index);
        time::delay(200);
    }
}

/// Sends INIT, and its de-assertion.
pub fn send_init(index: usize) {
    apic::send(index as u32, command::INIT | command::LEVEL);
}

/// Sends a start-up IPI.
pub fn send_startup(index: usize) {
    apic::send(index as u32, command::STARTUP | (TRAMPOLINE >> 12) as u32);
}

/// How often a processor came out of the trampoline.
pub fn arrivals(index: usize) -> u32 {
    slot(index).arrivals.load(SeqCst)
}

/// The spurious-vector register as the processor found it when it arrived.
pub fn spurious_at_arrival(index: usize) -> u32 {
    slot(index).spurious.load(SeqCst)
}

/// CR0 and EDX as the last start-up IPI left them.
pub fn state_at_arrival() -> (u32, u32) {
    (machine::read(CR0_SLOT), machine::read(SIGNATURE_SLOT))
}

/// Gives a processor something to do; it must be idle.
pub fn run_on(index: usize, job: Job) {
    slot(index).job.store(job as usize, SeqCst);
    apic::send(index as u32, u32::from(CALL));
}

/// Whether a processor has done its job.
pub fn is_idle(index: usize) -> bool {
    slot(index).job.load(SeqCst) == 0
}

/// Has a processor do something, and waits for at most so many microseconds for it to be done.
pub fn call(index: usize, job: Job, limit: u64) -> bool {
    run_on(index, job);
    time::wait(limit, || is_idle(index))
}

#[cfg(target_os = "none")]
fn prepare_trampoline() {
    unsafe extern "C" {
        static smp_trampoline: u8;
        static smp_trampoline_end: u8;
        static guest_gdt_register: [u8; 10];
    }
    let (begin, end) = (&raw const smp_trampoline, &raw const smp_trampoline_end);
    let place = |address: u64| core::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: conventional memory that nothing else uses; the code is shorter than the slots' offset.
    unsafe { place(TRAMPOLINE).copy_from(begin, end.addr() - begin.addr()) };
    // SAFETY: the same page.
    unsafe { place(CR3_SLOT).cast::<u64>().write(read_cr3()) };
    // SAFETY: the same page, and the register is ten bytes.
    unsafe { place(0x8f20).copy_from((&raw const guest_gdt_register).cast(), 10) };
}

#[cfg(not(target_os = "none"))]
fn prepare_trampoline() {
    let _ = (read_cr3, CR3_SLOT, arrive as extern "C" fn(usize) -> !);
}

/// The first Rust code of another processor.
extern "C" fn arrive(index: usize) -> ! {
    take_over(index);
    let this = slot(index);
    // An INIT leaves the mode as it was.
    let extended = crate::instructions::read_msr(apic::BASE_MSR) & apic::BASE_EXTENDED != 0;
    interrupts::cpu(index).x2apic.store(extended, SeqCst);
    this.spurious.store(apic::read(apic::register::SPURIOUS), SeqCst);
    apic::enable();
    this.job.store(0, SeqCst);
    this.arrivals.fetch_add(1, SeqCst);
    loop {
        close();
        let job = this.job.load(SeqCst);
        if job == 0 {
            sleep();
            continue;
        }
        // SAFETY: only `run_on` stores anything but 0, and what it stores is a `Job`.
        let job = unsafe { core::mem::transmute::<usize, Job>(job) };
        job(index);
        this.job.store(0, SeqCst);
    }
}
