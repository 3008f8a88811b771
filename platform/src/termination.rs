// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a VM ended: one table of reasons, readable by a host operator.

use core::fmt;

use crate::Releasable;

/// What the number is that comes with a reason, and whether the host may have it from every image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Always zero.
    None,
    /// It says nothing about the guest: it leaves with the reason.
    Released(&'static str),
    /// It may say something about the guest, or where Parados was for its sake: an image for debugging logs it, others keep
    /// it in the crash record or to themselves.
    Private(&'static str),
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $words:literal, $detail:ident $(($what:literal))?;)+) => {
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
            #[cfg(test)]
            const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }

            /// What its detail is.
            pub const fn detail(self) -> Detail {
                match self { $(Self::$name => Detail::$detail $(($what))?,)+ }
            }

            /// The stable number.
            pub const fn code(self) -> u16 {
                self as u16
            }

            /// The reason with this number.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

// A detail is Private unless it is certain that it says nothing about the guest.
reasons! {
    /// A bug: Parados panicked.
    Panic = 0x01, "Parados panicked", Private("the line in its source");
    /// A processor exception in Parados itself.
    OwnException = 0x02, "exception in Parados", Private("bits 63:56 the vector, 55:0 of its RIP");
    /// A processor exception in Parados before it had told where to go with one.
    EarlyException = 0x03, "exception in Parados at its very start", Released("the vector");
    /// The launch block in the image is not one of ours.
    BadLaunchBlock = 0x10, "the image's launch block is corrupt", None;
    /// The memory map that the loader gave is absent, unsorted, overlapping or too small.
    BadMemoryMap = 0x11, "the host's memory map is unusable", Released("the step of the start");
    /// The processor count that the loader gave is zero or above the limit.
    BadProcessorCount = 0x12, "the host's processor count is unusable", None;
    /// The payload does not fit into the guest's memory.
    PayloadTooLarge = 0x13, "the payload does not fit into the memory", None;
    /// Parados's own memory does not suffice for this VM.
    OutOfMemory = 0x14, "Parados's own memory does not suffice", Released("the step of the start");
    /// The processor lacks a feature that the platform needs.
    MissingFeature = 0x15, "the processor lacks a needed feature", Released("what is missing, where the platform has numbers for it");
    /// An application processor did not start.
    ProcessorStart = 0x16, "a processor did not start", Released("the step of the start");
    /// Parados's own memory does not fit between its image and the end of memory below 4 GiB.
    RegionTooSmall = 0x17, "Parados's region does not fit into the memory", None;
    /// The frequency of the processor's time-stamp counter could not be measured.
    NoClock = 0x18, "the platform's timers are unusable", None;
    /// The processor model's CPUID is not one from which a guest's could be made.
    BadCpuid = 0x19, "the processor model's CPUID is unusable", Released("the step of the start");
    /// The payload is of a kind that Parados cannot start.
    BadPayload = 0x1a, "the payload is of an unknown kind", Released("the step of the start");
    /// The host refused to change the state of the guest's pages while the machine was built.
    PagesRefused = 0x1b, "the host refused a change of page states", Released("the step of the start");
    /// The guest's machine could not be laid out: overlapping devices, or tables that do not fit.
    BadMachine = 0x1c, "the guest's machine cannot be laid out", Released("the step of the start");
    /// A processor found no vCPU to run, or one that another processor runs.
    NoVcpu = 0x1d, "a processor has no vCPU to run", Released("the processor");
    /// Parados's own memory does not suffice for what one processor needs.
    ProcessorMemory = 0x1e, "Parados's own memory does not suffice for a processor", Released("the processor");
    /// A part of the payload is not what the image's measured digest says: it was changed on its way into memory.
    PayloadMismatch = 0x1f, "the payload is not the one that was measured", Released("the step of the start");
    /// Guest entry failed: the processor refused the guest's state.
    InvalidGuestState = 0x20, "the processor refused the guest's state", Private("what the platform says besides");
    /// The platform reported an exit that cannot happen.
    UnknownExit = 0x21, "an exit that cannot happen", Private("the exit's code");
    /// Memory that is the guest's did not take an access of Parados: the host or the platform failed.
    GuestMemory = 0x22, "the guest's memory failed", Private("the guest-physical address");
    /// A device put its answer off, which none of this machine does.
    DeferredAnswer = 0x23, "a device put off an answer that it must give at once", Private("the answer's token");
    /// INIT reached a processor of Parados instead of being emulated.
    UnexpectedInit = 0x24, "an INIT that Parados must never see", None;
    /// Parados's own memory did not suffice for what the guest did with its memory.
    MemoryExhausted = 0x25, "Parados's own memory ran out", Private("the guest-physical address");
    /// The host refused to register the page through which Parados speaks with it (the GHCB).
    NotRegistered = 0x26, "the host registered no GHCB", Released("the step of the start");
    /// The host refused a request that the start needs: a doorbell, a processor, its interrupt controller.
    RequestRefused = 0x27, "the host refused what the start needs", Released("the step of the start");
    /// The host had a processor run the guest's state while Parados worked on it.
    SecondRun = 0x28, "the host ran the guest while Parados worked on it", None;
    /// The VM was launched with attributes that the image's measured policy forbids, or without those that it asks for.
    PolicyMismatch = 0x30, "the VM was not launched as the image's policy says", Released("the attributes that differ");
    /// The platform's backend does not run guests yet: what can be checked without one was in order.
    NoGuestYet = 0x31, "no guest can run on this platform yet", None;
}

