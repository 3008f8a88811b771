// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every rule that the firmware enforces, with its source, and the status with which a command that breaks it ends.
//!
//! A rule without a public source is *assumed*: it can be switched off ([`Rules::without`]). `docs/fidelity.md` lists
//! them all; a test holds the list against this file.

use core::fmt;

/// The firmware's status codes that this model gives. Linux, `include/uapi/linux/psp-sev.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Status {
    /// The guest's policy does not allow it, or this machine does not meet the policy.
    PolicyFailure = 0x07,
    /// An address is not one the command takes.
    InvalidAddress = 0x09,
    /// A signature does not verify.
    BadSignature = 0x0a,
    /// A digest or an authentication tag is wrong.
    BadMeasurement = 0x0b,
    /// The hardware failed; here: no random numbers.
    HardwarePlatform = 0x13,
    /// A parameter is wrong.
    InvalidParam = 0x16,
    /// A page has the wrong size for the command.
    InvalidPageSize = 0x19,
    /// A message counter has run out.
    AeadOverflow = 0x1d,
    /// The key that is asked for is not there.
    InvalidKey = 0x27,
}

/// A command that was refused, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// What the firmware answers.
    pub status: Status,
    /// Which rule was broken.
    pub rule: Rule,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let assumed = if self.rule.is_assumed() { ", assumed" } else { "" };
        let (rule, source) = (self.rule, self.rule.source());
        write!(f, "{rule:?}: {} (status {:02x}h; {source}{assumed})", rule.text(), self.status as u32)
    }
}

macro_rules! rules {
    ($($name:ident = $text:literal, $source:literal $(, $assumed:ident)?;)*) => {
        /// A rule of the firmware.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Rule { $(#[doc = $text] $name,)* }

        impl Rule {
            /// All of them, in the order of the commands.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What it demands.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Who says so. V: virtee/sev; VM: virtee/sev-snp-measure; G: google/go-sev-guest; K: Linux; C: COCONUT-SVSM;
            /// M: mushroom.
            pub const fn source(self) -> &'static str {
                match self { $(Self::$name => $source,)* }
            }

            /// Whether nothing public says so.
            pub const fn is_assumed(self) -> bool {
                match self { $(Self::$name => rules!(@assumed $($assumed)?),)* }
            }
        }
    };
    (@assumed) => { false };
    (@assumed assumed) => { true };
}

