// SPDX-License-Identifier: MIT OR Apache-2.0
//! In which state the first processor enters a file, on each of its platforms.
//!
//! Native contexts and VMSAs are in the file; a TD's processors all start in one state, which no file can change (TDXBASE, initial
//! state of TD vCPUs). The bytes may be anybody's.

use super::{Memory, is_for, platform_name};
use crate::file::{Content, File};
use igvm::snp_defs::SevVmsa;
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmNativeVpContextX64, IgvmPlatformType};
use image_abi::{RESET_PAGE, ResetParameters};
use specs::tdx::initial;
use std::mem::offset_of;
use zerocopy::FromBytes;

/// A processor's first state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The platform.
    pub platform: String,
    /// Which processor; none if all of them start alike.
    pub processor: Option<u16>,
    /// The processor's mode.
    pub mode: &'static str,
    /// Registers that say where it goes and what it finds there.
    pub registers: Vec<(&'static str, u64)>,
}

/// What decides about a processor's mode.
struct Mode {
    cr0: u64,
    efer: u64,
    /// CS.L.
    cs_long: bool,
    /// CS.D.
    cs_32_bit: bool,
}

impl Mode {
    const fn name(&self) -> &'static str {
        const PE: u64 = 1 << 0;
        const PG: u64 = 1 << 31;
        const LMA: u64 = 1 << 10;
        match (self.cr0 & PE != 0, self.cr0 & PG != 0, self.efer & LMA != 0) {
            (false, ..) => "real mode",
            (true, false, _) if self.cs_32_bit => "32-bit mode without paging",
            (true, false, _) => "16-bit protected mode without paging",
            (true, true, true) if self.cs_long => "64-bit mode",
            (true, true, true) => "compatibility mode",
            (true, true, false) => "protected mode with paging",
        }
    }
}

/// The first states on the platforms of a mask, in the order of the platform headers.
pub(super) fn starts(file: &File<'_>, mask: u32, memory: &Memory<'_>) -> Vec<Start> {
    let platforms = file.platforms().filter(|platform| platform.compatibility_mask & mask != 0);
    platforms.filter_map(|platform| start(file, &platform, memory)).collect()
}

fn start(file: &File<'_>, platform: &IGVM_VHS_SUPPORTED_PLATFORM, memory: &Memory<'_>) -> Option<Start> {
    let name = platform_name(platform.platform_type);
    if platform.platform_type == IgvmPlatformType::TDX {
        let mode = Mode { cr0: initial::CR0, efer: initial::EFER, cs_long: false, cs_32_bit: true };
        let mut registers = vec![("rip", initial::RIP), ("cr0", initial::CR0), ("cr4", initial::CR4)];
        registers.push(("efer", initial::EFER));
        registers.extend(reset_parameters(memory).into_iter().flatten());
        return Some(Start { platform: name, processor: None, mode: mode.name(), registers });
    }
    let (processor, offset) = first_context(file, platform.compatibility_mask)?;
    let (mode, registers) = match platform.platform_type {
        IgvmPlatformType::NATIVE => native(&read(file, offset)?),
        IgvmPlatformType::SEV_SNP => snp(&read(file, offset)?),
        _ => return None,
    };
    Some(Start { platform: name, processor: Some(processor), mode: mode.name(), registers })
}

/// The context of the processor with the lowest number.
fn first_context(file: &File<'_>, mask: u32) -> Option<(u16, u32)> {
    let contexts = file.headers.iter().filter_map(|header| match header.content {
        Content::Context(context) if is_for(context.compatibility_mask, mask) => {
            Some((context.vp_index, context.file_offset))
        }
        _ => None,
    });
    contexts.min()
}

fn read<T: FromBytes>(file: &File<'_>, offset: u32) -> Option<T> {
    T::read_from_bytes(file.data(offset, size_of::<T>() as u64)?).ok()
}

type State = (Mode, Vec<(&'static str, u64)>);

fn native(context: &IgvmNativeVpContextX64) -> State {
    let IgvmNativeVpContextX64 { rip, rsp, rdi, cr0, cr3, cr4, efer, gdtr_base, code_attributes, .. } = *context;
    // Attributes are bits 40 to 55 of a descriptor.
    let (cs_long, cs_32_bit) = (code_attributes & 1 << 13 != 0, code_attributes & 1 << 14 != 0);
    let registers =
        [("rip", rip), ("rsp", rsp), ("rdi", rdi), ("cr0", cr0), ("cr3", cr3), ("cr4", cr4), ("efer", efer)];
    (Mode { cr0, efer, cs_long, cs_32_bit }, registers.into_iter().chain([("gdtr", gdtr_base)]).collect())
}

fn snp(vmsa: &SevVmsa) -> State {
    // A VMSA leaves out the limit's bits, so L and D are bits 9 and 10 (APM vol. 2, 15.5.1).
    let (cs_long, cs_32_bit) = (vmsa.cs.attrib & 1 << 9 != 0, vmsa.cs.attrib & 1 << 10 != 0);
    let mode = Mode { cr0: vmsa.cr0, efer: vmsa.efer, cs_long, cs_32_bit };
    let mut registers = vec![("rip", vmsa.rip)];
    if vmsa.cs.base != 0 {
        registers.push(("cs base", vmsa.cs.base));
    }
    registers.extend([("rsp", vmsa.rsp), ("rdi", vmsa.rdi), ("cr0", vmsa.cr0), ("cr3", vmsa.cr3), ("cr4", vmsa.cr4)]);
    registers.extend([("efer", vmsa.efer), ("gdtr", vmsa.gdtr.base), ("sev_features", vmsa.sev_features.into())]);
    (mode, registers)
}

/// What the code at the reset vector is told in our own images: entry point and launch block.
fn reset_parameters(memory: &Memory<'_>) -> Option<[(&'static str, u64); 2]> {
    const ADDRESSES: u64 = RESET_PAGE + offset_of!(ResetParameters, entry) as u64;
    const _: () = assert!(offset_of!(ResetParameters, launch_block) == offset_of!(ResetParameters, entry) + 4);
    let addresses = memory.has_reset_page().then(|| memory.word(ADDRESSES)).flatten()?;
    Some([("entry", addresses & 0xffff_ffff), ("launch block", addresses >> 32)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_the_manual() {
        let mode = |cr0, efer, cs_long, cs_32_bit| Mode { cr0, efer, cs_long, cs_32_bit }.name();
        assert_eq!(mode(0x10, 0, false, false), "real mode");
        assert_eq!(mode(0x11, 0x1000, false, true), "32-bit mode without paging");
        assert_eq!(mode(0x21, 0x901, false, true), "32-bit mode without paging");
        assert_eq!(mode(0x11, 0, true, false), "16-bit protected mode without paging");
        assert_eq!(mode(0x8001_0033, 0xd00, true, false), "64-bit mode");
        assert_eq!(mode(0x8001_0033, 0xd00, false, true), "compatibility mode");
        assert_eq!(mode(0x8000_0011, 0, true, true), "protected mode with paging");
    }
}
