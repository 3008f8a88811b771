// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine: processors' local APICs, the fabric, the PC around them, and what this module remembers of what it did to
//! them.

use std::cell::{Cell, RefCell};

use devices::apic::{Effect, Fabric, Lapic, Lint, Mode};
use devices::pc::{Pc, PcConfig, PcHost};
use platform::{Clock, Waker};
use specs::apic::{LapicRegisters, RedirectionEntry};
use vmm_interface::{Console, DeliveryMode, Instant, InterruptMessage, Lifecycle, TriggerMode};

use super::oracle::{self, Vectors};
use crate::input::Input;
use crate::memory_use::without_heap;

/// The most processors of a board.
pub(super) const PROCESSORS: usize = 4;

const IOAPIC: u64 = 0xfec0_0000;
const SPURIOUS: u16 = 0xf0;
const COMMAND: u16 = 0x300;
const LVT_TIMER: u16 = 0x320;
const INITIAL: u16 = 0x380;
const DIVIDE: u16 = 0x3e0;

/// Time as the script says. The time-stamp counter runs at 2 GHz.
#[derive(Debug, Default)]
pub(super) struct Time(Cell<u64>);

impl Clock for Time {
    fn now(&self) -> Instant {
        Instant(self.0.get())
    }
    fn guest_tsc(&self) -> u64 {
        self.0.get().saturating_mul(2)
    }
    fn tsc_hz(&self) -> u64 {
        2_000_000_000
    }
    fn instant_of_tsc(&self, tsc: u64) -> Instant {
        Instant(tsc.div_ceil(2))
    }
}

/// Who was kicked: one bit each.
#[derive(Debug, Default)]
struct Kicks {
    kicked: Cell<u32>,
}

impl Waker for Kicks {
    fn kick(&self, index: u32) {
        assert!((index as usize) < PROCESSORS, "processor {index} is kicked");
        self.kicked.set(self.kicked.get() | 1 << index);
    }
}

/// What processors are expected to get in this step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    /// Vectors that messages brought.
    pub(super) vectors: Vectors,
    /// Messages came of which this module cannot say who gets them.
    pub(super) perhaps: bool,
    /// It is to be kicked.
    kick: bool,
}

/// The way from senders to local APICs.
#[derive(Debug)]
struct Bus {
    fabric: Fabric,
    kicks: Kicks,
    /// The registers by which destinations are matched.
    views: RefCell<[oracle::View; PROCESSORS]>,
    due: RefCell<[Due; PROCESSORS]>,
    /// Vectors that some message brought as edges.
    edges: RefCell<Vectors>,
    messages: Cell<u32>,
    /// Some message was refused.
    refused: Cell<bool>,
}

impl Bus {
    fn deliver(&self, sender: Option<u32>, message: &InterruptMessage) -> u32 {
        self.messages.set(self.messages.get() + 1);
        let views = self.views.borrow();
        let targets = oracle::targets(&views[..self.fabric.processors() as usize], sender, message);
        let taken = self.fabric.deliver(sender, message, &self.kicks);
        if matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
            && message.trigger == TriggerMode::Edge
        {
            self.edges.borrow_mut().insert(message.vector);
        }
        self.refused.set(self.refused.get() || taken == 0);
        let Some(targets) = targets else {
            self.due.borrow_mut().iter_mut().for_each(|due| due.perhaps = true);
            return taken;
        };
        let is_init_deassert = message.mode == DeliveryMode::Init && !message.assert;
        match message.mode {
            DeliveryMode::LowestPriority => assert_eq!(taken, u32::from(!targets.is_empty()), "{message:?}"),
            _ if is_init_deassert => assert_eq!(taken, 0, "{message:?}"),
            _ => assert_eq!(taken as usize, targets.len(), "{message:?} is for {targets:?}"),
        }
        let mut due = self.due.borrow_mut();
        if message.mode == DeliveryMode::Fixed || message.mode == DeliveryMode::LowestPriority && targets.len() == 1 {
            targets.iter().for_each(|target| due[*target].vectors.insert(message.vector));
        } else {
            targets.iter().for_each(|target| due[*target].perhaps = true);
        }
        if !matches!(message.mode, DeliveryMode::LowestPriority) && !is_init_deassert {
            let others = targets.iter().filter(|target| sender != Some(**target as u32));
            others.for_each(|target| due[*target].kick = true);
        }
        taken
    }
}

