// SPDX-License-Identifier: MIT OR Apache-2.0
//! Absurd gates and descriptors: in copies of the tables in the sandbox, in slots that this program does not need.

use core::sync::atomic::Ordering::SeqCst;
use guests::coverage::Deed;

use crate::area::{Area, address_of};
use crate::handler::probe;
use crate::note::note_deed;
use crate::random::Random;
use crate::start::poke;
use crate::tables::{CODE, DATA, LDT};

/// Descriptors that are absurd, and vectors.
const FREE_DESCRIPTORS: core::ops::Range<u64> = 64..512;
const FREE_VECTORS: core::ops::Range<u64> = 0x40..0x100;

#[repr(C, packed)]
pub(crate) struct Register(pub(crate) u16, pub(crate) u64);

/// Loads both tables.
pub(crate) fn load(gdt: u64, idt: u64) {
    let (gdt, idt) = (Register(4095, gdt), Register(4095, idt));
    // SAFETY: both have what this program needs.
    unsafe {
        core::arch::asm!("lgdt [{}]", "lidt [{}]", in(reg) &raw const gdt, in(reg) &raw const idt, options(nostack))
    };
}

/// The victim's own tables again.
pub(crate) fn reload(area: &Area) {
    load(address_of(&area.gdt), address_of(&area.idt64));
}

pub(crate) fn run(area: &Area, random: &mut Random, count: u64) {
    let (gdt, idt) = (area.sandbox() + 0x6_0000, area.sandbox() + 0x6_1000);
    for (index, (descriptor, gate)) in (0..).zip(area.gdt.iter().zip(&area.idt64)) {
        poke(gdt + 8 * index, descriptor.load(SeqCst));
        poke(idt + 8 * index, gate.load(SeqCst));
    }
    load(gdt, idt);
    for _ in 0..count {
        let slot = FREE_DESCRIPTORS.start + random.below(FREE_DESCRIPTORS.end - FREE_DESCRIPTORS.start);
        poke(gdt + 8 * slot, absurd_descriptor(random));
        poke(gdt + 8 * slot + 8, random.value() & 0xffff_ffff);
        let bits = random.below(8);
        descriptors(area, random, slot << 3 | bits);
        let vector = FREE_VECTORS.start + random.below(FREE_VECTORS.end - FREE_VECTORS.start);
        poke(idt + 16 * vector, absurd_gate(random));
        poke(idt + 16 * vector + 8, random.value());
        interrupt(area, vector);
        table_registers(area, random, gdt, idt);
    }
    reload(area);
    // SAFETY: selector 0 is a local descriptor table that is none; data segments as this program has them.
    unsafe {
        core::arch::asm!("lldt {n:x}", "mov ds, {d:e}", "mov es, {d:e}", "mov fs, {d:e}", "mov gs, {d:e}", "mov ss, {d:e}",
            n = in(reg) 0u64, d = in(reg) DATA, options(nostack));
    };
}

fn absurd_descriptor(random: &mut Random) -> u64 {
    let noise = random.value();
    // Type, S, DPL and P as noise; often present.
    if random.once_in(2) { noise | 1 << 47 } else { noise }
}

/// A gate that cannot lead out of this program: its target is nowhere, or its selector is no code.
fn absurd_gate(random: &mut Random) -> u64 {
    let noise = random.next();
    let selector = random.pick(&[0, DATA, LDT, 0xfff8, 0x1234]);
    noise & !0xffff_0000 | selector << 16 | if random.once_in(4) { 0 } else { 1 << 47 }
}

fn descriptors(area: &Area, random: &mut Random, selector: u64) {
    let _ = match random.below(12) {
        0 => probe!(area, "mov es, {s:e}", s = in(reg) selector),
        1 => probe!(area, "mov fs, {s:e}", s = in(reg) selector),
        2 => probe!(area, "mov gs, {s:e}", s = in(reg) selector),
        3 => probe!(area, "mov ds, {s:e}", s = in(reg) selector),
        4 => probe!(area, "mov ss, {s:e}\n mov ss, {d:e}", s = in(reg) selector, d = in(reg) DATA),
        5 => probe!(area, "lldt {s:x}", s = in(reg) selector),
        6 => probe!(area, "lar {s:e}, {s:e}\n lsl {s:e}, {s:e}", s = inout(reg) selector => _),
        7 => probe!(area, "verr {s:x}\n verw {s:x}", s = in(reg) selector),
        8 => probe!(area, "push {s}\n push {o}\n rex64 retf", s = in(reg) 0xffff_fff0u64, o = in(reg) selector),
        9 => probe!(area, "str {s:e}\n sldt {s:e}\n smsw {s:e}", s = out(reg) _),
        _ => {
            probe!(area, "mov es, {s:e}\n mov {s}, es:[{a}]", s = inout(reg) selector => _, a = in(reg) area.sandbox())
        }
    };
    note_deed(Deed::Descriptor);
    area.beat();
}

fn interrupt(area: &Area, vector: u64) {
    // INT n with the number at run time: in the sandbox, which this program may execute.
    let at = area.sandbox() + 0x7_0000;
    poke(at, 0xc3_00cdu32 | (vector as u32) << 8);
    let _ = probe!(area, "call {at}", at = in(reg) at);
    note_deed(Deed::Gate);
    area.beat();
}

/// Tables whose registers say something else than the tables: limits that end early, bases that are not canonical.
fn table_registers(area: &Area, random: &mut Random, gdt: u64, idt: u64) {
    let absurd = Register(random.value() as u16 & 0xff, random.value());
    let short = Register(random.below(0x100) as u16 | 0x200, idt);
    let _ = probe!(area, "lgdt [{r}]", r = in(reg) &raw const absurd);
    load(gdt, idt);
    let _ = probe!(area, "lidt [{r}]\n int 0x77", r = in(reg) &raw const short);
    load(gdt, idt);
    let code = CODE;
    let _ =
        probe!(area, "lea {t}, [rip + 3f]\n push {c}\n push {t}\n rex64 retf\n 3:", t = out(reg) _, c = in(reg) code);
}
