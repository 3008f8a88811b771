// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every rule by name, with its source, and what is reported when one is broken.
//!
//! A rule is broken by software that real hardware or firmware would let down: it would lose data, loop, or be refused.
//! What hardware reports in an orderly way (a result code, an exception) is no broken rule but an answer.

use core::fmt;

/// Where a rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A public document or program says so.
    Public(&'static str),
    /// No public source was found; [`crate::assumed`] has a switch for it where behaviour depends on it.
    Assumed(&'static str),
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $kind:ident($source:literal);)+) => {
        /// A rule of the model.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name under which reports, tests and `docs/fidelity.md` know it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Where it comes from.
            pub const fn source(self) -> Source {
                match self { $(Self::$name => Source::$kind($source),)+ }
            }
        }
    };
}

rules! {
    /// A private access needs a page that is assigned to this guest.
    GuestOwned = "access.guest-owned", Public("APM vol. 2, 15.36.10, table 15-39");
    /// A private access needs a page whose RMP entry names the address that was used.
    ReverseMap = "access.reverse-map", Public("APM vol. 2, 15.36.10, table 15-39");
    /// A private access needs a page that the firmware does not hold.
    Mutable = "access.mutable", Public("APM vol. 2, 15.36.10, table 15-39");
    /// Page sizes in nested tables and RMP must agree.
    PageSize = "access.page-size", Public("APM vol. 2, 15.36.10, table 15-39");
    /// A private access needs a validated page.
    Validated = "access.validated", Public("APM vol. 2, 15.36.10, table 15-39");
    /// A VMPL may do only what its rights say.
    VmplRights = "access.vmpl", Public("APM vol. 2, 15.36.7 and table 15-39");
    /// A shared write needs a hypervisor-owned page.
    SharedWrite = "access.shared-write", Public("APM vol. 2, 15.36.10, table 15-39");
    /// Host software reads and writes hypervisor-owned pages only.
    HostAccess = "host.owned", Public("APM vol. 2, 15.36.10, table 15-39");
    /// The host changes only pages that nobody holds.
    HostUpdate = "host.rmpupdate", Public("APM vol. 3, RMPUPDATE; Linux, arch/x86/virt/svm/sev.c");
    /// A page is rescinded (PVALIDATE 0) before it is made shared.
    RescindFirst = "psc.rescind-first", Public("GHCB 2.0, 4.1.6; Linux, arch/x86/coco/sev/core.c");
    /// Right of a page must not shrink while translations with more rights may be in use.
    Flush = "tlb.flush-before-use", Public("APM vol. 2, 15.36.6");
    /// PVALIDATE and RMPADJUST run at CPL 0.
    InstructionCpl = "instruction.cpl", Public("APM vol. 3, PVALIDATE and RMPADJUST");
    /// PVALIDATE runs at VMPL0.
    PvalidateVmpl = "pvalidate.vmpl0", Assumed("what other VMPLs get");
    /// The operand of PVALIDATE and RMPADJUST is mapped private.
    PrivateOperand = "instruction.private-operand", Assumed("what a shared operand gives");
    /// A 2 MiB operand is aligned to 2 MiB.
    AlignedOperand = "instruction.aligned-operand", Assumed("what a misaligned one gives");
    /// RMPADJUST names a less privileged VMPL.
    AdjustLower = "rmpadjust.lower-vmpl", Public("APM vol. 2, 15.36.7; APM vol. 3, RMPADJUST");
    /// RMPADJUST grants no right that the caller lacks.
    AdjustOwned = "rmpadjust.own-rights", Public("APM vol. 3, RMPADJUST");
    /// RMPADJUST grants no write without read.
    AdjustLegal = "rmpadjust.legal-rights", Public("APM vol. 2, 15.36.7");
    /// RMPADJUST needs a validated page.
    AdjustValidated = "rmpadjust.validated", Assumed("what it does on a page that is not");
    /// A VMSA in use is not adjusted.
    AdjustInUse = "rmpadjust.in-use", Assumed("FAIL_INUSE is what a busy VMSA gives");
    /// VMRUN needs a VMSA page: assigned, 4 KiB, marked as one, at its own address.
    VmsaPage = "vmrun.vmsa-page", Public("APM vol. 2, table 15-41");
    /// A VMSA is not aligned to 2 MiB.
    VmsaAlignment = "vmrun.vmsa-alignment", Public("Linux, arch/x86/kvm/svm/sev.c (erratum)");
    /// EFER.SVME is set in a VMSA.
    VmsaSvme = "vmrun.svme", Public("APM vol. 2, table 15-41");
    /// SEV_FEATURES are known, allowed and fit each other.
    VmsaFeatures = "vmrun.features", Public("APM vol. 2, table 15-41");
    /// Control registers and segments in a VMSA are legal.
    VmsaState = "vmrun.state", Public("APM vol. 2, 15.5.1");
    /// Reserved bytes of a VMSA are zero.
    VmsaReserved = "vmrun.reserved", Assumed("hardware ignores them; strictness keeps layouts honest");
    /// The VMPL of a VMSA is the one that the host asked for, and exists.
    VmsaVmpl = "vmrun.vmpl", Public("APM vol. 2, 15.36.7");
    /// A VMSA that its owner holds is not entered.
    VmsaBusy = "vmrun.busy", Public("APM vol. 2, 15.36.16");
    /// The host injects what the injection mode allows.
    Injection = "vmrun.injection", Public("APM vol. 2, 15.36.16 and 15.35.5");
    /// The VMSA of an active processor is in use once.
    VmsaInUse = "vmrun.in-use", Public("APM vol. 2, table 15-41");
    /// Nobody writes a VMSA while a processor runs it.
    VmsaWritten = "vmsa.in-use-write", Assumed("the write is lost or mixed with what the exit stores");
    /// A #VC can be delivered.
    VcDelivery = "vc.delivery", Public("APM vol. 2, 15.35.5 and 8.9");
    /// What the model cannot show is not relied on.
    NotModelled = "model.gap", Assumed("see docs/fidelity.md");
}

