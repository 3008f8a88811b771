// SPDX-License-Identifier: MIT OR Apache-2.0
//! What VMRUN checks of a VM save area, and what SEV_STATUS says while it runs (APM vol. 2, table 15-41, 15.5.1, 15.34.10).

use crate::assumed::Assumptions;
use crate::injection;
use crate::reserved::first_reserved_byte;
use crate::rmp::{Entry, LARGE, Size};
use crate::rule::{Broken, Rule};
use specs::sev::{STATUS_FEATURES_SHIFT, STATUS_SEV, STATUS_SEV_ES, VMPLS, exit};
use specs::vmsa::{SevFeatures, Vmsa, vintr};
use zerocopy::IntoBytes;

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_SVME: u64 = 1 << 12;
/// SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE, MCOMMIT, INTWB, UAIE, AIBRSE (APM vol. 2, 3.1.7).
const EFER_KNOWN: u64 = 1 | EFER_LME | EFER_LMA | 1 << 11 | EFER_SVME | 0xe000 | 1 << 17 | 1 << 18 | 1 << 20 | 1 << 21;
const CR0_PE: u64 = 1 << 0;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// Segment attributes as a VMSA has them: L is bit 9, D is bit 10.
const CODE_LONG: u16 = 1 << 9;
const CODE_DEFAULT: u16 = 1 << 10;

/// A VMRUN that the processor refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The exit code that the host finds.
    pub exit_code: u64,
    /// Why.
    pub broken: Broken,
}

/// What the host asks for, and where.
#[derive(Clone, Copy, Debug)]
pub struct Entering {
    /// The page's entry in the RMP.
    pub entry: Option<Entry>,
    /// The page.
    pub spa: u64,
    /// The guest's.
    pub asid: u32,
    /// Which VMPL the host means to run.
    pub vmpl: u8,
    /// ALLOWED_SEV_FEATURES of the VMCB.
    pub allowed: SevFeatures,
    /// EVENTINJ of the VMCB.
    pub event_injection: u64,
}

/// The checks of the page itself, before anything in it is read.
pub fn check_page(entering: &Entering) -> Result<(), Refused> {
    let refuse =
        |rule, found| Err(Refused { exit_code: exit::INVALID, broken: Broken { rule, gpa: entering.spa, found } });
    if entering.spa.is_multiple_of(LARGE) {
        return refuse(Rule::VmsaAlignment, 0);
    }
    match entering.entry {
        Some(entry)
            if entry.assigned()
                && entry.asid() == entering.asid
                && entry.vmsa()
                && !entry.immutable()
                && entry.size() == Size::Small =>
        {
            if entry.in_use() {
                refuse(Rule::VmsaInUse, 0)
            } else {
                Ok(())
            }
        }
        Some(entry) => refuse(Rule::VmsaPage, u64::from(entry.vmsa()) | u64::from(entry.assigned()) << 1),
        None => refuse(Rule::VmsaPage, u64::MAX),
    }
}

/// The checks of what is in the page.
pub fn check_state(vmsa: &Vmsa, entering: &Entering, assumptions: &Assumptions) -> Result<(), Refused> {
    let refuse =
        |rule, found| Err(Refused { exit_code: exit::INVALID, broken: Broken { rule, gpa: entering.spa, found } });
    if vmsa.vmpl != entering.vmpl || usize::from(vmsa.vmpl) >= VMPLS {
        return refuse(Rule::VmsaVmpl, vmsa.vmpl.into());
    }
    let Some(features) = checked_features(vmsa.sev_features, entering.allowed) else {
        return refuse(Rule::VmsaFeatures, vmsa.sev_features);
    };
    // A busy VMSA is its owner's: nothing else in it is looked at.
    let may_be_busy = SevFeatures::ALTERNATE_INJECTION | SevFeatures::SECURE_AVIC;
    if vmsa.vintr_ctrl & vintr::BUSY != 0 && features.intersects(may_be_busy) {
        let broken = Broken { rule: Rule::VmsaBusy, gpa: entering.spa, found: vmsa.vintr_ctrl };
        return Err(Refused { exit_code: exit::BUSY, broken });
    }
    if vmsa.efer & EFER_SVME == 0 {
        return refuse(Rule::VmsaSvme, vmsa.efer);
    }
    if let Some(found) = illegal_state(vmsa) {
        return refuse(Rule::VmsaState, found);
    }
    if let (true, Some(at)) = (assumptions.reserved_must_be_zero, first_reserved_byte(vmsa)) {
        return refuse(Rule::VmsaReserved, at as u64);
    }
    if let Err(broken) = injection::check(features, entering.event_injection, vmsa.event_injection) {
        return Err(Refused { exit_code: exit::INVALID, broken });
    }
    Ok(())
}

