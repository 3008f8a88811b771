// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of the cases: code, data that is memory, the same data on a device, and the tables that lead there.
//!
//! The first 4 GiB are mapped one to one under Rust, so that every address here is physical.

use core::ptr;

use emulator_tests::layout::{self, CODE, CODE_SIZE, DATA, DATA_SIZE, Descriptor, Mode};
use guests::instructions as cpu;

use crate::legacy::{self, REAL_CODE, REAL_SLOTS, REAL_VECTORS, RealSlots};
use crate::{exchange, long};

/// Two pages of code; CS in real and virtual-8086 mode leads there too.
pub(crate) const CODE_AT: u64 = (layout::CODE_SELECTOR as u64) << 4;
/// Data that is memory.
pub(crate) const PLAIN: u64 = (layout::DATA_SELECTOR as u64) << 4;
/// The second page of data, where it is memory and the rest is a device.
pub(crate) const SECOND: u64 = 0x7_8000;
/// The data before a case, to go back to after a fault.
pub(crate) const BEFORE: u64 = 0x7_4000;
/// The stack of real mode.
pub(crate) const REAL_STACK: u64 = 0x6_0000;
/// Bytes of the stack of real mode, and of data there.
pub(crate) const SEGMENT: u64 = 0x1_0000;
/// The data on a device, and where real mode finds it.
pub(crate) const DEVICE: u64 = 0xff00_0000;
pub(crate) const DEVICE_SELECTOR: u16 = 0xa800;
/// Bytes that real mode finds there.
pub(crate) const DEVICE_BYTES: u64 = 0x8000;
const PAGE: u64 = 0x1000;
const INT3: u8 = 0xcc;

/// Present and writable for level 3, and the same without the right to write.
const FULL: u64 = 7;
const READ: u64 = 5;
const LARGE: u64 = 1 << 7;
/// Accessed and dirty.
const USED: u64 = 0x60;

/// Selectors that both global tables share, and what each has there.
pub(crate) const LOCAL: u16 = 0x30;
pub(crate) const MAIN_TASK: u16 = 0x40;
pub(crate) const SPARE_TASK: u16 = 0x50;
const FIRST_HANDLER: usize = 12;
const VECTORS: usize = 32;
const GATES: [u64; 6] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
    0x0000_9b00_0000_ffff,
    0x0000_9300_0000_ffff,
];
const TASK_AVAILABLE: u64 = 0x89 << 40;
const LOCAL_TABLE: u64 = 0x82 << 40;
/// SS of 16-bit code, in the local table; level 0 as CS and SS of all cases.
const SS16: u16 = 10;
const LOCAL_ENTRIES: usize = 11;

/// A page of tables.
#[repr(C, align(4096))]
struct Table<T: Copy, const N: usize>([T; N]);

/// A task-state segment with room for the map of ports.
#[repr(C, align(256))]
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) [u32; 64]);

/// Everything that the processor reads by itself.
#[repr(C, align(4096))]
struct World {
    /// 8-byte entries, for long mode and PAE.
    code: Table<u64, 512>,
    data: Table<u64, 512>,
    low: Table<u64, 512>,
    pae_directory: Table<u64, 512>,
    pae_root: Table<u64, 512>,
    /// 4-byte entries.
    legacy_root: Table<u32, 1024>,
    legacy_low: Table<u32, 1024>,
    legacy_code: Table<u32, 1024>,
    legacy_data: Table<u32, 1024>,
    long_gdt: [u64; 16],
    legacy_gdt: [u64; FIRST_HANDLER + VECTORS],
    local: [u64; LOCAL_ENTRIES],
    long_idt: [[u64; 2]; VECTORS],
    legacy_idt: [u64; VECTORS],
    long_tasks: [Task; 2],
    tasks: [Task; 2],
    handlers: [Task; VECTORS],
    stack: [u8; 4096],
}

const NO_TASK: Task = Task([0; 64]);
const EMPTY: Table<u64, 512> = Table([0; 512]);
const EMPTY_LEGACY: Table<u32, 1024> = Table([0; 1024]);

