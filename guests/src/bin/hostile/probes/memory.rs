// SPDX-License-Identifier: MIT OR Apache-2.0
//! Garbage to every device register in the address space, and to what is no memory at all, at every size.

use core::arch::x86_64::__cpuid;

use guests::coverage::{AREAS, Deed, Point, Register, WIDTHS, nth_access};
use guests::instructions::{read_cr4, write_cr4};

use crate::area::Area;
use crate::handler::probe;
use crate::note::{note, note_deed};
use crate::random::Random;
use crate::start::peek;

const IOAPIC: u64 = 0xfec0_0000;
const LAPIC: u64 = 0xfee0_0000;
const ECAM: u64 = 0xb000_0000;
const TEST: u64 = 0xff00_0000;
const STATISTICS: u64 = 0xfef0_0000;
/// What the statistics' window begins with, if the image has one.
const STATISTICS_MAGIC: u64 = u64::from_le_bytes(*b"PARASTAT");

/// Accesses of each job that go through all registers, widths and directions in turn.
const SWEEP: u64 = 160;

const END_OF_RAM: u64 = 256 << 20;

/// Of [`AREAS`], those that are RAM or begin with some.
const SANDBOX: usize = 0;
const BORDER: usize = 3;

/// First address and size of each of [`AREAS`].
fn places(area: &Area) -> [(u64, u64); AREAS.len()] {
    [
        (area.sandbox() + 0x2_0000, 0x1000),
        (0xa_0000, 0x2_0000),
        (128 << 20, 2 << 20),
        (END_OF_RAM - 64, 0x1000),
        (ECAM, 1 << 20),
        (IOAPIC, 0x1000),
        (LAPIC, 0x1000),
        (TEST, 0x1_0000),
        (STATISTICS, 0x4000),
        (0xd000_0000, 0x100_0000),
    ]
}

/// `turn` tells the jobs of a set of seeds apart, so that together they come to every register.
pub(crate) fn run(area: &Area, random: &mut Random, count: u64, turn: u64) {
    let places = places(area);
    enable_vectors();
    sweep(area, random, turn);
    let start = random.next() >> 32;
    for turn in start..start + count {
        match random.below(8) {
            0 => ioapic(area, random),
            1 | 2 => lapic(area, random),
            3 => configuration(area, random, turn),
            _ => {
                let (index, width) =
                    (random.below(places.len() as u64) as usize, random.below(WIDTHS.len() as u64) as usize);
                let (start, bytes) = places.get(index).copied().unwrap_or_default();
                let aligned = if random.once_in(3) { !0 } else { !15 };
                let at = start + (random.below(bytes) & aligned);
                anywhere(area, random, at, index, width);
            }
        }
    }
}

/// Whether a store could send INIT to the warden.
fn ends(at: u64, bytes: u64) -> bool {
    let overlaps = |start: u64, length: u64| at < start + length && start < at + bytes;
    overlaps(LAPIC + 0x300, 0x10) || overlaps(IOAPIC, 0x20)
}

fn anywhere(area: &Area, random: &mut Random, at: u64, index: usize, width: usize) {
    let bytes = WIDTHS.get(width).copied().unwrap_or(1);
    let write = random.once_in(2) && !ends(at, 64);
    let value = random.value();
    let fault = if write { store(area, random, at, bytes, value) } else { load(area, random, at, bytes) };
    note(Point::area(index, width, write));
    // All but RAM is trapped; what faulted may have done so before it got there.
    let ram = index == SANDBOX || index == BORDER && at < END_OF_RAM;
    area.exits(u64::from(!ram && fault.is_none()));
}

/// A load of a width, in one of several ways.
pub(crate) fn load(area: &Area, random: &mut Random, at: u64, bytes: u64) -> Option<u32> {
    let buffer = area.sandbox() + 0x3_0000;
    match (bytes, random.below(6)) {
        (1, 0) => probe!(area, "movzx {v:e}, byte ptr [{at}]", v = out(reg) _, at = in(reg) at),
        (1, 1) => probe!(area, "rep movsb", inout("rcx") 3u64 => _, inout("rsi") at => _, inout("rdi") buffer => _),
        (1, _) => probe!(area, "cmp byte ptr [{at}], 7", at = in(reg) at),
        (2, 0) => probe!(area, "movsx {v}, word ptr [{at}]", v = out(reg) _, at = in(reg) at),
        (2, _) => probe!(area, "test word ptr [{at}], 0x5555", at = in(reg) at),
        (4, 0) => probe!(area, "movbe {v:e}, [{at}]", v = out(reg) _, at = in(reg) at),
        (4, 1) => probe!(area, "lodsd", inout("rsi") at => _, out("rax") _),
        (4, _) => probe!(area, "mov {v:e}, [{at}]", v = out(reg) _, at = in(reg) at),
        (8, 0) => probe!(area, "bt [{at}], {v}", v = in(reg) random.below(4096), at = in(reg) at),
        (8, 1) => probe!(area, "imul {v}, [{at}], 3", v = out(reg) _, at = in(reg) at),
        (8, 2) => probe!(area, "rep movsq", inout("rcx") 2u64 => _, inout("rsi") at => _, inout("rdi") buffer => _),
        (8, _) => probe!(area, "mov {v}, [{at}]", v = out(reg) _, at = in(reg) at),
        (32, 0) => probe!(area, "vmovaps ymm0, [{at}]", at = in(reg) at),
        (32, 1) => probe!(area, "vlddqu ymm0, [{at}]", at = in(reg) at),
        (32, _) => probe!(area, "vmovdqu ymm0, [{at}]", at = in(reg) at),
        (_, 0) => probe!(area, "movaps xmm0, [{at}]", at = in(reg) at),
        (_, 1) => probe!(area, "fld tbyte ptr [{at}]\n fninit", at = in(reg) at),
        (_, _) => probe!(area, "movups xmm0, [{at}]", at = in(reg) at),
    }
}

