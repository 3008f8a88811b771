// SPDX-License-Identifier: MIT OR Apache-2.0
//! One vCPU's local APIC: its state, its modes, and how a vector gets from IRR over ISR to its end (SDM vol. 3A, 11.4,
//! 11.8 and 11.12).
//!
//! Register accesses are in `lapic_registers`, LINT pins and the error interrupt in `lapic_lines`, the timer in
//! `lapic_timer`.

use crate::apic::lapic_timer::{Timer, TimerMode};
use crate::apic::port::{ApicPort, Identity, Signals};
use crate::apic::vectors::{self, Summary};
use core::mem::{offset_of, size_of};
use platform::{Clock, Instant, Slip};
use specs::apic::{self, ApicBase, ErrorStatus, LapicRegisters, Lvt, Slot};
use vmm_interface::{InterruptMessage, TriggerMode};

/// Version 14h, as in processors since the Pentium 4. The highest LVT entry is number 5: timer, LINT0, LINT1, error,
/// performance and thermal, but no CMCI. Bit 24 is clear: EOI broadcasts cannot be suppressed.
pub(super) const VERSION: u32 = apic::lapic_version(0x14, 5);

/// The address in IA32_APIC_BASE, as wide as any processor has it (11.4.4).
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Vectors 0–15 are illegal in an interrupt message (11.5.2).
pub(super) const FIRST_LEGAL_VECTOR: u8 = 16;

/// The states of IA32_APIC_BASE (11.12.5, table 11-5).
#[allow(missing_docs, reason = "the architecture's own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Disabled,
    XApic,
    X2Apic,
}

/// What a register write does outside of the local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// This message is to go out, with this vCPU as its sender.
    Send(InterruptMessage),
    /// The interrupt with this vector was level-triggered: the IOAPIC is to hear of its end.
    EndOfInterrupt(u8),
}

/// The local APIC of one vCPU, owned by it.
///
/// The registers come first, in the architectural layout at a page's start, with room for what hardware keeps behind them
/// (AMD up to 540h), so that the page can become a hardware APIC page. Our own state fills the rest of the same page: an
/// exit touches one page, not two.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Lapic {
    pub(super) registers: LapicRegisters,
    hardware: [Slot; 64],

    // Configuration.
    id: u32,
    bootstrap: bool,
    /// Where the guest has put the page; INIT leaves it there.
    base: u64,

    // Wiring: the levels of LINT0 and LINT1.
    pub(super) lint: [bool; 2],

    // State.
    pub(super) mode: Mode,
    pub(super) timer: Timer,
    /// Errors since the last write to the error status register.
    pub(super) errors: ErrorStatus,
    requested: Summary,
    in_service: Summary,
    /// The port does not yet know our identity.
    pub(super) unpublished: bool,
}

const _: () = assert!(size_of::<Lapic>() == 4096 && offset_of!(Lapic, registers) == 0);

impl Lapic {
    /// A local APIC after power-up: xAPIC mode, disabled by software.
    pub fn new(apic_id: u32, bootstrap: bool) -> Self {
        let mut lapic = Self {
            registers: LapicRegisters::default(),
            hardware: [Slot::default(); 64],
            id: apic_id,
            bootstrap,
            base: apic::LAPIC_BASE,
            lint: [false; 2],
            mode: Mode::XApic,
            timer: Timer::RESET,
            errors: ErrorStatus::empty(),
            requested: Summary::default(),
            in_service: Summary::default(),
            unpublished: true,
        };
        lapic.reset();
        lapic
    }

    /// INIT: all but the ID, the mode and IA32_APIC_BASE as after power-up (11.4.7.1, 11.4.7.3, 11.12.5.1).
    pub fn reset(&mut self) {
        let registers = &mut self.registers;
        *registers = LapicRegisters::default();
        registers.version.value = VERSION;
        registers.destination_format.value = u32::MAX;
        registers.spurious.value = 0xff;
        self.mask_local_interrupts();
        self.timer = Timer::RESET;
        self.errors = ErrorStatus::empty();
        self.requested = Summary::default();
        self.in_service = Summary::default();
        self.name();
    }

