// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the 16550A.

use vmm_interface::{Console, Device, Instant, Line};

use super::Uart;
use crate::fake::{FakeMachine, read, write};

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

struct Bench {
    uart: Uart,
    machine: FakeMachine,
}

impl Bench {
    fn new() -> Self {
        Self { uart: Uart::new(Console::Terminal, Line(4)), machine: FakeMachine::default() }
    }

    /// FIFOs with this FCR, 8N1 at 115200 baud, DTR, RTS and OUT2.
    fn open(fcr: u8, ier: u8) -> Self {
        let mut bench = Self::new();
        for (offset, value) in [(FCR, fcr), (LCR, 0x03), (MCR, 0x0b), (IER, ier)] {
            bench.write(offset, value);
        }
        bench
    }

    fn read(&mut self, offset: u64) -> u8 {
        read(&mut self.uart, offset, &mut self.machine)
    }

    fn write(&mut self, offset: u64, value: u8) {
        write(&mut self.uart, offset, value, &mut self.machine);
    }

    fn receive(&mut self, byte: u8) -> bool {
        self.uart.receive(byte, &mut self.machine)
    }

    fn irq(&self) -> bool {
        self.machine.level(4)
    }
}

#[test]
fn reset_values_are_those_of_the_data_sheet() {
    let mut bench = Bench::new();
    let values = [IER, IIR, LCR, MCR, LSR, MSR].map(|offset| bench.read(offset));
    assert_eq!(values, [0, 0x01, 0, 0, 0x60, 0xb0]);
}

#[test]
fn written_bytes_leave_at_once() {
    let mut bench = Bench::open(0x01, 0);
    for byte in *b"ok\n" {
        assert_eq!(bench.read(LSR) & 0x60, 0x60);
        bench.write(DATA, byte);
    }
    assert_eq!(bench.machine.sent, [b'o', b'k', b'\n'].map(|byte| (Console::Terminal, byte)));
}

#[test]
fn the_divisor_hides_data_and_interrupt_enable() {
    let mut bench = Bench::new();
    bench.write(IER, 0x05);
    bench.write(LCR, 0x80);
    bench.write(0, 0x34);
    bench.write(1, 0x12);
    assert_eq!([bench.read(0), bench.read(1)], [0x34, 0x12]);
    bench.write(LCR, 0x03);
    assert_eq!(bench.read(IER), 0x05);
    assert!(bench.machine.sent.is_empty());
}

#[test]
fn scratch_and_line_control_keep_what_is_written() {
    let mut bench = Bench::new();
    for value in [0, 0x55, 0xaa, 0xff] {
        bench.write(SCR, value);
        bench.write(LCR, value);
        assert_eq!([bench.read(SCR), bench.read(LCR)], [value; 2]);
    }
}

#[test]
fn status_registers_cannot_be_written() {
    let mut bench = Bench::new();
    bench.write(LSR, 0xff);
    bench.write(MSR, 0xff);
    assert_eq!([bench.read(LSR), bench.read(MSR)], [0x60, 0xb0]);
}

/// Linux's `autoconfig` in 8250_port.c: the interrupt enable register, loopback, then the FIFOs and their variants.
#[test]
fn linux_detects_a_16550a() {
    let mut bench = Bench::new();
    bench.write(IER, 0);
    assert_eq!(bench.read(IER) & 0x0f, 0);
    bench.write(IER, 0x0f);
    assert_eq!(bench.read(IER), 0x0f);
    bench.write(IER, 0);
    bench.write(MCR, 0x1a);
    assert_eq!(bench.read(MSR) & 0xf0, 0x90);
    bench.write(MCR, 0);
    bench.write(LCR, 0xbf);
    bench.write(FCR, 0);
    bench.write(LCR, 0);
    bench.write(FCR, 0x01);
    assert_eq!(bench.read(IIR) >> 6, 3);
    // Neither an ST16650 (EFR), nor a TI16750 (64-byte FIFO), nor an XScale (UUE bit).
    bench.write(LCR, 0x80);
    assert_ne!(bench.read(2), 0);
    bench.write(LCR, 0xbf);
    assert_ne!(bench.read(2), 0);
    bench.write(LCR, 0x80);
    bench.write(FCR, 0x21);
    assert_eq!(bench.read(IIR) >> 5, 6);
    bench.write(LCR, 0);
    bench.write(IER, 0x40);
    assert_eq!(bench.read(IER), 0);
}

/// Linux's `serial8250_THRE_test` and its check for ports that forget the transmitter's interrupt.
#[test]
fn enabling_the_transmit_interrupt_raises_it_each_time() {
    let mut bench = Bench::open(0x01, 0);
    for _ in 0..2 {
        bench.write(IER, 0x02);
        assert_eq!(bench.read(IIR), 0xc2);
        assert_eq!(bench.read(IIR), 0xc1);
        bench.write(IER, 0x00);
        assert!(!bench.irq());
    }
    bench.write(IER, 0x02);
    bench.read(IIR);
    bench.write(IER, 0x02);
    assert_eq!(bench.read(IIR), 0xc1, "only a change raises it");
}