/// What the PC sees around it.
#[derive(Debug)]
struct Around<'a> {
    bus: &'a Bus,
    time: &'a Time,
    intr: &'a Cell<bool>,
}

impl PcHost for Around<'_> {
    fn now(&self) -> Instant {
        self.time.now()
    }
    fn transmit(&mut self, _: Console, _: u8) {}
    fn send(&mut self, message: &InterruptMessage) -> bool {
        self.bus.deliver(None, message) != 0
    }
    fn pic_output(&mut self, asserted: bool) {
        self.intr.set(asserted);
    }
    fn request(&mut self, _: Lifecycle) {}
}

/// One processor's side of the board.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) lapic: Lapic,
    /// Its registers after the last step.
    pub(super) before: LapicRegisters,
    /// What came by messages in this step.
    pub(super) due: Due,
    /// A vector that it sent to itself in this step.
    pub(super) own: Option<u8>,
    /// It took this vector in this step.
    pub(super) taken: Option<u8>,
    /// It was reset, or enabled or disabled in some way.
    pub(super) disturbed: bool,
    /// A one-shot count that nothing has touched since: when it started, from where, and the divider's shift.
    pub(super) countdown: Option<(u64, u32, u8)>,
    /// One more EOI came in this step.
    pub(super) ended: Option<u8>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) lapics: Vec<Local>,
    pc: Pc,
    bus: Bus,
    pub(super) time: Time,
    intr: Cell<bool>,
    /// Pins whose entry was written while it waited for an EOI.
    rewritten: u32,
    /// A local APIC was ever disturbed after an interrupt could have reached it.
    disturbed: bool,
}

const CONFIG: PcConfig = PcConfig {
    processors: PROCESSORS as u32,
    memory_below_4g: 1 << 30,
    memory_above_4g: 0,
    test_devices: true,
    command_console: false,
    unix_time: 0,
};

impl Board {
    pub(super) fn new(input: &mut Input<'_>) -> Self {
        let kind = input.byte();
        let count = 1 + u32::from(kind & 3);
        let bus = Bus {
            fabric: Fabric::new(count).expect("a fabric"),
            kicks: Kicks::default(),
            views: RefCell::default(),
            due: RefCell::default(),
            edges: RefCell::default(),
            messages: Cell::new(0),
            refused: Cell::new(false),
        };
        let local = |id| {
            let lapic = Lapic::new(id, id == 0);
            let before = *lapic.registers();
            Local {
                lapic,
                before,
                due: Due::default(),
                own: None,
                taken: None,
                disturbed: false,
                countdown: None,
                ended: None,
            }
        };
        let mut board = Self {
            lapics: (0..count).map(local).collect(),
            pc: Pc::new(&CONFIG).expect("a PC"),
            bus,
            time: Time(Cell::new(1_000_000)),
            intr: Cell::new(false),
            rewritten: 0,
            disturbed: false,
        };
        for index in 0..count as usize {
            if kind & 8 == 0 {
                board.write(index, SPURIOUS, 0x1ff);
                board.write(index, 0xd0, 1 << (24 + index));
            }
            if kind & 0x10 != 0 {
                board.set_base(index, 0xfee0_0c00);
            }
            board.settle();
        }
        // That was before any interrupt.
        oracle::check(&mut board);
        board.disturbed = false;
        board
    }