    /// Leaves the local APIC as PC firmware leaves it for the operating system: enabled by software, the 8259s' output
    /// through LINT0 as ExtINT on the bootstrap processor, NMI on LINT1 (MultiProcessor Specification 1.4, 3.6.2.2:
    /// virtual wire mode). For payloads that start where firmware would have ended.
    pub fn enter_virtual_wire(&mut self) {
        self.registers.spurious.value = apic::SPURIOUS_ENABLE | 0xff;
        self.registers.lvt_lint0.value = if self.bootstrap { 0x700 } else { Lvt::MASKED | 0x700 };
        self.registers.lvt_lint1.value = 0x400;
        self.unpublished = true;
    }

    /// The APIC ID.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether this is the bootstrap processor.
    pub fn is_bootstrap(&self) -> bool {
        self.bootstrap
    }

    /// The mode. CPUID.1:EDX\[9\] is clear while disabled.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The registers in their architectural layout. The current count is not kept there.
    pub fn registers(&self) -> &LapicRegisters {
        &self.registers
    }

    /// Reads IA32_APIC_BASE.
    pub fn base_msr(&self) -> u64 {
        let mut flags = match self.mode {
            Mode::Disabled => ApicBase::empty(),
            Mode::XApic => ApicBase::ENABLED,
            Mode::X2Apic => ApicBase::ENABLED | ApicBase::EXTENDED,
        };
        flags.set(ApicBase::BOOTSTRAP, self.bootstrap);
        self.base | flags.bits()
    }

    /// Where the registers' page is, in xAPIC mode.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. `None` is #GP: reserved bits, or a transition that figure 11-27 does not have. The bootstrap
    /// flag keeps its value. The caller has checked that the processor has all bits of the address, and that accesses to
    /// the page are trapped.
    pub fn set_base_msr(&mut self, value: u64) -> Option<()> {
        let known = ApicBase::BOOTSTRAP | ApicBase::EXTENDED | ApicBase::ENABLED;
        let base = value & BASE_ADDRESS;
        if value & !known.bits() != base {
            return None;
        }
        let flags = ApicBase::from_bits_retain(value);
        let mode = match (flags.contains(ApicBase::ENABLED), flags.contains(ApicBase::EXTENDED)) {
            (false, false) => Mode::Disabled,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
            (false, true) => return None,
        };
        match (self.mode, mode) {
            (Mode::X2Apic, Mode::XApic) | (Mode::Disabled, Mode::X2Apic) => return None,
            (Mode::XApic, Mode::X2Apic) => {
                // All else is kept (11.12.5.4). The LDR follows from the ID.
                self.mode = mode;
                self.registers.command_high.value = 0;
                self.name();
            }
            (Mode::XApic | Mode::X2Apic, Mode::Disabled) | (Mode::Disabled, Mode::XApic) => {
                // A disabled APIC comes back as after power-up (11.4.3).
                self.mode = mode;
                self.reset();
            }
            (Mode::Disabled, Mode::Disabled) | (Mode::XApic, Mode::XApic) | (Mode::X2Apic, Mode::X2Apic) => {}
        }
        self.base = base;
        Some(())
    }

    /// Sets the registers that follow from ID and mode.
    fn name(&mut self) {
        if self.mode == Mode::X2Apic {
            self.registers.id.value = self.id;
            self.registers.logical_destination.value = apic::x2apic_logical_id(self.id);
        } else {
            self.registers.id.value = self.id << 24;
        }
        self.unpublished = true;
    }

