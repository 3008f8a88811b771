// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest in which an instruction is emulated, made from an input: 64 KiB of memory, devices above, and page tables whose
//! every translation this module knows without walking them.

use std::cell::{Cell, Ref, RefCell};
use std::sync::LazyLock;

use platform::{
    Control, DescriptorTable, Gpa, Gpr, GuestCpu, GuestMemory, MemoryError, SegmentRegister, TableRegister, Visibility,
};
use vc_handlers::testing::{FakeClock, FakeCpu};
use vc_handlers::{DeviceReply, DeviceRequest, Emulation, Env, Oddity, Operation, Target, Token};

use crate::input::Input;

/// Memory ends here, and devices begin.
pub(super) const RAM: u64 = 0x1_0000;
/// Where windows onto devices lead.
pub(super) const DEVICE: u64 = 0xd000_0000;
pub(super) const PAGE: u64 = 0x1000;
/// Bytes of device that hold what is written to them: so many where windows lead, and as many right behind memory.
const HELD: u64 = 4 * PAGE;
/// Page tables, in no page of their own map.
pub(super) const TABLES: core::ops::Range<u64> = 0x1000..0x5000;
const LEAVES: u64 = 0x4000;
/// Linear pages that are the memory of the same address.
const IDENTITY: core::ops::Range<u64> = 6..16;
/// Linear pages of a kind that the input chooses.
const WINDOWS: core::ops::Range<u64> = 16..32;
const CODE: u64 = 0x6000;
/// Where windows show memory.
const DATA: u64 = 0x8000;
/// More requests than an exit may make: 1024 elements, two operands, eight bytes each.
const MOST_REQUESTS: u32 = 2 * 1024 * 8;
/// How many of them are kept to be looked at; of the others, only a digest.
const KEPT_REQUESTS: usize = 512;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

/// What a window shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Window {
    Memory,
    Device,
    Absent,
    ReadOnlyMemory,
    SupervisorMemory,
    ReadOnlyDevice,
    SupervisorDevice,
    /// Memory that changes its state just now.
    Changing,
}

impl Window {
    const fn of(kind: u8) -> Self {
        match kind & 15 {
            0..=2 => Self::Memory,
            3..=8 => Self::Device,
            9 | 10 => Self::Absent,
            11 => Self::ReadOnlyMemory,
            12 => Self::SupervisorMemory,
            13 => Self::ReadOnlyDevice,
            14 => Self::SupervisorDevice,
            _ => Self::Changing,
        }
    }

    /// The entry of window `number`.
    const fn entry(self, number: u64) -> u64 {
        let memory = DATA + number % 4 * PAGE;
        let device = DEVICE + number % 4 * PAGE;
        let all = PRESENT | WRITABLE | USER;
        match self {
            Self::Memory => memory | all,
            Self::Device => device | all,
            Self::Absent => WRITABLE | USER,
            Self::ReadOnlyMemory => memory | PRESENT | USER | NO_EXECUTE,
            Self::SupervisorMemory => memory | PRESENT | WRITABLE,
            Self::ReadOnlyDevice => device | PRESENT | USER,
            Self::SupervisorDevice => device | PRESENT | WRITABLE | NO_EXECUTE,
            Self::Changing => CHANGING | all,
        }
    }
}

/// The page whose state changes.
const CHANGING: u64 = 0xf000;

/// All that an input says.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) cpu: FakeCpu,
    pub(super) code: [u8; 15],
    entries: [u64; 16],
    seed: u64,
}

