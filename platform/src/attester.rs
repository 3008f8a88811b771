// SPDX-License-Identifier: MIT OR Apache-2.0
//! Evidence of what was launched: reports for strangers, and keys that nothing else gets. An optional ability.

use core::fmt;

/// Room for the longest report of any platform: SNP's has 4A0h bytes, TDX's 400h.
pub const REPORT_ROOM: usize = 0x4a0;

/// Why there is no report, or no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttestError {
    /// What speaks for this VM is destroyed: after the start, or because an earlier exchange failed.
    Over,
    /// All numbers of messages are used up.
    Exhausted,
    /// Parados's own memory does not suffice.
    Memory,
    /// The host refused to carry the message, with this answer of its own.
    Host(u64),
    /// The host put the message off for longer than anybody waits.
    Busy,
    /// The firmware did not take the message, says the host: with this status.
    Firmware(u32),
    /// The answer is one to another message, or none at all.
    OutOfSequence,
    /// The answer was not made by the firmware, or not for this message.
    Forged,
    /// The firmware took the message and says no: with this status.
    Refused(u32),
}

impl fmt::Display for AttestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over => f.write_str("the key is destroyed"),
            Self::Exhausted => f.write_str("all message numbers are used up"),
            Self::Memory => f.write_str("Parados's own memory does not suffice"),
            Self::Host(answer) => write!(f, "the host refused to carry the message, answer {answer:#x}"),
            Self::Busy => f.write_str("the host put the message off for too long"),
            Self::Firmware(status) => write!(f, "the firmware did not take the message, status {status:#x}"),
            Self::OutOfSequence => f.write_str("the answer is out of sequence"),
            Self::Forged => f.write_str("the answer is not authentic"),
            Self::Refused(status) => write!(f, "the firmware refused, status {status:#x}"),
        }
    }
}

/// Speaks with what vouches for this VM.
///
/// All of it works during the start alone, on the boot processor, before a guest or another processor runs.
///
/// | | native | SNP | TDX |
/// |---|---|---|---|
/// | report | none | SNP_GUEST_REQUEST with VMPCK0 | TDG.MR.REPORT |
/// | key | none | MSG_KEY_REQ | none |
pub trait Attester {
    /// What the host's operator wants to see in a report; `None` if nobody asks. Copies as much of it as there is room for and
    /// tells how long it is. The host's allegation.
    fn question(&self, text: &mut [u8]) -> Option<usize>;
    /// A report that holds `data`; how many bytes it has.
    fn report(&self, data: &[u8; 64], report: &mut [u8; REPORT_ROOM]) -> Result<usize, AttestError>;
    /// A key that depends on the chip, on what was measured at the launch, and on the policy that the host had to keep. The same
    /// image gets it again; nobody else does.
    fn key(&self, key: &mut [u8; 32]) -> Result<(), AttestError>;
    /// Destroys what the other methods need.
    fn forget(&self);
}