impl Reason {
    /// The set of reason codes that Parados uses in a termination request (GHCB, MSR protocol: bits 15:12; 0 is the
    /// specification's own set, 1 is Linux's).
    pub const GHCB_SET: u8 = 8;

    /// Set and code of a termination request, which have four and eight bits.
    pub const fn ghcb(self) -> (u8, u8) {
        (Self::GHCB_SET, self.code() as u8)
    }

    /// The detail that goes with giving up on another processor: which one it is, where its own memory is the reason, and otherwise
    /// the step of the start (`docs/termination-codes.md`).
    pub const fn detail_of_processor(self, index: u32) -> u64 {
        const OTHER_PROCESSORS: u64 = 2;
        if matches!(self, Self::ProcessorMemory) { index as u64 } else { OTHER_PROCESSORS }
    }
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

impl Termination {
    /// The end in words, which say nothing of a detail.
    pub const fn words(self) -> &'static str {
        match self {
            Self::PowerOff => "the guest powered off",
            Self::Reset => "the guest reset the machine",
            Self::TripleFault => "the guest triple-faulted",
            Self::TestExit(_) => "the guest ended its test",
            Self::Fatal(reason, _) => reason.words(),
        }
    }

    /// A reason's code; zero, which is none, for an end that the guest wanted or brought about itself. A confidential host has
    /// no word for those: a backend writes to its power or reset port before it terminates.
    pub const fn code(self) -> u16 {
        match self {
            Self::Fatal(reason, _) => reason.code(),
            Self::PowerOff | Self::Reset | Self::TripleFault | Self::TestExit(_) => 0,
        }
    }

    /// The value of the GHCB MSR that asks the host to end the VM (GHCB 56421, MSR protocol, 100h): the set in bits 15:12,
    /// the code in 23:16.
    pub const fn ghcb_request(self) -> u64 {
        const TERMINATE: u64 = 0x100;
        TERMINATE | (Reason::GHCB_SET as u64) << 12 | (self.code() as u64) << 16
    }
}

/// The record of an end, one object of JSON, for the tool that started the VM.
///
/// The detail of a reason is in it only where the table above releases it, whatever image this is.
#[derive(Clone, Copy, Debug)]
pub struct EndRecord(pub Termination);

impl fmt::Display for EndRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, status) = match self.0 {
            Termination::PowerOff => ("poweroff", 0),
            Termination::Reset => ("reset", 0),
            Termination::TripleFault => ("triple-fault", 0),
            Termination::TestExit(value) => ("test-exit", value),
            Termination::Fatal(reason, detail) => {
                let (words, code) = (reason.words(), reason.code());
                write!(f, "{{\"kind\":\"terminated\",\"status\":70,\"reason\":\"{words}\",\"code\":{code}")?;
                if let Detail::Released(_) = reason.detail() {
                    write!(f, ",\"detail\":{detail}")?;
                }
                return f.write_str("}");
            }
        };
        write!(f, "{{\"kind\":\"{kind}\",\"status\":{status}}}")
    }
}

