// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the machine as a whole: who answers where, what an access across borders does, and how interrupts travel.

use core::cell::Cell;

use vmm_interface::{DeliveryMode, Destination, TriggerMode};

use super::*;
use crate::{acpi, rtc};

/// Surroundings that record.
struct FakeHost {
    now: Instant,
    /// How often the time was asked for.
    asked: Cell<u32>,
    sent: Vec<(Console, u8)>,
    messages: Vec<InterruptMessage>,
    /// Whether processors take messages.
    accepts: bool,
    intr: Vec<bool>,
    requests: Vec<Lifecycle>,
}

impl PcHost for FakeHost {
    fn now(&self) -> Instant {
        self.asked.set(self.asked.get() + 1);
        self.now
    }

    fn transmit(&mut self, console: Console, byte: u8) {
        self.sent.push((console, byte));
    }

    fn send(&mut self, message: &InterruptMessage) -> bool {
        self.messages.push(*message);
        self.accepts
    }

    fn pic_output(&mut self, asserted: bool) {
        self.intr.push(asserted);
    }

    fn request(&mut self, change: Lifecycle) {
        self.requests.push(change);
    }
}

struct Bench {
    pc: Pc,
    host: FakeHost,
}

const CONFIG: PcConfig = PcConfig {
    processors: 2,
    memory_below_4g: 1 << 30,
    memory_above_4g: 0,
    test_devices: false,
    command_console: false,
    unix_time: 1_709_210_096,
};

impl Bench {
    fn new() -> Self {
        Self::with(CONFIG)
    }

    fn with(config: PcConfig) -> Self {
        let host = FakeHost {
            now: Instant(1_000_000),
            asked: Cell::new(0),
            sent: Vec::new(),
            messages: Vec::new(),
            accepts: true,
            intr: Vec::new(),
            requests: Vec::new(),
        };
        Self { pc: Pc::new(&config).unwrap(), host }
    }

    fn inb(&mut self, port: u16) -> u8 {
        u8::try_from(self.pc.port_read(port, 1, &mut self.host).value()).unwrap()
    }

    fn outb(&mut self, port: u16, value: u8) {
        assert_eq!(self.pc.port_write(port, 1, value.into(), &mut self.host), Answer::Found(()), "{port:#x}");
    }

    fn ioapic(&mut self, register: u32, value: u32) {
        for (offset, value) in [(0, register), (0x10, value)] {
            let answer = self.pc.mmio_write(0xfec0_0000 + offset, 4, value.into(), &mut self.host);
            assert_eq!(answer, Answer::Found(()));
        }
    }

    /// Vectors 30h and 38h, with these masks.
    fn init_pic(&mut self, primary: u8, secondary: u8) {
        for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x01), (0x21, primary)] {
            self.outb(port, value);
        }
        for (port, value) in [(0xa0, 0x11), (0xa1, 0x38), (0xa1, 0x02), (0xa1, 0x01), (0xa1, secondary)] {
            self.outb(port, value);
        }
    }

    /// Lets `nanos` pass, with a call at each deadline.
    fn run(&mut self, nanos: u64) {
        let end = self.host.now.after(nanos);
        while self.pc.deadline() <= end {
            self.host.now = self.host.now.max(self.pc.deadline());
            self.pc.expire(&mut self.host);
        }
        self.host.now = end;
    }
}

#[test]
fn every_configuration_builds() {
    for bits in 0..4 {
        Bench::with(PcConfig { test_devices: bits & 1 != 0, command_console: bits & 2 != 0, ..CONFIG });
    }
}

/// The bytes of a wide access to the 8254 were read at as many different times.
#[test]
fn an_access_that_is_split_into_bytes_happens_at_one_time() {
    let mut bench = Bench::new();
    for port in [0x40, 0x42, 0x70] {
        bench.host.asked.set(0);
        let _ = bench.pc.port_read(port, 4, &mut bench.host);
        assert!(bench.host.asked.get() <= 1, "a read of {port:#x} asks {} times", bench.host.asked.get());
        bench.host.asked.set(0);
        let _ = bench.pc.port_write(port, 4, 0x1234_5678, &mut bench.host);
        assert!(bench.host.asked.get() <= 1, "a write to {port:#x} asks {} times", bench.host.asked.get());
    }
}

