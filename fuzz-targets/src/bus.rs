// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes the PC: every port and every device address in any width and order, while time passes and the host types.
//!
//! The input is played on two PCs. The second gets each wide access to an eight-bit device as bytes, as the bus would split
//! it, and calls of `expire` that nothing asked for, which are harmless by contract. What the guest reads and what the
//! surroundings hear must be the same. Of each access it is claimed that
//! - its answer has the access's width, and is all-ones where nobody is;
//! - device memory reads back what was written to it;
//! - the VM ends only by a register that can end it;
//! - the host knows the level of INTR, and is asked for the time once at most;
//! - a device that was called at its deadline does not ask to be called again at once;
//! - nothing is taken from the heap.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use devices::pc::{Answer, Pc, PcConfig, PcHost};
use platform::Slip;
use vmm_interface::{Console, Instant, InterruptMessage, Lifecycle};

use crate::Target;
use crate::input::Input;
use crate::memory_use::without_heap;

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "bus",
    run: play,
    planted: &[
        ("a 16-bit read brings a bit of a third byte", |data| Slip::ThirdByte.planted(|| play(data))),
        ("a fall of INTR is not told", |data| Slip::StuckIntr.planted(|| play(data))),
        ("a call before the deadline is an update of the clock", |data| Slip::EarlyUpdate.planted(|| play(data))),
        ("device memory forgets the top bit at one place", |data| Slip::Forgetful.planted(|| play(data))),
    ],
    longest: 2048,
    mutations: 60_000,
};

/// Operations of one input.
const MOST_OPERATIONS: usize = 400;

/// Devices that sit on eight data lines.
const EIGHT_BIT: [RangeInclusive<u16>; 8] =
    [0x20..=0x21, 0xa0..=0xa1, 0x4d0..=0x4d1, 0x40..=0x43, 0x61..=0x61, 0x70..=0x71, 0x3f8..=0x3ff, 0x2f8..=0x2ff];

/// Where devices are, so that inputs need not find them.
const PORTS: [(u16, u16); 24] = [
    (0x20, 2),
    (0xa0, 2),
    (0x40, 4),
    (0x43, 1),
    (0x60, 1),
    (0x61, 1),
    (0x64, 1),
    (0x70, 2),
    (0x80, 1),
    (0x92, 1),
    (0xe0, 12),
    (0xed, 1),
    (0xf4, 4),
    (0x2f8, 8),
    (0x3f8, 8),
    (0x4d0, 2),
    (0x510, 2),
    (0x600, 16),
    (0x620, 16),
    (0xcf8, 4),
    (0xcf9, 1),
    (0xcfc, 4),
    (0x2000, 24),
    (0x600, 128),
];

const DEVICE_MEMORY: RangeInclusive<u64> = 0xff00_0000..=0xff00_ffff;
const ADDRESSES: [u64; 6] = [0xfec0_0000, 0xfec0_0010, 0xb000_0000, 0xb00f_8000, 0xff00_0000, 0xff00_fff8];

/// The PC's surroundings: a digest of all that they hear.
#[derive(Debug)]
struct Host {
    now: Instant,
    asked: Cell<u32>,
    accepts: bool,
    digest: u64,
    messages: u32,
    intr: bool,
    request: Option<Lifecycle>,
}

impl Host {
    fn note(&mut self, kind: u64, value: u64) {
        self.digest = (self.digest ^ kind << 56 ^ value).wrapping_mul(0x100_0000_01b3).rotate_left(29);
    }
}

impl PcHost for Host {
    fn now(&self) -> Instant {
        self.asked.set(self.asked.get() + 1);
        self.now
    }

    fn transmit(&mut self, console: Console, byte: u8) {
        self.note(1 + console as u64, byte.into());
    }

    fn send(&mut self, message: &InterruptMessage) -> bool {
        self.messages += 1;
        let destination = match message.destination {
            vmm_interface::Destination::Physical(id) => u64::from(id),
            vmm_interface::Destination::Logical(id) => u64::from(id) | 1 << 32,
            other => panic!("an IOAPIC sends to {other:?}"),
        };
        let level = u64::from(message.trigger == vmm_interface::TriggerMode::Level);
        self.note(4, destination << 16 | u64::from(message.vector) << 8 | level << 4 | message.mode as u64);
        self.accepts
    }

    fn pic_output(&mut self, asserted: bool) {
        assert_ne!(asserted, self.intr, "a level of INTR is told twice");
        self.note(5, asserted.into());
        self.intr = asserted;
    }

    fn request(&mut self, change: Lifecycle) {
        self.request.get_or_insert(change);
    }
}

/// A PC and what is around it.
#[derive(Debug)]
struct Bench {
    pc: Pc,
    host: Host,
}

/// One thing that happens to a PC.
#[derive(Clone, Copy, Debug)]
enum Operation {
    PortRead { port: u16, width: u8 },
    PortWrite { port: u16, width: u8, value: u32 },
    MmioRead { gpa: u64, width: u8 },
    MmioWrite { gpa: u64, width: u8, value: u64 },
    Pass { nanos: u64 },
    Receive { console: Console, byte: u8 },
    PowerButton,
    Acknowledge,
    EndOfInterrupt { vector: u8 },
    Accept(bool),
}

