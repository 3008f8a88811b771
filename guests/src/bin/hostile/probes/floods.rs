// SPDX-License-Identifier: MIT OR Apache-2.0
//! Floods of IPIs and timers, with interrupts on, and sleep among them.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;
use guests::apic::register;
use guests::coverage::Deed;
use guests::machine::lapic;

use crate::area::{Area, VICTIMS, area as area_of};
use crate::handler::probe;
use crate::note::note_deed;
use crate::probes::{memory, msrs, ports};
use crate::random::Random;

/// Ports of the test device that drive the interrupt lines.
const TEST_LINES: u16 = 0x2000;
/// The IOAPIC's first redirection entry.
const REDIRECTION: u8 = 0x10;

/// The least count of the 8254, and in 256ths that of the local APIC's timer. Where an exit costs as much as their shortest periods,
/// vCPU 0, which serves the PC, would do nothing else, and a victim would never come out of its handler.
pub(crate) static SLOWNESS: AtomicU32 = AtomicU32::new(0);

pub(crate) fn run(area: &Area, random: &mut Random, count: u64) {
    msrs::settle(area);
    lapic::write(register::SPURIOUS, 0x1ff);
    lapic::write(register::TASK_PRIORITY, 0);
    for _ in 0..count {
        match random.below(9) {
            8 => level(area, random),
            0 => timer(area, random),
            1 => legacy_timers(area, random),
            2 => open_wide(area, random),
            3 => {
                // NMIs, at oneself too.
                command(area, random, 4);
                note_deed(Deed::Nmi);
            }
            _ => {
                let mode = random.below(8);
                command(area, random, if mode == 5 { 0 } else { mode as u32 });
            }
        }
    }
    lapic::write(register::LVT_TIMER, 1 << 16);
    open_wide(area, random);
    if area.words.interrupts.swap(0, SeqCst) > 0 {
        note_deed(Deed::Flood);
    }
}

/// An interrupt command with a random destination and vector.
fn command(area: &Area, random: &mut Random, mode: u32) {
    const NMI: u32 = 4;
    // One that has not got so far yet would crash.
    let mode = if mode == NMI && !(0..VICTIMS).all(|victim| area_of(victim).takes_nmis()) { 0 } else { mode };
    let processors = VICTIMS as u64 + 1;
    let destination = if random.once_in(4) { random.byte().into() } else { random.below(processors) as u32 };
    // Start-up IPIs and NMIs to everybody, the warden included, are harmless to a processor that runs.
    let shorthand = random.below(4) as u32;
    let level = random.next() as u32 & (1 << 15 | 1 << 11 | 1 << 12);
    let low = u32::from(random.byte()) | mode << 8 | 1 << 14 | level | shorthand << 18;
    lapic::write(register::COMMAND_HIGH, destination << 24);
    lapic::write(register::COMMAND_LOW, low);
    note_deed(Deed::Command);
    area.exits(2);
}

fn timer(area: &Area, random: &mut Random) {
    let modes = [0, 1 << 17, 1 << 17, 2 << 17];
    lapic::write(register::DIVIDE, random.next() as u32 & 11);
    lapic::write(register::LVT_TIMER, random.pick(&modes) | 0x20 | u32::from(random.byte()));
    lapic::write(register::INITIAL_COUNT, random.next() as u32 >> random.below(32) | SLOWNESS.load(SeqCst) << 8);
    let soon = guests::instructions::time_stamp() + (random.next() >> 44);
    msrs::write(area, 0x6e0, if random.once_in(2) { soon } else { random.value() });
    area.exits(4);
}

/// The 8254 and the real-time clock, as fast as they go or as they may, by whatever controller is open.
fn legacy_timers(area: &Area, random: &mut Random) {
    let slowness = SLOWNESS.load(SeqCst);
    let reload = slowness + random.below(64) as u32;
    // 256 Hz at most, where the 8254 is slow.
    let least_rate = if slowness == 0 { 1 } else { 8 };
    ports::access(area, 0x43, 1, Some(0x34));
    ports::access(area, 0x40, 1, Some(reload & 0xff));
    ports::access(area, 0x40, 1, Some(reload >> 8));
    ports::access(area, 0x70, 1, Some(0x0a));
    ports::access(area, 0x71, 1, Some(0x20 | least_rate | random.below(16) as u32));
    ports::access(area, 0x70, 1, Some(0x0b));
    ports::access(area, 0x71, 1, Some(0x72));
    ports::access(area, 0x70, 1, Some(0x0c));
    ports::access(area, 0x71, 1, None);
    ports::access(area, 0x21, 1, Some(random.byte().into()));
    let line = TEST_LINES + random.below(24) as u16;
    ports::access(area, line, 1, Some(1));
    ports::access(area, line, 1, Some(0));
}

/// A level-triggered interrupt by way of the IOAPIC. The line is low again before it is taken, unless another victim has it.
fn level(area: &Area, random: &mut Random) {
    const LEVEL: u32 = 1 << 15;
    const MASKED: u32 = 1 << 16;
    let line = random.below(24) as u8;
    let entry = REDIRECTION + 2 * line;
    let vector = 0x50 + random.below(0x80) as u32;
    for (index, value) in [(entry + 1, (area.index() as u32 + 1) << 24), (entry, vector | LEVEL)] {
        memory::ioapic_register(area, index, Some(value));
    }
    for asserted in [1, 0] {
        ports::access(area, TEST_LINES + u16::from(line), 1, Some(asserted));
    }
    let _ = probe!(area, "sti\n nop\n cli");
    memory::ioapic_register(area, entry, Some(vector | LEVEL | MASKED));
}

/// Takes what is pending; sometimes asleep, with something that wakes.
fn open_wide(area: &Area, random: &mut Random) {
    if random.once_in(3) {
        let _ = probe!(area, "sti\n nop\n cli");
        return;
    }
    lapic::write(register::DIVIDE, 11);
    lapic::write(register::LVT_TIMER, 1 << 17 | 0x40);
    lapic::write(register::INITIAL_COUNT, 20_000.max(SLOWNESS.load(SeqCst) << 8));
    for _ in 0..4 {
        let _ = probe!(area, "sti\n hlt\n cli");
        area.exits(1);
    }
    lapic::write(register::LVT_TIMER, 1 << 16);
    note_deed(Deed::Hlt);
}