#[test]
fn every_port_answers_every_width() {
    for test_devices in [false, true] {
        let mut bench = Bench::with(PcConfig { test_devices, command_console: true, ..CONFIG });
        for port in 0..=u16::MAX {
            for width in [0, 1, 2, 4, 255] {
                let bits = 8 * u32::from(width.min(4));
                let value = bench.pc.port_read(port, width, &mut bench.host).value();
                assert_eq!(u64::from(value) >> bits, 0, "{port:#x}, {width}");
                let _ = bench.pc.port_write(port, width, 0xa5a5_a5a5, &mut bench.host);
            }
        }
        bench.pc.expire(&mut bench.host);
    }
}

#[test]
fn every_mmio_page_answers_every_width() {
    let mut bench = Bench::with(PcConfig { test_devices: true, ..CONFIG });
    for page in (0xfec0_0000..0xff01_0000_u64).step_by(0x1000).chain([0xa_0000, 0xb000_0000, u64::MAX - 0xfff]) {
        for offset in [0, 1, 0x10, 0x3c, 0xff9, 0xffd, 0xfff] {
            for width in [0, 1, 2, 3, 4, 8, 255] {
                let value = bench.pc.mmio_read(page + offset, width, &mut bench.host).value();
                let bits = 8 * u32::from(width.min(8));
                assert_eq!(value.checked_shr(bits).unwrap_or(0), 0, "{page:#x}+{offset:#x}, {width}");
                let _ = bench.pc.mmio_write(page + offset, width, u64::MAX, &mut bench.host);
            }
        }
    }
}

#[test]
fn real_mode_reaches_the_test_memory() {
    let Bench { mut pc, mut host } = Bench::with(PcConfig { test_devices: true, ..CONFIG });
    assert_eq!(pc.mmio_write(0xff00_1234, 4, 0x8765_4321, &mut host), Answer::Found(()));
    assert_eq!(pc.mmio_read(0xa_9236, 2, &mut host), Answer::Found(0x8765));
    let Bench { mut pc, mut host } = Bench::new();
    assert!(!matches!(pc.mmio_read(0xa_9236, 2, &mut host), Answer::Found(_)), "only with the test devices");
}

#[test]
fn answers_tell_devices_from_known_and_unknown_gaps() {
    let Bench { mut pc, mut host } = Bench::new();
    assert!(matches!(pc.port_read(0x3f8, 1, &mut host), Answer::Found(_)));
    assert_eq!(pc.port_read(0x3c4, 1, &mut host), Answer::Absent(0xff));
    assert_eq!(pc.port_read(0x2f8, 1, &mut host), Answer::Absent(0xff), "COM2");
    assert_eq!(pc.port_read(0x72, 1, &mut host).value(), 0xff, "extended CMOS");
    assert_eq!(pc.port_read(0x1234, 2, &mut host), Answer::Unknown(0xffff));
    assert_eq!(pc.port_read(0xffff, 4, &mut host), Answer::Unknown(0xffff_ffff));
    assert_eq!(pc.port_write(0x3c4, 1, 0, &mut host), Answer::Absent(()));
    assert_eq!(pc.port_write(0x1234, 1, 0, &mut host), Answer::Unknown(()));
    assert_eq!(pc.mmio_read(0xfed0_0000, 4, &mut host), Answer::Absent(0xffff_ffff));
    assert_eq!(pc.mmio_read(0xd000_0000, 8, &mut host), Answer::Unknown(u64::MAX));
    assert_eq!(pc.mmio_write(0xd000_0000, 8, 0, &mut host), Answer::Unknown(()));
    assert!(matches!(pc.mmio_read(0xb000_0000, 4, &mut host), Answer::Found(0x29c0_8086)));
}