impl Script {
    pub(super) fn read(input: &mut Input<'_>) -> Self {
        let code = input.bytes();
        let (mode, place, flags) = (input.byte(), input.byte(), input.word());
        let mut cpu = match mode & 7 {
            0..=3 => FakeCpu::long_mode(),
            4 => compatibility_mode(),
            5 | 6 => FakeCpu::protected_mode(),
            _ => FakeCpu::real_mode(),
        };
        if cpu.state.cr0 >> 31 != 0 {
            cpu.state.cr3 = TABLES.start;
        }
        // Mostly at the beginning of the page, sometimes across its end.
        cpu.set_rip(if place < 200 { CODE + u64::from(place) } else { CODE + PAGE - u64::from(place - 199) % 16 });
        cpu.state.rflags = u64::from(flags) & 0x24_0dd5 | 2;
        if mode & 8 != 0 {
            // OSFXSR, OSXSAVE, and all of SSE and AVX.
            cpu.state.cr4 |= 1 << 9 | 1 << 18;
            cpu.xcr0 = 7;
        }
        // WP, AM, NE and TS of CR0; SMEP, SMAP and UMIP of CR4; NXE.
        cpu.state.cr0 ^= u64::from(flags >> 22 & 1) << 16 | u64::from(flags >> 23 & 1) << 18;
        cpu.state.cr0 ^= u64::from(flags >> 24 & 7 == 7) << 3;
        if cpu.state.cr0 >> 31 != 0 {
            cpu.state.cr4 |= u64::from(flags >> 27 & 3) << 20 | u64::from(flags >> 29 & 1) << 11;
        }
        if mode & 0x30 == 0x30 && cpu.state.cr0 & 1 != 0 {
            cpu.set_cpl(3);
        }
        let windows: [u8; 8] = input.bytes();
        let entries = core::array::from_fn(|n| Window::of(windows[n / 2] >> (n % 2 * 4)).entry(n as u64));
        let seed = input.long();
        let paged = cpu.state.cr0 >> 31 != 0;
        for register in Gpr::ALL {
            let (kind, value) = (input.byte(), u64::from(input.half()));
            let base = if paged { WINDOWS.start * PAGE } else { DATA };
            let value = match kind & 7 {
                0..=3 => base + value,
                4 => value,
                5 => value as i16 as u64,
                6 => (base + (value & 0xf) * PAGE).wrapping_add((value >> 8) as i8 as u64),
                _ => value << 48 | value,
            };
            cpu.set_gpr(register, value);
        }
        let mut random = seed | 1;
        for (number, vector) in cpu.vectors.iter_mut().enumerate() {
            random = scramble(random ^ number as u64);
            vector.chunks_mut(8).for_each(|part| part.copy_from_slice(&random.to_le_bytes()));
        }
        set_segments(input, &mut cpu, paged);
        Self { cpu, code, entries, seed }
    }

    pub(super) fn is_paged(&self) -> bool {
        self.cpu.state.cr0 >> 31 != 0
    }

    /// The guest-physical address of a linear one, whatever the rights; `None` where nothing is mapped.
    pub(super) fn translate(&self, linear: u64) -> Option<u64> {
        if !self.is_paged() {
            return Some(linear & 0xffff_ffff);
        }
        let page = linear / PAGE;
        if IDENTITY.contains(&page) {
            return Some(linear);
        }
        let entry = self.entries.get(usize::try_from(page.checked_sub(WINDOWS.start)?).ok()?)?;
        (entry & PRESENT != 0).then_some(entry & 0xffff_f000 | linear & (PAGE - 1))
    }

    fn memory(&self) -> Vec<u8> {
        let mut ram = vec![0; RAM as usize];
        let mut put = |at: u64, bytes: &[u8]| ram[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        let all = PRESENT | WRITABLE | USER;
        for (level, table) in (TABLES.start..LEAVES).step_by(PAGE as usize).enumerate() {
            put(table, &((TABLES.start + (level as u64 + 1) * PAGE) | all).to_le_bytes());
        }
        for page in IDENTITY {
            put(LEAVES + 8 * page, &((page * PAGE) | all).to_le_bytes());
        }
        for (page, entry) in WINDOWS.zip(self.entries) {
            put(LEAVES + 8 * page, &entry.to_le_bytes());
        }
        let mut random = self.seed;
        for at in (DATA..DATA + 0x400).step_by(8) {
            random = scramble(random ^ at);
            put(at, &random.to_le_bytes());
        }
        put(self.cpu.rip(), &self.code);
        ram
    }
}

/// 32-bit code of long mode.
fn compatibility_mode() -> FakeCpu {
    let mut cpu = FakeCpu::protected_mode();
    let long = FakeCpu::long_mode();
    (cpu.state.cr0, cpu.state.cr4, cpu.state.efer) = (long.state.cr0, long.state.cr4, long.state.efer);
    cpu
}

/// Bases, limits and tables other than the usual, where the input wants them.
fn set_segments(input: &mut Input<'_>, cpu: &mut FakeCpu, paged: bool) {
    let changes = input.byte();
    let base = if paged { WINDOWS.start * PAGE } else { DATA };
    for (bit, register) in
        [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Ss, SegmentRegister::Fs, SegmentRegister::Gs]
            .into_iter()
            .enumerate()
    {
        if changes & 1 << bit != 0 {
            let mut segment = cpu.segment(register);
            segment.base = base.wrapping_add(input.half() as i16 as u64);
            if changes & 0x80 != 0 {
                segment.limit = input.word();
            }
            cpu.set_segment(register, segment);
        }
    }
    if changes & 0x20 != 0 {
        let table = DescriptorTable { base: base + u64::from(input.half()), limit: input.half() };
        cpu.set_descriptor_table(TableRegister::Gdtr, table);
    }
    if changes & 0x40 != 0 {
        cpu.pkru = input.word();
        cpu.state.cr4 |= u64::from(paged) << 22;
    }
}

/// xorshift64 with a final multiplication.
fn scramble(mut value: u64) -> u64 {
    value ^= value << 13;
    value ^= value >> 7;
    value ^= value << 17;
    value.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1
}

/// What devices hold at first.
pub(super) static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let words = (1..=2 * HELD / 8).map(|number| scramble(scramble(number)));
    words.flat_map(u64::to_le_bytes).collect()
});