impl Operation {
    fn read(input: &mut Input<'_>) -> Self {
        let kind = input.byte();
        match kind & 15 {
            0..=3 => Self::PortRead { port: port(input), width: 1 << (kind >> 4 & 3).saturating_sub(1) },
            4..=8 => {
                let width = 1 << (kind >> 4 & 3).saturating_sub(1);
                let port = port(input);
                let value = if width == 1 { u32::from(input.byte()) } else { input.word() };
                Self::PortWrite { port, width, value }
            }
            9 => Self::MmioRead { gpa: address(input), width: 1 << (kind >> 4 & 3) },
            10 | 11 => Self::MmioWrite { gpa: address(input), width: 1 << (kind >> 4 & 3), value: input.integer() },
            // Up to 18 minutes at once; a century now and then.
            12 | 13 => Self::Pass { nanos: input.integer() & if kind == 0xfc { 1 << 61 } else { (1 << 40) - 1 } },
            14 => match kind >> 4 {
                0..=3 => Self::Acknowledge,
                4..=7 => Self::EndOfInterrupt { vector: input.byte() },
                8 | 9 => Self::PowerButton,
                _ => Self::Accept(kind & 0x10 != 0),
            },
            _ => {
                let console = if kind & 0x10 == 0 { Console::Terminal } else { Console::Command };
                Self::Receive { console, byte: input.byte() }
            }
        }
    }

    /// Whether an OUT touches `port`.
    fn writes(&self, ports: RangeInclusive<u16>) -> bool {
        match *self {
            Self::PortWrite { port, width, .. } => {
                let last = u32::from(port) + u32::from(width) - 1;
                u32::from(*ports.start()) <= last && port <= *ports.end()
            }
            _ => false,
        }
    }
}

fn port(input: &mut Input<'_>) -> u16 {
    let choice = input.byte();
    match PORTS.get(usize::from(choice) % 32) {
        Some((first, count)) => first + u16::from(input.byte()) % count,
        None => input.half(),
    }
}

fn address(input: &mut Input<'_>) -> u64 {
    let choice = input.byte();
    match ADDRESSES.get(usize::from(choice) & 7) {
        Some(base) => base + u64::from(if choice & 8 == 0 { choice >> 4 } else { input.byte() }),
        None if choice & 8 == 0 => 0xff00_0000 | u64::from(input.half()),
        None => input.long(),
    }
}

const fn ones(width: u8) -> u64 {
    if width >= 8 { u64::MAX } else { (1 << (8 * width)) - 1 }
}

/// The guest's view of an answer; panics if it is no answer to an access of this width.
fn value(answer: Answer<u64>, width: u8) -> u64 {
    let (value, nobody) = match answer {
        Answer::Found(value) => (value, false),
        Answer::Absent(value) | Answer::Unknown(value) => (value, true),
    };
    assert_eq!(value & !ones(width), 0, "an answer of more than {width} bytes");
    assert!(!nobody || value == ones(width), "{value:#x} where nobody answers");
    value
}

fn long(answer: Answer<u32>) -> Answer<u64> {
    match answer {
        Answer::Found(value) => Answer::Found(value.into()),
        Answer::Absent(value) => Answer::Absent(value.into()),
        Answer::Unknown(value) => Answer::Unknown(value.into()),
    }
}

impl Bench {
    fn new(config: &PcConfig) -> Self {
        let host = Host {
            now: Instant(1_000_000),
            asked: Cell::new(0),
            accepts: true,
            digest: 0,
            messages: 0,
            intr: false,
            request: None,
        };
        Self { pc: Pc::new(config).expect("a PC"), host }
    }

    /// One call to the PC.
    fn call<T>(&mut self, body: impl FnOnce(&mut Pc, &mut Host) -> T) -> T {
        self.host.asked.set(0);
        let value = without_heap(|| body(&mut self.pc, &mut self.host));
        assert!(self.host.asked.get() <= 1, "the time is asked for {} times in one call", self.host.asked.get());
        assert_eq!(self.pc.pic_output(), self.host.intr, "the host does not know the level of INTR");
        value
    }

    /// What the guest reads, if anything.
    fn perform(&mut self, operation: Operation) -> u64 {
        match operation {
            Operation::PortRead { port, width } => {
                value(long(self.call(|pc, host| pc.port_read(port, width, host))), width)
            }
            Operation::PortWrite { port, width, value } => {
                let _ = self.call(|pc, host| pc.port_write(port, width, value, host));
                0
            }
            Operation::MmioRead { gpa, width } => value(self.call(|pc, host| pc.mmio_read(gpa, width, host)), width),
            Operation::MmioWrite { gpa, width, value } => {
                let _ = self.call(|pc, host| pc.mmio_write(gpa, width, value, host));
                0
            }
            Operation::Pass { nanos } => {
                self.pass(nanos);
                0
            }
            Operation::Receive { console, byte } => {
                let room = self.pc.console_has_room(console);
                let taken = self.call(|pc, host| pc.receive(console, byte, host));
                assert!(!taken || room, "a byte is taken without room");
                taken.into()
            }
            Operation::PowerButton => {
                self.call(|pc, host| pc.power_button(host));
                0
            }
            Operation::Acknowledge => self.call(|pc, host| pc.pic_acknowledge(host)).into(),
            Operation::EndOfInterrupt { vector } => {
                self.call(|pc, host| pc.end_of_interrupt(vector, host));
                0
            }
            Operation::Accept(accepts) => {
                self.host.accepts = accepts;
                0
            }
        }
    }