#[test]
fn the_second_console_exists_only_when_asked_for() {
    let mut bench = Bench::with(PcConfig { command_console: true, ..CONFIG });
    bench.outb(0x2f8, b'x');
    bench.outb(0x3f8, b'y');
    assert_eq!(bench.host.sent, [(Console::Command, b'x'), (Console::Terminal, b'y')]);
    assert!(bench.pc.receive(Console::Command, b'z', &mut bench.host));
    assert_eq!(bench.inb(0x2f8), b'z');

    let mut bench = Bench::new();
    assert!(!bench.pc.console_has_room(Console::Command));
    assert!(!bench.pc.receive(Console::Command, b'z', &mut bench.host));
}

#[test]
fn a_wide_access_to_an_eight_bit_device_is_one_for_each_byte() {
    let mut bench = Bench::new();
    bench.outb(0x3ff, 0x5a);
    assert_eq!(bench.pc.port_read(0x3fe, 2, &mut bench.host), Answer::Found(0x5ab0));
    // Index and data of the CMOS in one OUT, as some firmware does.
    assert_eq!(bench.pc.port_write(0x70, 2, 0x7740, &mut bench.host), Answer::Found(()));
    assert_eq!(bench.inb(0x71), 0x77);
}

#[test]
fn an_access_across_a_border_reaches_both_sides() {
    let mut bench = Bench::new();
    bench.outb(0x21, 0x12);
    assert_eq!(bench.pc.port_read(0x21, 2, &mut bench.host), Answer::Found(0xff12));
    assert_eq!(bench.pc.port_write(0x21, 4, 0xffff_ff34, &mut bench.host), Answer::Found(()));
    assert_eq!(bench.inb(0x21), 0x34);
    assert_eq!(bench.pc.port_read(0x1f, 4, &mut bench.host).value() >> 16 & 0xff, 0x34);
}

#[test]
fn the_host_hears_of_intr_only_when_it_changes() {
    let mut bench = Bench::new();
    bench.init_pic(0xef, 0xff);
    assert!(bench.host.intr.is_empty());
    bench.outb(0x3fc, 0x08);
    bench.outb(0x3f9, 0x01);
    assert!(bench.pc.receive(Console::Terminal, b'a', &mut bench.host));
    assert!(
        bench.pc.receive(Console::Terminal, b'b', &mut bench.host) || !bench.pc.console_has_room(Console::Terminal)
    );
    assert_eq!(bench.host.intr, [true]);
    assert!(bench.pc.pic_output());
    assert_eq!(bench.pc.pic_acknowledge(&mut bench.host), 0x34);
    assert_eq!(bench.host.intr, [true, false]);
    assert_eq!(bench.inb(0x3f8), b'b');
    bench.outb(0x20, 0x20);
    assert_eq!(bench.host.intr, [true, false]);
}

#[test]
fn masking_withdraws_intr() {
    let mut bench = Bench::new();
    bench.init_pic(0xef, 0xff);
    bench.outb(0x3fc, 0x08);
    bench.outb(0x3f9, 0x02);
    bench.outb(0x21, 0xff);
    bench.outb(0x21, 0xef);
    assert_eq!(bench.host.intr, [true, false, true]);
}

#[test]
fn the_timer_reaches_ioapic_pin_2_and_the_8259s_input_0() {
    let mut bench = Bench::new();
    bench.init_pic(0xfe, 0xff);
    for pin in 0..24 {
        bench.ioapic(0x10 + 2 * pin, 0x40 + pin);
    }
    bench.outb(0x43, 0x34);
    bench.outb(0x40, 0x9c);
    bench.outb(0x40, 0x2e);
    bench.host.messages.clear();
    bench.run(9_900_000);
    assert!(bench.host.messages.is_empty());
    bench.run(200_000);
    let expected = InterruptMessage {
        destination: Destination::Physical(0),
        mode: DeliveryMode::Fixed,
        vector: 0x40 + u8::try_from(u32::from(TIMER_PIN)).unwrap(),
        trigger: TriggerMode::Edge,
        assert: true,
    };
    assert_eq!(bench.host.messages, [expected]);
    assert_eq!(bench.pc.pic_acknowledge(&mut bench.host), 0x30);
    bench.outb(0x20, 0x20);
    bench.run(100_000_000);
    assert_eq!(bench.host.messages.len(), 11);
}

