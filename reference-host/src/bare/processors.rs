// SPDX-License-Identifier: MIT OR Apache-2.0
//! The VM's processors: INIT, a start-up IPI, two pages of the guest's memory that are borrowed for as long as that takes, and a
//! stack above the guest's memory; then each gets the number that it has in the VM, which becomes its local APIC's.
//!
//! Follows APM vol. 2, 14.6 and 16.5. A platform calls this once, when all that the processors need stands. Why the machine's
//! first one may stay out is in `reference_host::processors`. What the processors say to each other afterwards is an NMI: the
//! local APICs are the guest's, and only an NMI gets past what a guest may have put into one.

use super::physical::{self, GuestMemory};
use super::{exceptions, msr, relocate};
use core::arch::{asm, global_asm};
use core::convert::Infallible;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use reference_host::loader::GuestRam;
use reference_host::memory::{PAGE, Range};
use reference_host::processors::{NOBODY, Processors};
use reference_host::report::Stop;
use specs::apic::{LAPIC_BASE, LapicRegisters, Lvt};
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

/// The page where processors start, which a start-up IPI names by number, and the one behind it, for their first top table.
const START: u64 = 0x8000;
const ROOT: u64 = START + PAGE;
/// Where the parameters are in the first page.
const PARAMETERS: u64 = 0xf00;
/// How often the others are looked for: many seconds.
const PATIENCE: u64 = 2_000_000_000;
/// Where the local APIC's registers are.
const ID: u64 = register(offset_of!(LapicRegisters, id));
const TASK_PRIORITY: u64 = register(offset_of!(LapicRegisters, task_priority));
const SPURIOUS: u64 = register(offset_of!(LapicRegisters, spurious));
const COMMAND_LOW: u64 = register(offset_of!(LapicRegisters, command_low));
const COMMAND_HIGH: u64 = register(offset_of!(LapicRegisters, command_high));
const LINT0: u64 = register(offset_of!(LapicRegisters, lvt_lint0));
const LINT1: u64 = register(offset_of!(LapicRegisters, lvt_lint1));
/// A spurious vector that leaves the APIC disabled.
const DISABLED: u32 = 0xff;
/// To one: INIT, the start-up IPI for [`START`], an NMI; all asserted.
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600 | (START >> 12) as u32;
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
    mov eax, [0xfee00020]       // the machine's number for it
    shr eax, 24
    mov edi, eax
    cmp edi, [{start} + {parameters} + 16]
    jae 3f
    mov rsp, [{start} + {parameters} + 32]
    imul rsp, rdi
    add rsp, [{start} + {parameters} + 24]
    xor ebp, ebp
    mov rax, [{start} + {parameters} + 40]
    call rax
3:  hlt
    jmp 3b
processor_start_end:
    .popsection
    "#,
    root = const ROOT,
    start = const START,
    parameters = const PARAMETERS,
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
    /// One more than the last processor's number.
    end: u64,
    /// Where a processor with number 0 would have the end of its stack, and the bytes of each.
    stacks: u64,
    stack: u64,
    entry: u64,
    descriptors: [u64; 3],
}

/// Where the descriptors are in the first page.
const DESCRIPTORS: u64 = PARAMETERS + offset_of!(Parameters, descriptors) as u64;

/// What a processor of the VM does from then on, by its number there.
pub(super) type Body = fn(u32) -> !;

/// Memory above the guest's for stacks: as many as [`Processors::to_start`] says.
#[derive(Clone, Copy)]
pub(super) struct Stacks {
    start: u64,
    /// Bytes of each.
    bytes: u64,
}

impl Stacks {
    /// From the front of what is left above the guest's memory; and what is left then.
    pub(super) fn take(vm: &Processors, bytes: u64, from: Range) -> Result<(Self, Range), Stop> {
        let start = from.start.next_multiple_of(PAGE);
        let end = start + vm.to_start().len() as u64 * bytes;
        if end > from.end {
            return Err(Stop::Machine("no room for the processors' stacks: give QEMU more memory above the guest's"));
        }
        Ok((Self { start, bytes }, Range { start: end, end: from.end }))
    }
}

static BODY: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// The machine's number of the VM's boot processor.
static FIRST: AtomicU32 = AtomicU32::new(0);
static COUNT: AtomicU32 = AtomicU32::new(0);
/// How many have come.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// All are there, and the guest's memory is as it was.
static GO: AtomicBool = AtomicBool::new(false);
/// What the firmware has set in the boot processor's local APIC: the spurious vector and the local interrupts.
static LOCAL_APIC: [(u64, AtomicU32); 3] =
    [(SPURIOUS, AtomicU32::new(0)), (LINT0, AtomicU32::new(0)), (LINT1, AtomicU32::new(0))];
/// What it has set in the MTRRs of all processors, which INIT clears in QEMU.
static MTRRS: [AtomicU64; msr::MTRRS] = [const { AtomicU64::new(0) }; msr::MTRRS];