rules! {
    Entropy = "keys of a launch need random numbers", "VMPCKs are random per launch: K sev.h";
    PolicyMustBeOne = "policy bit 17 is one", "G abi.go ParseSnpPolicy; K sev.c";
    PolicyReserved = "policy bits 63:26 are zero", "G abi.go ParseSnpPolicy";
    PolicyAbi = "the policy's ABI version is not above the firmware's", "G abi.go SnpPolicy";
    PolicySmt = "the policy allows SMT, or SMT is off", "G abi.go SnpPolicy";
    PolicyCxl = "the policy allows CXL, or there is none", "G abi.go SnpPolicy";
    PolicySingleSocket = "a guest for a single socket finds one socket", "G abi.go SnpPolicy";
    PolicyAes256Xts = "AES-256-XTS is on if the policy demands it", "G abi.go SnpPolicy";
    PolicyRapl = "RAPL is off if the policy demands it", "G abi.go SnpPolicy";
    PolicyCiphertextHiding = "ciphertext is hidden if the policy demands it", "G abi.go SnpPolicy";
    PageAddress = "a page lies at a multiple of its size, below 2^52", "K psp-sev.h; VM gctx.py";
    PageSize = "a page has 4 KiB or 2 MiB", "K psp-sev.h";
    SmallPage = "VMSA, secrets and CPUID pages have 4 KiB", "C igvmmeasure; K sev.c", assumed;
    ImiPage = "no page belongs to an IMI that the launch does not have", "K psp-sev.h", assumed;
    PermissionBits = "VMPL permissions have bits 7:5 zero", "APM RMPADJUST", assumed;
    CpuidCount = "a CPUID page has at most 64 entries", "K sev.h snp_cpuid_table";
    CpuidReserved = "reserved fields of a CPUID page are zero", "none", assumed;
    CpuidValue = "a CPUID entry claims nothing that the processor has not", "K sev.c; QEMU sev.c", assumed;
    AuthorWithoutIdBlock = "an author key comes with an ID block only", "none", assumed;
    IdKeyAlgorithm = "the ID key is for ECDSA P-384 with SHA-384", "VM id_block.py";
    AuthorKeyAlgorithm = "the author key is for ECDSA P-384 with SHA-384", "VM id_block.py";
    KeyCurve = "a key's curve is P-384", "VM id_block.py";
    IdBlockVersion = "an ID block has version 1", "VM id_block.py", assumed;
    IdBlockSignature = "the ID key signed the ID block", "VM id_block.py; V tests/id-block.rs";
    AuthorSignature = "the author key signed the ID key", "VM id_block.py; V tests/id-block.rs";
    IdBlockDigest = "the ID block names the digest of this launch", "V README; K psp-sev.h";
    IdBlockPolicy = "the ID block names the policy of this launch", "V README; K psp-sev.h";
    MessageAlgorithm = "a message is encrypted with AES-256-GCM", "K sev-guest.c";
    MessageHeader = "a message's header has version 1 and 60h bytes", "K sev-guest.c";
    MessageReserved = "reserved fields of a message's header are zero", "none", assumed;
    MessageKey = "a message names VMPCK 0 to 3", "K sev-guest.c";
    MessageSize = "a message fits its page", "K sev-guest.h";
    MessageSequence = "a message's number is the last one plus 1", "K sev-guest.c snp_disable_vmpck";
    MessageOverflow = "a message's number leaves room for the answer's", "K psp-sev.h SEV_RET_AEAD_OFLOW";
    MessageTag = "a message's authentication tag is right", "K sev-guest.c";
    MessageType = "a message asks for what this firmware has", "K sev-guest.h";
    MessageVersion = "a message has version 1, or 2 for a key", "V derived key request", assumed;
    PayloadSize = "a request has its type's size", "K sev-guest.h", assumed;
    RequestReserved = "reserved fields of a request are zero", "V guest types", assumed;
    RequestVmpl = "a request names no VMPL above the requester's, and none that does not exist", "V guest types; K sev-guest.h";
    RequestKey = "a request names a key that is loaded", "K sev-guest.c SEV_RET_INVALID_KEY";
    KeyFields = "a key is made from fields that exist", "V GuestFieldSelect";
    KeySvn = "a key's SVN is not above the ID block's", "V DerivedKey";
    KeyTcb = "a key's TCB is not above the committed one", "V DerivedKey";
    KeyMitigations = "a key's mitigations are among those of the launch", "V DerivedKey", assumed;
    TscConfigured = "TSC information is for guests with Secure TSC", "K sev/core.c snp_get_tsc_info", assumed;
}

/// Which rules are in force: all of them, but for assumed ones that were switched off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    off: u64,
}

const _: () = assert!(Rule::ALL.len() <= 64);

impl Rules {
    /// All rules.
    pub const fn all() -> Self {
        Self { off: 0 }
    }

    /// These rules without one. A rule that has a source stays.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        let bit = if rule.is_assumed() { 1 << rule as u8 } else { 0 };
        Self { off: self.off | bit }
    }

    /// Only the rules that have a source.
    pub fn sourced() -> Self {
        Rule::ALL.iter().fold(Self::all(), |rules, rule| rules.without(*rule))
    }

    /// Whether a rule is in force.
    pub const fn enforce(&self, rule: Rule) -> bool {
        self.off & (1 << rule as u8) == 0
    }

    /// Refuses unless the rule is held or is not in force.
    pub(crate) fn check(&self, held: bool, rule: Rule, status: Status) -> Result<(), Refused> {
        if held || !self.enforce(rule) { Ok(()) } else { Err(Refused { status, rule }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_assumed_rules_can_be_switched_off() {
        for rule in Rule::ALL {
            assert_eq!(Rules::all().without(*rule).enforce(*rule), !rule.is_assumed(), "{rule:?}");
            assert_eq!(Rules::sourced().enforce(*rule), !rule.is_assumed(), "{rule:?}");
            assert!(Rules::all().enforce(*rule));
        }
    }

    #[test]
    fn the_book_lists_every_rule_as_it_is() {
        let book = include_str!("../../docs/fidelity.md");
        for rule in Rule::ALL {
            let assumed = if rule.is_assumed() { "yes" } else { "" };
            let row = format!("| {rule:?} | {} | {} | {assumed} |", rule.text(), rule.source());
            assert!(book.contains(&row), "docs/fidelity.md lacks the row\n{row}");
        }
    }

    #[test]
    fn a_refusal_reads_as_rule_status_and_source() {
        let refused = Refused { status: Status::BadMeasurement, rule: Rule::MessageTag };
        let text = "MessageTag: a message's authentication tag is right (status 0bh; K sev-guest.c)";
        assert_eq!(refused.to_string(), text);
    }
}