    /// Tells senders of a changed identity. To be called before the next guest entry after anything was written here;
    /// one test if nothing changed. [`Self::absorb`] includes it.
    #[inline]
    pub fn publish(&mut self, port: &ApicPort) {
        if self.unpublished {
            self.unpublished = false;
            port.publish(Identity {
                mode: self.mode,
                enabled: self.takes_vectors(),
                logical_id: (self.registers.logical_destination.value >> 24) as u8,
                format: (self.registers.destination_format.value >> 28) as u8,
                priority: self.registers.task_priority.value as u8,
            });
        }
    }

    /// Takes what others posted: vectors into IRR, the rest as signals, once each. `port` is this vCPU's own.
    ///
    /// With an INIT among the signals, vectors are dropped: INIT discards what came before it, and leaves an APIC that is
    /// disabled by software and takes none.
    #[inline]
    pub fn absorb(&mut self, port: &ApicPort) -> Signals {
        self.publish(port);
        if port.needs_attention() { self.absorb_some(port) } else { Signals::NONE }
    }

    fn absorb_some(&mut self, port: &ApicPort) -> Signals {
        // An illegal vector is recorded last, because its own error interrupt may be due to it.
        let mut illegal = false;
        // Senders look at what was published last, so what lies here was accepted before software disabled the APIC, and
        // stays (11.4.7.2). A source that keeps its line asserted waits for the end of it.
        let mut dropped = self.mode == Mode::Disabled;
        let signals = port.take(|init, word, bits, trigger| {
            dropped |= init;
            if !dropped {
                let legal = if word == 0 { bits & !0xffff } else { bits };
                illegal |= legal != bits;
                self.request(word, legal, trigger);
            }
        });
        if illegal {
            self.record_error(ErrorStatus::RECEIVE_ILLEGAL_VECTOR);
        }
        signals
    }

    /// Whether messages with a vector are accepted (11.4.3, 11.4.7.2).
    pub(super) fn takes_vectors(&self) -> bool {
        self.mode != Mode::Disabled && self.registers.spurious.value & apic::SPURIOUS_ENABLE != 0
    }

