// SPDX-License-Identifier: MIT OR Apache-2.0
//! The events: what is logged where a line of text would cost too much, or where it may leave.
//!
//! An event is a code and up to four numbers. It is put into words when somebody reads it.

use core::fmt;

use log::Level;
use platform::Releasable;

use crate::level::Module;

/// Numbers of an event.
pub const WORDS: usize = 4;

/// A typed event.
pub trait Event: fmt::Display {
    /// Which event it is. Stable: a memory image may be read by a later program.
    const CODE: u16;
    /// Whose it is.
    const MODULE: Module;
    /// How much it matters.
    const LEVEL: Level;
    /// Its numbers.
    fn words(&self) -> [u64; WORDS];
}

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident { $($field:ident),+ } = $code:literal, $module:ident, $level:ident, $text:literal;)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            #[allow(missing_docs, reason = "the text says what the fields are")]
            pub struct $name { $(pub $field: u64),+ }

            impl Event for $name {
                const CODE: u16 = $code;
                const MODULE: Module = Module::$module;
                const LEVEL: Level = Level::$level;

                #[inline]
                fn words(&self) -> [u64; WORDS] {
                    let mut words = [0; WORDS];
                    words.iter_mut().zip([$(self.$field),+]).for_each(|(to, from)| *to = from);
                    words
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    describe($code, &self.words(), f)
                }
            }
        )+

        /// The event with this code in words.
        pub(crate) fn describe(code: u16, words: &[u64], f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut words = words.iter().copied();
            match code {
                $($code => {
                    $(let $field = words.next().unwrap_or(0);)+
                    write!(f, $text, $($field),+)
                })+
                _ => write!(f, "event {code:#x}"),
            }
        }

        /// Code, module, level and text of each event, in their order.
        #[cfg(test)]
        pub(crate) const EVENTS: &[(u16, Module, Level, &str)] = &[$(($code, Module::$module, Level::$level, $text)),+];
    };
}

events! {
    /// A vCPU accessed an MSR that is in no table; it got #GP.
    UnknownMsr { vcpu, index } = 0x01, Handlers, Debug, "vCPU {}: no such MSR: {:#x}";
    /// A vCPU wrote an MSR whose effect is not emulated.
    IgnoredMsrWrite { vcpu, index } = 0x02, Handlers, Debug, "vCPU {}: a write without effect to MSR {:#x}";
    /// A vCPU accessed a port where nobody expected it.
    UnknownPort { vcpu, port } = 0x03, Devices, Debug, "vCPU {}: nothing is at port {:#x}";
    /// A vCPU accessed an address where nobody expected it.
    UnknownMmio { vcpu, gpa } = 0x04, Devices, Debug, "vCPU {}: nothing is at address {:#x}";
    /// A vCPU executed on a device what the emulator does not know.
    NotEmulated { vcpu, rip } = 0x05, Handlers, Debug, "vCPU {}: not emulated: the instruction at {:#x}";
    /// The instruction at RIP is not the one that exited.
    Mismatch { vcpu } = 0x06, Handlers, Debug, "vCPU {}: an exit that its instruction does not fit";
    /// An exit that the run loop does not handle at once. The kind is its index in `docs/statistics.md`.
    Exited { vcpu, kind, rip } = 0x10, Core, Trace, "vCPU {}: exit of kind {} at {:#x}";
    /// An exception was injected.
    Raised { vcpu, vector } = 0x11, Core, Trace, "vCPU {}: exception {}";
    /// An interrupt was injected.
    Interrupted { vcpu, vector } = 0x12, Core, Trace, "vCPU {}: interrupt {:#x}";
    /// The local APIC sent a message.
    Sent { vcpu, vector } = 0x13, Core, Trace, "vCPU {}: sends a message with vector {:#x}";
    /// A start-up IPI started a vCPU.
    Started { vcpu, page } = 0x14, Core, Debug, "vCPU {}: starts at page {:#x}";
    /// INIT reset a vCPU.
    Reset { vcpu } = 0x15, Core, Debug, "vCPU {}: INIT";
    /// Guest pages changed their state. The transition is its index in `docs/statistics.md`.
    Converted { transition, first, bytes } = 0x16, Core, Debug, "transition {} of the pages at {:#x}, {:#x} bytes";
    /// The host sent an interrupt that nobody asked for.
    UnexpectedInterrupt { vcpu, vector } = 0x20, Core, Warn, "vCPU {}: the host sent the unexpected interrupt {:#x}";
    /// The host pressed the power button.
    PowerButton { vcpu } = 0x21, Core, Info, "vCPU {}: the host pressed the power button";
}

/// What the host did itself it may be told.
impl Releasable for UnexpectedInterrupt {}
impl Releasable for PowerButton {}
