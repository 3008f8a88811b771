// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an image for SEV-SNP has besides its pages: the platform and its policy, the pages that host and firmware fill, and
//! the boot processor's VMSA.
//!
//! The processor starts in 32-bit mode without paging, where all memory is private, because nobody knows at build time
//! where the C-bit is: the image's first code finds it in the CPUID page and patches it into the page tables. The VMSA
//! (APM vol. 2, table B-4) has what a reset leaves (table 14-1) but for that mode; QEMU carries it over to KVM register by
//! register, and KVM measures every VMSA at one address.

use crate::build::COMPATIBILITY_MASK;
use crate::context::{GDT, Start};
use crate::layout::{Fill, Layout};
use crate::measure::snp::KVM_VMSA_GPA;
use igvm::snp_defs::{SevFeatures, SevSelector, SevVmsa};
use igvm::{IgvmDirectiveHeader, IgvmPlatformHeader};
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType};
use zerocopy::FromZeros;

/// The only version of the platform (IGVM, `IGVM_SEV_SNP_PLATFORM_VERSION`).
const VERSION: u16 = 1;

/// CR0: ET, PE.
const CR0: u64 = 1 << 4 | 1 << 0;
/// EFER: SVME, without which VMRUN enters no guest.
const EFER: u64 = 1 << 12;
/// PAT after a reset.
const PAT: u64 = 0x0007_0406_0007_0406;
/// Flat 32-bit code and data, accessed, in the form of a VMSA.
const CODE: u16 = 0xc9b;
const DATA: u16 = 0xc93;
const LDT: u16 = 0x82;
const BUSY_TSS: u16 = 0x8b;

pub(crate) fn platform() -> IgvmPlatformHeader {
    IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: COMPATIBILITY_MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: VERSION,
        // VMPL0 tells private from shared by the C-bit.
        shared_gpa_boundary: 0,
    })
}

/// The pages that host and firmware fill.
pub(crate) fn special_pages(layout: &Layout<'_>) -> Vec<IgvmDirectiveHeader> {
    let directive = |gpa, data_type| IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask: COMPATIBILITY_MASK,
        flags: IgvmPageDataFlags::new(),
        data_type,
        data: Vec::new(),
    };
    let special = layout.regions.iter().filter_map(|region| match region.fill {
        Fill::Cpuid => Some(directive(region.start, IgvmPageDataType::CPUID_DATA)),
        Fill::Secrets => Some(directive(region.start, IgvmPageDataType::SECRETS)),
        Fill::Nothing | Fill::Pages(_) | Fill::Parameter(_) => None,
    });
    special.collect()
}

/// The boot processor's first state: RDI holds the launch block's address, all other general registers but RSP are zero.
pub(crate) fn context(start: &Start) -> IgvmDirectiveHeader {
    let flat = |selector, attrib| SevSelector { selector, attrib, limit: u32::MAX, base: 0 };
    let system = |attrib| SevSelector { selector: 0, attrib, limit: 0xffff, base: 0 };
    let mut vmsa = SevVmsa::new_zeroed();
    vmsa.cs = flat(0x08, CODE);
    let data = flat(0x10, DATA);
    (vmsa.ds, vmsa.es, vmsa.ss, vmsa.fs, vmsa.gs) = (data, data, data, data, data);
    vmsa.gdtr = SevSelector { limit: (size_of_val(&GDT) - 1) as u32, base: start.gdt, selector: 0, attrib: 0 };
    // Without gates: a host may inject #HV before there are any, and an unmeasured payload at address 0 would be them.
    vmsa.idtr = SevSelector::new_zeroed();
    (vmsa.ldtr, vmsa.tr) = (system(LDT), system(BUSY_TSS));
    (vmsa.cr0, vmsa.efer, vmsa.pat) = (CR0, EFER, PAT);
    (vmsa.dr6, vmsa.dr7, vmsa.rflags) = (0xffff_0ff0, 0x400, 2);
    (vmsa.rip, vmsa.rsp, vmsa.rdi) = (start.entry, start.stack_top, start.launch_block);
    (vmsa.xcr0, vmsa.mxcsr, vmsa.x87_fcw) = (1, 0x1f80, 0x37f);
    vmsa.sev_features = SevFeatures::new().with_snp(true).with_restrict_injection(true);
    IgvmDirectiveHeader::SnpVpContext {
        gpa: KVM_VMSA_GPA,
        compatibility_mask: COMPATIBILITY_MASK,
        vp_index: 0,
        vmsa: Box::new(vmsa),
    }
}