/// What the exit finds in the page against what the entry has loaded from it. `differs` looks for the first byte of the page
/// that is another one, or of its eight bytes, by its offset.
pub fn check_untouched(
    loaded: &Vmsa,
    differs: impl FnOnce(&[u8]) -> Option<usize>,
    gpa: u64,
    assumptions: &Assumptions,
) -> Result<(), Broken> {
    if !assumptions.running_vmsa_is_closed {
        return Ok(());
    }
    match differs(loaded.as_bytes()) {
        None => Ok(()),
        Some(at) => Err(Broken { rule: Rule::VmsaWritten, gpa, found: at as u64 & !7 }),
    }
}

/// SEV_FEATURES if they are legal.
fn checked_features(bits: u64, allowed: SevFeatures) -> Option<SevFeatures> {
    use SevFeatures as F;
    let features = F::from_bits(bits)?;
    let one_of = [F::RESTRICTED_INJECTION, F::ALTERNATE_INJECTION, F::SECURE_AVIC];
    let modes = one_of.into_iter().filter(|mode| features.contains(*mode)).count();
    (features.contains(F::SNP_ACTIVE) && allowed.contains(features) && modes <= 1).then_some(features)
}

/// The first control register that VMRUN would refuse.
const fn illegal_state(vmsa: &Vmsa) -> Option<u64> {
    let (cr0, cr4, efer) = (vmsa.cr0, vmsa.cr4, vmsa.efer);
    if cr0 >> 32 != 0 || (cr0 & CR0_NW != 0 && cr0 & CR0_CD == 0) || (cr0 & CR0_PG != 0 && cr0 & CR0_PE == 0) {
        return Some(cr0);
    }
    if efer & !EFER_KNOWN != 0 {
        return Some(efer);
    }
    if vmsa.dr6 >> 32 != 0 {
        return Some(vmsa.dr6);
    }
    if vmsa.dr7 >> 32 != 0 {
        return Some(vmsa.dr7);
    }
    let long = efer & EFER_LME != 0 && cr0 & CR0_PG != 0;
    if long && cr4 & CR4_PAE == 0 {
        return Some(cr4);
    }
    if long && vmsa.cs.attributes & CODE_LONG != 0 && vmsa.cs.attributes & CODE_DEFAULT != 0 {
        return Some(vmsa.cs.attributes as u64);
    }
    None
}