#[test]
fn each_written_byte_is_an_edge_of_the_transmit_interrupt() {
    let mut bench = Bench::open(0x01, 0x02);
    assert_eq!(bench.machine.take_edges(4), 1);
    bench.write(DATA, b'a');
    assert_eq!(bench.machine.take_edges(4), 1);
    assert_eq!(bench.read(IIR), 0xc2);
    assert!(!bench.irq());
    bench.write(DATA, b'b');
    assert_eq!(bench.machine.take_edges(4), 1);
}

#[test]
fn received_bytes_come_in_order() {
    let mut bench = Bench::open(0x01, 0x01);
    for byte in 1..=16 {
        assert!(bench.uart.has_room());
        assert!(bench.receive(byte));
    }
    assert!(!bench.uart.has_room());
    for byte in 1..=16 {
        assert!(bench.irq());
        assert_eq!(bench.read(LSR), 0x61);
        assert_eq!(bench.read(IIR), 0xc4);
        assert_eq!(bench.read(DATA), byte);
    }
    assert!(!bench.irq());
    assert_eq!(bench.read(LSR), 0x60);
    assert_eq!(bench.read(DATA), 0);
}

#[test]
fn a_full_fifo_loses_the_new_byte_and_tells() {
    let mut bench = Bench::open(0x01, 0x04);
    for byte in 0..16 {
        bench.receive(byte);
    }
    assert!(!bench.receive(0xff));
    assert_eq!(bench.read(IIR), 0xc6);
    assert!(bench.irq());
    assert_eq!(bench.read(LSR), 0x63);
    assert!(!bench.irq());
    assert_eq!(bench.read(LSR), 0x61);
    assert_eq!(bench.read(DATA), 0);
}

#[test]
fn without_fifos_the_new_byte_replaces_the_old() {
    let mut bench = Bench::open(0x00, 0x01);
    assert!(bench.receive(b'a'));
    assert!(!bench.uart.has_room());
    assert!(!bench.receive(b'b'));
    assert_eq!(bench.read(IIR), 0x04);
    assert_eq!(bench.read(LSR), 0x63);
    assert_eq!(bench.read(DATA), b'b');
    assert!(bench.uart.has_room());
}

#[test]
fn the_trigger_level_decides_when_data_interrupts() {
    for (fcr, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let mut bench = Bench::open(fcr, 0x01);
        for byte in 1..level {
            bench.receive(byte);
            assert!(!bench.irq());
        }
        bench.receive(level);
        assert_eq!(bench.read(IIR), 0xc4);
        bench.read(DATA);
        assert!(!bench.irq());
        assert_eq!(bench.read(LSR) & 1, u8::from(level > 1));
    }
}

#[test]
fn characters_below_the_trigger_time_out_after_four_of_them() {
    let mut bench = Bench::open(0x81, 0x01);
    bench.receive(b'a');
    bench.machine.run(&mut bench.uart, 340_000);
    assert!(!bench.irq());
    bench.machine.run(&mut bench.uart, 10_000);
    assert_eq!(bench.read(IIR), 0xcc);
    assert!(bench.irq());
    assert_eq!(bench.read(DATA), b'a');
    assert!(!bench.irq());
    assert_eq!(bench.uart.deadline(), Instant::NEVER);
}

#[test]
fn each_movement_restarts_the_timeout() {
    let mut bench = Bench::open(0x81, 0x01);
    for _ in 0..4 {
        bench.receive(b'a');
        bench.machine.run(&mut bench.uart, 300_000);
        assert!(!bench.irq());
    }
    bench.read(DATA);
    bench.machine.run(&mut bench.uart, 340_000);
    assert!(!bench.irq());
    bench.machine.run(&mut bench.uart, 10_000);
    assert!(bench.irq());
}

#[test]
fn the_timeout_is_noticed_by_a_polling_driver_too() {
    let mut bench = Bench::open(0x81, 0x01);
    bench.receive(b'a');
    bench.machine.advance(1_000_000);
    assert_eq!(bench.read(IIR), 0xcc);
}

#[test]
fn a_slow_line_takes_longer_to_time_out() {
    let mut bench = Bench::open(0x81, 0x01);
    bench.write(LCR, 0x83);
    bench.write(DATA, 12);
    bench.write(LCR, 0x0f);
    bench.receive(b'a');
    // 9600 baud, a start bit, eight, parity, two stop bits, four times.
    assert_eq!(bench.uart.deadline(), Instant(4 * 12 * 12 * 8_681));
}

