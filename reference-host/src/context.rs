// SPDX-License-Identifier: MIT OR Apache-2.0
//! The initial processor state of a native image, and what of it this host can set up.
//!
//! The state is loaded with ordinary instructions, so it must be one that they can reach: 64-bit mode with four-level
//! paging. Segments are loaded through a descriptor table that exists only for the switch (`handover`), so that the image's
//! own table, which may not even be there, is loaded but not used.

use crate::image::Header;
use crate::report::BadImage;
use igvm_defs::IgvmNativeVpContextX64;
use zerocopy::FromBytes;

/// CR0: PE and PG.
const CR0_LONG: u64 = 1 << 31 | 1;
/// CR0 bits that exist.
const CR0_KNOWN: u64 = 0xe005_003f;
/// CR4: PAE.
const CR4_PAE: u64 = 1 << 5;
/// CR4: five-level paging and process-context identifiers, which need steps of their own to turn on.
const CR4_REFUSED: u64 = 1 << 12 | 1 << 17;
/// EFER: LME and LMA.
const EFER_LONG: u64 = 1 << 8 | 1 << 10;
/// EFER bits that can be set: SCE, LME, LMA, NXE, SVME.
const EFER_KNOWN: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12;
/// Address bits of CR3.
const CR3_ROOT: u64 = 0x000f_ffff_ffff_f000;
/// RFLAGS bits that a start may set: status flags, DF, IOPL, AC, ID, and bit 1, which is always set. Not IF: an interrupt could
/// then arrive while the registers are half loaded.
const RFLAGS_KNOWN: u64 = 0x24_3cd7;
/// The bytes of file data in which the context lies.
pub const CONTEXT_BYTES: usize = 4096;

/// A processor state that [`crate::handover`] can enter.
#[derive(Clone, Copy, Debug)]
pub struct Context(IgvmNativeVpContextX64);

impl Context {
    /// Reads the state from its page of file data.
    pub fn parse(data: &[u8], header: &Header<'_>) -> Result<Self, BadImage> {
        let (state, rest) = IgvmNativeVpContextX64::read_from_prefix(data)
            .map_err(|_| header.bad("processor context", "expected a page of data"))?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(header.bad("processor context", "expected zeros behind the registers"));
        }
        Self::check(&state).map_err(|expectation| header.bad("processor context", expectation))?;
        Ok(Self(state))
    }

    /// The registers.
    pub const fn registers(&self) -> &IgvmNativeVpContextX64 {
        &self.0
    }

    /// The physical address of the top page table.
    pub const fn root(&self) -> u64 {
        self.0.cr3 & CR3_ROOT
    }

    fn check(state: &IgvmNativeVpContextX64) -> Result<(), &'static str> {
        if state.cr0 & CR0_LONG != CR0_LONG || state.cr4 & CR4_PAE == 0 || state.efer & EFER_LONG != EFER_LONG {
            return Err("expected 64-bit mode: this host can start nothing else");
        }
        if state.cr0 & !CR0_KNOWN != 0 || state.efer & !EFER_KNOWN != 0 || state.cr3 & !CR3_ROOT & !0x18 != 0 {
            return Err("expected no reserved bit in CR0, CR3 or EFER");
        }
        // NW without CD is a combination that MOV to CR0 refuses (APM vol. 2, 3.1.1).
        if state.cr0 & 1 << 29 != 0 && state.cr0 & 1 << 30 == 0 {
            return Err("expected CR0.CD with CR0.NW");
        }
        if state.cr4 & CR4_REFUSED != 0 || state.cr4 >> 32 != 0 {
            return Err("expected four-level paging without process-context identifiers");
        }
        if state.rflags & !RFLAGS_KNOWN != 0 {
            return Err("expected RFLAGS without IF, TF, NT, RF, VM or reserved bits");
        }
        if !is_canonical(state.rip) || !is_canonical(state.gdtr_base) || !is_canonical(state.idtr_base) {
            return Err("expected canonical addresses in RIP, GDTR and IDTR");
        }
        check_segments(state)
    }
}

/// Attributes of a 64-bit code segment: long, present, code; not 32-bit, not a system segment.
const CODE_MUST: u16 = 0x2098;
const CODE_MASK: u16 = 0x60 | 0x4098 | 0x2000;
/// Attributes of a data segment: present, writable, data, privilege level 0.
const DATA_MUST: u16 = 0x92;
const DATA_MASK: u16 = 0x60 | 0x9a;

fn check_segments(state: &IgvmNativeVpContextX64) -> Result<(), &'static str> {
    if state.code_attributes & CODE_MASK != CODE_MUST {
        return Err("expected a 64-bit code segment of privilege level 0");
    }
    if state.data_attributes & DATA_MASK != DATA_MUST {
        return Err("expected a writable data segment of privilege level 0");
    }
    if (state.code_attributes | state.data_attributes) & 0x0f00 != 0 {
        return Err("expected bits 11:8 of segment attributes to be zero");
    }
    let usable = |selector: u16| selector >= 8 && selector & 7 == 0 && usize::from(selector) < GDT_BYTES;
    if !usable(state.code_selector) || !usable(state.data_selector) || state.code_selector == state.data_selector {
        return Err("expected two different selectors between 8h and 1F8h with table and privilege bits zero");
    }
    Ok(())
}

const fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}

/// Size of the descriptor table for the switch.
pub const GDT_BYTES: usize = 512;

/// The descriptor with the given hidden part (APM vol. 2, 4.7.1). Attributes: bits 7:0 are the type, S, DPL and P, bits 15:12
/// are AVL, L, D and G. The limit counts bytes, as a VMCB holds it.
pub const fn descriptor(attributes: u16, base: u32, limit: u32) -> u64 {
    let limit = if attributes & 0x8000 != 0 { limit >> 12 } else { limit } as u64;
    let base = base as u64;
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (attributes as u64 & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (attributes as u64 >> 12) << 52
        | (base >> 24) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_code_segment_has_the_usual_descriptor() {
        assert_eq!(descriptor(0xa09b, 0, 0xffff_ffff), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(0xc093, 0, 0xffff_ffff), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(0x0093, 0x1234_5678, 0xf_fffe), 0x120f_9334_5678_fffe);
    }

    #[test]
    fn canonical_means_sign_extended_from_bit_47() {
        assert!(is_canonical(0) && is_canonical(0x7fff_ffff_ffff) && is_canonical(0xffff_8000_0000_0000));
        assert!(!is_canonical(0x8000_0000_0000) && !is_canonical(0xff00_0000_0000_0000));
    }
}