#[test]
fn the_clock_reaches_pin_8_and_the_secondary_8259() {
    let mut bench = Bench::new();
    bench.init_pic(0xfb, 0xfe);
    bench.ioapic(0x20, 0x51);
    bench.outb(0x70, 0x0b);
    bench.outb(0x71, 0x12);
    bench.run(1_000_000_000);
    assert_eq!(bench.host.messages.iter().map(|message| message.vector).collect::<Vec<_>>(), [0x51]);
    assert_eq!(bench.pc.pic_acknowledge(&mut bench.host), 0x38);
}

#[test]
fn a_level_interrupt_comes_again_after_its_eoi_while_the_wire_is_up() {
    let mut bench = Bench::with(PcConfig { test_devices: true, ..CONFIG });
    bench.ioapic(0x10 + 2 * 20, 0x8000 | 0x66);
    bench.outb(0x2000 + 20, 1);
    assert_eq!(bench.host.messages.len(), 1);
    bench.pc.end_of_interrupt(0x67, &mut bench.host);
    assert_eq!(bench.host.messages.len(), 1);
    bench.pc.end_of_interrupt(0x66, &mut bench.host);
    assert_eq!(bench.host.messages.len(), 2);
    bench.outb(0x2000 + 20, 0);
    bench.pc.end_of_interrupt(0x66, &mut bench.host);
    assert_eq!(bench.host.messages.len(), 2);
}

#[test]
fn a_level_interrupt_that_nobody_takes_does_not_wait_for_an_eoi() {
    let mut bench = Bench::with(PcConfig { test_devices: true, ..CONFIG });
    bench.host.accepts = false;
    bench.ioapic(0x10 + 2 * 20, 0x8000 | 0x66);
    for wanted in 1..4 {
        bench.outb(0x2000 + 20, 1);
        assert_eq!(bench.host.messages.len(), wanted);
        bench.outb(0x2000 + 20, 0);
    }
}

#[test]
fn the_power_button_raises_the_sci_when_enabled() {
    let mut bench = Bench::new();
    bench.ioapic(0x10 + 2 * 9, 0x8000 | 0x59);
    bench.pc.power_button(&mut bench.host);
    assert!(bench.host.messages.is_empty());
    assert_eq!(bench.pc.port_write(0x602, 2, 0x0100, &mut bench.host), Answer::Found(()));
    assert_eq!(bench.host.messages.len(), 1);
}

#[test]
fn every_way_out_reaches_the_host() {
    let mut bench = Bench::with(PcConfig { test_devices: true, ..CONFIG });
    assert_eq!(bench.pc.port_write(0x604, 2, 0x2000, &mut bench.host), Answer::Found(()));
    bench.outb(0xcf9, 0x06);
    bench.outb(0x92, 0x03);
    bench.outb(0x64, 0xfe);
    bench.outb(0xf4, 0x2a);
    let reset = Lifecycle::Reset;
    assert_eq!(bench.host.requests, [Lifecycle::PowerOff, reset, reset, reset, Lifecycle::TestExit(0x2a)]);
}

#[test]
fn the_deadline_follows_every_device_that_has_one() {
    let mut bench = Bench::new();
    assert_eq!(bench.pc.deadline(), Instant::NEVER);
    bench.outb(0x70, 0x0b);
    bench.outb(0x71, 0x12);
    assert_eq!(bench.pc.deadline(), Instant(1_000_000_000));
    bench.outb(0x43, 0x30);
    bench.outb(0x40, 0x00);
    bench.outb(0x40, 0x10);
    let timer = bench.pc.deadline();
    assert!(timer < Instant(10_000_000));
    bench.host.now = timer;
    bench.pc.expire(&mut bench.host);
    assert_eq!(bench.pc.deadline(), Instant(1_000_000_000));
    for (port, value) in [(0x3fa, 0x81), (0x3f9, 0x01)] {
        bench.outb(port, value);
    }
    assert!(bench.pc.receive(Console::Terminal, b'a', &mut bench.host));
    assert!(bench.pc.deadline() < Instant(10_000_000));
    bench.inb(0x3f8);
    assert_eq!(bench.pc.deadline(), Instant(1_000_000_000));
}

