// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules of local APICs and of message destinations, said plainly and apart from the models (SDM vol. 3A, chapter 11).

use devices::apic::{Lapic, Mode};
use specs::apic::VectorBits;
use vmm_interface::{DeliveryMode, Destination, InterruptMessage};

use platform::Clock;

use super::board::Board;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;

/// A set of vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Vectors([u128; 2]);

impl Vectors {
    pub(super) fn of(set: &VectorBits) -> Self {
        let mut vectors = Self::default();
        for (word, slot) in set.iter().enumerate() {
            vectors.0[word / 4] |= u128::from(slot.value) << (word % 4 * 32);
        }
        vectors
    }

    pub(super) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 7)] |= 1 << (vector & 127);
    }

    pub(super) fn remove(&mut self, vector: Option<u8>) {
        if let Some(vector) = vector {
            self.0[usize::from(vector >> 7)] &= !(1 << (vector & 127));
        }
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 7)] & 1 << (vector & 127) != 0
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let [low, high] = self.0;
        high.checked_ilog2().map(|bit| 128 + bit as u8).or(low.checked_ilog2().map(|bit| bit as u8))
    }

    /// From low to high.
    fn all(self) -> impl Iterator<Item = u8> {
        let bits = |mut left: u128, first: u8| {
            core::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as u8)?;
                left &= left - 1;
                Some(first + bit)
            })
        };
        bits(self.0[0], 0).chain(bits(self.0[1], 128))
    }

    /// Those that are not in `other`.
    fn without(self, other: Self) -> Self {
        Self([self.0[0] & !other.0[0], self.0[1] & !other.0[1]])
    }
}

/// By what a local APIC is addressed.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    mode: Mode,
    id: u32,
    enabled: bool,
    logical: u32,
    format: u32,
}

impl Default for View {
    fn default() -> Self {
        Self { mode: Mode::Disabled, id: 0, enabled: false, logical: 0, format: u32::MAX }
    }
}

impl View {
    pub(super) fn of(lapic: &Lapic) -> Self {
        let registers = lapic.registers();
        Self {
            mode: lapic.mode(),
            id: lapic.id(),
            enabled: registers.spurious.value & SOFTWARE_ENABLE != 0,
            logical: registers.logical_destination.value,
            format: registers.destination_format.value,
        }
    }

    /// 11.6.2.1 and 11.6.2.2; with 32 bits, 11.12.9 and 11.12.10.
    fn is_addressed(&self, index: usize, sender: Option<u32>, destination: Destination) -> bool {
        let wide = self.mode == Mode::X2Apic && sender.is_some();
        let everybody = if wide { u32::MAX } else { 0xff };
        match destination {
            Destination::Physical(id) => id == everybody || id == self.id,
            Destination::Logical(id) if id == everybody => true,
            Destination::Logical(id) if self.mode == Mode::X2Apic => {
                id >> 16 == self.id >> 4 && id & 1 << (self.id & 15) != 0
            }
            Destination::Logical(id) if self.format >> 28 == 15 => id & self.logical >> 24 != 0,
            Destination::Logical(id) if self.format >> 28 == 0 => {
                id >> 4 == self.logical >> 28 && id & self.logical >> 24 & 15 != 0
            }
            Destination::Logical(_) => false,
            Destination::Myself => sender == Some(index as u32),
            Destination::All => true,
            Destination::Others => sender != Some(index as u32),
        }
    }

    /// 11.4.7.2: disabled by software, it still hears INIT, NMI, SMI and SIPI.
    fn accepts(&self, mode: DeliveryMode) -> bool {
        let vectored = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority | DeliveryMode::ExtInt);
        self.mode != Mode::Disabled && (self.enabled || !vectored)
    }
}

/// A few processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Targets {
    indices: [usize; super::board::PROCESSORS],
    count: usize,
}

impl core::ops::Deref for Targets {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.indices[..self.count]
    }
}

/// Who gets a message; `None` where the architecture does not say, because modes are mixed.
pub(super) fn targets(views: &[View], sender: Option<u32>, message: &InterruptMessage) -> Option<Targets> {
    let mut modes = views.iter().map(|view| view.mode).filter(|mode| *mode != Mode::Disabled);
    let first = modes.next();
    if modes.any(|mode| Some(mode) != first) {
        return None;
    }
    // A processor that disabled its own APIC has no mode to send in.
    if sender.is_some_and(|index| views[index as usize].mode == Mode::Disabled) {
        return None;
    }
    let mut targets = Targets { indices: [0; super::board::PROCESSORS], count: 0 };
    for (index, view) in views.iter().enumerate() {
        if view.is_addressed(index, sender, message.destination) && view.accepts(message.mode) {
            targets.indices[targets.count] = index;
            targets.count += 1;
        }
    }
    Some(targets)
}

