// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images for SNP and TDX that the `igvm` crate serializes, for the tests.

use igvm::snp_defs::{SevFeatures, SevVmsa};
use igvm::{IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType,
    IgvmPlatformType,
};
use zerocopy::FromZeros;

pub(crate) const SNP_MASK: u32 = 1;
pub(crate) const TDX_MASK: u32 = 2;
pub(crate) const BOTH: u32 = 3;

/// ABI 1.51, SMT allowed, the bit that must be set.
pub(crate) const SNP_POLICY: u64 = 0x3_0133;

/// What an image is made of.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) platforms: Vec<IgvmPlatformHeader>,
    pub(crate) initialization: Vec<IgvmInitializationHeader>,
    pub(crate) directives: Vec<IgvmDirectiveHeader>,
}

pub(crate) fn pattern(seed: usize) -> Vec<u8> {
    (0..4096).map(|at| ((seed + at) % 251) as u8).collect()
}

pub(crate) fn platform(mask: u32, platform_type: IgvmPlatformType) -> IgvmPlatformHeader {
    IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: mask,
        highest_vtl: 0,
        platform_type,
        platform_version: 1,
        shared_gpa_boundary: 0,
    })
}

pub(crate) fn page(gpa: u64, data_type: IgvmPageDataType, data: Vec<u8>) -> IgvmDirectiveHeader {
    page_with(gpa, data_type, IgvmPageDataFlags::new(), data)
}

pub(crate) fn page_with(
    gpa: u64,
    data_type: IgvmPageDataType,
    flags: IgvmPageDataFlags,
    data: Vec<u8>,
) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::PageData { gpa, compatibility_mask: BOTH, flags, data_type, data }
}

pub(crate) fn vmsa(gpa: u64, vp_index: u16, rip: u64) -> IgvmDirectiveHeader {
    let mut vmsa = SevVmsa::new_box_zeroed().unwrap();
    vmsa.rip = rip;
    vmsa.sev_features = SevFeatures::new().with_snp(true).with_debug_swap(true);
    IgvmDirectiveHeader::SnpVpContext { gpa, compatibility_mask: SNP_MASK, vp_index, vmsa }
}

/// Two pages of parameters.
pub(crate) fn parameters(gpa: u64) -> [IgvmDirectiveHeader; 3] {
    [
        IgvmDirectiveHeader::ParameterArea {
            number_of_bytes: 0x2000,
            parameter_area_index: 0,
            initial_data: Vec::new(),
        },
        IgvmDirectiveHeader::MemoryMap(IGVM_VHS_PARAMETER { parameter_area_index: 0, byte_offset: 0 }),
        IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
            gpa,
            compatibility_mask: BOTH,
            parameter_area_index: 0,
        }),
    ]
}

/// An image with a step of every kind; `tests/vectors/measurements.py` has the same.
pub(crate) fn every_kind() -> Launch {
    let kind = |gpa, data_type, data| page(gpa, data_type, data);
    let (normal, cpuid) = (IgvmPageDataType::NORMAL, IgvmPageDataType::CPUID_DATA);
    let unmeasured = IgvmPageDataFlags::new().with_unmeasured(true);
    let mut directives = vec![
        kind(0x10_0000, normal, pattern(1)),
        page_with(0x10_1000, normal, unmeasured, pattern(2)),
        kind(0x10_2000, IgvmPageDataType::SECRETS, vec![]),
        kind(0x10_3000, cpuid, pattern(3)),
        kind(0x10_4000, IgvmPageDataType::CPUID_XF, vec![]),
        kind(0x10_5000, normal, vec![]),
        vmsa(0x10_b000, 0, 0x1111),
    ];
    directives.extend(parameters(0x10_6000));
    directives.extend([
        kind(0x10_9000, normal, pattern(4)),
        page_with(0x10_a000, normal, IgvmPageDataFlags::new().with_shared(true), pattern(5)),
        vmsa(0x10_c000, 1, 0x2222),
        kind(0x10_8000, normal, vec![0; 4096]),
    ]);
    Launch {
        platforms: vec![platform(SNP_MASK, IgvmPlatformType::SEV_SNP), platform(TDX_MASK, IgvmPlatformType::TDX)],
        initialization: vec![
            IgvmInitializationHeader::GuestPolicy { policy: SNP_POLICY, compatibility_mask: SNP_MASK },
            IgvmInitializationHeader::GuestPolicy { policy: 2, compatibility_mask: TDX_MASK },
        ],
        directives,
    }
}

/// An image for SNP alone with the least that starts: two pages, a VMSA last, at KVM's address.
pub(crate) fn small() -> Launch {
    let normal = IgvmPageDataType::NORMAL;
    let directives = vec![
        page(0x10_0000, normal, pattern(1)),
        page(0x10_1000, normal, pattern(2)),
        page(0x10_2000, IgvmPageDataType::SECRETS, vec![]),
        page(0x10_3000, IgvmPageDataType::CPUID_DATA, vec![]),
        vmsa(0xffff_ffff_f000, 0, 0x1111),
    ];
    Launch { directives, ..every_kind() }.only_snp()
}

impl Launch {
    pub(crate) fn only_snp(mut self) -> Self {
        self.platforms.truncate(1);
        self.initialization.truncate(1);
        for directive in &mut self.directives {
            if let Some(mask) = directive.compatibility_mask_mut() {
                *mask = SNP_MASK;
            }
        }
        self
    }

    pub(crate) fn igvm(&self) -> IgvmFile {
        let (platforms, initialization) = (self.platforms.clone(), self.initialization.clone());
        IgvmFile::new(IgvmRevision::V1, platforms, initialization, self.directives.clone()).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.igvm().serialize(&mut bytes).unwrap();
        bytes
    }
}
