// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a vCPU did: how often it exited and why, how long each exit took, which ports, registers and pages it touched most.
//!
//! Each vCPU writes its own [`Statistics`], which lie beside its letter box in one page of memory; anybody may read them
//! at any time. The instructions that a CPUID exit spends on them are few enough (`cargo xtask bench exits` counts them) that
//! they are always on; the image without them, for that comparison, is built without the feature `statistics`.
//!
//! The only hostile party is the guest, which chooses what is counted. It can make numbers large, not wrong: a counter
//! wraps after 2^64 events, and a table keeps what was touched most, with a bound on its error.

mod histogram;
mod report;
mod top;
pub(crate) mod window;

use core::sync::atomic::{AtomicU64, Ordering};

use platform::{Clock, Direction, ExitReason};
use vc_handlers::Oddity;

pub use histogram::{BUCKETS, Histogram};
pub(crate) use report::{Consent, MachineFigures, Report};
pub use top::{ENTRIES, Entry, Top};

/// Whether the image counts exits and measures them.
const ON: bool = cfg!(feature = "statistics");

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)+) => {
        /// The kinds of exit that are told apart.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Kind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl Kind {
            /// All kinds, in the order of their histograms.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// What belongs to the kind, for documentation.
            #[cfg(test)]
            const fn explanation(self) -> &'static str {
                match self { $(Self::$kind => concat!($($doc),+),)+ }
            }
        }
    };
}

kinds! {
    /// CPUID.
    Cpuid = "cpuid",
    /// RDMSR.
    Rdmsr = "rdmsr",
    /// WRMSR.
    Wrmsr = "wrmsr",
    /// IN and INS.
    PortIn = "port_in",
    /// OUT and OUTS.
    PortOut = "port_out",
    /// Memory faults, nearly all of them MMIO.
    Mmio = "mmio",
    /// HLT. The sleep that follows is not part of the handling.
    Hlt = "hlt",
    /// The host's interrupts, kicks and timers.
    HostInterrupt = "host_interrupt",
    /// The guest can take an interrupt or NMI that waited.
    Window = "window",
    /// MOV to and from control and debug registers.
    Register = "register",
    /// All others.
    Other = "other",
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident,)+) => {
        /// Events of one vCPU.
        #[derive(Debug, Default)]
        #[repr(C)]
        pub struct Events {
            $($(#[doc = $doc])+ pub $field: Counter,)+
        }

        impl Events {
            /// The name of each, in their order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field),)+];
            /// What each is, in the same order, for documentation.
            #[cfg(test)]
            const EXPLANATIONS: &'static [&'static str] = &[$(concat!($($doc),+),)+];

            /// The present values, in the order of [`Self::NAMES`].
            pub fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$field.get(),)+]
            }
        }
    };
}

counters! {
    /// Interrupts injected from the local APIC.
    interrupts,
    /// Interrupts injected from the 8259s.
    external_interrupts,
    /// NMIs injected.
    nmis,
    /// Exceptions injected.
    exceptions,
    /// Interrupt messages that the local APIC sent.
    messages,
    /// Ends of level-triggered interrupts that the IOAPIC was told.
    level_ends,
    /// The local APIC's timer fired.
    apic_timer,
    /// A timer of the PC fired: PIT, RTC, PM timer, UART. On the boot processor alone.
    pc_timer,
    /// Kicks from other processors, and deadlines.
    kicks,
    /// The host had console input.
    console_input,
    /// The host pressed the power button.
    power_button,
    /// The host sent an interrupt that nobody expects.
    unexpected_interrupts,
    /// The vCPU slept.
    sleeps,
    /// INIT.
    inits,
    /// Start-up IPIs that started the vCPU.
    starts,
    /// Accesses to MSRs that nobody knows.
    unknown_msr,
    /// Writes to MSRs that had no effect.
    ignored_msr_write,
    /// Accesses to ports that nobody expected.
    unknown_port,
    /// Accesses to MMIO addresses that nobody expected.
    unknown_mmio,
    /// Instructions that the emulator does not know.
    not_emulated,
    /// Exits whose instruction did not fit them.
    mismatch,
}