static mut WORLD: World = World {
    code: EMPTY,
    data: EMPTY,
    low: EMPTY,
    pae_directory: EMPTY,
    pae_root: EMPTY,
    legacy_root: EMPTY_LEGACY,
    legacy_low: EMPTY_LEGACY,
    legacy_code: EMPTY_LEGACY,
    legacy_data: EMPTY_LEGACY,
    long_gdt: [0; 16],
    legacy_gdt: [0; FIRST_HANDLER + VECTORS],
    local: [0; LOCAL_ENTRIES],
    long_idt: [[0; 2]; VECTORS],
    legacy_idt: [0; VECTORS],
    long_tasks: [NO_TASK; 2],
    tasks: [NO_TASK; 2],
    handlers: [NO_TASK; VECTORS],
    stack: [0; 4096],
};

fn world() -> &'static mut World {
    let pointer = &raw mut WORLD;
    // SAFETY: there is one processor, no caller keeps the reference, and assembly and the processor use the tables only
    // while a case runs, which nobody starts with a reference in hand.
    unsafe { &mut *pointer }
}

/// Copies bytes to an address that is mapped and that Rust has no reference to.
pub(crate) fn store(address: u64, bytes: &[u8]) {
    let to = ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: the callers' addresses are of the areas above, each large enough. REP MOVSB is one exit on a device.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") bytes.len() => _, inout("rdi") to => _, inout("rsi") bytes.as_ptr() => _,
            options(nostack, preserves_flags));
    }
}

/// Copies bytes from such an address.
pub(crate) fn load(address: u64, bytes: &mut [u8]) {
    let from = ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: as in `store`.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") bytes.len() => _, inout("rdi") bytes.as_mut_ptr() => _,
            inout("rsi") from => _, options(nostack, preserves_flags));
    }
}

/// Copies 8 bytes at a time.
pub(crate) fn copy(from: u64, to: u64, bytes: u64) {
    // SAFETY: as in `store`.
    unsafe {
        core::arch::asm!("rep movsq", inout("rcx") bytes / 8 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
}

/// Compares 8 bytes at a time; the offset of a word that differs.
pub(crate) fn difference(one: u64, other: u64, bytes: u64) -> Option<u64> {
    let (left, end): (u64, u64);
    // SAFETY: as in `store`; only reads. The first comparison makes ZF for a length of zero.
    unsafe {
        core::arch::asm!("cmp rax, rax", "repe cmpsq", "setne al", "movzx eax, al", inout("rax") 0u64 => left,
            inout("rcx") bytes / 8 => _, inout("rdi") other => _, inout("rsi") one => end, options(nostack, readonly));
    }
    (left != 0).then(|| end - 8 - one)
}

/// A word of memory of the tables' owner, the guest.
fn read(address: u64) -> u64 {
    let pointer = ptr::with_exposed_provenance::<u64>(address as usize);
    // SAFETY: a table of the guest's own, aligned.
    unsafe { pointer.read_volatile() }
}

fn write(address: u64, value: u64) {
    let pointer = ptr::with_exposed_provenance_mut::<u64>(address as usize);
    // SAFETY: as in `read`.
    unsafe { pointer.write_volatile(value) };
}

fn address_of<T>(place: *const T) -> u64 {
    place as u64
}

fn segment(base: u64, limit: u64, kind: u64) -> u64 {
    limit & 0xffff | (base & 0xff_ffff) << 16 | kind | (base >> 24 & 0xff) << 56
}

/// Builds everything. Called once.
pub(crate) fn build() {
    pages();
    descriptors();
    tasks();
    real_mode();
    fill();
    freshen();
    exchange::change(|it| {
        load_global_table(&it.long_gdtr);
        it.host_cr0 = cpu::read_cr0();
        it.host_cr3 = cpu::read_cr3();
        it.host_cr4 = cpu::read_cr4();
    });
}

fn pages() {
    let world = world();
    let (code, data, low) = (address_of(&world.code), address_of(&world.data), address_of(&world.low));
    for (index, entry) in (0..).zip(world.code.0.iter_mut().take((CODE_SIZE / PAGE) as usize)) {
        *entry = (CODE_AT + index * PAGE) | FULL;
    }
    for (index, entry) in (0..).zip(&mut world.low.0) {
        *entry = (index * PAGE) | FULL;
    }
    // Rust's own directory of the first GiB, within which each entry says for itself whose it is.
    let top = cpu::read_cr3();
    let third = read(top) & !0xfff;
    let first = read(third) & !0xfff;
    write(top, read(top) | USER);
    write(third, read(third) | USER);
    write(first + 8 * (CODE >> 21), code | FULL);
    write(first + 8 * (DATA >> 21), data | FULL);
    for (index, entry) in (0..).zip(&mut world.pae_directory.0) {
        *entry = read(first + 8 * index) | FULL;
    }
    if let Some(entry) = world.pae_directory.0.first_mut() {
        *entry = low | FULL;
    }
    let directory = address_of(&world.pae_directory);
    for (index, entry) in (0..).zip(world.pae_root.0.iter_mut().take(4)) {
        *entry = (if index == 0 { directory } else { read(third + 8 * index) & !0xfff }) | 1;
    }
    let parts = [
        (0, address_of(&world.legacy_low)),
        (CODE >> 22, address_of(&world.legacy_code)),
        (DATA >> 22, address_of(&world.legacy_data)),
    ];
    for (index, entry) in (0_u64..).zip(&mut world.legacy_root.0) {
        let part = parts.iter().find(|(at, _)| *at == index);
        *entry = part.map_or(index << 22 | FULL | LARGE, |(_, table)| *table | FULL) as u32;
    }
    for (index, entry) in (0_u64..).zip(&mut world.legacy_low.0) {
        *entry = ((index * PAGE) | FULL) as u32;
    }
    for (index, entry) in (0..).zip(world.legacy_code.0.iter_mut().take((CODE_SIZE / PAGE) as usize)) {
        *entry = ((CODE_AT + index * PAGE) | FULL) as u32;
    }
    // What lies behind the data in virtual-8086 mode is absent.
    for index in DATA_SIZE / PAGE..SEGMENT / PAGE {
        let slot = (PLAIN / PAGE + index) as usize;
        world.low.0[slot] = 0;
        world.legacy_low.0[slot] = 0;
    }
}

/// Where the data lies in a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// In memory.
    Plain,
    /// On the device, but for the second page if this says so.
    Device { partly: bool },
}

/// What level 0 may do with the data in long mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Rights {
    /// The pages are the supervisor's.
    pub(crate) supervisor: bool,
    /// CR4.SMAP is set.
    pub(crate) smap: bool,
    /// The bits of PKRU for the key that the pages have, with CR4.PKE set.
    pub(crate) key: Option<u32>,
}

