// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a VM ended: one table of reasons, readable by a host operator.

use core::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $words:literal;)+) => {
        /// Why Parados ended the VM. The numbers are stable.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $code,)+
        }

        impl Reason {
            /// All reasons, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The reason in words, for one line of a log.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)+ }
            }

            /// The stable number.
            pub const fn code(self) -> u16 {
                self as u16
            }
        }
    };
}

reasons! {
    /// A bug: Parados panicked.
    Panic = 0x01, "Parados panicked";
    /// A processor exception in Parados itself.
    OwnException = 0x02, "exception in Parados";
    /// The launch block in the image is not one of ours.
    BadLaunchBlock = 0x10, "the image's launch block is corrupt";
    /// The memory map that the loader gave is absent, unsorted, overlapping or too small.
    BadMemoryMap = 0x11, "the host's memory map is unusable";
    /// The processor count that the loader gave is zero or above the limit.
    BadProcessorCount = 0x12, "the host's processor count is unusable";
    /// The payload does not fit into the guest's memory.
    PayloadTooLarge = 0x13, "the payload does not fit into the memory";
    /// Parados's own memory does not suffice for this VM.
    OutOfMemory = 0x14, "Parados's own memory does not suffice";
    /// The processor lacks a feature that the platform needs.
    MissingFeature = 0x15, "the processor lacks a needed feature";
    /// An application processor did not start.
    ProcessorStart = 0x16, "a processor did not start";
    /// Guest entry failed: the processor refused the guest's state.
    InvalidGuestState = 0x20, "the processor refused the guest's state";
    /// The platform reported an exit that cannot happen.
    UnknownExit = 0x21, "an exit that cannot happen";
    /// A guest memory fault at an address that must be mapped.
    NestedFault = 0x22, "a guest page fault that cannot happen";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (reason {:#04x})", self.words(), self.code())
    }
}

/// How the run of a VM ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Termination {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest triple-faulted.
    TripleFault,
    /// A guest write to the test device's exit port.
    TestExit(u32),
    /// Parados gave up, with a detail whose meaning depends on the reason.
    Fatal(Reason, u64),
}
