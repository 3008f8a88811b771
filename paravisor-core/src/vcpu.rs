// SPDX-License-Identifier: MIT OR Apache-2.0
//! The run loop of one vCPU: enter, handle the exit, apply the outcome.
//!
//! An exit that touches neither the local APIC nor the wires goes straight back into the guest; the only shared word that
//! it reads is the vCPU's own letter box. Everything about interrupts happens in [`Vcpu::service`].

use devices::apic::{ApicPort, Lapic, Lint, Signals};
use platform::{
    Clock, Control, Event, Exit, ExitReason, Gpr, GuestCpu, HostEvent, HostEvents, Instant, Offer, Platform,
    SegmentRegister, SwitchedMsr, Termination, Timer, VcpuState,
};
use specs::msr;
use vc_handlers::{Outcome, VcpuContext, handle};
use vmm_interface::Lifecycle;
use vmm_interface::sync::Ordering;

use crate::entry;
use crate::env::VcpuEnv;
use crate::length;
use crate::machine::{BOOT_PROCESSOR, Machine};
use crate::statistics::{Kind, Started, Statistics};

/// How many host events are taken before the guest gets on with its work.
const EVENT_BATCH: usize = 16;

/// A class above every task priority.
const EXTINT_CLASS: u8 = 16;

/// What a vCPU is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Activity {
    Running,
    /// In HLT, until an interrupt.
    Halted,
    /// After INIT, until a start-up IPI.
    WaitForStartup,
}

/// Whether an exit may touch the local APIC's task-priority register.
#[inline]
fn task_priority_access(reason: &ExitReason, cpu: &impl GuestCpu) -> bool {
    match reason {
        ExitReason::Memory(_) => true,
        ExitReason::Msr(_) => (msr::X2APIC_FIRST..=msr::X2APIC_LAST).contains(&(cpu.gpr(Gpr::Rcx) as u32)),
        _ => false,
    }
}

/// One vCPU, owned by the processor that runs it.
pub struct Vcpu<P: Platform + 'static> {
    cpu: P::Cpu,
    machine: &'static Machine<P>,
    context: VcpuContext<'static>,
    activity: Activity,
    /// Interrupts may have become deliverable, or a deadline may have moved.
    recheck: bool,
    /// NMIs that the guest has not taken yet: one in line, one latched.
    pending_nmis: u8,
    /// An ExtINT message arrived: the 8259s hold the vector.
    extint: bool,
    /// What the processor is offered is the 8259s'.
    offers_extint: bool,
    index: u32,
    lapic: &'static mut Lapic,
    /// Ours of the machine's letter boxes and counters.
    port: &'static ApicPort,
    statistics: &'static Statistics,
}

impl<P: Platform> Vcpu<P> {
    /// vCPU `index` of the machine, ready to run: the boot processor at the payload's entry, others waiting to be started.
    /// `None` if there is no such vCPU, or if it runs already.
    pub fn new(machine: &'static Machine<P>, index: u32, mut cpu: P::Cpu) -> Option<Self> {
        let port = machine.fabric.port(index)?;
        let statistics = machine.fabric.beside(index)?;
        let lapic = machine.take_lapic(index)?;
        cpu.restore(&machine.start);
        Some(Self {
            cpu,
            machine,
            context: VcpuContext::new(&machine.cpuid, index)
                .with_hypercalls(machine.has_test_devices())
                .with_page_conversion(machine.converts_pages()),
            activity: if index == BOOT_PROCESSOR { Activity::Running } else { Activity::WaitForStartup },
            recheck: true,
            pending_nmis: 0,
            extint: false,
            offers_extint: false,
            index,
            lapic,
            port,
            statistics,
        })
    }

    /// Runs the vCPU for ever.
    #[inline(never)]
    pub fn run(mut self) -> ! {
        loop {
            self.turn();
        }
    }

    /// One turn of the loop: a guest entry, a sleep, or another look at what arrived.
    #[inline(always)]
    fn turn(&mut self) {
        if self.recheck || self.port.needs_attention() {
            self.service();
            if self.activity != Activity::Running {
                return self.idle();
            }
            // Our own timer may just have sent us something, without a kick: it must not wait for the next exit.
            if self.port.needs_attention() {
                return;
            }
        }
        self.step();
    }