/// SEV_STATUS, which comes from the running VMSA and which no host can intercept.
pub const fn sev_status(vmsa_features: u64) -> u64 {
    STATUS_SEV | STATUS_SEV_ES | vmsa_features << STATUS_FEATURES_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rmp::{Covered, PAGE, Rmp, State};
    use core::mem::offset_of;
    use zerocopy::{FromZeros, IntoBytes};

    const COVERED: [Covered; 3] =
        [Covered { start: 0, end: LARGE }, Covered { start: 0, end: 0 }, Covered { start: 0, end: 0 }];

    fn entering(change: impl Fn(&mut Rmp<'_>)) -> Entering {
        let mut entries = vec![Entry::default(); Rmp::entries_for(&COVERED) as usize];
        let mut rmp = Rmp::new(&mut entries, COVERED).unwrap();
        let state = State { assigned: true, size: Size::Small, immutable: false, gpa: PAGE, asid: 1 };
        rmp.launch(PAGE, &state, true);
        change(&mut rmp);
        let allowed = SevFeatures::all();
        Entering { entry: rmp.entry(PAGE), spa: PAGE, asid: 1, vmpl: 0, allowed, event_injection: 0 }
    }

    fn vmsa() -> Vmsa {
        let mut vmsa = Vmsa::new_zeroed();
        vmsa.efer = EFER_SVME;
        vmsa.sev_features = 1;
        vmsa.cr0 = 0x11;
        vmsa
    }

    fn rule(vmsa: &Vmsa) -> Option<Rule> {
        check_state(vmsa, &entering(|_| {}), &Assumptions::LIKELY).err().map(|refused| refused.broken.rule)
    }

    #[test]
    fn a_proper_vmsa_runs() {
        let entering = entering(|_| {});
        assert_eq!(check_page(&entering), Ok(()));
        assert_eq!(check_state(&vmsa(), &entering, &Assumptions::LIKELY), Ok(()));
    }

    #[test]
    fn the_page_must_be_a_vmsa_of_this_guest_and_idle() {
        let broken = |entering: &Entering| check_page(entering).unwrap_err().broken.rule;
        assert_eq!(broken(&entering(|rmp| rmp.set_in_use(PAGE, true))), Rule::VmsaInUse);
        assert_eq!(broken(&Entering { asid: 2, ..entering(|_| {}) }), Rule::VmsaPage);
        assert_eq!(broken(&Entering { entry: None, ..entering(|_| {}) }), Rule::VmsaPage);
        let data = State { assigned: true, size: Size::Small, immutable: false, gpa: PAGE, asid: 1 };
        assert_eq!(broken(&entering(|rmp| assert_eq!(rmp.launch(PAGE, &data, false), 0))), Rule::VmsaPage);
        assert_eq!(broken(&Entering { spa: LARGE, ..entering(|_| {}) }), Rule::VmsaAlignment);
    }

    #[test]
    fn without_svme_nothing_runs() {
        assert_eq!(rule(&Vmsa { efer: 0, ..vmsa() }), Some(Rule::VmsaSvme));
    }

    #[test]
    fn features_are_known_allowed_and_compatible() {
        let with = |features: SevFeatures| rule(&Vmsa { sev_features: features.bits(), ..vmsa() });
        use SevFeatures as F;
        assert_eq!(with(F::SNP_ACTIVE | F::RESTRICTED_INJECTION), None);
        assert_eq!(with(F::empty()), Some(Rule::VmsaFeatures));
        assert_eq!(with(F::SNP_ACTIVE | F::RESTRICTED_INJECTION | F::ALTERNATE_INJECTION), Some(Rule::VmsaFeatures));
        assert_eq!(with(F::SNP_ACTIVE | F::SECURE_AVIC | F::ALTERNATE_INJECTION), Some(Rule::VmsaFeatures));
        assert_eq!(rule(&Vmsa { sev_features: 1 | 1 << 40, ..vmsa() }), Some(Rule::VmsaFeatures));
        let narrow = Entering { allowed: F::SNP_ACTIVE, ..entering(|_| {}) };
        let reflecting = Vmsa { sev_features: (F::SNP_ACTIVE | F::REFLECT_VC).bits(), ..vmsa() };
        let refused = check_state(&reflecting, &narrow, &Assumptions::LIKELY).unwrap_err();
        assert_eq!(refused.broken.rule, Rule::VmsaFeatures);
    }

    #[test]
    fn the_vmpl_is_the_one_asked_for() {
        assert_eq!(rule(&Vmsa { vmpl: 1, ..vmsa() }), Some(Rule::VmsaVmpl));
        let fourth = Entering { vmpl: 4, ..entering(|_| {}) };
        let refused = check_state(&Vmsa { vmpl: 4, ..vmsa() }, &fourth, &Assumptions::LIKELY).unwrap_err();
        assert_eq!(refused.broken.rule, Rule::VmsaVmpl);
    }

    #[test]
    fn a_busy_vmsa_is_not_invalid_but_busy() {
        let features = (SevFeatures::SNP_ACTIVE | SevFeatures::ALTERNATE_INJECTION).bits();
        let busy = Vmsa { sev_features: features, vintr_ctrl: vintr::BUSY, efer: 0, ..vmsa() };
        let refused = check_state(&busy, &entering(|_| {}), &Assumptions::LIKELY).unwrap_err();
        assert_eq!((refused.exit_code, refused.broken.rule), (exit::BUSY, Rule::VmsaBusy));
        let plain = Vmsa { vintr_ctrl: vintr::BUSY, ..vmsa() };
        assert_eq!(rule(&plain), None, "the bit means nothing without alternate injection");
    }

    #[test]
    fn illegal_control_registers_are_refused() {
        let cases = [
            Vmsa { cr0: CR0_PG, ..vmsa() },
            Vmsa { cr0: CR0_NW | 1, ..vmsa() },
            Vmsa { cr0: 1 << 32, ..vmsa() },
            Vmsa { cr0: CR0_PG | CR0_PE, efer: EFER_SVME | EFER_LME, ..vmsa() },
            Vmsa { efer: EFER_SVME | 1 << 40, ..vmsa() },
            Vmsa { dr6: 1 << 32, ..vmsa() },
            Vmsa { dr7: 1 << 32, ..vmsa() },
        ];
        for case in cases {
            assert_eq!(rule(&case), Some(Rule::VmsaState));
        }
        let mut code = Vmsa { cr0: CR0_PG | CR0_PE, efer: EFER_SVME | EFER_LME, cr4: CR4_PAE, ..vmsa() };
        assert_eq!(rule(&code), None);
        code.cs.attributes = CODE_LONG | CODE_DEFAULT;
        assert_eq!(rule(&code), Some(Rule::VmsaState));
    }

    #[test]
    fn reserved_bytes_are_zero_unless_that_is_not_assumed() {
        let mut odd = vmsa();
        odd.reserved_940[3] = 1;
        assert_eq!(rule(&odd), Some(Rule::VmsaReserved));
        assert_eq!(check_state(&odd, &entering(|_| {}), &Assumptions::CONTRARY), Ok(()));
    }

    #[test]
    fn a_vmsa_that_changed_while_it_ran_is_noticed() {
        let loaded = vmsa();
        let untouched = |found: &Vmsa, assumptions| {
            let found = found.as_bytes();
            let differs = |loaded: &[u8]| loaded.iter().zip(found).position(|(loaded, found)| loaded != found);
            check_untouched(&loaded, differs, 0x7000, assumptions)
        };
        assert_eq!(untouched(&loaded, &Assumptions::LIKELY), Ok(()));
        let parked = Vmsa { efer: 0, ..vmsa() };
        let broken = Broken { rule: Rule::VmsaWritten, gpa: 0x7000, found: offset_of!(Vmsa, efer) as u64 };
        assert_eq!(untouched(&parked, &Assumptions::LIKELY), Err(broken));
        assert_eq!(untouched(&parked, &Assumptions::CONTRARY), Ok(()));
    }

    #[test]
    fn sev_status_shows_the_features_of_the_running_vmsa() {
        assert_eq!(sev_status(0x1), 0x7);
        assert_eq!(sev_status((SevFeatures::SNP_ACTIVE | SevFeatures::REFLECT_VC).bits()), 0x17);
    }

    /// The layout that model and images share, against one written by others.
    #[test]
    fn the_layout_is_the_igvm_crates() {
        use igvm::snp_defs::SevVmsa as Theirs;
        macro_rules! same {
            ($($ours:ident $theirs:ident),+ $(,)?) => {
                $(assert_eq!(offset_of!(Vmsa, $ours), offset_of!(Theirs, $theirs), stringify!($ours));)+
            };
        }
        same!(
            es es, cs cs, ss ss, ds ds, fs fs, gs gs, gdtr gdtr, ldtr ldtr, idtr idtr, tr tr, vmpl vmpl, cpl cpl,
            efer efer, xss xss, cr4 cr4, cr3 cr3, cr0 cr0, dr7 dr7, dr6 dr6, rflags rflags, rip rip, rsp rsp, rax rax,
            star star, lstar lstar, cstar cstar, sfmask sfmask, kernel_gs_base kernel_gs_base, sysenter_cs sysenter_cs,
            sysenter_esp sysenter_esp, sysenter_eip sysenter_eip, cr2 cr2, g_pat pat, vintr_ctrl v_intr_cntrl,
            next_rip next_rip, pcpu_id pcpu_id, mxcsr mxcsr, xmm xmm_registers, ymm_high ymm_registers, rcx rcx, rdx rdx,
            rbx rbx, rbp rbp, rsi rsi, rdi rdi, r8 r8, exit_info1 exit_info1, exit_info2 exit_info2,
            exit_int_info exit_int_info, sev_features sev_features, virtual_tom virtual_tom, event_injection event_inject,
            xcr0 xcr0,
        );
        assert!(size_of::<Theirs>() <= size_of::<Vmsa>());
        let mut theirs = Theirs::new_zeroed();
        theirs.vmpl = 2;
        theirs.rip = 0x1234;
        theirs.cr3 = 0x8000_0000_1000;
        let mut page = [0u8; 4096];
        page[..size_of::<Theirs>()].copy_from_slice(theirs.as_bytes());
        let ours: Vmsa = zerocopy::transmute!(page);
        assert_eq!((ours.vmpl, ours.rip, ours.cr3), (2, 0x1234, 0x8000_0000_1000));
    }
}
