// SPDX-License-Identifier: MIT OR Apache-2.0
//! The SNP platform as one value.

use platform::{
    Attester, Clock, Console, Gpa, GuestPages, HostAccess, HostEvent, HostEvents, Instant, MemoryError, Outbound,
    PAGE_SIZE, PageRange, PageSize, PageViews, Platform, Termination, Timer, Waker,
};
use platform_shared::clock::TscClock;
use specs::ghcb::page_state::{PRIVATE, SHARED};
use specs::sev::VmplRights;

use crate::accept::{self, ALL_RIGHTS, grant_all};
use crate::acceptance::{Acceptance, stretch_of};
use crate::attester::SnpAttester;
use crate::clock::SnpClock;
use crate::console::CONSOLES;
use crate::cpu::SnpCpu;
use crate::ending::Ending;
use crate::instructions::{flush_all, halt_unless_rung};
use crate::memory::SnpMemory;
use crate::page_state;
use crate::{apic, doorbell, log, power_button};

/// The host: its devices through the GHCB, and the other processors.
pub struct SnpHost;

impl HostAccess for SnpHost {
    fn transmit(&self, console: Console, byte: u8) {
        CONSOLES.transmit(console, byte);
    }

    fn receive(&self, console: Console) -> Option<u8> {
        CONSOLES.receive(console)
    }

    fn clock_register(&self, register: u8) -> u8 {
        CONSOLES.clock_register(register)
    }
}

impl Waker for SnpHost {
    fn kick(&self, index: u32) {
        // A request to the host serialises. One that it refuses is a kick that comes late, by the timer.
        let _ = apic::send(index, apic::KICK_VECTOR);
    }
}

/// The SNP platform. One for the whole image, never freed.
pub struct Snp {
    memory: SnpMemory,
    clock: SnpClock,
    host: SnpHost,
    processors: u32,
    apic_hz: u64,
    attester: SnpAttester,
}

impl Snp {
    pub(crate) const fn new(
        acceptance: Acceptance,
        clock: TscClock,
        processors: u32,
        apic_hz: u64,
        attester: SnpAttester,
    ) -> Self {
        let memory = SnpMemory::new(acceptance);
        Self { memory, clock: SnpClock::new(clock), host: SnpHost, processors, apic_hz, attester }
    }

    pub(crate) const fn acceptance(&self) -> &Acceptance {
        self.memory.reach()
    }
}

impl Platform for Snp {
    type Cpu = SnpCpu;
    type Memory = SnpMemory;
    type Pages = SnpPages;
    type Clock = SnpClock;
    type Host = SnpHost;

    fn memory(&self) -> &SnpMemory {
        &self.memory
    }

    fn clock(&self) -> &SnpClock {
        &self.clock
    }

    fn host(&self) -> &SnpHost {
        &self.host
    }

    fn views(&self) -> Option<&PageViews> {
        self.acceptance().views()
    }

    fn processors(&self) -> u32 {
        self.processors
    }

    fn attester(&self) -> Option<&dyn Attester> {
        Some(&self.attester)
    }

    fn record(&self, json: Outbound<'_>) {
        log::LINES.record(json);
    }

    fn say(&self, line: Outbound<'_>) -> bool {
        log::say(line)
    }

    fn end(&self, how: Termination) -> ! {
        Ending::end(how)
    }
}

impl SnpCpu {
    /// What the host's timer has to be set to, in its ticks; `None` if it is set well already, or nobody waits. Each change of it
    /// is an exit, so an earlier deadline that is armed stays: it comes for nothing and the next one is armed then. One that is
    /// overdue is not waited for.
    fn ticks(&self, deadline: Instant, now: Instant) -> Option<u32> {
        if deadline == Instant::NEVER || self.armed.is_some_and(|armed| now < armed && armed <= deadline) {
            return None;
        }
        let ticks = u128::from(deadline.since(now)) * u128::from(self.snp.apic_hz) / 1_000_000_000;
        // A deadline beyond the counter's reach comes in several turns; a past one at once.
        Some(u32::try_from(ticks).unwrap_or(u32::MAX).max(1))
    }
}

impl Timer for SnpCpu {
    /// How late the host comes is its own affair; what time it is then, the TSC says.
    fn arm(&mut self, deadline: Instant) {
        let now = self.snp.clock.now();
        let deadline = self.timer_deadline(deadline, now);
        if let Some(ticks) = self.ticks(deadline, now) {
            self.armed = apic::start_timer(ticks).is_ok().then_some(deadline);
        }
    }

    fn wait(&mut self) {
        halt_unless_rung(core::ptr::from_ref(self.doorbell()).cast());
    }
}