/// How a VM ends the host must know: it asked for it, or has to clear up.
impl Releasable for EndRecord {}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `docs/termination-codes.md` must hold.
    fn page() -> String {
        let mut page = String::from(
            "# Termination codes\n\nWhy Parados ended a VM. Made from the table in `platform/src/termination.rs`; a test \
             compares. The codes\nare stable, and each way to the end has its own. They reach the host:\n\n| platform | how |\n\
             |---|---|\n| native | code and words in the last record on the debug port; `cargo xtask run` ends with status 70 \
             (69 for 15h, 64 for 13h) |\n| SNP | GHCB termination, reason set 8h; the reference host tells the words |\n| TDX | \
             ReportFatalError: the code in R12, the words as its message; no host here has read it |\n\n\
             TDX runs no guest yet.\n\nA detail comes with most reasons, one number with one meaning. It leaves only \
             where it cannot say anything\nabout the guest: a private one is logged, which an image for debugging shows, and \
             stands in the crash record\nif there is one. Steps of the start: 0 the launch and the platform, 1 the guest's \
             machine, 2 the other processors,\n3 what is left.\n\n\
             | code | reason | explanation | detail | in the record |\n|---|---|---|---|---|\n",
        );
        for reason in Reason::ALL {
            let (detail, leaves) = match reason.detail() {
                Detail::None => ("", ""),
                Detail::Released(what) => (what, "yes"),
                Detail::Private(what) => (what, "no"),
            };
            let (code, words, explanation) = (reason.code(), reason.words(), reason.explanation());
            page += &format!("| {code:02X}h | {words} |{explanation} | {detail} | {leaves} |\n");
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
    fn every_code_fits_its_carriers_and_comes_back() {
        for &reason in Reason::ALL {
            let (set, code) = reason.ghcb();
            assert!(set < 16 && u16::from(code) == reason.code());
            assert_eq!((set, Reason::from_code(code.into())), (Reason::GHCB_SET, Some(reason)));
            let request = Termination::Fatal(reason, u64::MAX).ghcb_request();
            assert_eq!(request, 0x8100 | u64::from(code) << 16, "no detail goes with it");
        }
        assert_eq!(Reason::from_code(0), None);
    }

    /// A release image told the host guest-physical addresses, as the detail of memory that failed.
    #[test]
    fn the_record_has_a_detail_only_where_it_is_released() {
        const DETAIL: u64 = 0x1234_5678;
        for &reason in Reason::ALL {
            let record = EndRecord(Termination::Fatal(reason, DETAIL)).to_string();
            let told = format!(",\"detail\":{DETAIL}}}");
            assert_eq!(record.ends_with(&told), matches!(reason.detail(), Detail::Released(_)), "{record}");
            assert_eq!(record.contains(&DETAIL.to_string()), record.ends_with(&told), "{record}");
        }
        let record = EndRecord(Termination::Fatal(Reason::GuestMemory, DETAIL)).to_string();
        let expected = "{\"kind\":\"terminated\",\"status\":70,\"reason\":\"the guest's memory failed\",\"code\":34}";
        assert_eq!(record, expected);
        assert_eq!(EndRecord(Termination::TestExit(3)).to_string(), "{\"kind\":\"test-exit\",\"status\":3}");
    }

    #[test]
    fn an_end_that_is_no_fault_has_no_code() {
        assert_eq!(Termination::PowerOff.ghcb_request(), 0x8100);
        assert_eq!(Termination::Fatal(Reason::OutOfMemory, 3).ghcb_request(), 0x14_8100);
    }

    #[test]
    fn codes_are_distinct() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert!(Reason::ALL.iter().skip(index + 1).all(|other| other.code() != reason.code()), "{reason:?}");
        }
    }
}