#[test]
fn sources_are_told_by_urgency() {
    let mut bench = Bench::open(0x01, 0x0f);
    for byte in 0..17 {
        bench.receive(byte);
    }
    bench.write(MCR, 0x1f);
    bench.write(MCR, 0x0b);
    assert_eq!(bench.read(IIR), 0xc6);
    assert_eq!(bench.read(IIR), 0xc6, "reading IIR ends nothing but the transmitter's interrupt");
    bench.read(LSR);
    assert_eq!(bench.read(IIR), 0xc4);
    bench.write(FCR, 0x03);
    assert_eq!(bench.read(IIR), 0xc2);
    assert_eq!(bench.read(IIR), 0xc0);
    assert!(bench.irq());
    bench.read(MSR);
    assert_eq!(bench.read(IIR), 0xc1);
    assert!(!bench.irq());
}

#[test]
fn out2_gates_the_interrupt_line() {
    let mut bench = Bench::open(0x01, 0x01);
    bench.receive(b'a');
    assert!(bench.irq());
    bench.write(MCR, 0x03);
    assert!(!bench.irq());
    assert_eq!(bench.read(IIR), 0xc4);
    bench.write(MCR, 0x08);
    assert!(bench.irq());
    bench.write(MCR, 0x18);
    assert!(!bench.irq(), "OUT2 is inactive in loopback");
}

#[test]
fn loopback_returns_bytes_and_cuts_the_line() {
    let mut bench = Bench::open(0x01, 0);
    bench.write(MCR, 0x10);
    bench.write(DATA, 0xa5);
    assert!(bench.machine.sent.is_empty());
    assert!(!bench.uart.has_room());
    assert!(!bench.receive(b'x'));
    assert_eq!(bench.read(LSR), 0x61);
    assert_eq!(bench.read(DATA), 0xa5);
    bench.write(LCR, 0x00);
    bench.write(DATA, 0xff);
    assert_eq!(bench.read(DATA), 0x1f, "five-bit words");
    for _ in 0..17 {
        bench.write(DATA, 1);
    }
    assert_eq!(bench.read(LSR) & 2, 2);
}

#[test]
fn loopback_connects_each_modem_output_to_its_input() {
    for (output, input) in [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)] {
        let mut bench = Bench::new();
        bench.write(MCR, 0x10 | output);
        assert_eq!(bench.read(MSR) & 0xf0, input);
    }
}

#[test]
fn modem_changes_are_kept_until_read() {
    let mut bench = Bench::new();
    bench.write(MCR, 0x10);
    assert_eq!(bench.read(MSR), 0x0b, "CTS, DSR and DCD fell");
    assert_eq!(bench.read(MSR), 0x00);
    bench.write(MCR, 0x14);
    assert_eq!(bench.read(MSR), 0x40, "only the end of a ring is a change");
    bench.write(MCR, 0x10);
    assert_eq!(bench.read(MSR), 0x04);
    bench.write(MCR, 0x12);
    bench.write(MCR, 0x10);
    assert_eq!(bench.read(MSR), 0x01);
}

#[test]
fn a_break_in_loopback_is_received_with_its_errors() {
    let mut bench = Bench::open(0x01, 0);
    bench.write(MCR, 0x10);
    bench.write(DATA, 0x55);
    bench.write(LCR, 0x43);
    assert_eq!(bench.read(LSR), 0xe1, "the error is further down");
    assert_eq!(bench.read(DATA), 0x55);
    assert_eq!(bench.read(LSR), 0xf9);
    assert_eq!(bench.read(LSR), 0x61);
    assert_eq!(bench.read(DATA), 0);
}

#[test]
fn switching_or_clearing_the_fifo_drops_its_bytes() {
    for fcr in [0x00, 0x03] {
        let mut bench = Bench::open(0x01, 0x01);
        bench.receive(1);
        bench.receive(2);
        bench.write(FCR, fcr);
        assert!(!bench.irq());
        assert_eq!(bench.read(LSR), 0x60);
    }
    let mut bench = Bench::open(0x01, 0x01);
    bench.receive(1);
    bench.write(FCR, 0x05);
    assert_eq!(bench.read(LSR), 0x61, "clearing the transmitter's leaves the receiver's");
}

#[test]
fn offsets_beyond_the_registers_are_absent() {
    let mut bench = Bench::new();
    bench.write(8, 0x12);
    assert_eq!(bench.read(8), 0xff);
}

#[test]
fn no_sequence_of_accesses_breaks_it() {
    let mut bench = Bench::new();
    let mut state = 3_u32;
    for _ in 0..100_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [offset, value, what, time] = state.to_be_bytes();
        match what % 8 {
            0..3 => drop(bench.read(u64::from(offset % 9))),
            3 => {
                let room = bench.uart.has_room();
                assert_eq!(bench.receive(value), room);
            }
            4 => drop(bench.machine.run(&mut bench.uart, u64::from(time) * 10_000)),
            _ => bench.write(u64::from(offset % 9), value),
        }
        let gated = bench.uart.modem_control & 0x18 != 0x08;
        assert_eq!(bench.irq(), !gated && bench.uart.interrupt() != 0x01, "the line always follows the registers");
    }
    bench.machine.now = Instant::NEVER;
    bench.receive(1);
}