impl Rights {
    fn entry(self) -> u64 {
        let key = if self.key.is_some() { KEY << 59 } else { 0 };
        key | if self.supervisor { 0 } else { USER }
    }
}

/// The protection key of the data.
pub(crate) const KEY: u64 = 5;
const USER: u64 = 4;

/// Maps the data anew, as neither accessed nor dirty.
pub(crate) fn map(side: Side, rights: Rights) {
    let world = world();
    for page in 0..DATA_SIZE / PAGE {
        let frame = match side {
            Side::Plain => PLAIN + page * PAGE,
            Side::Device { partly: true } if page == 1 => SECOND,
            Side::Device { .. } => DEVICE + page * PAGE,
        };
        let entry = frame | if page * PAGE >= layout::READ_ONLY { READ } else { FULL };
        let (at, low) = (page as usize, (PLAIN / PAGE + page) as usize);
        world.data.0[at] = entry & !USER | rights.entry();
        world.low.0[low] = entry;
        world.legacy_data.0[at] = entry as u32;
        world.legacy_low.0[low] = entry as u32;
    }
    cpu::write_cr3(cpu::read_cr3());
}

/// The accessed and dirty bits of the data's pages, in whichever table has them.
pub(crate) fn used() -> u64 {
    let world = world();
    let mut bits = 0;
    for page in (0..(DATA_SIZE / PAGE) as usize).rev() {
        let low = (PLAIN / PAGE) as usize + page;
        let seen = world.data.0[page]
            | world.low.0[low]
            | u64::from(world.legacy_data.0[page])
            | u64::from(world.legacy_low.0[low]);
        bits = bits << 8 | seen & USED;
    }
    bits
}