    /// One guest entry, the exit that ends it, and what becomes of the guest.
    ///
    /// The frequent exits are told apart at once, before the exit has to be put together in memory, and need nothing but
    /// their handler: an exit's other costs are a handful of pages of code and data, each a TLB miss on the emulator.
    #[inline(always)]
    fn step(&mut self) {
        let exit = self.cpu.run();
        if let Some(vector) = self.cpu.take_delivered() {
            self.delivered(vector);
        }
        let clock = self.machine.platform.clock();
        let started = Started::now(clock);
        match exit.reason {
            ExitReason::Cpuid if exit.next_rip != 0 => {
                vc_handlers::cpuid::answer(&self.context, &mut self.cpu);
                self.cpu.complete_instruction(exit.next_rip);
                self.statistics.exit(Kind::Cpuid, started, clock);
            }
            ExitReason::Io(access) if !access.string => {
                self.statistics.port(access.port);
                self.handle(|_, cpu, env| vc_handlers::port::handle(&access, exit.next_rip, cpu, env));
                self.statistics.exit(Kind::port(access.direction), started, clock);
            }
            ExitReason::Msr(access) if exit.next_rip != 0 && !task_priority_access(&exit.reason, &self.cpu) => {
                self.statistics.msr(self.cpu.gpr(Gpr::Rcx) as u32);
                self.handle(|vcpu, cpu, env| vc_handlers::msr::handle(access, exit.next_rip, vcpu, cpu, env));
                self.statistics.exit(Kind::msr(access.direction), started, clock);
            }
            _ => self.exit(exit, started),
        }
    }

    /// The processor has delivered an interrupt that it was offered.
    #[cold]
    fn delivered(&mut self, vector: u8) {
        if self.offers_extint {
            self.extint = false;
            self.statistics.events.external_interrupts.count();
            self.machine.with_pc(self.index, |pc, around| pc.pic_acknowledge(around));
        } else {
            self.statistics.events.interrupts.count();
            self.lapic.acknowledge(vector);
        }
        self.machine.note(&journal::Interrupted { vcpu: self.index.into(), vector: vector.into() });
        self.recheck = true;
    }

    /// Runs a handler in this vCPU's environment and applies its outcome.
    #[inline(always)]
    fn handle(&mut self, handler: impl FnOnce(&mut VcpuContext<'static>, &mut P::Cpu, &mut VcpuEnv<'_, P>) -> Outcome) {
        let mut env =
            VcpuEnv { machine: self.machine, lapic: self.lapic, index: self.index, recheck: &mut self.recheck };
        match handler(&mut self.context, &mut self.cpu, &mut env) {
            Outcome::Complete(next_rip) => self.cpu.complete_instruction(next_rip),
            other => self.apply(other),
        }
    }

    /// What becomes of the guest after an exit that the loop does not handle itself.
    #[inline(never)]
    fn exit(&mut self, exit: Exit, started: Started) {
        let kind = Kind::of(&exit.reason);
        self.machine.note(&journal::Exited { vcpu: self.index.into(), kind: kind as u64, rip: self.cpu.rip() });
        match exit.reason {
            ExitReason::Msr(_) => self.statistics.msr(self.cpu.gpr(Gpr::Rcx) as u32),
            ExitReason::Io(access) => self.statistics.port(access.port),
            _ => {}
        }
        self.any(exit);
        self.statistics.exit(kind, started, self.machine.platform.clock());
    }

    /// Handles any exit.
    #[inline(always)]
    fn any(&mut self, mut exit: Exit) {
        match exit.reason {
            ExitReason::HostInterrupt => return self.host_interrupt(),
            ExitReason::InterruptWindow | ExitReason::NmiWindow => {
                self.recheck = true;
                return;
            }
            _ => {}
        }
        // The last change of CR8 and of the APIC's register counts, so both agree before and after such an access.
        let priority = task_priority_access(&exit.reason, &self.cpu);
        if priority {
            self.sync_task_priority();
        }
        self.handle(|vcpu, cpu, env| match length::complete(&mut exit, cpu, env) {
            Ok(found) => handle(&exit, found.as_ref(), vcpu, cpu, env),
            Err(outcome) => outcome,
        });
        if priority && self.recheck {
            self.cpu.set_control(Control::Cr8, u64::from(self.lapic.task_priority()));
        }
        // A MOV to CR8 exits only if an interrupt waits for it.
        self.recheck |= matches!(exit.reason, ExitReason::Control(_));
    }

