// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of what a vCPU did: each vCPU writes its own, and they are added up when the VM ends.

use core::fmt;

use platform::{Direction, ExitReason};
use vc_handlers::Oddity;
use vmm_interface::sync::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident,)+) => {
        /// Counters of one vCPU. Written by its own processor alone, read by whoever ends the VM.
        #[derive(Debug, Default)]
        pub struct Statistics {
            $($(#[doc = $doc])+ pub $field: Counter,)+
        }

        impl Statistics {
            /// Adds `other` to `self`.
            pub(crate) fn add(&self, other: &Self) {
                $(self.$field.add(other.$field.get());)+
            }

            fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field.get()),)+].into_iter()
            }
        }
    };
}

counters! {
    /// CPUID exits.
    cpuid,
    /// RDMSR exits.
    rdmsr,
    /// WRMSR exits.
    wrmsr,
    /// IN and INS exits.
    port_in,
    /// OUT and OUTS exits.
    port_out,
    /// Memory faults, nearly all MMIO.
    mmio,
    /// HLT exits.
    hlt,
    /// Exits for the host's interrupts, kicks and timers.
    host_interrupt,
    /// Exits that opened an interrupt or NMI window.
    window,
    /// All other exits.
    other,
    /// Interrupts injected.
    interrupts,
    /// NMIs injected.
    nmis,
    /// Exceptions injected.
    exceptions,
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

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more. A plain load and store, because only one processor writes.
    #[inline]
    pub fn count(&self) {
        self.add(1);
    }

    fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Statistics {
    /// Counts an exit.
    #[inline]
    pub(crate) fn exit(&self, reason: &ExitReason) {
        let counter = match reason {
            ExitReason::Cpuid => &self.cpuid,
            ExitReason::Msr(access) => return self.msr(access.direction),
            ExitReason::Io(access) => return self.port(access.direction),
            ExitReason::Memory(_) => &self.mmio,
            ExitReason::Hlt => &self.hlt,
            ExitReason::HostInterrupt => &self.host_interrupt,
            ExitReason::InterruptWindow | ExitReason::NmiWindow => &self.window,
            _ => &self.other,
        };
        counter.count();
    }

    /// Counts RDMSR or WRMSR.
    #[inline]
    pub(crate) fn msr(&self, direction: Direction) {
        if direction == Direction::Read { self.rdmsr.count() } else { self.wrmsr.count() }
    }

    /// Counts a port access.
    #[inline]
    pub(crate) fn port(&self, direction: Direction) {
        if direction == Direction::Read { self.port_in.count() } else { self.port_out.count() }
    }

    pub(crate) fn oddity(&self, oddity: Oddity) {
        let counter = match oddity {
            Oddity::UnknownMsr(_) => &self.unknown_msr,
            Oddity::IgnoredMsrWrite(_) => &self.ignored_msr_write,
            Oddity::UnknownPort(_) => &self.unknown_port,
            Oddity::UnknownMmio(_) => &self.unknown_mmio,
            Oddity::NotEmulated(_) => &self.not_emulated,
            Oddity::Mismatch => &self.mismatch,
        };
        counter.count();
    }
}

/// As one JSON object.
impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.fields().enumerate() {
            write!(f, "{}\"{name}\":{value}", if index == 0 { '{' } else { ',' })?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_printed_as_json() {
        let (one, two) = (Statistics::default(), Statistics::default());
        one.exit(&ExitReason::Cpuid);
        two.exit(&ExitReason::Cpuid);
        two.exit(&ExitReason::Shutdown);
        one.add(&two);
        let text = one.to_string();
        assert!(text.starts_with("{\"cpuid\":2,\"rdmsr\":0,"), "{text}");
        assert!(text.contains("\"other\":1,") && text.ends_with("\"mismatch\":0}"), "{text}");
    }
}
