// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs an instruction in the emulator, on data that is a device, or partly one.

use platform::{
    Access, DescriptorTable, Gpa, GuestCpu, MemoryFault, Segment, SegmentAttributes, SegmentRegister, VcpuState,
};
use vc_handlers::testing::{FakeClock, FakeCpu, FakeMemory};
use vc_handlers::{DeviceReply, DeviceRequest, Emulation, Env, Oddity, Operation, Outcome, Target};

use crate::layout::{self, CODE, DATA, DATA_SIZE, Mode, READ_ONLY};
use crate::state::{Case, End, Ending, State};

/// Guest-physical memory: page tables, code, the descriptor table, and the second page of data where that is memory.
const ROOT: u64 = 0x1000;
const LEVEL3: u64 = 0x2000;
const LEVEL2: u64 = 0x3000;
const CODE_TABLE: u64 = 0x4000;
const DATA_TABLE: u64 = 0x5000;
const LOCAL_TABLE: u64 = 0x6000;
const CODE_PAGES: u64 = 0x8000;
const SECOND_PAGE: u64 = 0xa000;
const RAM: usize = 0xb000;
/// Where the data is a device.
const DEVICE: u64 = 0xd000_0000;
const PAGE: u64 = 0x1000;
/// Linear address of the local descriptor table, which level 3 must not see.
const LOCAL_TABLE_LINEAR: u64 = 0x3000_0000;
/// Present, writable, user, accessed, dirty.
const FULL: u64 = 0x67;
const READ: u64 = 0x65;
const SUPERVISOR: u64 = 0x63;
/// INT3.
const INT3: u8 = 0xcc;

/// Emulations of one instruction: a repetition needs one for each batch.
const MAX_EXITS: u32 = 64;

/// The machine around the emulator.
struct Machine {
    memory: FakeMemory,
    clock: FakeClock,
    device: Vec<u8>,
    unsupported: bool,
}

impl Machine {
    fn put(&self, gpa: u64, value: u64) {
        self.memory.put(gpa, &value.to_le_bytes());
    }

    fn device_bytes(&mut self, gpa: Gpa, width: u8) -> Option<&mut [u8]> {
        let start = gpa.0.checked_sub(DEVICE)? as usize;
        self.device.get_mut(start..start + usize::from(width))
    }
}

impl Env for Machine {
    type Memory = FakeMemory;
    type Clock = FakeClock;

    fn memory(&self) -> &FakeMemory {
        &self.memory
    }

    fn clock(&self) -> &FakeClock {
        &self.clock
    }

    fn access(&mut self, request: DeviceRequest) -> DeviceReply {
        let width = request.width;
        assert!(matches!(width, 1 | 2 | 4 | 8), "{request:?}");
        let Target::Mmio(gpa) = request.target else { panic!("a port: {request:?}") };
        assert!(gpa.0.is_multiple_of(u64::from(width)), "{request:?}");
        let Some(bytes) = self.device_bytes(gpa, width) else { panic!("not the device: {request:?}") };
        match request.operation {
            Operation::Read => {
                let mut value = [0; 8];
                value[..bytes.len()].copy_from_slice(bytes);
                DeviceReply::Done(u64::from_le_bytes(value))
            }
            Operation::Write(value) => {
                assert!(width == 8 || value >> (8 * width) == 0, "{request:?}");
                bytes.copy_from_slice(&value.to_le_bytes()[..usize::from(width)]);
                DeviceReply::Done(0)
            }
        }
    }

    fn park(&mut self, _emulation: Emulation) {
        panic!("nothing defers");
    }

    fn is_mmio(&self, gpa: Gpa) -> bool {
        gpa.0 >= RAM as u64
    }

    fn apic_msr_read(&mut self, _index: u32) -> Option<u64> {
        None
    }

    fn apic_msr_write(&mut self, _index: u32, _value: u64) -> Option<()> {
        None
    }

    fn oddity(&mut self, oddity: Oddity) {
        self.unsupported |= matches!(oddity, Oddity::NotEmulated(_));
    }
}

/// The emulator with a guest around it.
pub struct Emulated {
    machine: Machine,
    partly_memory: bool,
    used: u64,
}