/// A store or a change of a width, in one of several ways.
pub(crate) fn store(area: &Area, random: &mut Random, at: u64, bytes: u64, value: u64) -> Option<u32> {
    let way = random.below(8);
    if way < 4 && bytes < 16 {
        note_deed(Deed::Locked);
    }
    match (bytes, way) {
        (1, 0) => probe!(area, "lock xor byte ptr [{at}], {v}", v = in(reg_byte) value as u8, at = in(reg) at),
        (1, 1) => probe!(area, "lock not byte ptr [{at}]", at = in(reg) at),
        (1, 2..=3) => probe!(area, "xchg [{at}], {v}", v = inout(reg_byte) value as u8 => _, at = in(reg) at),
        (1, 4) => probe!(area, "rep stosb", inout("rcx") 5u64 => _, in("al") value as u8, inout("rdi") at => _),
        (1, 5) => probe!(area, "setc [{at}]", at = in(reg) at),
        (1, _) => probe!(area, "mov [{at}], {v}", v = in(reg_byte) value as u8, at = in(reg) at),
        (2, 0..=3) => probe!(area, "lock xadd [{at}], {v:x}", v = inout(reg) value => _, at = in(reg) at),
        (2, 4) => probe!(area, "shl word ptr [{at}], 3", at = in(reg) at),
        (2, _) => probe!(area, "mov [{at}], {v:x}", v = in(reg) value, at = in(reg) at),
        (4, 0..=1) => {
            probe!(area, "lock cmpxchg [{at}], {v:e}", v = in(reg) value, at = in(reg) at, inout("rax") value => _)
        }
        (4, 2..=3) => probe!(area, "lock bts dword ptr [{at}], 5", at = in(reg) at),
        (4, 4) => probe!(area, "movnti [{at}], {v:e}", v = in(reg) value, at = in(reg) at),
        (4, 5) => probe!(area, "rep stosd", inout("rcx") 3u64 => _, in("rax") value, inout("rdi") at => _),
        (4, _) => probe!(area, "mov [{at}], {v:e}", v = in(reg) value, at = in(reg) at),
        (8, 0..=1) => probe!(area, "lock add [{at}], {v}", v = in(reg) value, at = in(reg) at),
        (8, 2..=3) => probe!(area, "lock cmpxchg8b [{at}]", at = in(reg) at, out("rax") _, out("rcx") _, out("rdx") _),
        (8, 4) => probe!(area, "neg qword ptr [{at}]", at = in(reg) at),
        (8, _) => probe!(area, "mov [{at}], {v}", v = in(reg) value, at = in(reg) at),
        (32, 0) => probe!(area, "vmovntdq [{at}], ymm0", at = in(reg) at),
        (32, 1) => probe!(area, "vmovapd [{at}], ymm0", at = in(reg) at),
        (32, _) => probe!(area, "vmovups [{at}], ymm0", at = in(reg) at),
        (_, 0) => probe!(area, "lock cmpxchg16b [{at}]", at = in(reg) at, out("rax") _, out("rcx") _, out("rdx") _),
        (_, 1) => probe!(area, "movaps [{at}], xmm0", at = in(reg) at),
        (_, 2) => probe!(area, "fxsave [{at}]", at = in(reg) at),
        (_, _) => probe!(area, "movups [{at}], xmm0", at = in(reg) at),
    }
}

/// Lets the victim use AVX, if there is any: INIT clears the bit of CR4 again, and other jobs leave anything in XCR0. Without it
/// the moves of 32 bytes are undefined instructions.
pub(crate) fn enable_vectors() {
    const OSXSAVE: u64 = 1 << 18;
    const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
    if __cpuid(1).ecx & XSAVE_AND_AVX != XSAVE_AND_AVX {
        return;
    }
    write_cr4(read_cr4() | OSXSAVE);
    // SAFETY: x87, SSE and AVX state; the processor has all three, and Rust's code uses none of it.
    unsafe { core::arch::asm!("xsetbv", in("ecx") 0, in("eax") 7, in("edx") 0, options(nostack)) };
}