/// Memory that is told apart from devices, as the state table would.
#[derive(Debug)]
pub(super) struct Memory {
    bytes: RefCell<Vec<u8>>,
    /// What devices hold.
    held: RefCell<Vec<u8>>,
    /// Those devices are memory.
    devices_are_memory: bool,
    /// Completed copies to memory.
    pub(super) stores: Cell<u32>,
    /// A page was met that changes its state.
    pub(super) met_change: Cell<bool>,
}

/// Where the bytes of a device access are held, if they are.
fn held_at(gpa: u64, length: usize) -> Option<usize> {
    let inside = |start: u64| Some(gpa.checked_sub(start)?).filter(|offset| offset + length as u64 <= HELD);
    let offset = inside(DEVICE).or_else(|| Some(inside(RAM)? + HELD))?;
    Some(offset as usize)
}

impl Memory {
    /// Gives `body` the bytes at an address.
    fn with<T>(&self, gpa: Gpa, length: usize, body: impl FnOnce(&mut [u8], usize) -> T) -> Result<T, MemoryError> {
        if self.devices_are_memory
            && let Some(offset) = held_at(gpa.0, length)
        {
            return Ok(body(&mut self.held.borrow_mut(), offset));
        }
        let last = gpa.0.checked_add(length as u64).ok_or(MemoryError::NotMemory)?;
        if last > RAM {
            return Err(MemoryError::NotMemory);
        }
        if last > CHANGING {
            self.met_change.set(true);
            return Err(MemoryError::WrongState);
        }
        Ok(body(&mut self.bytes.borrow_mut(), gpa.0 as usize))
    }
}

impl GuestMemory for Memory {
    fn copy_in(&self, gpa: Gpa, _: Visibility, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.with(gpa, buffer.len(), |bytes, at| buffer.copy_from_slice(&bytes[at..at + buffer.len()]))
    }

    fn copy_out(&self, gpa: Gpa, _: Visibility, data: &[u8]) -> Result<(), MemoryError> {
        self.with(gpa, data.len(), |bytes, at| {
            bytes[at..at + data.len()].copy_from_slice(data);
        })?;
        self.stores.set(self.stores.get() + 1);
        Ok(())
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        _: Visibility,
        width: usize,
        current: u128,
        new: u128,
    ) -> Result<u128, MemoryError> {
        assert!(matches!(width, 1 | 2 | 4 | 8 | 16), "a compare-exchange of {width} bytes");
        assert!(gpa.0.is_multiple_of(width as u64), "a compare-exchange across its alignment, at {gpa:?}");
        self.with(gpa, width, |bytes, at| {
            let mut found = [0; 16];
            found[..width].copy_from_slice(&bytes[at..at + width]);
            let found = u128::from_le_bytes(found);
            if found == current {
                bytes[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
            }
            found
        })
    }
}

/// The machine around the emulator.
#[derive(Debug)]
pub(super) struct Machine {
    memory: Memory,
    clock: FakeClock,
    pub(super) before: Vec<u8>,
    /// The first ones.
    pub(super) requests: Vec<DeviceRequest>,
    /// How many there were, and what they were.
    pub(super) total: (u32, u64),
    reply: u64,
    seed: u64,
    parked: Option<Emulation>,
    /// Every device answers later.
    pub(super) defers: bool,
    pub(super) not_emulated: bool,
    /// Reads of ports.
    port_reads: u64,
}

impl Machine {
    pub(super) fn new(script: &Script) -> Self {
        let before = script.memory();
        let memory = Memory {
            bytes: RefCell::new(before.clone()),
            held: RefCell::new(PATTERN.clone()),
            devices_are_memory: false,
            stores: Cell::new(0),
            met_change: Cell::new(false),
        };
        Self {
            memory,
            clock: FakeClock { tsc: Cell::new(0), hz: 1_000_000_000 },
            before,
            requests: Vec::with_capacity(KEPT_REQUESTS),
            total: (0, 0),
            reply: 0,
            seed: script.seed,
            parked: None,
            defers: false,
            not_emulated: false,
            port_reads: 0,
        }
    }