    /// Accepts one interrupt of our own making: timer, LINT pin, error, self-IPI. False if it is not accepted.
    pub(super) fn accept(&mut self, vector: u8, trigger: TriggerMode) -> bool {
        if !self.takes_vectors() {
            return false;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.record_error(ErrorStatus::RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        let (word, bit) = vectors::position(vector);
        self.request(word, bit, trigger);
        true
    }

    fn request(&mut self, word: u8, bits: u32, trigger: TriggerMode) {
        vectors::insert_bits(&mut self.registers.request, word, bits);
        match trigger {
            TriggerMode::Edge => vectors::remove_bits(&mut self.registers.trigger_mode, word, bits),
            TriggerMode::Level => vectors::insert_bits(&mut self.registers.trigger_mode, word, bits),
        }
        self.requested.update(&self.registers.request, word);
    }

    /// The vector that the processor would take now, if it takes interrupts: the highest requested one, if its class is
    /// above the processor priority (11.8.3.1) and the APIC is enabled.
    #[inline]
    pub fn pending(&self) -> Option<u8> {
        if self.requested.is_empty() { None } else { self.deliverable() }
    }

    fn deliverable(&self) -> Option<u8> {
        let vector = self.highest_request()?;
        let class = u32::from(vector >> 4);
        if Slip::Nested.is_planted() {
            return Some(vector);
        }
        (class > self.registers.processor_priority.value >> 4 && self.takes_vectors()).then_some(vector)
    }

    /// The interrupt that only the task priority holds back: it comes through as soon as CR8 is below its class.
    pub fn blocked_by_task_priority(&self) -> Option<u8> {
        if self.requested.is_empty() || !self.takes_vectors() {
            return None;
        }
        let vector = self.highest_request()?;
        let class = vector >> 4;
        let in_service = self.highest_in_service().unwrap_or(0) >> 4;
        (class > in_service && class <= self.task_priority()).then_some(vector)
    }

    pub(super) fn highest_request(&self) -> Option<u8> {
        self.requested.highest(&self.registers.request)
    }

    pub(super) fn highest_in_service(&self) -> Option<u8> {
        self.in_service.highest(&self.registers.in_service)
    }

    /// The processor takes `vector`: it moves from IRR to ISR. Returns the vector to hand to the processor: `vector`, or
    /// the spurious one, which nothing is in service for, if `vector` is no longer requested (11.9).
    pub fn acknowledge(&mut self, vector: u8) -> u8 {
        if !vectors::contains(&self.registers.request, vector) {
            return self.registers.spurious.value as u8;
        }
        let (word, bit) = vectors::position(vector);
        vectors::remove_bits(&mut self.registers.request, word, bit);
        self.requested.update(&self.registers.request, word);
        vectors::insert_bits(&mut self.registers.in_service, word, bit);
        self.in_service.update(&self.registers.in_service, word);
        self.update_processor_priority();
        vector
    }

    /// Ends the highest interrupt in service (11.8.5). With none, nothing happens.
    pub(super) fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.highest_in_service() else { return Effect::None };
        let (word, bit) = vectors::position(vector);
        vectors::remove_bits(&mut self.registers.in_service, word, bit);
        self.in_service.update(&self.registers.in_service, word);
        self.update_processor_priority();
        if !vectors::contains(&self.registers.trigger_mode, vector) {
            return Effect::None;
        }
        self.end_lint(vector);
        if vector >= 0x80 && Slip::SilentEnd.is_planted() {
            return Effect::None;
        }
        Effect::EndOfInterrupt(vector)
    }

    fn update_processor_priority(&mut self) {
        let task = self.registers.task_priority.value;
        let service = u32::from(self.highest_in_service().unwrap_or(0));
        self.registers.processor_priority.value = if task >> 4 >= service >> 4 { task } else { service & 0xf0 };
    }

    /// CR8: bits 7:4 of the task priority. Works while the APIC is disabled, too.
    pub fn task_priority(&self) -> u8 {
        (self.registers.task_priority.value >> 4) as u8 & 15
    }

    /// Writes CR8; the low four bits count. With an unchanged class the sub-class stays, so that a backend may tell the
    /// hardware's copy of CR8 after every exit.
    #[inline]
    pub fn set_task_priority(&mut self, class: u8) {
        let class = class & 15;
        if class != self.task_priority() {
            self.write_task_priority(u32::from(class) << 4);
        }
    }

    pub(super) fn write_task_priority(&mut self, value: u32) {
        self.registers.task_priority.value = value & 0xff;
        self.update_processor_priority();
        self.unpublished = true;
    }

    /// When [`Self::expire`] wants to be called. Never earlier for a timer whose interrupt is masked and that starts over
    /// by itself: it catches up when somebody looks.
    #[inline]
    pub fn deadline(&self) -> Instant {
        if self.timer.mode() == TimerMode::Periodic && Lvt(self.registers.lvt_timer.value).masked() {
            return Instant::NEVER;
        }
        self.timer.fire_at()
    }

    /// Lets the timer fire if it is time. However late: one interrupt, bounded work.
    pub fn expire(&mut self, clock: &impl Clock) {
        if self.timer.fire_at() == Instant::NEVER {
            return;
        }
        let lvt = Lvt(self.registers.lvt_timer.value);
        if self.timer.expire(clock.now(), clock) && !lvt.masked() {
            self.accept(lvt.vector(), TriggerMode::Edge);
        }
    }

    /// Reads IA32_TSC_DEADLINE: zero when disarmed, fired or in another mode.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE; ignored in another mode (11.5.4.1). A deadline in the past fires at once.
    pub fn set_tsc_deadline(&mut self, tsc: u64, clock: &impl Clock) {
        self.timer.set_tsc_deadline(tsc, clock);
        self.expire(clock);
    }
}