impl Default for Emulated {
    fn default() -> Self {
        Self::new()
    }
}

impl Emulated {
    /// A guest whose data is all zero.
    pub fn new() -> Self {
        let machine = Machine {
            memory: FakeMemory::new(0, RAM),
            clock: FakeClock { tsc: 0.into(), hz: 1_000_000_000 },
            device: vec![0; DATA_SIZE as usize],
            unsupported: false,
        };
        machine.put(ROOT, LEVEL3 | FULL);
        machine.put(LEVEL3, LEVEL2 | FULL);
        for (linear, table) in [(CODE, CODE_TABLE), (DATA, DATA_TABLE)] {
            machine.put(LEVEL2 + 8 * (linear >> 21), table | FULL);
        }
        // A large page would need its frame aligned, so the code's table serves the descriptor table as well.
        machine.put(LEVEL2 + 8 * (LOCAL_TABLE_LINEAR >> 21), CODE_TABLE | FULL);
        for page in 0..layout::CODE_SIZE / PAGE {
            machine.put(CODE_TABLE + 8 * page, (CODE_PAGES + page * PAGE) | FULL);
        }
        machine.put(CODE_TABLE + 8 * 16, LOCAL_TABLE | SUPERVISOR);
        machine.memory.put(CODE_PAGES, &[INT3; layout::CODE_SIZE as usize]);
        for page in 0..DATA_SIZE / PAGE {
            let rights = if page * PAGE >= READ_ONLY { READ } else { FULL };
            machine.put(DATA_TABLE + 8 * page, (DEVICE + page * PAGE) | rights);
        }
        for descriptor in &layout::DESCRIPTORS {
            machine.memory.put(LOCAL_TABLE + 8 * u64::from(descriptor.index), &descriptor.bytes());
        }
        Self { machine, partly_memory: false, used: 0 }
    }

    /// Puts bytes into the data.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            if self.partly_memory && at / PAGE == 1 {
                self.machine.memory.put(SECOND_PAGE + at % PAGE, core::slice::from_ref(byte));
            } else {
                self.machine.device[at as usize] = *byte;
            }
        }
    }

    /// Makes the second page of data memory, or a device; it keeps its contents.
    fn set_partly_memory(&mut self, wanted: bool) {
        if self.partly_memory == wanted {
            return;
        }
        self.partly_memory = wanted;
        let page = PAGE as usize..2 * PAGE as usize;
        let frame = if wanted {
            self.machine.memory.put(SECOND_PAGE, &self.machine.device[page]);
            SECOND_PAGE
        } else {
            let bytes = self.machine.memory.get(SECOND_PAGE, PAGE as usize);
            self.machine.device[page].copy_from_slice(&bytes);
            DEVICE + PAGE
        };
        self.machine.put(DATA_TABLE + 8, frame | FULL);
    }

    /// Whether the data equals `wanted`; the offset of the first byte that differs.
    pub fn difference(&self, wanted: &[u8]) -> Option<usize> {
        let differs = |ours: &[u8], start: usize| {
            let theirs = &wanted[start..start + ours.len()];
            (ours != theirs).then(|| start + ours.iter().zip(theirs).take_while(|(a, b)| a == b).count())
        };
        let page = PAGE as usize;
        if !self.partly_memory {
            return differs(&self.machine.device, 0);
        }
        let second = self.machine.memory.get(SECOND_PAGE, page);
        let device = &self.machine.device;
        differs(&device[..page], 0)
            .or_else(|| differs(&second, page))
            .or_else(|| differs(&device[2 * page..], 2 * page))
    }

    /// Makes the data equal `wanted`, so that one difference is not reported again and again.
    pub fn copy_from(&mut self, wanted: &[u8]) {
        self.put(0, wanted);
    }

    /// Prepares a case's code and data.
    pub fn prepare(&mut self, case: &Case) {
        self.set_partly_memory(case.partly_memory);
        self.machine.memory.put(CODE_PAGES + self.used, &[INT3; 15]);
        self.machine.memory.put(CODE_PAGES + case.state.rip, &case.bytes);
        self.used = case.state.rip.min(layout::CODE_SIZE - 15);
        for (offset, bytes) in &case.memory {
            self.put(*offset, bytes);
        }
    }

    /// Runs a case that was prepared.
    pub fn run(&mut self, case: &Case) -> Ending {
        let mut cpu = processor(case);
        let gpa = case.told.filter(|offset| *offset < DATA_SIZE).map(|offset| {
            let is_memory = case.partly_memory && offset / PAGE == 1;
            Gpa(if is_memory { SECOND_PAGE + offset % PAGE } else { DEVICE + offset })
        });
        let access = if case.told_write { Access::Write } else { Access::Read };
        let mut fault = MemoryFault { gpa, gva: None, access, table_walk: false };
        self.machine.unsupported = false;
        for _ in 0..MAX_EXITS {
            let end = match vc_handlers::emulate::memory_fault(&fault, &mut cpu, &mut self.machine) {
                Outcome::Complete(rip) => {
                    cpu.set_rip(rip);
                    End::Completed
                }
                Outcome::Inject(_) if self.machine.unsupported => End::Other,
                Outcome::Inject(exception) => End::Fault {
                    vector: exception.vector,
                    code: exception.error_code.unwrap_or(0),
                    address: exception.fault_address.unwrap_or(0),
                },
                Outcome::Resume => {
                    // What hardware would do now is to go on; its next access faults like the first.
                    fault = MemoryFault { gpa: None, access: Access::Read, ..fault };
                    continue;
                }
                _ => End::Other,
            };
            return Ending { end, state: registers(&cpu, case.mode) };
        }
        Ending { end: End::Other, state: registers(&cpu, case.mode) }
    }
}

