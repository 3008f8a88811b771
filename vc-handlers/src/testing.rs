// SPDX-License-Identifier: MIT OR Apache-2.0
//! A processor and a machine made of plain data, on which tests run the handlers.

#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "for tests alone, where a panic is a failure"
)]

#[cfg(test)]
pub(crate) mod models;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use platform::{
    Clock, Control, DescriptorTable, Event, Exit, ExitReason, Gpa, Gpr, GuestCpu, GuestMemory, HostEvent, HostEvents,
    InjectionState, Instant, MemoryError, Offer, PageRange, Reason, Segment, SegmentAttributes, SegmentRegister,
    SwitchedMsr, SystemRegisters, TableRegister, Timer, VcpuState, Visibility,
};
use vmm_interface::{Destination, InterruptMessage};

use crate::{Conversion, DeviceReply, DeviceRequest, Emulation, Env, Oddity, Operation};

/// A vCPU that runs nothing: [`GuestCpu::run`] hands out the scripted exits.
#[derive(Clone, Debug)]
pub struct FakeCpu {
    /// All that a snapshot holds.
    pub state: VcpuState,
    /// The task priority, bits 7:4 of the LAPIC's.
    pub cr8: u64,
    pub xcr0: u64,
    pub pkru: u32,
    /// The MMX registers, and whether an x87 exception is pending.
    pub mmx: [u64; 8],
    pub x87_exception: bool,
    /// How often an instruction began an interrupt shadow.
    pub shadows: u32,
    /// The YMM registers.
    pub vectors: [[u8; 32]; 16],
    /// DR0–DR3; DR6 and DR7 are in `state`.
    pub breakpoints: [u64; 4],
    /// Those switched MSRs that have no place in `state`.
    pub msrs: BTreeMap<u8, u64>,
    /// How often an instruction was completed.
    pub completed: u32,
    pub injection: InjectionState,
    /// Events queued by the code under test.
    pub injected: Vec<Event>,
    pub interrupt_window: Option<u8>,
    pub nmi_window: bool,
    /// The processor delivers interrupts that it is offered.
    pub delivers: bool,
    /// The interrupt that it is offered.
    pub offered: Option<Offer>,
    /// The one that its guest has taken.
    pub delivered: Option<u8>,
    /// What the last [`Timer::arm`] said.
    pub armed: Instant,
    /// What [`HostEvents::take`] returns, first one first.
    pub host_events: VecDeque<HostEvent>,
    /// How often the processor went to sleep.
    pub waits: u32,
    /// What `run` returns, first one first; then a broken exit.
    pub exits: VecDeque<Exit>,
}

impl Default for FakeCpu {
    fn default() -> Self {
        Self::long_mode()
    }
}

impl FakeCpu {
    /// 64-bit kernel code with flat segments, paging on; CR3 is zero until a test builds page tables.
    pub fn long_mode() -> Self {
        let mut cpu = Self::empty();
        cpu.state.cr0 = 0x8005_0033;
        cpu.state.cr4 = 0x0000_06a0;
        cpu.state.efer = 0x0d01;
        cpu.flat(SegmentAttributes::LONG);
        cpu
    }

    /// 32-bit kernel code with flat segments and no paging.
    pub fn protected_mode() -> Self {
        let mut cpu = Self::empty();
        cpu.state.cr0 = 0x11;
        cpu.flat(SegmentAttributes::DEFAULT_BIG);
        cpu
    }

    /// Real mode, as after a start-up IPI to page zero.
    pub fn real_mode() -> Self {
        let mut cpu = Self::empty();
        cpu.state.cr0 = 0x10;
        for (number, segment) in cpu.state.segments.iter_mut().enumerate() {
            let code = if number == SegmentRegister::Cs as usize {
                SegmentAttributes::CODE
            } else {
                SegmentAttributes::empty()
            };
            let data = SegmentAttributes::PRESENT
                | SegmentAttributes::USER
                | SegmentAttributes::READ_WRITE
                | SegmentAttributes::ACCESSED;
            *segment = Segment { selector: 0, attributes: data | code, limit: 0xffff, base: 0 };
        }
        cpu
    }

