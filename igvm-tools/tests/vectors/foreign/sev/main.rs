// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints what the `sev` crate says of a firmware with two processors, and writes an IGVM file that has a loader do the same: the
//! pages and sections of the firmware in that crate's order, and the VMSAs that it makes itself.
//!
//!     python3 ../firmware.py && cargo run -- firmware.fd ../sev.igvm

use std::path::PathBuf;

use igvm::{Arch, IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType};
use sev::measurement::ovmf::{OVMF, SectionType};
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType, VMSA};
use zerocopy::FromBytes;

const PROCESSORS: u32 = 2;
/// Where KVM measures every VMSA.
const VMSA_GPA: u64 = 0xffff_ffff_f000;

fn page(gpa: u64, data_type: IgvmPageDataType, data: Vec<u8>) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::PageData { gpa, compatibility_mask: 1, flags: IgvmPageDataFlags::new(), data_type, data }
}

fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (firmware, out) = (arguments.next().unwrap(), arguments.next().unwrap());
    let digest = snp_calc_launch_digest(SnpMeasurementArgs {
        vcpus: PROCESSORS,
        vcpu_type: CpuType::EpycMilanV2,
        ovmf_file: firmware.clone(),
        guest_features: GuestFeatures(1),
        kernel_file: None,
        initrd_file: None,
        append: None,
        ovmf_hash_str: None,
        vmm_type: Some(VMMType::QEMU),
    });
    println!("{}", digest.unwrap().get_hex_ld());

    let ovmf = OVMF::new(firmware).unwrap();
    let pages = ovmf.data().chunks(4096).zip((ovmf.gpa()..).step_by(4096));
    let mut directives: Vec<_> = pages.map(|(data, gpa)| page(gpa, IgvmPageDataType::NORMAL, data.to_vec())).collect();
    for section in ovmf.metadata_items() {
        let kind = match section.section_type {
            SectionType::SnpSecrets => IgvmPageDataType::SECRETS,
            SectionType::Cpuid => IgvmPageDataType::CPUID_DATA,
            _ => IgvmPageDataType::NORMAL,
        };
        let (start, end) = (u64::from(section.gpa), u64::from(section.gpa + section.size));
        directives.extend((start..end).step_by(4096).map(|gpa| page(gpa, kind, vec![])));
    }
    let reset = ovmf.sev_es_reset_eip().unwrap().into();
    let vmsa = VMSA::new(reset, CpuType::EpycMilanV2, VMMType::QEMU, Some(PROCESSORS.into()), GuestFeatures(1));
    for (vp_index, bytes) in (0..).zip(vmsa.pages(PROCESSORS as usize).unwrap()) {
        let vmsa = Box::new(igvm::snp_defs::SevVmsa::read_from_bytes(&bytes).unwrap());
        directives.push(IgvmDirectiveHeader::SnpVpContext { gpa: VMSA_GPA, compatibility_mask: 1, vp_index, vmsa });
    }
    let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: 1,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: 1,
        shared_gpa_boundary: 0,
    });
    let policy = IgvmInitializationHeader::GuestPolicy { policy: 0x3_0000, compatibility_mask: 1 };
    let revision = IgvmRevision::V2 { arch: Arch::X64, page_size: 4096 };
    let file = IgvmFile::new(revision, vec![platform], vec![policy], directives).unwrap();
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).unwrap();
    std::fs::write(out, bytes).unwrap();
}