/// The message that a write to the ICR sends (11.6.1).
pub(super) fn check_command(lapic: &Lapic, message: &InterruptMessage) {
    let registers = lapic.registers();
    let (low, high) = (registers.command_low.value, registers.command_high.value);
    assert_eq!(message.vector, low as u8, "{message:?} from {low:#x}");
    assert_eq!(message.mode as u32, low >> 8 & 7, "{message:?} from {low:#x}");
    let id = if lapic.mode() == Mode::X2Apic { high } else { high >> 24 };
    let expected = match (low >> 18 & 3, low >> 11 & 1) {
        (0, 0) => Destination::Physical(id),
        (0, _) => Destination::Logical(id),
        (1, _) => Destination::Myself,
        (2, _) => Destination::All,
        _ => Destination::Others,
    };
    assert_eq!(message.destination, expected, "{low:#x}, {high:#x}");
}

/// The shift of a divide configuration register (11.5.4, figure 11-10).
pub(super) const fn divider(register: u32) -> u8 {
    match register & 0b1011 {
        0b0000 => 1,
        0b0001 => 2,
        0b0010 => 3,
        0b0011 => 4,
        0b1000 => 5,
        0b1001 => 6,
        0b1010 => 7,
        _ => 0,
    }
}

/// Holds every local APIC against the rules, and forgets the step.
pub(super) fn check(board: &mut Board) {
    let now = board.time.now().0;
    for (index, local) in board.lapics.iter_mut().enumerate() {
        let registers = *local.lapic.registers();
        let (request, service) = (Vectors::of(&registers.request), Vectors::of(&registers.in_service));
        check_priorities(&local.lapic);
        // None from nowhere, and none lost.
        let old = Vectors::of(&local.before.request);
        for vector in request.without(old).without(local.due.vectors).all() {
            let mut own = own_vectors(&registers).chain(own_vectors(&local.before));
            let known = local.own == Some(vector) || own.any(|own| own == vector) || local.due.perhaps;
            assert!(known, "processor {index}: vector {vector:#x} came from nowhere");
        }
        if !local.disturbed {
            let takes = local.lapic.mode() != Mode::Disabled && registers.spurious.value & SOFTWARE_ENABLE != 0;
            let new = local.due.vectors.without(request).all().filter(|vector| takes && *vector >= 16);
            for vector in old.without(request).all().chain(new) {
                assert!(local.taken == Some(vector), "processor {index}: vector {vector:#x} is lost");
            }
            let mut expected = Vectors::of(&local.before.in_service);
            if let Some(vector) = local.taken {
                expected.insert(vector);
            }
            assert!(
                service.without(expected) == Vectors::default(),
                "processor {index}: {service:x?} in service, expected of {expected:x?}"
            );
        }
        if let Some((start, initial, shift)) = local.countdown.filter(|_| local.lapic.mode() == Mode::XApic) {
            let elapsed = (now - start) >> shift;
            let count = u64::from(initial).saturating_sub(elapsed);
            let shown = local.lapic.mmio_read(0x390, 4, &board.time);
            assert_eq!(shown, count, "processor {index}: a count of {initial:#x} after {elapsed} ticks");
        }
        local.before = *local.lapic.registers();
        (local.own, local.taken, local.ended, local.disturbed) = (None, None, None, false);
        local.due = super::board::Due::default();
    }
}

/// The vectors of a local vector table.
fn own_vectors(registers: &specs::apic::LapicRegisters) -> impl Iterator<Item = u8> {
    let entries = [
        registers.lvt_timer,
        registers.lvt_thermal,
        registers.lvt_performance,
        registers.lvt_lint0,
        registers.lvt_lint1,
        registers.lvt_error,
    ];
    entries.into_iter().map(|entry| entry.value as u8)
}

fn check_priorities(lapic: &Lapic) {
    let registers = lapic.registers();
    let (request, service) = (Vectors::of(&registers.request), Vectors::of(&registers.in_service));
    let illegal = request.all().chain(service.all()).find(|vector| *vector < 16);
    assert_eq!(illegal, None, "an illegal vector is requested or in service");
    // Each interrupt in service interrupted one of a lower class.
    let classes = service.all().fold(0u16, |classes, vector| classes | 1 << (vector >> 4));
    assert_eq!(
        classes.count_ones() as usize,
        service.all().count(),
        "two interrupts of one class in service: {service:x?}"
    );
    let task = registers.task_priority.value;
    let highest = u32::from(service.highest().unwrap_or(0));
    let priority = if task >> 4 >= highest >> 4 { task } else { highest & 0xf0 };
    assert_eq!(registers.processor_priority.value, priority, "PPR with TPR {task:#x}, ISRV {highest:#x}");
    let enabled = lapic.mode() != Mode::Disabled && registers.spurious.value & SOFTWARE_ENABLE != 0;
    let class = |vector: u8| u32::from(vector >> 4);
    let pending = request.highest().filter(|vector| enabled && class(*vector) > priority >> 4);
    assert_eq!(lapic.pending(), pending, "deliverable of {request:x?} with PPR {priority:#x}");
    let held =
        request.highest().filter(|vector| enabled && class(*vector) > highest >> 4 && class(*vector) <= task >> 4);
    assert_eq!(lapic.blocked_by_task_priority(), held);
    if registers.spurious.value & SOFTWARE_ENABLE == 0 {
        for entry in [registers.lvt_timer, registers.lvt_lint0, registers.lvt_lint1, registers.lvt_error] {
            assert!(entry.value & MASKED != 0, "an LVT entry is not masked while software disables the APIC");
        }
    }
}