    fn empty() -> Self {
        let state = VcpuState {
            rip: 0x1000,
            rflags: 0x2,
            pat: 0x0007_0406_0007_0406,
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            ..VcpuState::default()
        };
        Self {
            state,
            cr8: 0,
            xcr0: 1,
            pkru: 0,
            mmx: [0; 8],
            x87_exception: false,
            shadows: 0,
            vectors: [[0; 32]; 16],
            breakpoints: [0; 4],
            msrs: BTreeMap::new(),
            completed: 0,
            injection: InjectionState { queued: false, interrupts: true, nmi: true },
            injected: Vec::new(),
            interrupt_window: None,
            nmi_window: false,
            delivers: false,
            offered: None,
            delivered: None,
            armed: Instant::NEVER,
            host_events: VecDeque::new(),
            waits: 0,
            exits: VecDeque::new(),
        }
    }

    fn flat(&mut self, code: SegmentAttributes) {
        let data = SegmentAttributes::PRESENT
            | SegmentAttributes::USER
            | SegmentAttributes::READ_WRITE
            | SegmentAttributes::ACCESSED
            | SegmentAttributes::GRANULARITY;
        for number in
            [SegmentRegister::Es, SegmentRegister::Ss, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs]
        {
            let attributes = data | SegmentAttributes::DEFAULT_BIG;
            self.set_segment(number, Segment { selector: 0x10, attributes, limit: u32::MAX, base: 0 });
        }
        let attributes = data | SegmentAttributes::CODE | code;
        self.set_segment(SegmentRegister::Cs, Segment { selector: 0x8, attributes, limit: u32::MAX, base: 0 });
    }

    /// Puts the processor at privilege level `cpl`, which is the DPL of SS.
    pub fn set_cpl(&mut self, cpl: u8) {
        let both = SegmentAttributes::DPL_LOW | SegmentAttributes::DPL_HIGH;
        let dpl = SegmentAttributes::from_bits_retain(u16::from(cpl & 3) << 5);
        for number in [SegmentRegister::Cs, SegmentRegister::Ss] {
            let segment = &mut self.state.segments[number as usize];
            segment.attributes = (segment.attributes - both) | dpl;
        }
    }

    /// Sets RCX and RDX:RAX, the operands of WRMSR and XSETBV.
    pub fn set_pair(&mut self, index: u32, value: u64) {
        self.set_gpr(Gpr::Rcx, u64::from(index));
        self.set_gpr(Gpr::Rax, value & 0xffff_ffff);
        self.set_gpr(Gpr::Rdx, value >> 32);
    }

    /// RDX:RAX, the result of RDMSR and RDTSC. The upper halves must be clear.
    pub fn pair(&self) -> u64 {
        let (low, high) = (self.gpr(Gpr::Rax), self.gpr(Gpr::Rdx));
        assert!(low <= 0xffff_ffff && high <= 0xffff_ffff, "upper halves of RAX and RDX must be zero");
        high << 32 | low
    }
}

impl Timer for FakeCpu {
    fn arm(&mut self, deadline: Instant) {
        self.armed = deadline;
    }

    fn wait(&mut self) {
        self.waits += 1;
    }
}

impl HostEvents for FakeCpu {
    fn take(&mut self) -> Option<HostEvent> {
        self.host_events.pop_front()
    }
}

impl GuestCpu for FakeCpu {
    fn run(&mut self) -> Exit {
        let over = Exit { reason: ExitReason::Broken(Reason::UnknownExit, 0), next_rip: 0 };
        self.exits.pop_front().unwrap_or(over)
    }

