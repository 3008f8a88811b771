// SPDX-License-Identifier: MIT OR Apache-2.0
//! The CPUID page: what the host may tell the guest about the processor.
//!
//! Layout: Linux `arch/x86/include/asm/sev.h` (`snp_cpuid_table`). That a bad entry fails the command and is rewritten:
//! KVM `sev.c` and QEMU `target/i386/sev.c`. Which value is bad is assumed: QEMU clears features that the processor
//! lacks before it asks (`sev_snp_mask_cpuid_features`), but leaves the hypervisor bit; hosts offer older models' family
//! numbers, smaller caches and other topologies and are not refused.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::rule::{Refused, Rule, Rules, Status};
use crate::{PAGE_BYTES, Page};

const ENTRIES: usize = 64;

/// What CPUID returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the registers")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What the processor itself reports, and so the most that a host may claim.
pub trait CpuidReference {
    /// CPUID of a leaf and subleaf.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult;
}

impl<F: Fn(u32, u32) -> CpuidResult> CpuidReference for F {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        self(leaf, subleaf)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    leaf: U32,
    subleaf: U32,
    xcr0: U64,
    xss: U64,
    registers: [U32; 4],
    reserved: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CpuidPage {
    count: U32,
    reserved: U32,
    reserved_8: U64,
    entries: [Entry; ENTRIES],
    rest: [u8; 1008],
}

const _: () = assert!(size_of::<Entry>() == 48 && size_of::<CpuidPage>() == PAGE_BYTES);

/// How a register of an entry relates to the processor's.
#[derive(Clone, Copy)]
enum Check {
    /// The host says what it likes.
    Free,
    /// As the processor has it.
    Equal,
    /// Not above the processor's.
    AtMost,
    /// No bit that the processor lacks, but for these.
    Features { free: u32 },
}

impl Check {
    /// The nearest acceptable value.
    fn correct(self, claimed: u32, real: u32) -> u32 {
        match self {
            Self::Free => claimed,
            Self::Equal => real,
            Self::AtMost => claimed.min(real),
            Self::Features { free } => claimed & (real | free),
        }
    }
}

/// The checks of EAX, EBX, ECX and EDX of a leaf.
fn checks(leaf: u32, subleaf: u32) -> [Check; 4] {
    use Check::{AtMost, Equal, Features, Free};
    const EXACT: Check = Features { free: 0 };
    /// OSXSAVE follows the guest's CR4; the hypervisor bit is the host's.
    const FN1_ECX_FREE: u32 = 1 << 27 | 1 << 31;
    /// The local APIC can be switched off.
    const FN1_EDX_FREE: u32 = 1 << 9;
    /// OSPKE follows the guest's CR4.
    const FN7_ECX_FREE: u32 = 1 << 4;
    match (leaf, subleaf) {
        (0 | 0x8000_0000, _) => [AtMost, Equal, Equal, Equal],
        (1, _) => [Free, Free, Features { free: FN1_ECX_FREE }, Features { free: FN1_EDX_FREE }],
        (7, 0) => [AtMost, EXACT, Features { free: FN7_ECX_FREE }, EXACT],
        (7, _) => [EXACT; 4],
        // EBX is the size for the XCR0 in force; Linux finds it anew.
        (0xd, 0) => [EXACT, Free, AtMost, EXACT],
        (0xd, 1) => [EXACT, Free, EXACT, EXACT],
        (0xd, _) => [Equal; 4],
        (0x8000_0001, _) => [Free, Free, EXACT, Features { free: FN1_EDX_FREE }],
        (0x8000_0007, _) => [Free, Free, Free, EXACT],
        (0x8000_0008, _) => [Free, EXACT, Free, Free],
        (0x8000_001f, _) => [EXACT, Equal, Free, Free],
        (0x8000_0021, _) => [EXACT, Free, Free, Free],
        _ => [Free; 4],
    }
}

/// Checks a page, and corrects it if it is refused for its values.
pub(crate) fn check(page: &mut Page, processor: &impl CpuidReference, rules: &Rules) -> Result<(), Refused> {
    let table: &mut CpuidPage = zerocopy::transmute_mut!(page);
    let valid = |held: bool, rule| rules.check(held, rule, Status::InvalidParam);
    let count = table.count.get();
    valid(count <= ENTRIES as u32, Rule::CpuidCount)?;
    let entries = table.entries.get_mut(..count as usize).unwrap_or_default();
    let reserved = table.reserved != U32::ZERO
        || table.reserved_8 != U64::ZERO
        || table.rest.iter().any(|byte| *byte != 0)
        || entries.iter().any(|entry| entry.reserved != U64::ZERO);
    valid(!reserved, Rule::CpuidReserved)?;
    if !rules.enforce(Rule::CpuidValue) {
        return Ok(());
    }
    let mut acceptable = true;
    for entry in entries {
        let (leaf, subleaf) = (entry.leaf.get(), entry.subleaf.get());
        let real = processor.cpuid(leaf, subleaf);
        let real = [real.eax, real.ebx, real.ecx, real.edx];
        for ((claimed, real), check) in entry.registers.iter_mut().zip(real).zip(checks(leaf, subleaf)) {
            let value = check.correct(claimed.get(), real);
            acceptable &= value == claimed.get();
            claimed.set(value);
        }
    }
    valid(acceptable, Rule::CpuidValue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A processor with a bit of everything.
    fn processor(leaf: u32, subleaf: u32) -> CpuidResult {
        match (leaf, subleaf) {
            (0, _) => CpuidResult { eax: 0x10, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 },
            (0x8000_001f, _) => CpuidResult { eax: 0x3f, ebx: 0x402f, ecx: 509, edx: 1 },
            _ => CpuidResult { eax: 0xff, ebx: 0xff00, ecx: 0xff_0000, edx: 0x0f0f },
        }
    }

    fn page(entries: &[(u32, u32, [u32; 4])]) -> Page {
        let mut page = [0; PAGE_BYTES];
        page[0] = entries.len() as u8;
        for (index, (leaf, subleaf, registers)) in entries.iter().enumerate() {
            let at = 16 + index * 48;
            page[at..at + 4].copy_from_slice(&leaf.to_le_bytes());
            page[at + 4..at + 8].copy_from_slice(&subleaf.to_le_bytes());
            for (n, register) in registers.iter().enumerate() {
                page[at + 24 + n * 4..at + 28 + n * 4].copy_from_slice(&register.to_le_bytes());
            }
        }
        page
    }

    fn verdict(page: &mut Page, rules: Rules) -> Option<Rule> {
        check(page, &processor, &rules).err().map(|refused| refused.rule)
    }

    #[test]
    fn what_the_processor_says_is_accepted_as_it_is() {
        let real = processor(0x8000_001f, 0);
        let mut given = page(&[
            (0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            (0x8000_001f, 0, [real.eax, real.ebx, real.ecx, real.edx]),
        ]);
        let before = given;
        assert_eq!(verdict(&mut given, Rules::all()), None);
        assert_eq!(given, before);
    }

    #[test]
    fn a_false_claim_is_refused_corrected_and_then_accepted() {
        for (claim, corrected) in [
            // A feature that the processor lacks; the hypervisor bit stays.
            ((1, 0, [5, 6, 0x8001_0001, 0]), [5, 6, 0x8001_0000, 0]),
            // Another vendor, more leaves.
            ((0, 0, [0x20, 0, 0, 0]), [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            // Another place for the C-bit.
            ((0x8000_001f, 0, [2, 0x33, 0, 0]), [2, 0x402f, 0, 0]),
            ((7, 0, [0x100, 0x10000, 0, 0]), [0xff, 0, 0, 0]),
        ] {
            let mut given = page(&[claim]);
            assert_eq!(verdict(&mut given, Rules::all()), Some(Rule::CpuidValue), "{claim:x?}");
            assert_eq!(given, page(&[(claim.0, claim.1, corrected)]), "{claim:x?}");
            assert_eq!(verdict(&mut given, Rules::all()), None, "{claim:x?}");
        }
    }

    #[test]
    fn the_hosts_own_leaves_are_free() {
        let mut given = page(&[(0x4000_0000, 0, [!0; 4]), (0xb, 1, [!0; 4]), (0x8000_001d, 3, [!0; 4])]);
        assert_eq!(verdict(&mut given, Rules::all()), None);
    }

    #[test]
    fn at_most_64_entries_are_read() {
        let entries = [(0x4000_0000, 0, [1; 4]); 64];
        let mut given = page(&entries);
        assert_eq!(verdict(&mut given, Rules::all()), None);
        for count in [65, 255, u32::MAX] {
            given[..4].copy_from_slice(&count.to_le_bytes());
            assert_eq!(verdict(&mut given, Rules::all()), Some(Rule::CpuidCount));
            assert_eq!(verdict(&mut given, Rules::sourced()), Some(Rule::CpuidCount));
        }
    }

    #[test]
    fn reserved_fields_and_values_are_only_assumed_to_be_checked() {
        for at in [4, 8, 15, 16 + 40, 3088, 4095] {
            let mut given = page(&[(0x4000_0000, 0, [1; 4])]);
            given[at] = 1;
            assert_eq!(verdict(&mut given, Rules::all()), Some(Rule::CpuidReserved), "{at}");
            assert_eq!(verdict(&mut given, Rules::sourced()), None, "{at}");
        }
        let mut given = page(&[(1, 0, [0, 0, 1, 0])]);
        let before = given;
        assert_eq!(verdict(&mut given, Rules::sourced()), None);
        assert_eq!(given, before);
    }

    proptest! {
        #[test]
        fn whatever_is_refused_for_its_values_is_accepted_after_correction(
            entries in prop::collection::vec(
                (prop::sample::select(vec![0, 1, 7, 0xd, 0x8000_0001, 0x8000_0008, 0x8000_001f, 5]), 0..4u32, any::<[u32; 4]>()),
                0..64,
            )
        ) {
            let mut given = page(&entries);
            if let Some(rule) = verdict(&mut given, Rules::all()) {
                prop_assert_eq!(rule, Rule::CpuidValue);
            }
            prop_assert_eq!(verdict(&mut given, Rules::all()), None);
        }
    }
}