/// A counter with one writer. Never Loom's: nothing is synchronised by it, and it would only multiply the interleavings.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more. A plain load and store, because only one processor writes.
    #[inline(always)]
    pub fn count(&self) {
        self.set(self.get().wrapping_add(1));
    }

    /// The present value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// When the handling of an exit began: the low half of the cycle counter. Nothing in a handler waits, so what takes longer
/// than 2^32 cycles was the host's doing and is counted as what remains.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started(u32);

impl Started {
    #[inline(always)]
    pub(crate) fn now(clock: &impl Clock) -> Self {
        Self(if ON { clock.cycles() as u32 } else { 0 })
    }
}

/// Figures of one vCPU. Written by its own processor alone.
///
/// What the most frequent exits touch comes first; all of it fits into one page together with the letter box.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Statistics {
    exits: [Histogram; Kind::ALL.len()],
    ports: Top,
    msrs: Top,
    mmio: Top,
    /// Events.
    pub events: Events,
}

impl Statistics {
    /// How long exits of this kind took, and so how many there were.
    #[inline(always)]
    pub fn of(&self, kind: Kind) -> &Histogram {
        #[allow(clippy::indexing_slicing, reason = "there are as many histograms as kinds")]
        &self.exits[kind as usize]
    }

    /// Counts an exit of this kind whose handling is over.
    #[inline(always)]
    pub(crate) fn exit(&self, kind: Kind, started: Started, clock: &impl Clock) {
        if ON {
            self.of(kind).record((clock.cycles() as u32).wrapping_sub(started.0));
        }
    }

    /// Counts an access to a port.
    #[inline(always)]
    pub(crate) fn port(&self, port: u16) {
        if ON {
            self.ports.count(port.into());
        }
    }

    /// Counts an access to an MSR.
    #[inline(always)]
    pub(crate) fn msr(&self, index: u32) {
        if ON {
            self.msrs.count(index);
        }
    }

    /// Counts an access to an MMIO page.
    #[inline(always)]
    pub(crate) fn mmio(&self, gpa: platform::Gpa) {
        if ON {
            // The guest has 40 bits of physical address, so a page number fits.
            self.mmio.count((gpa.0 >> 12) as u32);
        }
    }

    pub(crate) fn oddity(&self, oddity: Oddity) {
        let counter = match oddity {
            Oddity::UnknownMsr(_) => &self.events.unknown_msr,
            Oddity::IgnoredMsrWrite(_) => &self.events.ignored_msr_write,
            Oddity::UnknownPort(_) => &self.events.unknown_port,
            Oddity::UnknownMmio(_) => &self.events.unknown_mmio,
            Oddity::NotEmulated(_) => &self.events.not_emulated,
            Oddity::Mismatch => &self.events.mismatch,
        };
        counter.count();
    }
}

impl Kind {
    /// RDMSR or WRMSR.
    #[inline(always)]
    pub(crate) const fn msr(direction: Direction) -> Self {
        if matches!(direction, Direction::Read) { Self::Rdmsr } else { Self::Wrmsr }
    }

    /// IN or OUT.
    #[inline(always)]
    pub(crate) const fn port(direction: Direction) -> Self {
        if matches!(direction, Direction::Read) { Self::PortIn } else { Self::PortOut }
    }

    /// The kind of any exit.
    pub(crate) const fn of(reason: &ExitReason) -> Self {
        match reason {
            ExitReason::Cpuid => Self::Cpuid,
            ExitReason::Msr(access) => Self::msr(access.direction),
            ExitReason::Io(access) => Self::port(access.direction),
            ExitReason::Memory(_) => Self::Mmio,
            ExitReason::Hlt => Self::Hlt,
            ExitReason::HostInterrupt => Self::HostInterrupt,
            ExitReason::InterruptWindow | ExitReason::NmiWindow => Self::Window,
            ExitReason::Control(_) | ExitReason::Debug(_) => Self::Register,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests;