    fn gpr(&self, register: Gpr) -> u64 {
        self.state.gprs[register as usize]
    }
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        self.state.gprs[register as usize] = value;
    }
    fn rip(&self) -> u64 {
        self.state.rip
    }
    fn rflags(&self) -> u64 {
        self.state.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.state.rflags = value;
    }
    fn complete_instruction(&mut self, next_rip: u64) {
        self.completed += 1;
        if next_rip != self.state.rip {
            self.state.rflags &= !crate::instruction::RFLAGS_RF;
        }
        self.state.rip = next_rip;
    }
    fn set_rip(&mut self, rip: u64) {
        self.state.rip = rip;
    }

    fn control(&self, register: Control) -> u64 {
        match register {
            Control::Cr0 => self.state.cr0,
            Control::Cr2 => self.state.cr2,
            Control::Cr3 => self.state.cr3,
            Control::Cr4 => self.state.cr4,
            Control::Cr8 => self.cr8,
        }
    }
    fn set_control(&mut self, register: Control, value: u64) {
        match register {
            Control::Cr0 => self.state.cr0 = value,
            Control::Cr2 => self.state.cr2 = value,
            Control::Cr3 => self.state.cr3 = value,
            Control::Cr4 => self.state.cr4 = value,
            Control::Cr8 => self.cr8 = value,
        }
    }
    fn debug(&self, number: u8) -> u64 {
        match number {
            0..=3 => self.breakpoints[usize::from(number)],
            4 | 6 => self.state.dr6,
            _ => self.state.dr7,
        }
    }
    fn set_debug(&mut self, number: u8, value: u64) {
        match number {
            0..=3 => self.breakpoints[usize::from(number)] = value,
            4 | 6 => self.state.dr6 = value,
            _ => self.state.dr7 = value,
        }
    }
    fn xcr0(&self) -> u64 {
        self.xcr0
    }
    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }
    fn segment(&self, register: SegmentRegister) -> Segment {
        self.state.segments[register as usize]
    }
    fn set_segment(&mut self, register: SegmentRegister, value: Segment) {
        self.state.segments[register as usize] = value;
    }
    fn descriptor_table(&self, register: TableRegister) -> DescriptorTable {
        match register {
            TableRegister::Gdtr => self.state.gdtr,
            TableRegister::Idtr => self.state.idtr,
        }
    }
    fn set_descriptor_table(&mut self, register: TableRegister, value: DescriptorTable) {
        match register {
            TableRegister::Gdtr => self.state.gdtr = value,
            TableRegister::Idtr => self.state.idtr = value,
        }
    }
    fn system(&self) -> SystemRegisters {
        let stack = self.segment(SegmentRegister::Ss).attributes.bits();
        SystemRegisters {
            cr0: self.state.cr0,
            cr3: self.state.cr3,
            cr4: self.state.cr4,
            efer: self.state.efer,
            rflags: self.state.rflags,
            cpl: (stack >> 5 & 3) as u8,
            pkru: self.pkru,
        }
    }
    fn switched_msr(&mut self, msr: SwitchedMsr) -> u64 {
        match msr {
            SwitchedMsr::Efer => self.state.efer,
            SwitchedMsr::Pat => self.state.pat,
            SwitchedMsr::FsBase => self.segment(SegmentRegister::Fs).base,
            SwitchedMsr::GsBase => self.segment(SegmentRegister::Gs).base,
            other => self.msrs.get(&(other as u8)).copied().unwrap_or(0),
        }
    }
    fn set_switched_msr(&mut self, msr: SwitchedMsr, value: u64) {
        match msr {
            SwitchedMsr::Efer => self.state.efer = value,
            SwitchedMsr::Pat => self.state.pat = value,
            SwitchedMsr::FsBase => self.state.segments[SegmentRegister::Fs as usize].base = value,
            SwitchedMsr::GsBase => self.state.segments[SegmentRegister::Gs as usize].base = value,
            other => {
                self.msrs.insert(other as u8, value);
            }
        }
    }

    fn vector(&self, number: u8) -> [u8; 32] {
        let mut value = self.vectors[usize::from(number)];
        if self.xcr0 & 4 == 0 {
            value[16..].fill(0);
        }
        value
    }
    fn set_xmm(&mut self, number: u8, value: [u8; 16]) {
        self.vectors[usize::from(number)][..16].copy_from_slice(&value);
    }
    fn set_ymm(&mut self, number: u8, value: [u8; 32]) {
        assert_eq!(self.xcr0 & 6, 6, "AVX is off");
        self.vectors[usize::from(number)] = value;
    }

    fn begin_shadow(&mut self) {
        self.shadows += 1;
    }
    fn x87_exception(&self) -> bool {
        self.x87_exception
    }
    fn mmx(&self, number: u8) -> Option<u64> {
        self.mmx.get(usize::from(number)).copied()
    }
    fn set_mmx(&mut self, number: u8, value: u64) {
        self.mmx[usize::from(number)] = value;
    }

    fn injection_state(&self) -> InjectionState {
        self.injection
    }
    fn inject(&mut self, event: Event) {
        self.injected.push(event);
    }
    fn request_interrupt_window(&mut self, class: Option<u8>) {
        self.interrupt_window = class;
    }
    const DELIVERS: bool = true;
    fn offer_interrupt(&mut self, offer: Option<Offer>) -> bool {
        self.offered = offer.filter(|_| self.delivers);
        self.offered.is_some()
    }
    fn take_delivered(&mut self) -> Option<u8> {
        self.delivered.take()
    }
    fn request_nmi_window(&mut self, wanted: bool) {
        self.nmi_window = wanted;
    }

    fn save(&mut self) -> VcpuState {
        self.state
    }
    fn restore(&mut self, state: &VcpuState) {
        self.state = *state;
    }
}

