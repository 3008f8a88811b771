// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes the interrupt controllers and timers as one machine: up to four local APICs with their timers, the fabric, and the
//! PC's IOAPIC, 8259s, 8254 and clock, while time passes and processors take and end interrupts in any order.
//!
//! Claimed after each step, from the manuals (SDM vol. 3A, chapter 11; section numbers are that chapter's):
//! - no interrupt is lost, and none comes from nowhere: what a message addresses, by a matcher of this module's own (11.6.2,
//!   11.12.9), is in IRR; what else is in IRR is of the processor's own making;
//! - IRR, ISR, PPR and what is deliverable fit each other (11.8.3, 11.8.4), and interrupts in service are nested;
//! - an EOI ends the highest one, and is broadcast exactly if it was level-triggered (11.8.5);
//! - an IOAPIC pin that waits for an EOI waits for an interrupt that somebody has;
//! - a counting timer shows the count that the time says (11.5.4), and a timer that fired does not fire again at once;
//! - whoever gets a message is kicked;
//! - nothing is taken from the heap.

mod board;
mod oracle;

use platform::Slip;

use crate::Target;
use crate::input::Input;
use board::Board;

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "apic",
    run: play,
    planted: &[
        ("a message with one vector gets lost", |data| Slip::Lost.planted(|| play(data))),
        ("an interrupt is taken over one of its class", |data| Slip::Nested.planted(|| play(data))),
        ("an EOI does not reach the IOAPIC", |data| Slip::SilentEnd.planted(|| play(data))),
        ("the timer's initial count lacks a bit", |data| Slip::Count.planted(|| play(data))),
        ("a kick is forgotten", |data| Slip::Silent.planted(|| play(data))),
    ],
    longest: 1024,
    mutations: 50_000,
};

/// Steps of one input.
const MOST_STEPS: usize = 150;

fn play(data: &[u8]) {
    let mut input = Input::new(data);
    let mut board = Board::new(&mut input);
    for number in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut board, &mut input);
        board.settle();
        oracle::check(&mut board);
        if number % 8 == 7 {
            board.check_pins();
        }
    }
    board.check_pins();
}

/// One thing that happens.
fn step(board: &mut Board, input: &mut Input<'_>) {
    let kind = input.byte();
    let index = usize::from(kind >> 4) % board.lapics.len();
    match kind & 15 {
        0 => {
            let offset = u16::from(input.byte() & 0x3f) << 4;
            let value = input.integer() as u32;
            board.write(index, offset, value);
        }
        1 => {
            let (offset, width) = (input.half() & 0xfff, 1 << (input.byte() & 3));
            board.read(index, offset, width);
        }
        2 => {
            let (register, value) = (u32::from(input.byte()), input.integer());
            board.write_msr(index, 0x800 + register, value);
        }
        3 => board.read_msr(index, 0x800 + u32::from(input.byte())),
        4 => {
            let flags = match input.byte() {
                choice @ 0..=0xef => u64::from(choice & 3) << 10,
                _ => input.long() & 0xfff,
            };
            board.set_base(index, 0xfee0_0000 | flags);
        }
        5 => {
            let ahead = input.integer();
            board.set_deadline(index, ahead);
        }
        6 => board.pass(input.integer() & 0xff_ffff_ffff),
        7 => {
            let line = input.byte();
            board.set_line((line & 0x7f) % 24, line & 0x80 != 0);
        }
        8 => {
            // Destination, then the low half without its rarer bits.
            let (pin, destination, low) = (input.byte() % 24, input.byte(), u64::from(input.half()));
            let mask = u64::from(input.byte() & 1) << 16;
            board.redirect(pin, u64::from(destination) << 56 | low | mask);
        }
        9 => {
            let (mode, count) = (input.byte(), input.half());
            for (port, value) in [(0x43, 0x30 | mode & 0xe), (0x40, count as u8), (0x40, (count >> 8) as u8)] {
                board.write_port(port, value);
            }
        }
        10 => board.take(index),
        11 => board.end(index),
        12 => {
            let (destination, low) = (input.byte(), u32::from(input.half()));
            let shorthand = u32::from(input.byte() & 3) << 18;
            board.send(index, destination, low | shorthand | 0x4000);
        }
        13 => board.set_task_priority(index, input.byte()),
        14 => match input.byte() {
            choice @ 0..=0x7f => {
                let ports = [0x20, 0x21, 0xa0, 0xa1, 0x70, 0x71, 0x61, 0x42];
                board.write_port(ports[usize::from(choice & 7)], input.byte());
            }
            _ => board.acknowledge_pic(),
        },
        _ => {
            // As an operating system names and enables its local APIC.
            let (logical, format) = (input.byte(), input.byte());
            board.write(index, 0xd0, u32::from(logical) << 24);
            board.write(index, 0xe0, if format & 1 == 0 { u32::MAX } else { 0x0fff_ffff });
            board.write(index, 0xf0, 0x1ff);
        }
    }
}