    /// The only place where an outcome touches the guest.
    #[inline(never)]
    fn apply(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Resume => {}
            Outcome::Complete(next_rip) => self.cpu.complete_instruction(next_rip),
            Outcome::Inject(exception) => {
                self.statistics.events.exceptions.count();
                self.machine.note(&journal::Raised { vcpu: self.index.into(), vector: exception.vector.into() });
                self.cpu.inject(Event::Exception(exception));
            }
            Outcome::Wait(next_rip) => {
                self.cpu.complete_instruction(next_rip);
                self.activity = Activity::Halted;
                self.recheck = true;
            }
            // No device of this machine answers later: all of them live in this process.
            Outcome::Defer(token) => self.fatal(platform::Reason::DeferredAnswer, u64::from(token.0)),
            Outcome::End(change) => self.machine.end(change),
            Outcome::TripleFault => {
                self.describe(format_args!("triple fault"));
                self.machine.finish(Termination::TripleFault)
            }
            Outcome::Terminate(reason, detail) => self.fatal(reason, detail),
        }
    }

    #[cold]
    fn fatal(&self, reason: platform::Reason, detail: u64) -> ! {
        self.describe(format_args!("{reason}, detail {detail:#x}"));
        self.machine.finish(Termination::Fatal(reason, detail))
    }

    /// Logs where the guest was when it ended the VM.
    #[cold]
    fn describe(&self, what: core::fmt::Arguments<'_>) {
        log::error!(
            "vCPU {}: {what}; guest at {:#x}:{:#x}, CR0 {:#x}, CR2 {:#x}, CR3 {:#x}, CR4 {:#x}, RFLAGS {:#x}",
            self.index,
            self.cpu.segment(SegmentRegister::Cs).selector,
            self.cpu.rip(),
            self.cpu.control(Control::Cr0),
            self.cpu.control(Control::Cr2),
            self.cpu.control(Control::Cr3),
            self.cpu.control(Control::Cr4),
            self.cpu.rflags(),
        );
    }

    /// Takes the host's interrupts: kicks, the timer, console input.
    #[cold]
    fn host_interrupt(&mut self) {
        self.recheck = true;
        let events = &self.statistics.events;
        for _ in 0..EVENT_BATCH {
            match self.cpu.take() {
                None => break,
                Some(HostEvent::Kick) => events.kicks.count(),
                Some(HostEvent::ConsoleInput) => {
                    events.console_input.count();
                    self.machine.pump_input(self.index);
                }
                Some(HostEvent::PowerButton) => {
                    events.power_button.count();
                    self.machine.tell(&journal::PowerButton { vcpu: self.index.into() });
                    self.machine.with_pc(self.index, |pc, around| pc.power_button(around));
                }
                Some(HostEvent::Nmi) => self.host_nmi(),
                Some(HostEvent::Unexpected(vector)) => {
                    events.unexpected_interrupts.count();
                    self.machine.tell(&journal::UnexpectedInterrupt { vcpu: self.index.into(), vector: vector.into() });
                }
            }
        }
    }

    /// A PC's NMI button is wired to LINT1, by way of the mask in port 70h.
    fn host_nmi(&mut self) {
        if self.machine.with_pc(self.index, |pc, _| pc.nmi_masked()) {
            return;
        }
        for level in [true, false] {
            let signals = self.lapic.set_lint(Lint::Lint1, level);
            self.obey(signals);
        }
    }

    /// Everything that can make an interrupt deliverable or move a deadline.
    #[cold]
    #[inline(never)]
    fn service(&mut self) {
        self.recheck = false;
        self.sync_task_priority();
        let machine = self.machine;
        let signals = self.lapic.absorb(self.port);
        self.obey(signals);
        if self.index == BOOT_PROCESSOR {
            let signals = self.lapic.set_lint(Lint::Lint0, machine.lint0.load(Ordering::Acquire));
            self.obey(signals);
        }
        self.expire();
        self.deliver();
        self.arm();
    }

    fn obey(&mut self, signals: Signals) {
        if signals.is_empty() {
            return;
        }
        if signals.init {
            self.init();
        }
        if let Some(page) = signals.startup
            && self.activity == Activity::WaitForStartup
        {
            self.start(page);
        }
        // One NMI that is taken at once and one latched is all that a processor holds (SDM vol. 3A, 7.7.1).
        let more = u8::from(signals.nmi) + u8::from(signals.second_nmi);
        let room = if self.cpu.injection_state().nmi { 2 } else { 1 };
        self.pending_nmis = (self.pending_nmis + more).min(room);
        self.extint |= signals.extint;
    }

    /// INIT: registers as after power-up, then wait for a start-up IPI. The boot processor would go to the firmware's
    /// reset vector, where no firmware is: that is a reset of the machine.
    fn init(&mut self) {
        if self.index == BOOT_PROCESSOR {
            self.machine.end(Lifecycle::Reset);
        }
        self.statistics.events.inits.count();
        self.machine.note(&journal::Reset { vcpu: self.index.into() });
        self.lapic.reset();
        // Senders must know at once: what they still post is accepted, and would come after the start.
        self.lapic.publish(self.port);
        (self.pending_nmis, self.extint) = (0, false);
        self.activity = Activity::WaitForStartup;
    }

    fn start(&mut self, page: u8) {
        self.statistics.events.starts.count();
        self.machine.note(&journal::Started { vcpu: self.index.into(), page: page.into() });
        let signature = self.machine.cpuid.signature();
        // INIT leaves MSRs alone, and clears the breakpoints (SDM vol. 3A, table 10-1).
        let pat = self.cpu.switched_msr(SwitchedMsr::Pat);
        self.cpu.restore(&VcpuState { pat, ..entry::real_mode(page, signature) });
        (0..4).for_each(|number| self.cpu.set_debug(number, 0));
        self.activity = Activity::Running;
    }

    /// Lets timers fire whose time has come.
    fn expire(&mut self) {
        let clock = self.machine.platform.clock();
        let now = clock.now();
        if self.lapic.deadline() <= now {
            self.statistics.events.apic_timer.count();
            self.lapic.expire(clock);
        }
        if self.index == BOOT_PROCESSOR && self.pc_deadline() <= now {
            self.statistics.events.pc_timer.count();
            self.machine.with_pc(self.index, |pc, around| pc.expire(around));
        }
    }

    fn pc_deadline(&self) -> Instant {
        Instant(self.machine.pc_deadline.load(Ordering::Acquire))
    }

    fn arm(&mut self) {
        let mut deadline = self.lapic.deadline();
        if self.index == BOOT_PROCESSOR {
            deadline = deadline.min(self.pc_deadline());
        }
        self.cpu.arm(deadline);
    }

    /// The guest moves CR8 without an exit, and the local APIC's register with one; the last change of either counts.
    fn sync_task_priority(&mut self) {
        self.lapic.set_task_priority(self.cpu.control(Control::Cr8) as u8);
    }

    /// Whether the 8259s want the processor and its LINT0 lets them.
    fn extint_waits(&self) -> bool {
        self.extint
            || self.index == BOOT_PROCESSOR && self.machine.lint0.load(Ordering::Acquire) && self.lapic.accepts_extint()
    }

    /// Injects what the guest can take now and asks for a window for what it cannot.
    fn deliver(&mut self) {
        self.cpu.set_control(Control::Cr8, u64::from(self.lapic.task_priority()));
        if self.activity == Activity::WaitForStartup {
            return;
        }
        let state = self.cpu.injection_state();
        if state.queued {
            self.wake();
        }
        let mut interrupts = state.interrupts;
        // A processor that keeps NMIs by itself takes two at once: both come before any interrupt.
        while self.pending_nmis > 0 && self.cpu.injection_state().nmi {
            self.pending_nmis -= 1;
            self.wake();
            self.cpu.inject(Event::Nmi);
            self.statistics.events.nmis.count();
            interrupts = false;
        }
        if interrupts && let Some(vector) = self.take_vector() {
            self.wake();
            self.cpu.inject(Event::Interrupt(vector));
            self.machine.note(&journal::Interrupted { vcpu: self.index.into(), vector: vector.into() });
        }
        self.cpu.request_nmi_window(self.pending_nmis > 0);
        let pending = self.lapic.pending();
        let class = match pending {
            _ if P::Cpu::DELIVERS && self.offer(pending) => None,
            Some(vector) => Some(vector >> 4),
            // Above every task priority: the 8259s know none.
            None if self.extint_waits() => Some(EXTINT_CLASS),
            None => self.lapic.blocked_by_task_priority().map(|vector| vector >> 4),
        };
        self.cpu.request_interrupt_window(class);
        if state.queued && (class.is_some() || self.pending_nmis > 0) {
            // What is queued is delivered by the next entry; look again after it.
            self.recheck = true;
        }
    }

    /// Leaves what waits to the processor, if it delivers by itself. The 8259s' vector is what they would say now: they are
    /// asked again, and for good, when the guest has taken it, before anything else can change them.
    fn offer(&mut self, pending: Option<u8>) -> bool {
        let offer = |over_priority| move |vector| Offer { vector, over_priority };
        self.offers_extint = pending.is_none() && self.extint_waits();
        let external = self.offers_extint.then(|| self.machine.with_pc(self.index, |pc, _| pc.pic_next_vector()));
        let fixed = pending.or_else(|| self.lapic.blocked_by_task_priority());
        self.cpu.offer_interrupt(external.map(offer(true)).or(fixed.map(offer(false))))
    }

    /// The vector that the guest takes next, acknowledged at its source.
    fn take_vector(&mut self) -> Option<u8> {
        if let Some(vector) = self.lapic.pending() {
            self.statistics.events.interrupts.count();
            return Some(self.lapic.acknowledge(vector));
        }
        if self.extint_waits() {
            self.extint = false;
            self.statistics.events.external_interrupts.count();
            return Some(self.machine.with_pc(self.index, |pc, around| pc.pic_acknowledge(around)));
        }
        None
    }

    fn wake(&mut self) {
        if self.activity == Activity::Halted {
            self.activity = Activity::Running;
        }
    }

    /// Sleeps until something happens that [`Self::service`] must look at.
    #[inline(never)]
    fn idle(&mut self) {
        if !self.port.needs_attention() {
            self.statistics.events.sleeps.count();
            self.cpu.wait();
        }
        self.host_interrupt();
    }
}

#[cfg(test)]
mod tests;
