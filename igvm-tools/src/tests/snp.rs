// SPDX-License-Identifier: MIT OR Apache-2.0
//! The image for SEV-SNP: what differs from the native one.

use super::*;
use crate::measure::snp::KVM_VMSA_GPA;
use igvm::snp_defs::SevVmsa;
use igvm::{IgvmInitializationHeader, IgvmPlatformHeader};
use igvm_defs::{IgvmPageDataType, IgvmPlatformType};
use image_abi::{IMAGE_BASE, PLACED_RANGES};

const POLICY: u64 = 0x3_0000;

fn built() -> Built {
    let folder = Folder::new();
    let spec = Inputs::linux().spec(&folder);
    let image = build(&ImageSpec { platform: Platform::Snp, guest_policy: Some(POLICY), ..spec }).unwrap();
    Built::new(image.bytes)
}

fn vmsa(image: &Built) -> (u64, SevVmsa) {
    let found = image.igvm.directives().iter().find_map(|directive| match directive {
        IgvmDirectiveHeader::SnpVpContext { gpa, vmsa, vp_index: 0, .. } => Some((*gpa, **vmsa)),
        _ => None,
    });
    found.unwrap()
}

fn block(image: &Built) -> LaunchBlock {
    LaunchBlock::read_from_prefix(&image.pages[&vmsa(image).1.rdi]).unwrap().0
}

#[test]
fn the_processor_starts_in_32_bit_mode_without_paging() {
    let image = built();
    let (gpa, vmsa) = vmsa(&image);
    assert_eq!(gpa, KVM_VMSA_GPA, "where KVM measures it");
    assert_eq!((vmsa.cr0, vmsa.efer, vmsa.cr3, vmsa.cr4), (0x11, 0x1000, 0, 0));
    assert_eq!((vmsa.cs.attrib, vmsa.cs.limit, vmsa.ss.attrib), (0xc9b, u32::MAX, 0xc93));
    assert_eq!(vmsa.rip, image_entry(&image));
    assert_eq!(vmsa.rsp, block(&image).stack.end());
    // SNP and restricted injection, nothing else.
    assert_eq!(u64::from(vmsa.sev_features), 1 << 0 | 1 << 3);
    // The descriptor table that 64-bit mode will want.
    assert_eq!(image.memory(Range { start: vmsa.gdtr.base + 8, bytes: 8 }), 0x00af_9b00_0000_ffffu64.to_le_bytes());
}

/// The host chooses when #HV comes, and what stands at address 0 may be its choice too. The limit was that of a reset, FFFFh.
#[test]
fn an_event_before_the_image_has_gates_leads_nowhere() {
    let (_, vmsa) = vmsa(&built());
    assert_eq!((vmsa.idtr.base, vmsa.idtr.limit), (0, 0));
}

fn image_entry(image: &Built) -> u64 {
    let text = block(image).text;
    let rip = vmsa(image).1.rip;
    assert!((text.start..text.end()).contains(&rip));
    rip
}

#[test]
fn firmware_and_host_fill_the_pages_that_the_launch_block_names() {
    let image = built();
    let special = |wanted| {
        let mut found = image.igvm.directives().iter().filter_map(|directive| match directive {
            IgvmDirectiveHeader::PageData { gpa, data_type, .. } if *data_type == wanted => Some(*gpa),
            _ => None,
        });
        (found.next().unwrap(), found.next())
    };
    let block = block(&image);
    assert_eq!(special(IgvmPageDataType::CPUID_DATA), (block.cpuid_page.start, None));
    assert_eq!(special(IgvmPageDataType::SECRETS), (block.secrets_page.start, None));
    for range in [block.cpuid_page, block.secrets_page] {
        assert!(range.start >= IMAGE_BASE && range.end() <= block.image.end() && range.bytes == 4096);
    }
}