    fn with_pc<T>(&mut self, body: impl FnOnce(&mut Pc, &mut Around<'_>) -> T) -> T {
        let mut around = Around { bus: &self.bus, time: &self.time, intr: &self.intr };
        body(&mut self.pc, &mut around)
    }

    fn carry_out(&mut self, index: usize, effect: Effect) {
        let local = &mut self.lapics[index];
        let port = self.bus.fabric.port(index as u32).expect("a port");
        local.lapic.publish(port);
        self.bus.views.borrow_mut()[index] = oracle::View::of(&local.lapic);
        match effect {
            Effect::None => {}
            Effect::Send(message) => {
                oracle::check_command(&local.lapic, &message);
                self.bus.deliver(Some(index as u32), &message);
            }
            Effect::EndOfInterrupt(vector) => {
                local.ended = Some(vector);
                self.with_pc(|pc, around| pc.end_of_interrupt(vector, around));
            }
        }
    }

    /// Notes what a register write means to this module. The value may be changed by a planted bug.
    fn foresee(&mut self, index: usize, offset: u16, value: u32) -> u32 {
        let now = self.time.0.get();
        let local = &mut self.lapics[index];
        match offset {
            SPURIOUS => local.disturbed = true,
            COMMAND if value >> 18 & 3 == 1 => local.own = Some(value as u8),
            0x3f0 => local.own = Some(value as u8),
            LVT_TIMER => local.countdown = None,
            // What has been counted stays counted; the rest goes at the new rate.
            DIVIDE => {
                local.countdown = local.countdown.map(|(start, count, shift)| {
                    let ticks = (now - start) >> shift;
                    let left = u64::from(count).saturating_sub(ticks) as u32;
                    (start + (ticks << shift), left, oracle::divider(value))
                });
            }
            INITIAL => {
                let registers = local.lapic.registers();
                let one_shot = registers.lvt_timer.value >> 17 & 3 == 0;
                let shift = oracle::divider(registers.divide.value);
                local.countdown = one_shot.then_some((now, value, shift));
            }
            _ => {}
        }
        value
    }

    pub(super) fn write(&mut self, index: usize, offset: u16, value: u32) {
        if offset == 0xb0 {
            return self.end(index);
        }
        let xapic = self.lapics[index].lapic.mode() == Mode::XApic;
        let value = if xapic { self.foresee(index, offset, value) } else { value };
        let lapic = &mut self.lapics[index].lapic;
        let effect = without_heap(|| lapic.mmio_write(offset, 4, value.into(), &self.time));
        assert!(xapic || effect == Effect::None, "a write to a page where nobody is");
        self.carry_out(index, effect);
    }

    pub(super) fn read(&mut self, index: usize, offset: u16, width: u8) {
        let local = &mut self.lapics[index];
        let value = without_heap(|| local.lapic.mmio_read(offset, width, &self.time));
        assert!(width >= 8 || value >> (8 * width) == 0, "{value:#x} of {width} bytes");
        if local.lapic.mode() != Mode::XApic {
            assert_eq!(value, if width >= 8 { u64::MAX } else { (1 << (8 * width)) - 1 });
        }
    }

    pub(super) fn write_msr(&mut self, index: usize, msr: u32, value: u64) {
        if msr == 0x80b {
            return self.end(index);
        }
        let x2apic = self.lapics[index].lapic.mode() == Mode::X2Apic;
        let offset = (msr as u16 & 0xff) << 4;
        let (own, countdown) = (self.lapics[index].own, self.lapics[index].countdown);
        let low = if x2apic { self.foresee(index, offset, value as u32) } else { value as u32 };
        let value = value & !0xffff_ffff | u64::from(low);
        let lapic = &mut self.lapics[index].lapic;
        match without_heap(|| lapic.msr_write(msr, value, &self.time)) {
            Some(effect) => {
                assert!(x2apic, "WRMSR {msr:#x} outside of x2APIC mode");
                self.carry_out(index, effect);
            }
            // #GP: nothing happened.
            None => (self.lapics[index].own, self.lapics[index].countdown) = (own, countdown),
        }
    }

    pub(super) fn read_msr(&mut self, index: usize, msr: u32) {
        let lapic = &mut self.lapics[index].lapic;
        let value = without_heap(|| lapic.msr_read(msr, &self.time));
        assert!(value.is_none() || lapic.mode() == Mode::X2Apic, "RDMSR {msr:#x} outside of x2APIC mode");
    }

    pub(super) fn set_base(&mut self, index: usize, value: u64) {
        let local = &mut self.lapics[index];
        let (mode, before) = (local.lapic.mode(), *local.lapic.registers());
        let done = local.lapic.set_base_msr(value);
        let after = local.lapic.mode();
        // Figure 11-27.
        let legal = !matches!((mode, after), (Mode::X2Apic, Mode::XApic) | (Mode::Disabled, Mode::X2Apic));
        assert!(legal, "from {mode:?} to {after:?}");
        if done.is_none() || after == mode {
            assert!(after == mode && *local.lapic.registers() == before, "a refused or empty change changed something");
        } else if after == Mode::Disabled || mode == Mode::Disabled {
            local.disturbed = true;
            local.countdown = None;
        }
        self.carry_out(index, Effect::None);
    }

    pub(super) fn set_deadline(&mut self, index: usize, ahead: u64) {
        let tsc = if ahead == 0 { 0 } else { self.time.guest_tsc().saturating_add(ahead) };
        let lapic = &mut self.lapics[index].lapic;
        without_heap(|| lapic.set_tsc_deadline(tsc, &self.time));
        self.carry_out(index, Effect::None);
    }

    pub(super) fn pass(&mut self, nanos: u64) {
        let end = Instant(self.time.0.get()).after(nanos);
        for _ in 0..16 {
            let locals = self.lapics.iter().map(|local| local.lapic.deadline());
            let next = locals.chain([self.pc.deadline()]).min().unwrap_or(Instant::NEVER);
            if next > end {
                break;
            }
            self.time.0.set(self.time.0.get().max(next.0));
            self.expire();
            // Its processor absorbs what came before the next deadline.
            self.settle();
            oracle::check(self);
        }
        self.time.0.set(end.0);
        self.expire();
    }

    fn expire(&mut self) {
        let now = self.time.now();
        for local in &mut self.lapics {
            if local.lapic.deadline() <= now {
                without_heap(|| local.lapic.expire(&self.time));
                let deadline = local.lapic.deadline();
                assert!(deadline > now, "a timer called at {now:?} wants to be called at {deadline:?}");
            }
        }
        if self.pc.deadline() <= now {
            self.with_pc(|pc, around| pc.expire(around));
        }
    }

    pub(super) fn set_line(&mut self, line: u8, level: bool) {
        let entry = self.entry(if line == 0 { 2 } else { line });
        let before = self.bus.messages.get();
        self.write_port(0x2000 + u16::from(line), level.into());
        let sent = self.bus.messages.get() - before;
        let silent = entry.masked() || entry.remote_irr() || !level;
        assert!(sent <= u32::from(!silent), "{sent} messages of line {line} with {entry:x?}");
    }

    pub(super) fn write_port(&mut self, port: u16, value: u8) {
        self.with_pc(|pc, around| pc.port_write(port, 1, value.into(), around)).value();
    }

    pub(super) fn acknowledge_pic(&mut self) {
        self.with_pc(|pc, around| pc.pic_acknowledge(around));
    }

    fn ioapic(&mut self, register: u8) -> u64 {
        self.with_pc(|pc, around| {
            pc.mmio_write(IOAPIC, 4, register.into(), around).value();
            pc.mmio_read(IOAPIC + 0x10, 4, around).value()
        })
    }

    fn entry(&mut self, pin: u8) -> RedirectionEntry {
        RedirectionEntry(self.ioapic(0x10 + 2 * pin) | self.ioapic(0x11 + 2 * pin) << 32)
    }

    pub(super) fn redirect(&mut self, pin: u8, entry: u64) {
        if self.entry(pin).remote_irr() {
            self.rewritten |= 1 << pin;
        }
        for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
            self.with_pc(|pc, around| {
                pc.mmio_write(IOAPIC, 4, u64::from(0x10 + 2 * pin + half), around).value();
                pc.mmio_write(IOAPIC + 0x10, 4, value, around).value();
            });
        }
    }

