// SPDX-License-Identifier: MIT OR Apache-2.0
//! Launches of whole IGVM files, against what `igvm-tools` predicts for them: its digest code and this crate's have nothing
//! in common. Its verifier accepts reports of the TEST chip from whoever names the TEST root, and from nobody else.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod driver;

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use driver::Driver;
use igvm::snp_defs::SevVmsa;
use igvm::{IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType};
use igvm_tools::measure::{VmsaPlace, Zeroes};
use igvm_tools::verify::{Expected, Trust, verify};
use proptest::prelude::*;
use snp_psp::{
    CpuidResult, Guest, Launch, LaunchFinish, LaunchPage, LaunchStart, PAGE_BYTES, Page, PageType, Platform, Policy,
    Psp, test_chain,
};
use zerocopy::{FromZeros, IntoBytes};

const MASK: u32 = 1;
const POLICY: u64 = 0x30000;
const KVM_VMSA: u64 = 0xffff_ffff_f000;

/// A page of a file: what the file calls it, where it lies, what it begins with.
#[derive(Clone, Debug)]
struct FilePage {
    kind: PageType,
    gpa: u64,
    data: Vec<u8>,
}

/// A file with these pages and these processors.
fn file(pages: &[FilePage], processors: &[u64]) -> Vec<u8> {
    let mut directives: Vec<_> = pages.iter().map(directive).collect();
    for (index, rip) in processors.iter().enumerate() {
        let vmsa = vmsa(*rip);
        let (gpa, vp_index) = (vmsa_gpa(index), index as u16);
        directives.push(IgvmDirectiveHeader::SnpVpContext { gpa, compatibility_mask: MASK, vp_index, vmsa });
    }
    let platform = IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: 1,
        shared_gpa_boundary: 1 << 47,
    };
    let policy = IgvmInitializationHeader::GuestPolicy { policy: POLICY, compatibility_mask: MASK };
    let platform = IgvmPlatformHeader::SupportedPlatform(platform);
    let mut bytes = vec![];
    IgvmFile::new(IgvmRevision::V1, vec![platform], vec![policy], directives).unwrap().serialize(&mut bytes).unwrap();
    bytes
}

fn directive(page: &FilePage) -> IgvmDirectiveHeader {
    let data_type = match page.kind {
        PageType::Secrets => IgvmPageDataType::SECRETS,
        PageType::Cpuid => IgvmPageDataType::CPUID_DATA,
        _ => IgvmPageDataType::NORMAL,
    };
    let flags = IgvmPageDataFlags::new().with_unmeasured(page.kind == PageType::Unmeasured);
    let data = page.data.clone();
    IgvmDirectiveHeader::PageData { gpa: page.gpa, compatibility_mask: MASK, flags, data_type, data }
}

fn vmsa(rip: u64) -> Box<SevVmsa> {
    let mut vmsa = SevVmsa::new_box_zeroed().unwrap();
    (vmsa.rip, vmsa.efer) = (rip, 0x1000);
    vmsa.sev_features.set_snp(true);
    vmsa
}

fn vmsa_gpa(index: usize) -> u64 {
    0x7000_0000 + (index as u64) * 0x1000
}

/// How a loader treats a file.
#[derive(Clone, Copy)]
struct Habits {
    vmsa: VmsaPlace,
    zeroes: Zeroes,
}

/// A machine that has been given such a file; the secrets page as the guest finds it.
fn launch(psp: &Psp, pages: &[FilePage], processors: &[u64], habits: Habits) -> (Guest, Page) {
    let start = LaunchStart { policy: Policy(POLICY), ..LaunchStart::default() };
    let mut launch = psp.launch_start(&start, &mut driver::entropy(0x77)).unwrap();
    let mut secrets = [0; PAGE_BYTES];
    for page in pages {
        let empty = page.kind == PageType::Normal && page.data.is_empty() && habits.zeroes == Zeroes::Type;
        let kind = if empty { PageType::Zero } else { page.kind };
        // Memory is never clean: what the file does not fill, the loader has to.
        let mut contents = [0; PAGE_BYTES];
        contents[..page.data.len()].copy_from_slice(&page.data);
        place(psp, &mut launch, kind, page.gpa, &mut contents);
        if kind == PageType::Secrets {
            secrets = contents;
        }
    }
    for (index, rip) in processors.iter().enumerate() {
        let mut contents = [0; PAGE_BYTES];
        let vmsa = vmsa(*rip);
        contents[..vmsa.as_bytes().len()].copy_from_slice(vmsa.as_bytes());
        let gpa = if habits.vmsa == VmsaPlace::Kvm { KVM_VMSA } else { vmsa_gpa(index) };
        place(psp, &mut launch, PageType::Vmsa, gpa, &mut contents);
    }
    (psp.launch_finish(launch, &LaunchFinish::default()).unwrap(), secrets)
}

