// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other processors: INIT, a start-up IPI, two pages of the guest's memory that are borrowed for as long as that takes,
//! and a stack above the guest's memory.
//!
//! Follows APM vol. 2, 14.6 and 16.5. A platform model calls this once, when all that the processors need stands; QEMU
//! numbers them 0, 1, 2 and so on, and so does their local APIC. What the processors say to each other afterwards is an
//! NMI: the local APICs are the guest's, and only an NMI gets past what a guest may have put into one.

use super::physical::{self, GuestMemory};
use super::{exceptions, relocate};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use reference_host::loader::GuestRam;
use reference_host::memory::{PAGE, Range};
use reference_host::report::Stop;
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

/// The page where processors start, which a start-up IPI names by number, and the one behind it, for their first top table.
const START: u64 = 0x8000;
const ROOT: u64 = START + PAGE;
/// Where the parameters are in the first page.
const PARAMETERS: u64 = 0xf00;
/// Bytes of a processor's stack: as the boot processor's.
pub(super) const STACK: u64 = 256 << 10;
/// How often the others are looked for: many seconds.
const PATIENCE: u64 = 2_000_000_000;
/// The local APIC's interrupt command register.
const COMMAND_LOW: u64 = 0xfee0_0300;
const COMMAND_HIGH: u64 = 0xfee0_0310;
/// To all but oneself: INIT, and the start-up IPI for [`START`].
const INIT: u32 = 0xc_4500;
const STARTUP: u32 = 0xc_4600 | (START >> 12) as u32;
/// To one: an NMI, asserted.
const NMI: u32 = 0x4400;

// In one step from real mode to long mode, with tables of the host's; then to the high half.
global_asm!(
    r#"
    .pushsection .rodata.processors, "a"
    .balign 16
processor_start:
    .code16
    cli
    cld
    mov ax, cs                  // the page, as a segment
    mov ds, ax
    mov eax, 0x20               // PAE
    mov cr4, eax
    mov eax, {root}
    mov cr3, eax
    mov ecx, 0xc0000080         // EFER: LME, NXE
    mov eax, 0x900
    xor edx, edx
    wrmsr
    .byte 0x66
    lgdt [{parameters}]
    mov eax, 0x80010033         // PG, WP, NE, ET, MP, PE
    mov cr0, eax
    .byte 0x66, 0xea            // far jump
    .long {start} + (2f - processor_start)
    .word 8
    .code64
2:  mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov eax, [0xfee00020]       // its number
    shr eax, 24
    mov edi, eax
    cmp edi, [{start} + {parameters} + 16]
    jae 3f
    mov rsp, [{start} + {parameters} + 24]
    imul rdi, rdi, {stack}
    add rsp, rdi
    mov edi, eax
    xor ebp, ebp
    mov rax, [{start} + {parameters} + 32]
    call rax
3:  hlt
    jmp 3b
processor_start_end:
    .popsection
    "#,
    root = const ROOT,
    start = const START,
    parameters = const PARAMETERS,
    stack = const STACK,
);

unsafe extern "C" {
    safe static processor_start: u8;
    safe static processor_start_end: u8;
}

/// What the code reads.
#[derive(IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Parameters {
    /// GDTR: limit, base.
    limit: u16,
    base: [u8; 8],
    reserved: [u8; 6],
    /// How many processors there are.
    count: u64,
    /// Where a processor with number 0 would have the end of its stack.
    stacks: u64,
    entry: u64,
    descriptors: [u64; 3],
}

/// Where the descriptors are in the first page.
const DESCRIPTORS: u64 = PARAMETERS + core::mem::offset_of!(Parameters, descriptors) as u64;

/// What a processor does from then on.
pub(super) type Body = fn(u32) -> !;

static BODY: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static ARRIVED: AtomicU32 = AtomicU32::new(1);

/// Starts all processors from number 1 on. `stacks` has [`STACK`] bytes for each of them.
pub(super) fn start(count: u32, stacks: Range, guest: &mut GuestMemory, body: Body) -> Result<(), Stop> {
    if count <= 1 {
        return Ok(());
    }
    if stacks.bytes() < u64::from(count - 1) * STACK {
        return Err(Stop::Machine("no room for the processors' stacks: give QEMU more memory above the guest's"));
    }
    BODY.store(body as *mut (), Ordering::Release);
    let mut borrowed = <[[u8; PAGE as usize]; 2]>::new_zeroed();
    let [first, second] = &mut borrowed;
    let outside = |_| Stop::Machine("the guest has no RAM at 8000h");
    guest.copy_from(START, first).map_err(outside)?;
    guest.copy_from(ROOT, second).map_err(outside)?;
    let begin = &raw const processor_start;
    let bytes = &raw const processor_start_end as usize - begin as usize;
    // SAFETY: the two symbols bound one run of constant bytes.
    let code = unsafe { core::slice::from_raw_parts(begin, bytes) };
    let parameters = Parameters {
        limit: 23,
        base: (START + DESCRIPTORS).to_le_bytes(),
        reserved: [0; 6],
        count: count.into(),
        stacks: physical::pointer(stacks.start) as u64,
        entry: arrive as *const () as u64,
        descriptors: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff],
    };
    guest.write(START, code).map_err(outside)?;
    guest.write(START + PARAMETERS, parameters.as_bytes()).map_err(outside)?;
    guest.write(ROOT, relocate::top_table().as_bytes()).map_err(outside)?;
    command(0, INIT);
    command(0, STARTUP);
    for _ in 0..PATIENCE {
        if ARRIVED.load(Ordering::Acquire) == count {
            guest.write(START, first).map_err(outside)?;
            return guest.write(ROOT, second).map_err(outside);
        }
        core::hint::spin_loop();
    }
    Err(Stop::Machine("a processor does not start"))
}

/// How many processors there are. None comes later.
pub(super) fn online() -> u32 {
    ARRIVED.load(Ordering::Acquire)
}

/// The first Rust code of another processor.
extern "C" fn arrive(number: u32) -> ! {
    relocate::load_tables();
    exceptions::load();
    let body = BODY.load(Ordering::Acquire);
    // SAFETY: `start` has made the pointer from a `Body`.
    let body = unsafe { core::mem::transmute::<*mut (), Body>(body) };
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    body(number)
}

/// Sends another processor an NMI. The guest, whose local APIC this is, finds the destination as it was.
pub(super) fn call(number: u32) {
    let high = physical::pointer(COMMAND_HIGH).cast::<u32>();
    // SAFETY: the register is the local APIC's, which the direct map reaches; reading it has no side effect.
    let destination = unsafe { high.read_volatile() };
    command(number, NMI);
    // SAFETY: as above; writing it alone sends nothing.
    unsafe { high.write_volatile(destination) };
}

fn command(number: u32, low: u32) {
    let write = |register, value| {
        // SAFETY: the registers are the local APIC's; the callers send INIT and start-up before any guest runs, and NMIs,
        // which every processor of this program takes at any time.
        unsafe { physical::pointer(register).cast::<u32>().write_volatile(value) };
    };
    write(COMMAND_HIGH, number << 24);
    write(COMMAND_LOW, low);
}

/// Nothing more: another processor has said why the run ends.
pub(super) fn rest() -> ! {
    loop {
        // SAFETY: nothing follows.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

const _: () = assert!(core::mem::offset_of!(Parameters, count) == 16);
const _: () = assert!(core::mem::offset_of!(Parameters, stacks) == 24);
const _: () = assert!(core::mem::offset_of!(Parameters, entry) == 32);
const _: () = assert!(PARAMETERS as usize + size_of::<Parameters>() <= PAGE as usize);
