// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the host says why it stops: one line for people, one record for the program that started QEMU.
//!
//! Both go to the debug console, whose reader tells them apart by the record separator (1Eh, RFC 7464).

use core::fmt::{self, Write};
use platform::Reason;
use snp_model::Violation;
use snp_psp::Refused;

/// Starts a record on the debug console.
pub const RECORD_SEPARATOR: u8 = 0x1e;

/// Why the image was refused: what was found where, and what should have been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadImage {
    /// The thing that is wrong.
    pub what: &'static str,
    /// Where it is in the file.
    pub offset: u64,
    /// What it should have been.
    pub expectation: &'static str,
}

/// How a guest that ran under this host came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It powered the machine off.
    PowerOff,
    /// It reset the machine.
    Reset,
    /// It triple-faulted; its instruction pointer.
    TripleFault(u64),
    /// It gave up: reason set and code of the GHCB specification.
    GivenUp(u8, u8),
    /// It reported a fatal error, as a TD does: the code.
    FatalError(u64),
    /// It, or the host, broke a rule.
    Violation(Violation),
    /// An exit that the model does not know: code, information and instruction pointer.
    UnknownExit(u64, u64, u64),
}

/// Why the host cannot start the image, or no longer runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest ran and ended.
    Ended(End),
    /// The image is corrupt, or not for this host.
    Image(BadImage),
    /// The secure processor does not launch the image.
    Firmware(Refused),
    /// QEMU was not started as this program needs it.
    Machine(&'static str),
    /// The processor model lacks what the platform needs: what it is, and one that has it.
    Processor(&'static str),
    /// The host itself faulted: vector and instruction pointer.
    Exception(u64, u64),
    /// The host panicked: the line in its source.
    Panic(u32),
}

impl From<BadImage> for Stop {
    fn from(bad: BadImage) -> Self {
        Self::Image(bad)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(end) => write!(f, "{end}"),
            Self::Image(bad) => write!(f, "bad image: {} at offset {:#x}: {}", bad.what, bad.offset, bad.expectation),
            Self::Firmware(refused) => write!(f, "refused by the firmware: {refused}"),
            Self::Machine(what) | Self::Processor(what) => write!(f, "cannot start: {what}"),
            Self::Exception(vector, rip) => write!(f, "stopped: exception {vector} at {rip:#x} in the reference host"),
            Self::Panic(line) => write!(f, "stopped: panic at line {line} of the reference host"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "the guest powered off"),
            Self::Reset => write!(f, "the guest reset the machine"),
            Self::TripleFault(rip) => write!(f, "triple fault at {rip:#x}"),
            Self::GivenUp(Reason::GHCB_SET, code) if let Some(reason) = Reason::from_code(u16::from(*code)) => {
                write!(f, "Parados gave up: {reason}")
            }
            Self::GivenUp(set, code) => write!(f, "the guest gave up: reason set {set}, code {code}"),
            Self::FatalError(code) => match u16::try_from(*code).ok().and_then(Reason::from_code) {
                Some(reason) => write!(f, "Parados gave up: {reason}"),
                None => write!(f, "the guest reported fatal error {code:#x}"),
            },
            Self::Violation(violation) => write!(f, "{violation}"),
            Self::UnknownExit(code, info, rip) => write!(f, "unknown exit {code:#x} ({info:#x}) at {rip:#x}"),
        }
    }
}

impl End {
    const fn kind(&self) -> &'static str {
        match self {
            Self::PowerOff => "poweroff",
            Self::Reset => "reset",
            Self::TripleFault(_) => "triple-fault",
            Self::GivenUp(..) | Self::FatalError(_) | Self::Violation(_) | Self::UnknownExit(..) => "terminated",
        }
    }

    const fn status(&self) -> u32 {
        match self {
            Self::PowerOff => 0,
            Self::Reset | Self::TripleFault(_) => 71,
            Self::GivenUp(..) | Self::FatalError(_) | Self::Violation(_) | Self::UnknownExit(..) => 70,
        }
    }
}

impl Stop {
    /// The status with which the run ends.
    pub const fn status(&self) -> u32 {
        match self {
            Self::Ended(end) => end.status(),
            Self::Image(_) | Self::Firmware(_) => 65,
            Self::Processor(_) => 69,
            Self::Machine(_) | Self::Exception(..) | Self::Panic(_) => 70,
        }
    }

    /// The value for QEMU's debug-exit port, which makes QEMU's own status `value << 1 | 1`.
    pub const fn exit_value(&self) -> u32 {
        match self {
            Self::Ended(End::PowerOff) => 0,
            Self::Ended(_) => 1,
            Self::Image(_) | Self::Firmware(_) => 32,
            Self::Processor(_) => 34,
            Self::Machine(_) | Self::Exception(..) | Self::Panic(_) => 63,
        }
    }

    /// Writes the line and the record.
    pub fn write(&self, out: &mut impl Write) -> fmt::Result {
        let kind = match self {
            Self::Ended(end) => end.kind(),
            Self::Image(_) | Self::Firmware(_) => "bad-image",
            Self::Machine(_) | Self::Processor(_) | Self::Exception(..) | Self::Panic(_) => "host-error",
        };
        writeln!(out, "[host] {self}")?;
        // No text of ours holds a quote, a backslash or a control character, so the string needs no escapes.
        let status = self.status();
        writeln!(out, "\x1e{{\"kind\":\"{kind}\",\"status\":{status},\"reason\":\"{self}\"}}")
    }
}

/// Bytes in hexadecimal, for people.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_image_gives_one_line_and_one_record() {
        let stop =
            Stop::Image(BadImage { what: "checksum", offset: 20, expectation: "expected the CRC-32 of the headers" });
        let mut out = String::new();
        stop.write(&mut out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "[host] bad image: checksum at offset 0x14: expected the CRC-32 of the headers");
        assert!(lines[1].starts_with("\x1e{\"kind\":\"bad-image\",\"status\":65,\"reason\":\"bad image: checksum"));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn qemu_itself_reports_a_bad_image_as_65() {
        let stop = Stop::Image(BadImage { what: "", offset: 0, expectation: "" });
        assert_eq!(stop.exit_value() << 1 | 1, stop.status());
    }

    /// A processor model without SVM was 70 here and 69 on the native image.
    #[test]
    fn a_processor_that_lacks_something_is_69() {
        let stop = Stop::Processor("no SVM");
        assert_eq!((stop.status(), stop.exit_value() << 1 | 1), (69, 69));
        let mut out = String::new();
        stop.write(&mut out).unwrap();
        assert!(
            out.ends_with("{\"kind\":\"host-error\",\"status\":69,\"reason\":\"cannot start: no SVM\"}\n"),
            "{out}"
        );
    }

    #[test]
    fn reasons_that_are_known_are_told_in_words() {
        let (set, code) = Reason::OutOfMemory.ghcb();
        let words = "Parados gave up: Parados's own memory does not suffice (reason 0x14)";
        assert_eq!(End::GivenUp(set, code).to_string(), words);
        assert_eq!(End::GivenUp(1, code).to_string(), "the guest gave up: reason set 1, code 20");
        assert_eq!(End::GivenUp(set, 0xff).to_string(), "the guest gave up: reason set 8, code 255");
    }
}