/// What a vector at the doorbell means. The list of those that mean something is all that a host can tell; none is the guest's.
const fn meaning(vector: u8) -> HostEvent {
    match vector {
        doorbell::NMI => HostEvent::Nmi,
        apic::TIMER_VECTOR | apic::KICK_VECTOR => HostEvent::Kick,
        apic::CONSOLE_VECTOR => HostEvent::ConsoleInput,
        apic::POWER_VECTOR => HostEvent::PowerButton,
        other => HostEvent::Unexpected(other),
    }
}

impl HostEvents for SnpCpu {
    fn take(&mut self) -> Option<HostEvent> {
        let vector = doorbell::take(self.doorbell())?;
        let mut event = meaning(vector);
        match vector {
            // Neither is in service. Events all the same: of those a host can send only so many at a time.
            doorbell::NMI | apic::SPURIOUS_VECTOR => return Some(event),
            apic::TIMER_VECTOR => self.armed = None,
            // Acknowledged at its source before the EOI, because the line is level-triggered.
            apic::POWER_VECTOR if !power_button::take() => event = HostEvent::Kick,
            _ => {}
        }
        apic::end_of_interrupt();
        Some(event)
    }
}

/// The hardware side of page states: validation and VMPL2's rights.
pub struct SnpPages {
    pub(crate) snp: &'static Snp,
}

/// What lies between two offsets of a range.
fn part(range: PageRange, from: u64, to: u64) -> Result<PageRange, MemoryError> {
    let Gpa(start) = range.start();
    PageRange::new(Gpa(start + from), Gpa(start + to)).ok_or(MemoryError::Host)
}

impl GuestPages for SnpPages {
    /// Memory is only announced here, and accepted when somebody touches it. What was taken from the guest comes back empty.
    fn accept(&mut self, range: PageRange, size: PageSize) -> Result<(), MemoryError> {
        let acceptance = self.snp.acceptance();
        let stretch = stretch_of(range.start());
        if !acceptance.announce(stretch) || !acceptance.is_accepted(stretch) {
            return Ok(());
        }
        accept::zero(range.start(), range.bytes());
        grant_all(range, size, ALL_RIGHTS)
    }

    /// What the host has not made shared is validated again, or it would be lost to everybody.
    fn share(&mut self, range: PageRange, size: PageSize) -> Result<u64, MemoryError> {
        accept::rescind(range, size)?;
        let done = page_state::change(range, size, SHARED)?;
        if done < range.bytes() {
            accept::accept_again(part(range, done, range.bytes())?)?;
        }
        Ok(done)
    }

    /// No right holds the guest off a shared page; the host takes it out of everybody's reach when it makes it private. A page that
    /// it only says it has made private faults when it is validated, and one that was validated all the time says so.
    fn unshare(&mut self, range: PageRange, size: PageSize) -> Result<u64, MemoryError> {
        let done = page_state::change(range, size, PRIVATE)?;
        if done > 0 {
            accept::accept_again(part(range, 0, done)?)?;
        }
        Ok(done)
    }

    fn trap(&mut self, range: PageRange, size: PageSize) -> Result<(), MemoryError> {
        accept::ensure(self.snp.acceptance(), range.start(), range.bytes().max(PAGE_SIZE))?;
        grant_all(range, size, VmplRights::empty())
    }

    fn flush(&mut self) {
        flush_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::cpu;

    #[test]
    fn five_vectors_mean_something() {
        let known = |vector: &u8| !matches!(meaning(*vector), HostEvent::Unexpected(it) if it == *vector);
        assert_eq!((0..=u8::MAX).filter(known).collect::<Vec<_>>(), [2, 0x40, 0x41, 0x42, 0x43]);
        let meanings = [2, 0x40, 0x41, 0x42, 0x43].map(meaning);
        use HostEvent::{ConsoleInput, Kick, Nmi, PowerButton};
        assert_eq!(meanings, [Nmi, Kick, Kick, ConsoleInput, PowerButton]);
    }

    /// The host's timer has 1 GHz here.
    #[test]
    fn the_hosts_timer_is_set_for_what_is_due_next_and_not_more_often() {
        let mut cpu = cpu();
        let now = Instant(1_000_000);
        assert_eq!(cpu.ticks(Instant(1_000_700), now), Some(700));
        assert_eq!(cpu.ticks(Instant(5), now), Some(1), "overdue");
        assert_eq!(cpu.ticks(now.after(1 << 40), now), Some(u32::MAX), "in several turns");
        assert_eq!(cpu.ticks(Instant::NEVER, now), None);
        cpu.armed = Some(Instant(1_000_500));
        assert_eq!(cpu.ticks(Instant(1_000_700), now), None, "an earlier one is armed");
        assert_eq!(cpu.ticks(Instant(1_000_400), now), Some(400));
        assert_eq!(cpu.ticks(Instant(1_000_700), Instant(1_000_500)), Some(200), "that one is overdue");
    }
}