/// The next accesses of the round through all registers, widths and directions.
fn sweep(area: &Area, random: &mut Random, turn: u64) {
    let has_statistics = peek::<u64>(STATISTICS) == STATISTICS_MAGIC;
    for number in turn * SWEEP..(turn + 1) * SWEEP {
        let (register, width, write) = nth_access(number);
        let at = match Register::nth(register) {
            Register::Lapic(offset) => LAPIC + offset,
            Register::IoApicSelect => IOAPIC,
            Register::IoApic(index) => {
                plain(area, IOAPIC, Some(index.into()));
                IOAPIC + 0x10
            }
            Register::Pci { lpc, offset } => ECAM + if lpc { 0x1f << 15 } else { 0 } + offset,
            Register::Statistics(offset) => STATISTICS + offset,
        };
        let bytes = WIDTHS.get(width).copied().unwrap_or(1);
        let fault = if write { exact_store(area, random, at, bytes) } else { exact_load(area, at, bytes) };
        if fault.is_none() && (at < STATISTICS || has_statistics) {
            note(Point::register(register, width, write));
        }
        area.exits(fault.is_none().into());
    }
}

/// A load of exactly these bytes.
fn exact_load(area: &Area, at: u64, bytes: u64) -> Option<u32> {
    match bytes {
        1 => probe!(area, "mov {v}, [{at}]", v = out(reg_byte) _, at = in(reg) at),
        2 => probe!(area, "mov {v:x}, [{at}]", v = out(reg) _, at = in(reg) at),
        4 => probe!(area, "mov {v:e}, [{at}]", v = out(reg) _, at = in(reg) at),
        8 => probe!(area, "mov {v}, [{at}]", v = out(reg) _, at = in(reg) at),
        16 => probe!(area, "movdqu xmm0, [{at}]", at = in(reg) at),
        _ => probe!(area, "vmovups ymm0, [{at}]", at = in(reg) at),
    }
}

/// A store of exactly these bytes, none of which sends INIT, or lets a timer send NMIs.
fn exact_store(area: &Area, random: &mut Random, at: u64, bytes: u64) -> Option<u32> {
    let lanes: [u32; 8] = core::array::from_fn(|_| quiet(without_init(random.value() as u32)));
    let [first, second, ..] = lanes;
    let (from, value) = (lanes.as_ptr(), u64::from(second) << 32 | u64::from(first));
    match bytes {
        1 => probe!(area, "mov [{at}], {v}", v = in(reg_byte) value as u8, at = in(reg) at),
        2 => probe!(area, "mov [{at}], {v:x}", v = in(reg) value, at = in(reg) at),
        4 => probe!(area, "mov [{at}], {v:e}", v = in(reg) value, at = in(reg) at),
        8 => probe!(area, "mov [{at}], {v}", v = in(reg) value, at = in(reg) at),
        16 => probe!(area, "movdqu xmm0, [{from}]\n movdqu [{at}], xmm0", from = in(reg) from, at = in(reg) at),
        _ => probe!(area, "vmovups ymm0, [{from}]\n vmovups [{at}], ymm0", from = in(reg) from, at = in(reg) at),
    }
}

/// NMI as a delivery mode becomes fixed: one for each tick of a timer at its fastest would leave the warden no time for
/// anything else.
const fn quiet(value: u32) -> u32 {
    if value >> 8 & 7 == 4 { value & !(4 << 8) } else { value }
}

/// INIT as a delivery mode becomes NMI.
const fn without_init(value: u32) -> u32 {
    if value >> 8 & 7 == 5 { value & !(1 << 8) } else { value }
}

/// A plain 32-bit access.
fn plain(area: &Area, at: u64, write: Option<u32>) {
    match write {
        Some(value) => drop(probe!(area, "mov [{at}], {v:e}", v = in(reg) value, at = in(reg) at)),
        None => drop(probe!(area, "mov {v:e}, [{at}]", v = out(reg) _, at = in(reg) at)),
    }
    area.exits(1);
}

fn drop<T>(_: T) {}

fn ioapic(area: &Area, random: &mut Random) {
    let index = random.below(0x40) as u8;
    let write = random.once_in(2).then(|| quiet(without_init(random.value() as u32)));
    ioapic_register(area, index, write);
}

/// One access to a register of the IOAPIC.
pub(crate) fn ioapic_register(area: &Area, index: u8, write: Option<u32>) {
    plain(area, IOAPIC, Some(index.into()));
    plain(area, IOAPIC + 0x10, write);
    note(Point::ioapic(index, write.is_some()));
}

fn lapic(area: &Area, random: &mut Random) {
    let offset = random.below(0x40) * 16;
    let write = random.once_in(2).then(|| without_init(random.value() as u32));
    plain(area, LAPIC + offset, write);
    note(Point::lapic(offset, write.is_some()));
    if offset == 0x300 && write.is_some() {
        note_deed(Deed::Command);
    }
}

fn configuration(area: &Area, random: &mut Random, turn: u64) {
    let (lpc, register) = (random.once_in(2), turn << 2 & 0xfc);
    let write = random.once_in(2).then(|| random.value() as u32);
    let device = if lpc { 0x1f << 15 } else { 0 };
    plain(area, ECAM + device + register, write);
    note(Point::pci(lpc, register, write.is_some()));
}