    /// Lets time pass, with a call at each of the first deadlines and one at the end.
    fn pass(&mut self, nanos: u64) {
        let end = self.host.now.after(nanos);
        for _ in 0..8 {
            if self.pc.deadline() <= end {
                self.host.now = self.host.now.max(self.pc.deadline());
                self.expire();
            }
        }
        self.host.now = end;
        if self.pc.deadline() <= end {
            self.expire();
        }
    }

    fn expire(&mut self) {
        self.call(|pc, host| pc.expire(host));
        let (deadline, now) = (self.pc.deadline(), self.host.now);
        assert!(deadline > now || now == Instant::NEVER, "called at {now:?}, and the deadline is {deadline:?}");
    }

    /// The same operation the long way: byte by byte where the devices have eight bits.
    fn perform_split(&mut self, operation: Operation) -> u64 {
        if self.pc.deadline() > self.host.now {
            self.expire();
        }
        let byte_wise = |port: u16, width: u8| {
            let last = port.saturating_add(u16::from(width) - 1);
            EIGHT_BIT.iter().any(|range| range.contains(&port) && range.contains(&last))
        };
        match operation {
            Operation::PortRead { port, width } if byte_wise(port, width) => (0..width)
                .map(|lane| self.perform(Operation::PortRead { port: port + u16::from(lane), width: 1 }) << (8 * lane))
                .sum(),
            Operation::PortWrite { port, width, value } if byte_wise(port, width) => {
                for (lane, byte) in (0..u16::from(width)).zip(value.to_le_bytes()) {
                    self.perform(Operation::PortWrite { port: port + lane, width: 1, value: byte.into() });
                }
                0
            }
            other => self.perform(other),
        }
    }
}

/// A request to end the VM needs a register that can.
fn check_request(operation: &Operation, request: Lifecycle, config: &PcConfig) {
    let allowed = match request {
        Lifecycle::Reset => [0x60, 0x64, 0x92, 0xcf9].iter().any(|port| operation.writes(*port..=*port)),
        Lifecycle::PowerOff => operation.writes(0x604..=0x605),
        Lifecycle::TestExit(_) => config.test_devices && operation.writes(0xf4..=0xf7),
        Lifecycle::TestCrash => config.test_devices && operation.writes(0xf8..=0xfb),
    };
    assert!(allowed, "{request:?} by {operation:x?}");
}

/// Device memory as it should be.
#[derive(Default)]
struct Shadow(BTreeMap<u64, u8>);

impl Shadow {
    fn check(&mut self, operation: Operation, read: u64) {
        let inside =
            |gpa: u64, width: u8| DEVICE_MEMORY.contains(&gpa) && gpa + u64::from(width) - 1 <= *DEVICE_MEMORY.end();
        match operation {
            Operation::MmioWrite { gpa, width, value } => {
                let bytes = (gpa..gpa.saturating_add(width.into())).zip(value.to_le_bytes());
                self.0.extend(bytes.filter(|(at, _)| DEVICE_MEMORY.contains(at)));
            }
            Operation::MmioRead { gpa, width } if inside(gpa, width) => {
                let byte = |lane| u64::from(self.0.get(&(gpa + lane)).copied().unwrap_or(0)) << (8 * lane);
                assert_eq!(read, (0..width.into()).map(byte).sum::<u64>(), "device memory at {gpa:#x}");
            }
            _ => {}
        }
    }
}

fn play(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let config = PcConfig {
        processors: 2,
        memory_below_4g: 1 << 30,
        memory_above_4g: u64::from(kind >> 4) << 30,
        test_devices: kind & 1 == 0,
        command_console: kind & 2 == 0,
        unix_time: if kind & 4 == 0 { 1_709_210_096 } else { input.long() },
    };
    let (mut whole, mut split) = (Bench::new(&config), Bench::new(&config));
    let mut shadow = Shadow::default();
    for _ in 0..MOST_OPERATIONS {
        if input.is_empty() {
            break;
        }
        let operation = Operation::read(&mut input);
        let before = whole.host.messages;
        let read = whole.perform(operation);
        if !matches!(operation, Operation::Pass { .. }) {
            let sent = whole.host.messages - before;
            assert!(sent <= 48, "{sent} messages by {operation:x?}");
        }
        if let Some(request) = whole.host.request.take() {
            check_request(&operation, request, &config);
        }
        if config.test_devices {
            shadow.check(operation, read);
        }
        assert_eq!(read, split.perform_split(operation), "{operation:x?} read in bytes");
        assert_eq!(whole.host.digest, split.host.digest, "{operation:x?} is heard otherwise in bytes");
    }
}
