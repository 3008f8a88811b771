// SPDX-License-Identifier: MIT OR Apache-2.0
//! Garbage to every port at every size, by plain and by string instructions.
//!
//! What would end the VM is left out: a reset or a power-off is the end of a run, which the warden chooses.

use core::sync::atomic::Ordering::SeqCst;

use guests::coverage::{Deed, PORTS, Point, nth_of};

use crate::area::{Area, VICTIMS};
use crate::console;
use crate::handler::probe;
use crate::note::{note, note_deed};
use crate::random::Random;

const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;

/// What a write of one byte may carry to a port without ending the VM.
fn harmless(port: u16, byte: u8) -> u8 {
    match port {
        // The write to the output port, and the pulses of the reset line.
        0x64 if byte == 0xd1 => 0xd0,
        0x64 if byte >= 0xf0 => byte | 1,
        0x92 => byte & !1,
        0xcf9 => byte & !4,
        // SLP_EN.
        0x605 => byte & !0x20,
        // Parados panics at "DIE!" in the ports from here on.
        0xf8 => byte | 0x80,
        _ => byte,
    }
}

fn harmless_value(port: u16, width: u16, value: u32) -> u32 {
    let mut lane = port;
    u32::from_le_bytes(value.to_le_bytes().map(|byte| {
        let byte = if lane < port.wrapping_add(width) { harmless(lane, byte) } else { byte };
        lane = lane.wrapping_add(1);
        byte
    }))
}

/// Ports whose every write ends the VM.
fn ends(port: u16, width: u16) -> bool {
    let last = u32::from(port) + u32::from(width) - 1;
    u32::from(port) <= 0xf7 && last >= 0xf4
}

fn pick(random: &mut Random) -> u16 {
    if random.once_in(8) {
        return random.next() as u16;
    }
    let (first, last) = random.pick(&PORTS);
    first + random.below(u64::from(last - first) + 1) as u16
}

pub(crate) fn run(area: &Area, random: &mut Random, count: u64) {
    let start = random.next() >> 32;
    // One job goes on where the one before stops, so that no chance leaves a register out.
    let words = &area.words;
    let mut behind_index = (words.seed.load(SeqCst) * VICTIMS as u64 + area.index()).wrapping_mul(count / 4);
    for turn in start..start + count {
        match random.below(8) {
            0 => string(area, random),
            1 | 2 => {
                indexed(area, random, behind_index);
                behind_index = behind_index.wrapping_add(1);
            }
            // Each port with a device, in turn.
            3..=5 => {
                let port = nth_of(&PORTS.map(|(first, last)| (first.into(), last.into())), turn) as u16;
                let write = random.once_in(2);
                access(area, port, random.pick(&[1, 1, 2, 4]), write.then(|| random.value() as u32));
            }
            _ => {
                let (port, write) = (pick(random), random.once_in(2));
                access(area, port, random.pick(&[1, 1, 2, 4]), write.then(|| random.value() as u32));
            }
        }
    }
}

/// One access; what was read.
pub(crate) fn access(area: &Area, port: u16, width: u16, write: Option<u32>) -> u32 {
    let _lock = console::guard(port, width);
    let mut value = write.map_or(0, |value| harmless_value(port, width, value));
    if write.is_some() && ends(port, width) {
        return 0;
    }
    match (write.is_some(), width) {
        (false, 1) => drop(probe!(area, "in al, dx", in("dx") port, inout("eax") value)),
        (false, 2) => drop(probe!(area, "in ax, dx", in("dx") port, inout("eax") value)),
        (false, _) => drop(probe!(area, "in eax, dx", in("dx") port, inout("eax") value)),
        (true, 1) => drop(probe!(area, "out dx, al", in("dx") port, in("eax") value)),
        (true, 2) => drop(probe!(area, "out dx, ax", in("dx") port, in("eax") value)),
        (true, _) => drop(probe!(area, "out dx, eax", in("dx") port, in("eax") value)),
    }
    for lane in 0..width {
        note(Point::port(port.wrapping_add(lane), write.is_some()));
    }
    area.exits(1);
    value
}

fn drop<T>(_: T) {}

/// Registers behind an index: CMOS, PCI, fw_cfg, the counters of the timer. They take turns, and read and written.
fn indexed(area: &Area, random: &mut Random, turn: u64) {
    let (index, write) = ((turn >> 2) as u8, turn >> 10 & 1 != 0);
    let value = write.then(|| random.value() as u32);
    match turn & 3 {
        0 => {
            access(area, 0x70, 1, Some(index.into()));
            access(area, 0x71, 1, value);
            note(Point::cmos(index & 0x7f, write));
        }
        1 => {
            let lpc = random.once_in(2);
            let device = if lpc { 0x1f << 11 } else { 0 };
            let device = if random.once_in(8) { random.next() as u32 & 0xff_ff00 } else { device };
            // Not through `harmless`: a write of four bytes reaches no reset register.
            let address = 1 << 31 | device | u32::from(index & 0xfc);
            let _ = probe!(area, "out dx, eax", in("dx") PCI_ADDRESS, in("eax") address);
            area.exits(1);
            access(area, PCI_DATA + u16::from(index & 3), random.pick(&[1, 2, 4]), value);
            if device == 0 || device == 0x1f << 11 {
                note(Point::pci(device != 0, u64::from(index), write));
            }
        }
        2 => {
            access(area, 0x510, 2, Some(u32::from(index) | (random.next() as u32 & 0x4000)));
            for _ in 0..random.below(12) {
                access(area, 0x511, 1, None);
            }
        }
        _ => {
            access(area, 0x43, 1, Some(index.into()));
            let counter = 0x40 + u16::from(index >> 6) % 3;
            access(area, counter, 1, value);
            access(area, counter, 1, value);
        }
    }
}

/// INS and OUTS, with memory of every kind.
fn string(area: &Area, random: &mut Random) {
    let mut port = pick(random);
    let (count, write) = (random.below(9), random.once_in(2));
    if write && ends(port, 4)
        || (0x60..0x66).contains(&port)
        || matches!(port, 0x8f..=0x92 | 0x602..=0x605 | 0xcf6..=0xcf9)
    {
        // What is written is not chosen here.
        port = 0xe0;
    }
    let _lock = console::guard(port, 4);
    let region = random.once_in(4);
    let at = match random.below(4) {
        _ if region => (128 << 20) + random.below(0x1_0000),
        0 => area.sandbox() + 0x9000 - random.below(8),
        1 => 0xa_0000 - random.below(8),
        _ => area.sandbox() + 0x8000 + random.below(0x800),
    };
    let fault = match (write, random.below(3)) {
        (false, 0) => probe!(area, "rep insb", in("dx") port, inout("rcx") count => _, inout("rdi") at => _),
        (false, 1) => probe!(area, "rep insw", in("dx") port, inout("rcx") count => _, inout("rdi") at => _),
        (false, _) => probe!(area, "insd", in("dx") port, inout("rdi") at => _),
        (true, 0) => probe!(area, "rep outsb", in("dx") port, inout("rcx") count => _, inout("rsi") at => _),
        (true, 1) => probe!(area, "rep outsw", in("dx") port, inout("rcx") count => _, inout("rsi") at => _),
        (true, _) => probe!(area, "outsd", in("dx") port, inout("rsi") at => _),
    };
    area.exits(u64::from(count > 0 && fault.is_none()));
    note_deed(if write { Deed::StringOut } else { Deed::StringIn });
    if region {
        note_deed(Deed::StringRegion);
    }
}