/// Segments as large as can be, because QEMU's processor knows no limits; CS and SS for level 0.
fn local_entry(descriptor: &Descriptor) -> u64 {
    const GRANULAR: u64 = 1 << 55;
    const LEVEL: u64 = 3 << 45;
    let entry = u64::from_le_bytes(Descriptor { limit: 0xf_ffff, ..*descriptor }.bytes()) | GRANULAR;
    match descriptor.index {
        index if index == layout::CS32.index || index == layout::CS16.index => {
            u64::from_le_bytes(descriptor.bytes()) & !LEVEL
        }
        index if index == layout::SS.index || index == SS16 => entry & !LEVEL,
        1..=4 => entry,
        _ => u64::from_le_bytes(descriptor.bytes()),
    }
}

fn descriptors() {
    let world = world();
    for descriptor in &layout::DESCRIPTORS {
        world.local[usize::from(descriptor.index)] = local_entry(descriptor);
    }
    world.local[usize::from(SS16)] = local_entry(&Descriptor { index: SS16, big: false, ..layout::SS });
    let stub = |base: *const u8, vector: usize| base as u64 + 16 * vector as u64;
    for (vector, (gate, legacy)) in world.long_idt.iter_mut().zip(&mut world.legacy_idt).enumerate() {
        let at = stub(&raw const long::compare_long_stubs, vector);
        // An interrupt gate with the first stack of the task.
        *gate = [at & 0xffff | 8 << 16 | 0x8e01 << 32 | (at >> 16 & 0xffff) << 48, at >> 32];
        // A task gate that INT3 may use at level 3.
        *legacy = (8 * (FIRST_HANDLER + vector) as u64) << 16 | 0xe500 << 32;
    }
    exchange::change(|it| {
        it.long_gdtr = exchange::table(address_of(&world.long_gdt), (size_of_val(&world.long_gdt) - 1) as u16);
        it.legacy_gdtr = exchange::table(address_of(&world.legacy_gdt), (size_of_val(&world.legacy_gdt) - 1) as u16);
        it.legacy_idtr = exchange::table(address_of(&world.legacy_idt), (size_of_val(&world.legacy_idt) - 1) as u16);
        it.real_idtr = exchange::table(REAL_CODE + REAL_VECTORS, (4 * VECTORS - 1) as u16);
    });
}

/// LGDT. The selectors in use mean the same in all global tables.
fn load_global_table(register: &[u8; 16]) {
    // SAFETY: the table is complete.
    unsafe { core::arch::asm!("lgdt [{}]", in(reg) register, options(nostack, preserves_flags)) };
}

/// The interrupt descriptor table of long mode.
pub(crate) fn long_idt() -> (u64, u16) {
    let world = world();
    (address_of(&world.long_idt), (size_of_val(&world.long_idt) - 1) as u16)
}

/// Fills in the global tables, with every task available.
pub(crate) fn freshen() {
    let world = world();
    world.long_gdt[..GATES.len()].copy_from_slice(&GATES);
    world.legacy_gdt[..GATES.len()].copy_from_slice(&GATES);
    let local = segment(address_of(&world.local), (8 * LOCAL_ENTRIES - 1) as u64, LOCAL_TABLE);
    world.long_gdt[usize::from(LOCAL >> 3)] = local;
    world.legacy_gdt[usize::from(LOCAL >> 3)] = local;
    for (index, selector) in [MAIN_TASK, SPARE_TASK].into_iter().enumerate() {
        let limit = size_of::<Task>() as u64 - 1;
        let at = usize::from(selector >> 3);
        world.long_gdt[at] = segment(address_of(&world.long_tasks[index]), limit, TASK_AVAILABLE);
        world.legacy_gdt[at] = segment(address_of(&world.tasks[index]), limit, TASK_AVAILABLE);
    }
    for vector in 0..VECTORS {
        let at = address_of(&world.handlers[vector]);
        world.legacy_gdt[FIRST_HANDLER + vector] = segment(at, 103, TASK_AVAILABLE);
    }
}

fn tasks() {
    let world = world();
    let top = address_of(&world.stack) + size_of_val(&world.stack) as u64;
    for task in &mut world.long_tasks {
        // IST1 at 24h, the map of ports beyond the limit (APM vol. 2, figure 12-8).
        task.0[9] = top as u32;
        task.0[10] = (top >> 32) as u32;
        task.0[25] = 0xffff << 16;
    }
    for task in &mut world.tasks {
        // Ports E0h and E1h are allowed to virtual-8086 mode, the others are not.
        task.0[25] = 104 << 16;
        task.0[26..].fill(u32::MAX);
        task.0[26 + 0xe0 / 32] = !3;
    }
}