fn place(psp: &Psp, launch: &mut Launch, kind: PageType, gpa: u64, contents: &mut Page) {
    psp.launch_update(launch, &LaunchPage::new(kind, gpa), contents, &|_, _| CpuidResult::default()).unwrap();
}

fn psp() -> Psp {
    Psp::new(Platform::default(), test_chain::keys())
}

fn pages() -> impl Strategy<Value = Vec<FilePage>> {
    let kinds = vec![PageType::Normal, PageType::Normal, PageType::Unmeasured, PageType::Secrets, PageType::Cpuid];
    let page = (prop::sample::select(kinds), prop::sample::select(vec![0, 1, PAGE_BYTES]), 1..=255u8);
    prop::collection::vec(page, 1..10).prop_map(|pages| {
        let page = |(index, (kind, bytes, fill))| {
            let data = if matches!(kind, PageType::Normal | PageType::Unmeasured) { vec![fill; bytes] } else { vec![] };
            FilePage { kind, gpa: 0x10_0000 + index as u64 * 0x1000, data }
        };
        pages.into_iter().enumerate().map(page).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_file_comes_to_the_digest_that_igvm_tools_predicts(
        pages in pages(),
        processors in prop::collection::vec(any::<u64>(), 1..4),
    ) {
        let measured = igvm_tools::measure(Path::new("x.igvm"), &file(&pages, &processors)).unwrap();
        let measured = measured.snp().unwrap();
        for vmsa in [VmsaPlace::File, VmsaPlace::Kvm] {
            for zeroes in [Zeroes::Data, Zeroes::Type] {
                let (guest, _) = launch(&psp(), &pages, &processors, Habits { vmsa, zeroes });
                prop_assert_eq!(&guest.launch_digest(), measured.digest(vmsa, zeroes).unwrap());
            }
        }
    }
}

fn chain() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/test-chain/certs"))
}

fn accepts(report: &[u8], image: &[u8], root: Option<&Path>) -> bool {
    // Some day of 2026, so that the test does not end with the certificates.
    let now = UNIX_EPOCH + Duration::from_secs(1_780_000_000);
    let trust = Trust { certificates: Some(chain()), root, without_signature: false, now };
    let expected = Expected { report_data: Some(vec![0x64; 64]), vmpl: Some(0), ..Expected::default() };
    let verdict = verify((Path::new("report.bin"), report), (Path::new("x.igvm"), image), &trust, &expected);
    verdict.is_ok_and(|verdict| verdict.passes())
}

#[test]
fn igvm_tools_verifies_a_report_under_the_test_root_and_under_no_other() {
    let page = |kind, gpa, data| FilePage { kind, gpa, data };
    let pages = [page(PageType::Normal, 0x10_0000, vec![7; 4096]), page(PageType::Secrets, 0x10_1000, vec![])];
    let image = file(&pages, &[0xfff0]);
    let psp = psp();
    let (mut guest, secrets) = launch(&psp, &pages, &[0xfff0], Habits { vmsa: VmsaPlace::File, zeroes: Zeroes::Data });
    let report = Driver::new(secrets).report(&psp, &mut guest, &[0x64; 64]);

    let root = chain().join("ark.der");
    assert!(accepts(&report, &image, Some(&root)));
    assert!(!accepts(&report, &image, None), "trusted by default");

    let other = file(&pages, &[0xfff1]);
    assert!(!accepts(&report, &other, Some(&root)), "another image");
    for at in [0x34, 0x50, 0x90, 0x180, 0x1a0, 0x2a0, 0x2e8] {
        let mut forged = report.clone();
        forged[at] ^= 1;
        assert!(!accepts(&forged, &image, Some(&root)), "{at:x}");
    }
}