/// A broken rule, before it is known who broke it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub rule: Rule,
    /// The page or structure in question.
    pub gpa: u64,
    /// What was there: each rule has its own meaning for it.
    pub found: u64,
}

/// The longest x86 instruction.
pub const INSTRUCTION_BYTES: usize = 15;

/// A broken rule, with who and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub broken: Broken,
    /// On which virtual processor.
    pub vcpu: u32,
    /// At which privilege level.
    pub vmpl: u8,
    /// Its instruction pointer.
    pub rip: u64,
    /// The bytes there, as far as they could be read.
    pub bytes: [u8; INSTRUCTION_BYTES],
    /// How many those are.
    pub length: u8,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken { rule, gpa, found } = self.broken;
        let (kind, source) = match rule.source() {
            Source::Public(source) => ("", source),
            Source::Assumed(what) => ("assumed: ", what),
        };
        write!(f, "SNP rule {} broken ({kind}{source}): ", rule.name())?;
        write!(f, "vcpu {} vmpl {} rip {:#x} gpa {gpa:#x} found {found:#x} bytes", self.vcpu, self.vmpl, self.rip)?;
        for byte in self.bytes.iter().take(self.length.into()) {
            write!(f, " {byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sources_are_given() {
        for (index, rule) in Rule::ALL.iter().enumerate() {
            assert!(Rule::ALL[..index].iter().all(|other| other.name() != rule.name()), "{}", rule.name());
            let (Source::Public(text) | Source::Assumed(text)) = rule.source();
            assert!(!text.is_empty());
        }
    }

    #[test]
    fn the_book_lists_every_rule() {
        let book = include_str!("../../docs/fidelity.md");
        for rule in Rule::ALL {
            assert!(book.contains(&format!("`{}`", rule.name())), "{} is not in docs/fidelity.md", rule.name());
        }
    }

    #[test]
    fn a_report_says_who_where_and_why() {
        let broken = Broken { rule: Rule::SharedWrite, gpa: 0x1000, found: 7 };
        let mut violation = Violation { broken, vcpu: 1, vmpl: 2, rip: 0x40, bytes: [0; 15], length: 2 };
        violation.bytes[0] = 0x89;
        assert_eq!(
            violation.to_string(),
            "SNP rule access.shared-write broken (APM vol. 2, 15.36.10, table 15-39): \
             vcpu 1 vmpl 2 rip 0x40 gpa 0x1000 found 0x7 bytes 89 00"
        );
    }
}
