// SPDX-License-Identifier: MIT OR Apache-2.0
//! The launch digest and ID blocks against two implementations that share nothing with this one: virtee/sev-snp-measure
//! (files in `vectors/`, made by its `README.md`) and the `igvm` crate.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use igvm::measurement::generate_snp_measurement;
use igvm::{IgvmDirectiveHeader, IgvmInitializationHeader};
use igvm_defs::{IgvmPageDataFlags, IgvmPageDataType};
use proptest::prelude::*;
use snp_psp::{
    CpuidResult, IdAuth, IdBlock, Launch, LaunchFinish, LaunchPage, LaunchStart, PAGE_BYTES, Page, PageType, Platform,
    Policy, Psp, Rule, Status, test_chain,
};
use zerocopy::FromBytes;

fn psp() -> Psp {
    Psp::new(Platform::default(), test_chain::keys())
}

fn launch(psp: &Psp) -> Launch {
    let start = LaunchStart { policy: Policy(0x30000), ..LaunchStart::default() };
    let mut entropy = |bytes: &mut [u8]| {
        bytes.fill(0xa5);
        Ok(())
    };
    psp.launch_start(&start, &mut entropy).unwrap()
}

fn processor(_: u32, _: u32) -> CpuidResult {
    CpuidResult::default()
}

fn place(psp: &Psp, launch: &mut Launch, page_type: PageType, gpa: u64, contents: &mut [u8]) {
    psp.launch_update(launch, &LaunchPage::new(page_type, gpa), contents, &processor).unwrap();
}

/// The pages of `vectors/README.md`.
fn page(seed: &str) -> Page {
    let seed = if seed == "-" { return [0; PAGE_BYTES] } else { seed.parse::<usize>().unwrap() };
    std::array::from_fn(|i| (i * seed + (i >> 8)) as u8)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Name, pages, digest.
type Measured = (&'static str, Vec<(PageType, u64, Page)>, &'static str);

/// All launches of the file.
fn launches() -> Vec<Measured> {
    let parse = |line: &'static str| {
        let (words, digest) = line.rsplit_once(' ').unwrap();
        let mut words = words.split(' ');
        let name = words.next().unwrap();
        let pages = words.map(|word| {
            let (kind, rest) = word.split_once('@').unwrap();
            let (gpa, seed) = rest.split_once(':').unwrap();
            let kind = PageType::from_number(kind.parse().unwrap()).unwrap();
            (kind, u64::from_str_radix(gpa, 16).unwrap(), page(seed))
        });
        (name, pages.collect(), digest)
    };
    include_str!("vectors/launch_digests.txt").lines().map(parse).collect()
}

#[test]
fn digests_are_those_of_sev_snp_measure() {
    let launches = launches();
    assert_eq!(launches.len(), 13);
    for (name, pages, digest) in launches {
        let psp = psp();
        let mut launch = launch(&psp);
        for (kind, gpa, mut contents) in pages {
            // What the other tool calls a CPUID page has no contents.
            place(&psp, &mut launch, kind, gpa, &mut contents);
        }
        assert_eq!(hex(&launch.digest()), digest, "{name}");
    }
}

#[test]
fn a_large_page_is_512_small_ones() {
    let (_, pages, digest) = launches().into_iter().find(|(name, ..)| *name == "2M").unwrap();
    let mut contents: Vec<u8> = pages.iter().flat_map(|(_, _, page)| *page).collect();
    let psp = psp();
    let mut launch = launch(&psp);
    place(&psp, &mut launch, PageType::Normal, 0x20_0000, &mut contents);
    assert_eq!(hex(&launch.digest()), digest);
}

