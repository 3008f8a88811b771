// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting the other processors: INIT, a start-up IPI, and one page of code below 1 MiB.
//!
//! The page lies in guest memory, before the guest runs, and is wiped when all processors have left it.

use core::arch::global_asm;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use alloc::vec::Vec;

use platform_shared::{clock, own_tables, stack};
use x86_64::registers::control::Cr3;

use crate::machine::Native;
use crate::start::StartError;
use crate::{apic, start};

/// The page where processors start; a start-up IPI names it by number.
const PAGE: usize = image_abi::START_PAGE as usize;
/// Where the parameters lie in the page.
const PARAMETERS: usize = PAGE + 0xf00;
/// How long the processors get, in seconds.
const PATIENCE: u64 = 5;

// 16-bit code that goes to long mode in one step (APM vol. 2, 14.6): tables, EFER, then PE and PG at once.
global_asm!(
    ".section .rodata.native_trampoline, \"a\"",
    ".global native_trampoline",
    ".global native_trampoline_end",
    "native_trampoline:",
    ".code16",
    "    cli",
    "    cld",
    "    mov ax, cs", // the page, as a segment
    "    mov ds, ax",
    "    mov eax, 0xa0", // CR4: PAE, PGE
    "    mov cr4, eax",
    "    mov eax, [0xf00]",
    "    mov cr3, eax",
    "    mov ecx, 0xc0000080", // EFER: LME, NXE
    "    mov eax, 0x900",
    "    xor edx, edx",
    "    wrmsr",
    "    .byte 0x66",            // with a 32-bit base
    "    lgdt [0xf08]",
    "    mov eax, 0x80010033", // CR0: PG, WP, NE, ET, MP, PE
    "    mov cr0, eax",
    "    .byte 0x66, 0xea", // jmp far 0x08:long
    "    .long {page} + (2f - native_trampoline)",
    "    .word 0x08",
    ".code64",
    "2:  mov eax, 0x10",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov ss, eax",
    "    mov eax, [0xfee00020]",
    "    shr eax, 24",
    "    mov edi, eax",
    "    cmp edi, [{page} + 0xf18]",
    "    jae 3f",
    "    mov rbx, [{page} + 0xf20]",
    "    mov rsp, [rbx + rdi * 8]",
    "    mov rax, [{page} + 0xf28]",
    "    call rax",
    "3:  hlt",
    "    jmp 3b",
    "native_trampoline_end:",
    ".text",
    page = const PAGE,
);

unsafe extern "C" {
    static native_trampoline: u8;
    static native_trampoline_end: u8;
}

/// What the trampoline reads, at [`PARAMETERS`].
#[repr(C)]
struct Parameters {
    root: u64,
    /// GDTR image: limit at offset 6 of the word pair, then the base.
    table_limit: u16,
    table_base: [u8; 8],
    reserved: [u8; 6],
    processors: u32,
    reserved_2: u32,
    stacks: u64,
    entry: u64,
}

/// A flat descriptor table for the way to long mode.
static TABLE: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

static NATIVE: AtomicPtr<Native> = AtomicPtr::new(ptr::null_mut());
static BODY: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static ARRIVED: AtomicU32 = AtomicU32::new(1);

/// What each processor runs once it is set up.
pub(crate) type Body = fn(&'static Native, u32) -> !;

/// Starts all other processors; each ends up in `body`, set up like this one.
pub(crate) fn start_others(native: &'static Native, body: Body) -> Result<(), StartError> {
    let processors = platform::Platform::processors(native);
    if processors == 1 {
        return Ok(());
    }
    let mut stacks = Vec::new();
    stacks.try_reserve(processors as usize).map_err(|_| StartError::OutOfMemory)?;
    stacks.push(0);
    for _ in 1..processors {
        stacks.push(stack::new().map_err(|_| StartError::OutOfMemory)?);
    }
    NATIVE.store(ptr::from_ref(native).cast_mut(), Ordering::Release);
    BODY.store(body as *mut (), Ordering::Release);
    place(processors, stacks.leak().as_ptr().expose_provenance() as u64)?;
    // One by one: a machine may have processors that are not the VM's.
    for id in 1..processors {
        apic::init(id);
        apic::start_up(id, (PAGE >> 12) as u8);
    }
    let hz = platform::Clock::tsc_hz(platform::Platform::clock(native));
    let begun = clock::tsc();
    while ARRIVED.load(Ordering::Acquire) < processors {
        if clock::tsc().wrapping_sub(begun) > PATIENCE * hz {
            return Err(StartError::ProcessorStart);
        }
        core::hint::spin_loop();
    }
    own_tables::set_code(PAGE as u64, false).map_err(|_| StartError::OutOfMemory)?;
    // SAFETY: the page is guest memory that the guest has not seen yet, and every processor has left it.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(PAGE).write_bytes(0, 4096) };
    Ok(())
}

/// Copies the code and its parameters into the page and makes it executable.
fn place(processors: u32, stacks: u64) -> Result<(), StartError> {
    let base = (&raw const TABLE).expose_provenance() as u64;
    let parameters = Parameters {
        root: Cr3::read().0.start_address().as_u64(),
        table_limit: (size_of_val(&TABLE) - 1) as u16,
        table_base: base.to_le_bytes(),
        reserved: [0; 6],
        processors,
        reserved_2: 0,
        stacks,
        entry: (arrive as *const ()).expose_provenance() as u64,
    };
    let begin = &raw const native_trampoline;
    let bytes = (&raw const native_trampoline_end).addr() - begin.addr();
    // SAFETY: the page is guest memory that the guest has not seen yet; the code is shorter than the parameters' offset.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(PAGE).copy_from(begin, bytes) };
    // SAFETY: as above; the parameters end within the page.
    unsafe { ptr::with_exposed_provenance_mut::<Parameters>(PARAMETERS).write_unaligned(parameters) };
    own_tables::set_code(PAGE as u64, true).map_err(|_| StartError::OutOfMemory)
}

/// The first Rust code of another processor.
extern "C" fn arrive(index: u32) -> ! {
    // SAFETY: `start_others` stored a reference that lives for ever before it sent the start-up IPI.
    let native = unsafe { &*NATIVE.load(Ordering::Acquire) };
    let body = BODY.load(Ordering::Acquire);
    // SAFETY: the pointer was made from a `Body` in `start_others`.
    let body = unsafe { core::mem::transmute::<*mut (), Body>(body) };
    start::set_up_processor(native, index);
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    body(native, index)
}

const _: () = assert!(core::mem::offset_of!(Parameters, table_limit) == 0x08);
const _: () = assert!(core::mem::offset_of!(Parameters, processors) == 0x18);
const _: () = assert!(core::mem::offset_of!(Parameters, stacks) == 0x20);
const _: () = assert!(core::mem::offset_of!(Parameters, entry) == 0x28);