    pub(super) fn take(&mut self, index: usize) {
        let local = &mut self.lapics[index];
        let Some(vector) = local.lapic.pending() else { return };
        let got = without_heap(|| local.lapic.acknowledge(vector));
        assert_eq!(got, vector, "a deliverable vector is spurious");
        local.taken = Some(vector);
    }

    pub(super) fn end(&mut self, index: usize) {
        let local = &mut self.lapics[index];
        let registers = *local.lapic.registers();
        let effect = match local.lapic.mode() {
            Mode::Disabled => return,
            Mode::XApic => without_heap(|| local.lapic.mmio_write(0xb0, 4, 0, &self.time)),
            Mode::X2Apic => without_heap(|| local.lapic.msr_write(0x80b, 0, &self.time)).expect("EOI faults"),
        };
        let highest = Vectors::of(&registers.in_service).highest();
        let level = highest.filter(|vector| Vectors::of(&registers.trigger_mode).contains(*vector));
        assert_eq!(effect, level.map_or(Effect::None, Effect::EndOfInterrupt), "an EOI with {highest:x?} in service");
        let mut expected = Vectors::of(&registers.in_service);
        expected.remove(highest);
        assert_eq!(Vectors::of(&local.lapic.registers().in_service), expected, "an EOI ends the highest alone");
        self.carry_out(index, effect);
    }