/// Runs `body` on all of the VM's processors, this one included if it is one of them.
pub(super) fn run(vm: Processors, stacks: Stacks, guest: &mut GuestMemory, body: Body) -> Result<Infallible, Stop> {
    BODY.store(body as *mut (), Ordering::Release);
    FIRST.store(vm.first, Ordering::Release);
    COUNT.store(vm.count, Ordering::Release);
    if vm.has_spare() {
        for (register, value) in &LOCAL_APIC {
            value.store(read(*register), Ordering::Release);
        }
        write(ID, NOBODY << 24);
        write(LINT0, Lvt::MASKED);
        write(LINT1, Lvt::MASKED);
        write(SPURIOUS, DISABLED);
    }
    if !vm.to_start().is_empty() {
        start(vm, stacks, guest)?;
    }
    GO.store(true, Ordering::Release);
    if vm.has_spare() { rest() } else { body(0) }
}

/// Starts the others and waits for them.
fn start(vm: Processors, stacks: Stacks, guest: &mut GuestMemory) -> Result<(), Stop> {
    msr::mtrrs().zip(&MTRRS).for_each(|(number, value)| value.store(msr::read(number), Ordering::Release));
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
        end: vm.to_start().end.into(),
        stacks: physical::pointer(stacks.start) as u64,
        stack: stacks.bytes,
        entry: arrive as *const () as u64,
        descriptors: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff],
    };
    guest.write(START, code).map_err(outside)?;
    guest.write(START + PARAMETERS, parameters.as_bytes()).map_err(outside)?;
    guest.write(ROOT, relocate::top_table().as_bytes()).map_err(outside)?;
    // One by one: to the machine's first processor, which may be this program's alone, INIT would mean reset.
    for number in vm.to_start() {
        send(number, INIT);
        send(number, STARTUP);
    }
    let count = vm.to_start().len() as u32;
    for _ in 0..PATIENCE {
        if ARRIVED.load(Ordering::Acquire) == count {
            guest.write(START, first).map_err(outside)?;
            return guest.write(ROOT, second).map_err(outside);
        }
        core::hint::spin_loop();
    }
    Err(Stop::Machine("a processor does not start"))
}

/// How many processors the VM has.
pub(super) fn online() -> u32 {
    COUNT.load(Ordering::Acquire)
}

/// This processor's number in the VM.
pub(super) fn number() -> u32 {
    read(ID) >> 24
}

/// The first Rust code of a processor that was started.
extern "C" fn arrive(machine_number: u32) -> ! {
    relocate::load_tables();
    exceptions::load();
    let number = machine_number.wrapping_sub(FIRST.load(Ordering::Acquire));
    write(ID, number << 24);
    for (number, value) in msr::mtrrs().zip(&MTRRS) {
        // SAFETY: memory types mean nothing to this program, and the values are those of another processor of the machine.
        unsafe { msr::write(number, value.load(Ordering::Acquire)) };
    }
    if number == 0 {
        LOCAL_APIC.iter().for_each(|(register, value)| write(*register, value.load(Ordering::Acquire)));
    }
    let body = BODY.load(Ordering::Acquire);
    // SAFETY: `run` has made the pointer from a `Body`.
    let body = unsafe { core::mem::transmute::<*mut (), Body>(body) };
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    while !GO.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    body(number)
}

/// Sends another processor an NMI. The guest, whose local APIC this is, finds the destination as it was.
pub(super) fn call(number: u32) {
    let destination = read(COMMAND_HIGH);
    send(number, NMI);
    write(COMMAND_HIGH, destination);
}

/// Sends a command to the processor with this number, from this one's local APIC.
pub(super) fn send(number: u32, command: u32) {
    write(COMMAND_HIGH, number << 24);
    write(COMMAND_LOW, command);
}

const fn register(offset: usize) -> u64 {
    LAPIC_BASE + offset as u64
}

fn read(register: u64) -> u32 {
    // SAFETY: the register is the local APIC's, which the direct map reaches; reading those of this module has no side effect.
    unsafe { physical::pointer(register).cast::<u32>().read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as in `read`. What is sent is INIT and start-up before any guest runs, NMIs, which every processor of this program
    // takes at any time, and a guest's interrupts, which are passed on to it; the other registers change what the callers want
    // changed.
    unsafe { physical::pointer(register).cast::<u32>().write_volatile(value) };
}

/// Makes this processor's local APIC look again whether an interrupt is pending: a VMRUN of QEMU's with V_IRQ can lose the note of
/// one that another thread has made (`helper_vmrun`, 7.2 to 10.0), and then it stays requested in the APIC alone.
pub(super) fn look_again() {
    write(TASK_PRIORITY, read(TASK_PRIORITY));
}

/// Nothing more, or nothing yet: until an INIT from the image, or the end.
pub(super) fn rest() -> ! {
    loop {
        // SAFETY: nothing follows; an NMI's handler comes back.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

const _: () = assert!(offset_of!(Parameters, end) == 16);
const _: () = assert!(offset_of!(Parameters, stacks) == 24);
const _: () = assert!(offset_of!(Parameters, stack) == 32);
const _: () = assert!(offset_of!(Parameters, entry) == 40);
const _: () = assert!(PARAMETERS as usize + size_of::<Parameters>() <= PAGE as usize);