/// RAM at one place, one view.
#[derive(Debug)]
pub struct FakeMemory {
    pub base: u64,
    pub bytes: RefCell<Vec<u8>>,
    /// How often the code under test reached memory.
    pub accesses: Cell<u32>,
}

impl FakeMemory {
    pub fn new(base: u64, size: usize) -> Self {
        Self { base, bytes: RefCell::new(vec![0; size]), accesses: Cell::new(0) }
    }

    /// The offset of a range that lies in RAM as a whole.
    fn offset(&self, gpa: Gpa, length: usize) -> Option<usize> {
        let offset = usize::try_from(gpa.0.checked_sub(self.base)?).ok()?;
        (offset.checked_add(length)? <= self.bytes.borrow().len()).then_some(offset)
    }

    /// Writes, for a test's own set-up.
    pub fn put(&self, gpa: u64, data: &[u8]) {
        let offset = self.offset(Gpa(gpa), data.len()).unwrap();
        self.bytes.borrow_mut()[offset..offset + data.len()].copy_from_slice(data);
    }

    /// Reads, for a test's own checks.
    pub fn get(&self, gpa: u64, length: usize) -> Vec<u8> {
        let offset = self.offset(Gpa(gpa), length).unwrap();
        self.bytes.borrow()[offset..offset + length].to_vec()
    }
}

impl GuestMemory for FakeMemory {
    fn copy_in(&self, gpa: Gpa, _view: Visibility, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.accesses.set(self.accesses.get() + 1);
        let offset = self.offset(gpa, buffer.len()).ok_or(MemoryError::NotMemory)?;
        buffer.copy_from_slice(&self.bytes.borrow()[offset..offset + buffer.len()]);
        Ok(())
    }

