// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accesses that lie on both sides of a border: each byte behaves as its own side does.

use core::arch::asm;
use guests::attempt;
use guests::instructions::{in_dword, out_dword};
use guests::machine;
use guests::report::Report;

const PORT: u16 = 0xe0;

/// Bytes on each side that a probe may touch.
const REACH: u64 = 16;

/// A border, and which sides are memory.
struct Border {
    name: &'static str,
    at: u64,
    below: bool,
    above: bool,
}

pub(crate) fn run(report: &mut Report, start_info: u64, start: u64, end: u64) {
    let low_end = machine::memory_map(start_info)
        .filter(|entry| entry.kind == 1 && entry.start < 1 << 32)
        .map(|entry| entry.start + entry.bytes)
        .max()
        .unwrap_or(0);
    for border in [
        Border { name: "a0000h", at: 0xa_0000, below: true, above: false },
        Border { name: "c0000h", at: 0xc_0000, below: false, above: true },
        Border { name: "region's start", at: start, below: true, above: false },
        Border { name: "region's end", at: end, below: false, above: true },
        Border { name: "end of RAM", at: low_end, below: true, above: false },
        Border { name: "within the region", at: start + 0x1000, below: false, above: false },
        Border { name: "nowhere", at: 0xd000_0000, below: false, above: false },
    ] {
        let saved = bytes(border.at);
        probe(report, &border);
        fill(border.at, &saved);
    }
}

/// The bytes around a border, one by one.
fn bytes(at: u64) -> [u8; 2 * REACH as usize] {
    let mut offset = 0;
    [(); 2 * REACH as usize].map(|()| {
        let address = at - REACH + offset;
        offset += 1;
        let value;
        // SAFETY: mapped, and saved by the caller if it is anyone's memory.
        unsafe { asm!("mov {}, [{}]", out(reg_byte) value, in(reg) address, options(nostack, readonly)) };
        value
    })
}

fn fill(at: u64, bytes: &[u8]) {
    for (address, byte) in (at - REACH..).zip(bytes) {
        // SAFETY: as in `bytes`.
        unsafe { asm!("mov [{}], {}", in(reg) address, in(reg_byte) *byte, options(nostack)) };
    }
}

/// What a side holds after bytes were written to it.
fn expected<const N: usize>(border: &Border, written: [u8; N]) -> [u8; N] {
    let mut offset = 0;
    written.map(|byte| {
        let memory = if offset < N / 2 { border.below } else { border.above };
        offset += 1;
        if memory { byte } else { 0xff }
    })
}

fn pattern() -> [u8; 2 * REACH as usize] {
    let mut next = 0x10;
    [(); 2 * REACH as usize].map(|()| {
        next += 1;
        next
    })
}

fn probe(report: &mut Report, border: &Border) {
    let name = border.name;
    let at = border.at;
    fill(at, &pattern());
    let seen = bytes(at);
    let around = expected(border, pattern());
    report.check(name, seen == around, format_args!("bytes {seen:x?}"));
    loads(report, border, &around);
    stores(report, border);
    let fault = attempt!("rep stosb", inout("rcx") 32u64 => _, in("al") 0x77u8, inout("rdi") at - REACH => _);
    let seen = bytes(at);
    let good = fault.is_none() && seen == expected(border, [0x77; 32]);
    report.check(name, good, format_args!("stos {seen:x?}, exception {fault:?}"));
    fill(at, &pattern());
    let mut copy = [0u8; 32];
    let to = &raw mut copy as u64;
    let fault = attempt!("rep movsd", inout("rcx") 8u64 => _, inout("rsi") at - REACH => _, inout("rdi") to => _);
    report.check(name, fault.is_none() && copy == around, format_args!("movs {copy:x?}, exception {fault:?}"));
    out_dword(PORT, 0);
    let fault = attempt!("outsd", inout("rsi") at - 2 => _, in("dx") PORT);
    let seen = in_dword(PORT);
    let good = fault.is_none() && seen.to_le_bytes() == expected(border, [0x1f, 0x20, 0x21, 0x22].map(|byte: u8| byte));
    report.check(name, good, format_args!("outs {seen:#x}, exception {fault:?}"));
    out_dword(PORT, 0x4443_4241);
    let fault = attempt!("insd", inout("rdi") at - 2 => _, in("dx") PORT);
    let all = bytes(at);
    let seen: [u8; 4] = core::array::from_fn(|index| all.get(14 + index).copied().unwrap_or(0));
    let good = fault.is_none() && seen == expected(border, [0x41, 0x42, 0x43, 0x44]);
    report.check(name, good, format_args!("ins {seen:x?}, exception {fault:?}"));
}

fn loads(report: &mut Report, border: &Border, around: &[u8; 32]) {
    for back in [1, 3, 4, 7] {
        let mut value = 0u64;
        let fault = attempt!("mov {v}, [{at}]", v = inout(reg) value, at = in(reg) border.at - back);
        let first = (REACH - back) as usize;
        let wanted = u64::from_le_bytes(core::array::from_fn(|index| around.get(first + index).copied().unwrap_or(0)));
        let good = fault.is_none() && value == wanted;
        report.check(border.name, good, format_args!("load {value:#x} of {wanted:#x}, exception {fault:?}"));
    }
}

fn stores(report: &mut Report, border: &Border) {
    fill(border.at, &pattern());
    let fault = attempt!("mov [{at}], {v}", v = in(reg) 0x8877_6655_4433_2211u64, at = in(reg) border.at - 4);
    let all = bytes(border.at);
    let seen: [u8; 8] = core::array::from_fn(|index| all.get(12 + index).copied().unwrap_or(0));
    let wanted = expected(border, 0x8877_6655_4433_2211u64.to_le_bytes());
    report.check(border.name, fault.is_none() && seen == wanted, format_args!("store {seen:x?}, exception {fault:?}"));
    fill(border.at, &pattern());
    let fault = attempt!("add dword ptr [{at}], 0x01010101", at = in(reg) border.at - 2);
    let all = bytes(border.at);
    let seen: [u8; 4] = core::array::from_fn(|index| all.get(14 + index).copied().unwrap_or(0));
    // The sum carries from the lower half into the upper one.
    let before = u32::from_le_bytes(expected(border, [0x1f, 0x20, 0x21, 0x22]));
    let wanted = expected(border, before.wrapping_add(0x0101_0101).to_le_bytes());
    report.check(border.name, fault.is_none() && seen == wanted, format_args!("add {seen:x?}, exception {fault:?}"));
}