    pub(super) fn send(&mut self, index: usize, destination: u8, command: u32) {
        match self.lapics[index].lapic.mode() {
            Mode::X2Apic => self.write_msr(index, 0x830, u64::from(destination) << 32 | u64::from(command)),
            _ => {
                self.write(index, 0x310, u32::from(destination) << 24);
                self.write(index, COMMAND, command);
            }
        }
    }

    pub(super) fn set_task_priority(&mut self, index: usize, value: u8) {
        let lapic = &mut self.lapics[index].lapic;
        lapic.set_task_priority(value);
        assert_eq!(lapic.task_priority(), value & 15);
        self.carry_out(index, Effect::None);
    }

    /// Every processor looks at its letter box, as before an entry.
    pub(super) fn settle(&mut self) {
        let kicked = self.bus.kicks.kicked.take();
        for (index, local) in self.lapics.iter_mut().enumerate() {
            let due = &mut self.bus.due.borrow_mut()[index];
            assert!(!due.kick || kicked & 1 << index != 0, "processor {index} got a message and no kick");
            local.due = core::mem::take(due);
            let port = self.bus.fabric.port(index as u32).expect("a port");
            let mut signals = without_heap(|| local.lapic.absorb(port));
            if index == 0 {
                signals.init |= without_heap(|| local.lapic.set_lint(Lint::Lint0, self.intr.get())).init;
            }
            if signals.init {
                local.lapic.reset();
                local.lapic.publish(port);
                local.disturbed = true;
                local.countdown = None;
            }
            assert!(!port.needs_attention(), "a letter box that was emptied is not empty");
            self.disturbed |= local.disturbed;
            self.bus.views.borrow_mut()[index] = oracle::View::of(&local.lapic);
        }
    }

    /// Pins that wait for an EOI, and pins that should not wait for anything.
    pub(super) fn check_pins(&mut self) {
        let select = self.with_pc(|pc, around| pc.mmio_read(IOAPIC, 4, around).value());
        for pin in 0..24 {
            let entry = self.entry(pin);
            if !entry.remote_irr() {
                continue;
            }
            assert!(entry.level(), "pin {pin} waits for an EOI of an edge: {entry:x?}");
            let vector = entry.vector();
            let in_flight = self.lapics.iter().any(|local| {
                let registers = local.lapic.registers();
                [&registers.request, &registers.in_service].iter().any(|set| Vectors::of(set).contains(vector))
            });
            let excused = self.disturbed
                || self.bus.refused.get()
                || self.rewritten & 1 << pin != 0
                || self.bus.edges.borrow().contains(vector)
                || vector < 16;
            assert!(in_flight || excused, "pin {pin} waits for an EOI that nobody will send: {entry:x?}");
        }
        self.with_pc(|pc, around| pc.mmio_write(IOAPIC, 4, select, around)).value();
    }
}