#[test]
fn an_early_expiry_changes_nothing() {
    let mut bench = Bench::new();
    bench.outb(0x70, 0x0b);
    bench.outb(0x71, 0x72);
    let deadline = bench.pc.deadline();
    bench.pc.expire(&mut bench.host);
    assert_eq!(bench.pc.deadline(), deadline);
}

#[test]
fn console_input_is_held_back_by_a_full_fifo() {
    let mut bench = Bench::new();
    bench.outb(0x3fa, 0x01);
    let mut sent = 0;
    while bench.pc.console_has_room(Console::Terminal) {
        assert!(bench.pc.receive(Console::Terminal, sent, &mut bench.host));
        sent += 1;
    }
    assert_eq!(sent, 16);
    assert_eq!(bench.inb(0x3f8), 0);
    assert!(bench.pc.console_has_room(Console::Terminal));
    assert_eq!(bench.inb(0x3fd) & 2, 0);
}

#[test]
fn port_70_masks_nmis_for_the_processors() {
    let mut bench = Bench::new();
    assert!(!bench.pc.nmi_masked());
    bench.outb(0x70, 0x8f);
    assert!(bench.pc.nmi_masked());
}

/// What Windows touches on any machine: an access is no event worth counting, whether a device is there or not.
#[test]
fn ports_that_windows_touches_are_expected() {
    let mut bench = Bench::new();
    let ports = [0x20, 0x21, 0xa0, 0xa1, 0x61, 0x87, 0xed, 0x5658, 0x5659].into_iter();
    for port in ports.chain(0x40..=0x43).chain(0xcf8..=0xcff) {
        let answer = bench.pc.port_read(port, 1, &mut bench.host);
        assert!(!matches!(answer, Answer::Unknown(_)), "{port:#x}");
        let answer = bench.pc.port_write(port, 1, 0, &mut bench.host);
        assert!(!matches!(answer, Answer::Unknown(_)), "{port:#x}");
    }
    assert_eq!(bench.pc.port_read(0x5658, 4, &mut bench.host).value(), u32::MAX);
}

#[test]
fn the_tables_and_the_devices_agree() {
    assert_eq!(*IOAPIC.start(), acpi::IOAPIC_BASE);
    assert_eq!(rtc::CENTURY, acpi::CENTURY_REGISTER);
    let mut bench = Bench::new();
    bench.ioapic(0, 0);
    assert_eq!(bench.pc.mmio_read(0xfec0_0010, 4, &mut bench.host).value() >> 24, acpi::IOAPIC_ID.into());
}

/// A program that expects a BIOS's timer waited for it for ever.
#[test]
fn the_timer_of_a_bios_ticks_at_vector_8() {
    let mut bench = Bench::new();
    bench.run(200_000_000);
    assert!(bench.host.intr.is_empty(), "nothing runs before it is asked for");
    bench.pc.start_as_bios(&mut bench.host);
    bench.run(50_000_000);
    assert!(!bench.host.intr.contains(&true), "the first period is a whole one");
    for _ in 0..3 {
        bench.run(55_000_000);
        assert_eq!(bench.host.intr.last(), Some(&true));
        assert_eq!(bench.pc.pic_acknowledge(&mut bench.host), 8);
        bench.outb(0x20, 0x20);
        assert_eq!(bench.host.intr.last(), Some(&false));
    }
    assert_eq!((bench.inb(0x21), bench.inb(0xa1)), (0xfa, 0xff));
}