    /// From now on, what devices hold is memory.
    pub(super) fn make_devices_memory(&mut self) {
        self.memory.devices_are_memory = true;
    }

    /// The instruction has overwritten itself.
    pub(super) fn code_changed(&self, script: &Script) -> bool {
        let rip = script.cpu.rip() as usize;
        self.ram()[rip..rip + script.code.len()] != script.code
    }

    pub(super) fn held(&self) -> Ref<'_, Vec<u8>> {
        self.memory.held.borrow()
    }

    pub(super) fn ram(&self) -> Ref<'_, Vec<u8>> {
        self.memory.bytes.borrow()
    }

    /// What the device says to its latest request.
    fn answer(&self) -> u64 {
        self.reply
    }

    /// Performs a request on the device.
    fn perform(&mut self, request: DeviceRequest) -> u64 {
        let width = usize::from(request.width.min(8));
        let held = match request.target {
            Target::Mmio(gpa) => held_at(gpa.0, width),
            Target::Port(_) => None,
        };
        let mut bytes = [0; 8];
        match (request.operation, held) {
            (Operation::Write(value), Some(at)) => {
                self.memory.held.borrow_mut()[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            (Operation::Write(_), None) => {}
            (Operation::Read, Some(at)) => bytes[..width].copy_from_slice(&self.memory.held.borrow()[at..at + width]),
            (Operation::Read, None) => {
                let key = match request.target {
                    Target::Mmio(gpa) => gpa.0,
                    Target::Port(_) => {
                        self.port_reads += 1;
                        self.port_reads
                    }
                };
                bytes[..width].copy_from_slice(&scramble(self.seed ^ scramble(key)).to_le_bytes()[..width]);
            }
        }
        u64::from_le_bytes(bytes)
    }

    /// What was parked, and the answer that it waited for.
    pub(super) fn unpark(&mut self, token: Token) -> (Emulation, u64) {
        assert_eq!(token.0, self.total.0, "the token is not the last one");
        (self.parked.take().expect("deferred, and nothing parked"), self.answer())
    }
}

impl Env for Machine {
    type Memory = Memory;
    type Clock = FakeClock;

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn clock(&self) -> &FakeClock {
        &self.clock
    }

    fn access(&mut self, request: DeviceRequest) -> DeviceReply {
        assert!(self.total.0 < MOST_REQUESTS, "device accesses without end");
        let value = match request.operation {
            Operation::Read => 0,
            Operation::Write(value) => !value,
        };
        let at = match request.target {
            Target::Mmio(gpa) => gpa.0,
            Target::Port(port) => !u64::from(port),
        };
        self.total = (self.total.0 + 1, scramble(self.total.1 ^ value ^ at.rotate_left(32) ^ u64::from(request.width)));
        self.reply = self.perform(request);
        if self.requests.len() < KEPT_REQUESTS {
            self.requests.push(request);
        }
        if self.defers { DeviceReply::Defer(Token(self.total.0)) } else { DeviceReply::Done(self.answer()) }
    }

    fn park(&mut self, emulation: Emulation) {
        assert!(self.parked.is_none(), "two instructions are parked");
        self.parked = Some(emulation);
    }

    fn is_mmio(&self, gpa: Gpa) -> bool {
        gpa.0 >= RAM && !(self.memory.devices_are_memory && held_at(gpa.0, 1).is_some())
    }

    fn apic_msr_read(&mut self, _: u32) -> Option<u64> {
        None
    }

    fn apic_msr_write(&mut self, _: u32, _: u64) -> Option<()> {
        None
    }

    fn oddity(&mut self, oddity: Oddity) {
        self.not_emulated |= matches!(oddity, Oddity::NotEmulated(_));
    }
}

/// CR8 and what the state does not hold.
pub(super) fn others(cpu: &FakeCpu) -> (u64, u64, u32, [u64; 4], usize) {
    (cpu.control(Control::Cr8), cpu.xcr0, cpu.pkru, cpu.breakpoints, cpu.injected.len())
}