/// Prepares the tasks of the exceptions: each starts at its stub.
pub(crate) fn freshen_tasks(cr3: u64) {
    let world = world();
    let top = address_of(&world.stack) + size_of_val(&world.stack) as u64;
    let stubs = &raw const legacy::compare_task_stubs as u64;
    for (vector, task) in world.handlers.iter_mut().enumerate() {
        task.0[0] = 0;
        task.0[7] = cr3 as u32;
        task.0[8] = (stubs + 16 * vector as u64) as u32;
        task.0[9] = 2;
        task.0[14] = top as u32;
        for (index, selector) in [(18, 16), (19, 0x18), (20, 16), (21, 16), (22, 0), (23, 0), (24, 0), (25, 104 << 16)]
        {
            task.0[index] = selector;
        }
    }
}

/// The task that an exception's task came from, and its selector.
pub(crate) fn interrupted(vector: u8) -> (Task, u16) {
    let world = world();
    let selector = world.handlers[usize::from(vector & 31)].0[0] as u16;
    let index = usize::from(selector == SPARE_TASK);
    (world.tasks[index], selector)
}

/// The root of the tables that a mode runs under, if it is not Rust's own.
pub(crate) fn root(legacy: bool) -> u64 {
    let world = world();
    if legacy { address_of(&world.legacy_root) } else { address_of(&world.pae_root) }
}

fn real_mode() {
    let start = &raw const legacy::compare_real;
    let length = &raw const legacy::compare_real_finish as usize - start as usize;
    // SAFETY: the linker has put the code there.
    let code = unsafe { core::slice::from_raw_parts(start, length) };
    store(REAL_CODE, code);
    let stubs = &raw const legacy::compare_real_stubs as u64 - start as u64;
    for vector in 0..VECTORS as u64 {
        let entry = (REAL_CODE >> 4) << 16 | (stubs + 8 * vector);
        store(REAL_CODE + REAL_VECTORS + 4 * vector, &(entry as u32).to_le_bytes());
    }
}

/// The registers of real mode.
pub(crate) fn slots() -> RealSlots {
    let pointer = ptr::with_exposed_provenance::<RealSlots>((REAL_CODE + REAL_SLOTS) as usize);
    // SAFETY: `REAL_SLOTS` is aligned and below the vectors; any bytes are slots.
    unsafe { pointer.read_volatile() }
}

/// Sets the registers of real mode.
pub(crate) fn set_slots(slots: RealSlots) {
    let pointer = ptr::with_exposed_provenance_mut::<RealSlots>((REAL_CODE + REAL_SLOTS) as usize);
    // SAFETY: as in `slots`.
    unsafe { pointer.write_volatile(slots) };
}

/// Fills code with INT3, and both kinds of data with the same bytes.
fn fill() {
    store(CODE_AT, &[INT3; CODE_SIZE as usize]);
    let mut random = emulator_tests::random::Random::new(7);
    for offset in (0..SEGMENT).step_by(8) {
        store(PLAIN + offset, &random.word().to_le_bytes());
    }
    copy(PLAIN, DEVICE, SEGMENT);
    copy(PLAIN + PAGE, SECOND, PAGE);
    copy(PLAIN, REAL_STACK, SEGMENT);
}

/// Selectors of CS and SS, as a case in `mode` has them.
pub(crate) fn selectors(mode: Mode) -> (u16, u16) {
    let level_0 = |index: u16| index << 3 | 4;
    match mode {
        Mode::Long => (8, 16),
        Mode::Compatibility32 | Mode::Protected32 => (level_0(layout::CS32.index), level_0(layout::SS.index)),
        // IRET leaves the upper half of ESP alone if SS is a 16-bit segment.
        Mode::Compatibility16 => (level_0(layout::CS16.index), level_0(layout::SS.index)),
        Mode::Protected16 => (level_0(layout::CS16.index), level_0(SS16)),
        Mode::Virtual8086 => (layout::CODE_SELECTOR, layout::DATA_SELECTOR),
        Mode::Real => (layout::CODE_SELECTOR, (REAL_STACK >> 4) as u16),
    }
}