#[test]
fn inspection_names_these_pages_and_shows_what_the_tables_allow() {
    let image = built();
    let block = block(&image);
    let map = image.inspection().map;
    let find = |what: &str| map.iter().find(|extent| extent.what == what).unwrap();
    for (what, start, access) in [
        ("CPUID page", block.cpuid_page.start, "r--"),
        ("secrets page", block.secrets_page.start, "r--"),
        ("code", block.text.start, "r-x"),
        ("boot stack", block.stack.start, "rw-"),
        ("launch block", block.stack.end(), "r--"),
    ] {
        assert_eq!((find(what).start, find(what).access), (start, access), "{what}");
    }
}

#[test]
fn inspection_says_where_and_how_the_processor_starts() {
    let image = built();
    let (vmsa, block) = (vmsa(&image).1, block(&image));
    let text = image.inspection().to_string();
    let wanted = format!(
        "start       snp, processor 0: 32-bit mode without paging, rip {:#x}, rsp {:#x}, rdi {:#x}, cr0 0x11, cr3 0x0",
        vmsa.rip,
        block.stack.end(),
        vmsa.rdi
    );
    assert!(text.contains(&wanted) && text.contains("sev_features 0x9"), "{text}");
}

#[test]
fn the_launch_block_lists_exactly_the_pages_that_are_filled() {
    let image = built();
    let block = block(&image);
    let own = block.image.start..block.image.end();
    let filled: Vec<u64> = image.pages.keys().copied().filter(|page| !own.contains(page)).collect();
    let placed = block.placed.iter().filter(|range| range.bytes != 0);
    let listed: Vec<u64> = placed.flat_map(|range| (range.start..range.end()).step_by(4096)).collect();
    assert_eq!(listed, filled);
    assert!(filled.len() > 4, "kernel and initrd");
}

#[test]
fn too_many_separate_pages_are_refused() {
    let folder = Folder::new();
    let spec = Inputs::linux().spec(&folder);
    let paravisor = crate::input::read(&spec.paravisor).unwrap();
    let paravisor = crate::paravisor::parse(&paravisor).unwrap();
    let lay_out = || {
        let none = Range::default();
        crate::layout::lay_out(
            &paravisor,
            None,
            none,
            [image_abi::Digest::NONE; image_abi::PAYLOAD_DIGESTS],
            b"",
            0,
            Platform::Snp,
        )
        .unwrap()
    };
    let apart = |count: usize| (0..count as u64).map(|index| index * 0x2000);
    assert!(lay_out().note_placed(apart(PLACED_RANGES)).is_ok());
    let error = lay_out().note_placed(apart(PLACED_RANGES + 1)).unwrap_err().to_string();
    assert!(error.contains("17 separate runs of pages, expected at most 16"), "{error}");
}

#[test]
fn platform_and_policy_are_named() {
    let image = built();
    let [IgvmPlatformHeader::SupportedPlatform(platform)] = image.igvm.platforms() else { panic!() };
    assert_eq!(platform.platform_type, IgvmPlatformType::SEV_SNP);
    let [IgvmInitializationHeader::GuestPolicy { policy: POLICY, .. }] = image.igvm.initializations() else { panic!() };
    assert_eq!(image.inspection().platforms[0].name, "snp");
    assert!(image.inspection().image_bytes.is_some(), "the launch block is found");
}

#[test]
fn the_page_tables_have_no_c_bit_yet() {
    let image = built();
    let tables = image.memory(block(&image).page_tables);
    let entries = tables.chunks(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap()));
    assert!(entries.clone().any(|entry| entry & 1 != 0));
    assert!(entries.clone().all(|entry| entry & 0x000f_ffff_0000_0000 == 0), "nothing above 4 GiB");
}

/// Two independent implementations: ours, and the `igvm` crate's, which measures what it writes.
#[test]
fn its_measurement_is_the_igvm_crates() {
    let image = built();
    let ours = crate::measure::measure(std::path::Path::new("x"), &image.bytes).unwrap();
    let theirs = igvm::measurement::generate_snp_measurement(
        image.igvm.initializations(),
        image.igvm.directives(),
        crate::build::COMPATIBILITY_MASK,
    );
    let first = ours.snp().unwrap().digests.first().map(|first| first.digest);
    assert_eq!(first.unwrap(), theirs.unwrap());
}