fn registers(cpu: &FakeCpu, mode: Mode) -> State {
    let base = if mode.is_long() { CODE } else { 0 };
    State {
        gprs: cpu.state.gprs,
        rip: cpu.rip().wrapping_sub(base),
        rflags: cpu.rflags(),
        vectors: cpu.vectors,
        ds: cpu.segment(SegmentRegister::Ds).selector,
        es: cpu.segment(SegmentRegister::Es).selector,
        gs: cpu.segment(SegmentRegister::Gs).selector,
    }
}

fn segment(selector: u16) -> Segment {
    let named = layout::DESCRIPTORS.iter().find(|descriptor| descriptor.selector() == selector);
    named.map_or_else(|| Segment { selector, ..Segment::default() }, layout::Descriptor::segment)
}

/// A level-3 processor as a Linux process sees it.
fn processor(case: &Case) -> FakeCpu {
    const OSFXSR_OSXMMEXCPT_UMIP_OSXSAVE: u64 = 1 << 9 | 1 << 10 | 1 << 11 | 1 << 18;
    let mut cpu = FakeCpu::long_mode();
    cpu.restore(&VcpuState {
        gprs: case.state.gprs,
        rip: case.state.rip,
        rflags: case.state.rflags,
        cr3: ROOT,
        cr4: cpu.state.cr4 | OSFXSR_OSXMMEXCPT_UMIP_OSXSAVE,
        ..cpu.state
    });
    cpu.xcr0 = 7;
    cpu.vectors = case.state.vectors;
    if case.mode.is_long() {
        cpu.set_cpl(3);
        cpu.set_rip(CODE + case.state.rip);
    } else {
        let code = if case.mode == Mode::Compatibility32 { layout::CS32 } else { layout::CS16 };
        cpu.set_segment(SegmentRegister::Cs, code.segment());
        cpu.set_segment(SegmentRegister::Ss, layout::SS.segment());
    }
    cpu.set_segment(SegmentRegister::Ds, segment(case.state.ds));
    cpu.set_segment(SegmentRegister::Es, segment(case.state.es));
    cpu.set_segment(SegmentRegister::Gs, segment(case.state.gs));
    let local = Segment {
        selector: 0x50,
        attributes: SegmentAttributes::PRESENT | SegmentAttributes::READ_WRITE,
        limit: 8 * (layout::DESCRIPTORS.len() as u32 + 1) - 1,
        base: LOCAL_TABLE_LINEAR + 16 * PAGE,
    };
    cpu.set_segment(SegmentRegister::Ldtr, local);
    cpu.state.gdtr = DescriptorTable { base: 0, limit: 127 };
    cpu
}
