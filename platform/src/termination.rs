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

            /// The reason at more length, for documentation.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What `docs/termination-codes.md` must hold.
    fn page() -> String {
        let mut page = String::from(
            "# Termination codes\n\nWhy Parados ended a VM. Made from the table in `platform/src/termination.rs`; a test \
             compares. The codes\nare stable; the native platform puts code and words into its last record, and \
             `cargo xtask run` ends with\nstatus 70 (69 for 15h, 64 for 13h).\n\n| code | reason | explanation |\n|---|---|---|\n",
        );
        for reason in Reason::ALL {
            page += &format!("| {:02x}h | {} |{} |\n", reason.code(), reason.words(), reason.explanation());
        }
        page
    }

    /// To rewrite the page after a change of the table: `UPDATE_DOCS=1 cargo test -p platform`.
    #[test]
    fn the_page_of_codes_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/termination-codes.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), page());
    }

    #[test]
    fn codes_are_distinct() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert!(Reason::ALL.iter().skip(index + 1).all(|other| other.code() != reason.code()), "{reason:?}");
        }
    }
}