    fn copy_out(&self, gpa: Gpa, _view: Visibility, data: &[u8]) -> Result<(), MemoryError> {
        self.accesses.set(self.accesses.get() + 1);
        let offset = self.offset(gpa, data.len()).ok_or(MemoryError::NotMemory)?;
        self.bytes.borrow_mut()[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        view: Visibility,
        width: usize,
        current: u128,
        new: u128,
    ) -> Result<u128, MemoryError> {
        if !matches!(width, 1 | 2 | 4 | 8 | 16) || !gpa.0.is_multiple_of(width as u64) {
            return Err(MemoryError::NotMemory);
        }
        let mut found = [0; 16];
        self.copy_in(gpa, view, &mut found[..width])?;
        let found = u128::from_le_bytes(found);
        if found == current {
            self.copy_out(gpa, view, &new.to_le_bytes()[..width])?;
        }
        Ok(found)
    }
}

/// A clock that stands still until a test sets it.
#[derive(Debug)]
pub struct FakeClock {
    pub tsc: Cell<u64>,
    pub hz: u64,
}

impl Clock for FakeClock {
    fn now(&self) -> Instant {
        Instant(vmm_interface::time::nanos(self.tsc.get(), self.hz))
    }
    fn guest_tsc(&self) -> u64 {
        self.tsc.get()
    }
    fn tsc_hz(&self) -> u64 {
        self.hz
    }
    fn instant_of_tsc(&self, tsc: u64) -> Instant {
        Instant(vmm_interface::time::nanos(tsc, self.hz))
    }
}

/// The machine: RAM, scripted devices, and a record of what the handlers did.
#[derive(Debug)]
pub struct FakeEnv {
    pub memory: FakeMemory,
    pub clock: FakeClock,
    /// Every device access, in order.
    pub requests: Vec<DeviceRequest>,
    /// Answers, first one first. When none is left, reads give all-ones and writes are done.
    pub replies: VecDeque<DeviceReply>,
    /// LAPIC MSRs that exist; any other faults.
    pub apic: BTreeMap<u32, u64>,
    pub oddities: Vec<Oddity>,
    /// Interrupt messages sent.
    pub sent: Vec<InterruptMessage>,
    /// The instruction that waits for a device.
    pub parked: Option<Emulation>,
    /// Conversions asked for, in order.
    pub conversions: Vec<(PageRange, Visibility)>,
    /// What comes of them, first one first; then there is no memory.
    pub converted: VecDeque<Conversion>,
}

impl Default for FakeEnv {
    /// 1 MiB of RAM at zero.
    fn default() -> Self {
        Self::with_ram(0, 1 << 20)
    }
}

impl FakeEnv {
    pub fn with_ram(base: u64, size: usize) -> Self {
        Self {
            memory: FakeMemory::new(base, size),
            clock: FakeClock { tsc: Cell::new(0x12_3456_789a), hz: 2_000_000_000 },
            requests: Vec::new(),
            replies: VecDeque::new(),
            apic: BTreeMap::new(),
            oddities: Vec::new(),
            sent: Vec::new(),
            parked: None,
            conversions: Vec::new(),
            converted: VecDeque::new(),
        }
    }

    /// The next device access answers with this value.
    pub fn reply(&mut self, value: u64) {
        self.replies.push_back(DeviceReply::Done(value));
    }
}

impl Env for FakeEnv {
    type Memory = FakeMemory;
    type Clock = FakeClock;

    fn memory(&self) -> &FakeMemory {
        &self.memory
    }
    fn clock(&self) -> &FakeClock {
        &self.clock
    }
    fn access(&mut self, request: DeviceRequest) -> DeviceReply {
        self.requests.push(request);
        let absent = match (request.operation, request.width) {
            (Operation::Write(_), _) => 0,
            (Operation::Read, width @ 1..=7) => (1 << (8 * width)) - 1,
            (Operation::Read, _) => u64::MAX,
        };
        self.replies.pop_front().unwrap_or(DeviceReply::Done(absent))
    }
    fn park(&mut self, emulation: Emulation) {
        assert!(self.parked.is_none(), "one instruction at a time");
        self.parked = Some(emulation);
    }
    fn is_mmio(&self, gpa: Gpa) -> bool {
        self.memory.offset(gpa, 1).is_none()
    }
    fn apic_msr_read(&mut self, index: u32) -> Option<u64> {
        self.apic.get(&index).copied()
    }
    fn apic_msr_write(&mut self, index: u32, value: u64) -> Option<()> {
        *self.apic.get_mut(&index)? = value;
        Some(())
    }
    /// Two processors, 0 and 1.
    fn send(&mut self, message: &InterruptMessage) -> u32 {
        self.sent.push(*message);
        u32::from(matches!(message.destination, Destination::Physical(0 | 1)))
    }
    fn convert(&mut self, range: PageRange, to: Visibility) -> Conversion {
        self.conversions.push((range, to));
        self.converted.pop_front().unwrap_or(Conversion::NotMemory)
    }
    fn oddity(&mut self, oddity: Oddity) {
        self.oddities.push(oddity);
    }
}