#[test]
fn an_id_block_of_sev_snp_measure_is_accepted_for_its_launch_only() {
    let block = IdBlock::read_from_bytes(include_bytes!("vectors/id_block.bin")).unwrap();
    let auth = IdAuth::read_from_bytes(include_bytes!("vectors/id_auth.bin")).unwrap();
    let finish = LaunchFinish { id_block: Some((&block, &auth)), author_key: true, ..LaunchFinish::default() };
    let (_, pages, digest) = launches().into_iter().find(|(name, ..)| *name == "id-block").unwrap();
    let digests: Vec<_> = include_str!("vectors/id_key_digests.txt").lines().collect();
    assert_eq!([hex(&auth.id_key.digest()), hex(&auth.author_key.digest())], digests[..]);

    let psp = psp();
    let mut right = launch(&psp);
    for (kind, gpa, mut contents) in pages {
        place(&psp, &mut right, kind, gpa, &mut contents);
    }
    let guest = psp.launch_finish(right, &finish).unwrap();
    assert_eq!(hex(&guest.launch_digest()), digest);

    let (_, refused) = psp.launch_finish(launch(&psp), &finish).unwrap_err();
    assert_eq!((refused.rule, refused.status), (Rule::IdBlockDigest, Status::BadMeasurement));
}

const MASK: u32 = 1;

fn page_data(gpa: u64, kind: PageType, contents: &Page) -> IgvmDirectiveHeader {
    let data_type = match kind {
        PageType::Secrets => IgvmPageDataType::SECRETS,
        PageType::Cpuid => IgvmPageDataType::CPUID_DATA,
        _ => IgvmPageDataType::NORMAL,
    };
    let flags = IgvmPageDataFlags::new().with_unmeasured(kind == PageType::Unmeasured);
    IgvmDirectiveHeader::PageData { gpa, compatibility_mask: MASK, flags, data_type, data: contents.to_vec() }
}

fn kinds() -> impl Strategy<Value = PageType> {
    // The igvm crate has no ZERO pages; VMSAs have a test of their own.
    prop::sample::select(vec![PageType::Normal, PageType::Unmeasured, PageType::Secrets, PageType::Cpuid])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn digests_are_those_of_the_igvm_crate(
        pages in prop::collection::vec((kinds(), 0..1u64 << 40, 0..=255usize), 0..12)
    ) {
        let psp = psp();
        let (mut launch, mut directives) = (launch(&psp), vec![]);
        for (kind, frame, seed) in pages {
            // A CPUID page of any contents would be refused.
            let seed = if kind == PageType::Cpuid { "-".into() } else { seed.to_string() };
            let mut contents = page(&seed);
            directives.push(page_data(frame * 4096, kind, &contents));
            place(&psp, &mut launch, kind, frame * 4096, &mut contents);
        }
        let policy = [IgvmInitializationHeader::GuestPolicy { policy: 0x30000, compatibility_mask: MASK }];
        prop_assert_eq!(launch.digest(), generate_snp_measurement(&policy, &directives, MASK).unwrap());
    }
}

#[test]
fn a_vmsa_counts_as_the_igvm_crate_counts_it() {
    let vmsa = igvm::snp_defs::SevVmsa::read_from_bytes(&page("23")[..size_of::<igvm::snp_defs::SevVmsa>()]).unwrap();
    let mut contents = [0; PAGE_BYTES];
    let bytes = zerocopy::IntoBytes::as_bytes(&vmsa);
    contents[..bytes.len()].copy_from_slice(bytes);
    let psp = psp();
    let mut launch = launch(&psp);
    place(&psp, &mut launch, PageType::Vmsa, 0xffff_ffff_f000, &mut contents);
    let directive = IgvmDirectiveHeader::SnpVpContext {
        gpa: 0xffff_ffff_f000,
        compatibility_mask: MASK,
        vp_index: 0,
        vmsa: Box::new(vmsa),
    };
    let policy = [IgvmInitializationHeader::GuestPolicy { policy: 0x30000, compatibility_mask: MASK }];
    assert_eq!(launch.digest(), generate_snp_measurement(&policy, &[directive], MASK).unwrap());
}
