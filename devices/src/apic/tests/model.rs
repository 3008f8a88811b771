// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random walks against simple models, and the letter box under real threads.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use vmm_interface::{DeliveryMode, Destination, TriggerMode};

/// xorshift64*: enough randomness, the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// The local APIC's priorities, said as plainly as the manual says them.
#[derive(Default)]
struct Model {
    request: std::collections::BTreeSet<u8>,
    service: std::collections::BTreeSet<u8>,
    task: u8,
}

impl Model {
    fn pending(&self) -> Option<u8> {
        let vector = *self.request.last()?;
        let floor = (self.task >> 4).max(self.service.last().unwrap_or(&0) >> 4);
        (vector >> 4 > floor).then_some(vector)
    }
}

#[test]
fn priorities_agree_with_a_plain_model() {
    let mut random = Random(7);
    let mut bench = Bench::new();
    let mut model = Model::default();
    for _ in 0..200_000 {
        match random.below(5) {
            0 | 1 => {
                let vector = 16 + random.below(240) as u8;
                bench.self_ipi(vector);
                model.request.insert(vector);
            }
            2 => {
                model.task = random.below(256) as u8 & random.below(256) as u8 & random.below(256) as u8;
                bench.write(TPR, model.task.into());
            }
            3 => {
                bench.write(EOI, 0);
                model.service.pop_last();
            }
            _ => {
                let vector = bench.take();
                assert_eq!(vector, model.pending());
                model.request.retain(|request| Some(*request) != vector);
                model.service.extend(vector);
            }
        }
        assert_eq!(bench.lapic.pending(), model.pending());
    }
}

#[test]
fn no_sequence_of_accesses_panics() {
    let mut random = Random(99);
    let mut board = Board::new(3);
    for _ in 0..100_000 {
        let index = random.below(3) as u32;
        let lapic = &mut board.lapics[index as usize];
        let value = random.below(1 << 31) & random.below(1 << 31) | random.below(2) << 31;
        let offset = random.below(0x440) as u16 & if random.below(8) == 0 { 0xfff } else { 0xff0 };
        let effect = match random.below(9) {
            0 => lapic.msr_write(0x800 + u32::from(offset >> 4), value, &board.clock).unwrap_or(Effect::None),
            1 => {
                let base = BASE | value & 0xf00;
                let _ = lapic.set_base_msr(base);
                Effect::None
            }
            2 => {
                lapic.set_tsc_deadline(value, &board.clock);
                Effect::None
            }
            3 => {
                board.line(value as u8 & 31, random.below(2) == 0);
                Effect::None
            }
            4 => {
                board.redirect(random.below(24) as u8, value | random.below(4) << 56);
                Effect::None
            }
            5 => {
                board.clock.advance(value);
                lapic.expire(&board.clock);
                Effect::None
            }
            6 => lapic.mmio_write(SVR, 4, 0x1ff, &board.clock),
            _ => lapic.mmio_write(offset, 4, value, &board.clock),
        };
        board.carry_out(index, effect);
        if board.absorb(index).init {
            board.lapics[index as usize].reset();
        }
        let lapic = &mut board.lapics[index as usize];
        lapic.mmio_read(offset, 4, &board.clock);
        if let Some(vector) = lapic.pending() {
            assert!(vector >= 16);
            assert_eq!(lapic.acknowledge(vector), vector);
            assert_eq!(lapic.pending().filter(|next| next >> 4 <= vector >> 4), None);
        }
    }
}

/// Wakes the one thread that owns port 0, if it is told to.
struct Unpark<'a>(&'a thread::Thread, &'a AtomicBool);

impl Waker for Unpark<'_> {
    fn kick(&self, index: u32) {
        assert_eq!(index, 0);
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// Each sender waits for its own interrupt to be seen before it sends the next one, and the owner sleeps unless it was
/// kicked: one lost bit, flag or kick stops the test.
#[test]
fn no_interrupt_and_no_kick_is_lost() {
    const SENDERS: u8 = 3;
    const ROUNDS: u32 = 20_000;
    let fabric = Fabric::<()>::new(1).unwrap();
    let seen: [AtomicU32; SENDERS as usize] = Default::default();
    let (kicked, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let owner = thread::current();
    let clock = FakeClock::default();
    let mut lapic = Lapic::new(0, true);
    let _ = lapic.mmio_write(SVR, 4, 0x1ff, &clock);
    let port = fabric.port(0).unwrap();
    // Senders must see an enabled APIC from their first message on.
    lapic.publish(port);
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (fabric, seen, stop, waker) = (&fabric, &seen[usize::from(sender)], &stop, Unpark(&owner, &kicked));
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Two of the senders share a word, and one of them alternates between the trigger modes.
                    let level = sender == 1 && round % 2 == 0;
                    let message = InterruptMessage {
                        destination: Destination::All,
                        mode: DeliveryMode::Fixed,
                        vector: 0x40 + 0x11 * sender,
                        trigger: if level { TriggerMode::Level } else { TriggerMode::Edge },
                        assert: true,
                    };
                    assert_eq!(fabric.deliver(None, &message, &waker), 1);
                    while seen.load(Ordering::Acquire) == round {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        thread::yield_now();
                    }
                }
            });
        }
        let mut left = u32::from(SENDERS) * ROUNDS;
        while left > 0 {
            assert_eq!(lapic.absorb(port), Signals::NONE);
            while let Some(vector) = lapic.pending() {
                lapic.acknowledge(vector);
                let _ = lapic.mmio_write(EOI, 4, 0, &clock);
                seen[usize::from((vector - 0x40) / 0x11)].fetch_add(1, Ordering::Release);
                left -= 1;
            }
            if left > 0 && !port.needs_attention() {
                let asleep = Instant::now();
                while !kicked.swap(false, Ordering::SeqCst) {
                    thread::park_timeout(Duration::from_secs(1));
                    if asleep.elapsed() > Duration::from_secs(20) {
                        stop.store(true, Ordering::SeqCst);
                        panic!("nobody kicked for 20 seconds, {left} interrupts left");
                    }
                }
            }
        }
    });
}
