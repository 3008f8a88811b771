// SPDX-License-Identifier: MIT OR Apache-2.0
//! The states in which virtual processors start: power-up, a start-up IPI, and the payloads' entry protocols.

use platform::{DescriptorTable, Gpr, Segment, SegmentAttributes, SegmentRegister, VcpuState};
use specs::linux_boot;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
/// CR0 after INIT: caches off, the coprocessor type.
const CR0_RESET: u64 = 0x6000_0010;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESET: u64 = 1 << 1;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;

const CODE: SegmentAttributes = SegmentAttributes::from_bits_retain(0x9b);
const DATA: SegmentAttributes = SegmentAttributes::from_bits_retain(0x93);
const LDT: SegmentAttributes = SegmentAttributes::from_bits_retain(0x82);
const BUSY_TSS: SegmentAttributes = SegmentAttributes::from_bits_retain(0x8b);

/// What all starts have in common.
fn base() -> VcpuState {
    VcpuState { rflags: RFLAGS_RESET, pat: PAT_RESET, dr6: DR6_RESET, dr7: DR7_RESET, ..VcpuState::default() }
}

fn segments(code: Segment, data: Segment) -> [Segment; 8] {
    let system = |attributes| Segment { selector: 0, attributes, limit: 0xffff, base: 0 };
    let mut all = [data; 8];
    for (slot, value) in
        [(SegmentRegister::Cs, code), (SegmentRegister::Ldtr, system(LDT)), (SegmentRegister::Tr, system(BUSY_TSS))]
    {
        if let Some(segment) = all.get_mut(slot as usize) {
            *segment = value;
        }
    }
    all
}

/// A processor in real mode whose first instruction is at `page` × 4 KiB: after INIT and a start-up IPI (SDM vol. 3A,
/// 10.4.4.1). `signature` is what CPUID 1 returns in EAX, which RDX holds.
pub(crate) fn real_mode(page: u8, signature: u32) -> VcpuState {
    let code = Segment { selector: u16::from(page) << 8, attributes: CODE, limit: 0xffff, base: u64::from(page) << 12 };
    let data = Segment { selector: 0, attributes: DATA, limit: 0xffff, base: 0 };
    let mut state = VcpuState {
        cr0: CR0_RESET,
        segments: segments(code, data),
        gdtr: DescriptorTable { base: 0, limit: 0xffff },
        idtr: DescriptorTable { base: 0, limit: 0xffff },
        ..base()
    };
    set(&mut state, Gpr::Rdx, u64::from(signature));
    state
}

/// 32-bit protected mode with flat segments and no paging, as PVH and Multiboot want it: `eax` and `ebx` carry what the
/// protocol says.
pub(crate) fn protected_mode(entry: u64, eax: u32, ebx: u32) -> VcpuState {
    let flat = |attributes: SegmentAttributes, selector| Segment {
        selector,
        attributes: attributes | SegmentAttributes::DEFAULT_BIG | SegmentAttributes::GRANULARITY,
        limit: u32::MAX,
        base: 0,
    };
    let mut state =
        VcpuState { cr0: CR0_PE | CR0_ET, rip: entry, segments: segments(flat(CODE, 0x8), flat(DATA, 0x10)), ..base() };
    if let Some(task) = state.segments.get_mut(SegmentRegister::Tr as usize) {
        task.limit = 0x67;
    }
    set(&mut state, Gpr::Rax, u64::from(eax));
    set(&mut state, Gpr::Rbx, u64::from(ebx));
    state
}

/// The Linux 64-bit boot protocol (boot.rst, "64-bit Boot Protocol"): long mode, an identity map at `page_tables`, a
/// descriptor table at `gdt` with `__BOOT_CS` and `__BOOT_DS`, RSI at the zero page.
pub(crate) fn linux_64(entry: u64, zero_page: u64, page_tables: u64, gdt: DescriptorTable) -> VcpuState {
    let code = Segment {
        selector: linux_boot::BOOT_CS,
        attributes: CODE | SegmentAttributes::LONG | SegmentAttributes::GRANULARITY,
        limit: u32::MAX,
        base: 0,
    };
    let data = Segment {
        selector: linux_boot::BOOT_DS,
        attributes: DATA | SegmentAttributes::DEFAULT_BIG | SegmentAttributes::GRANULARITY,
        limit: u32::MAX,
        base: 0,
    };
    let mut state = VcpuState {
        cr0: CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_PE,
        cr3: page_tables,
        cr4: CR4_PAE,
        efer: EFER_LME | EFER_LMA,
        rip: entry,
        segments: segments(code, data),
        gdtr: gdt,
        ..base()
    };
    set(&mut state, Gpr::Rsi, zero_page);
    state
}

fn set(state: &mut VcpuState, register: Gpr, value: u64) {
    if let Some(slot) = state.gprs.get_mut(register as usize) {
        *slot = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_startup_ipi_starts_at_its_page() {
        let state = real_mode(0x9a, 0x800f12);
        let code = state.segments[SegmentRegister::Cs as usize];
        assert_eq!((code.selector, code.base, code.limit), (0x9a00, 0x9a000, 0xffff));
        assert_eq!((state.rip, state.cr0 & CR0_PE, state.rflags), (0, 0, 2));
        assert_eq!(state.gprs[Gpr::Rdx as usize], 0x800f12);
    }

    #[test]
    fn linux_starts_in_long_mode_with_its_zero_page() {
        let gdt = DescriptorTable { base: 0x91000, limit: 0x1f };
        let state = linux_64(0x100_0200, 0x90000, 0x92000, gdt);
        assert_eq!(state.gprs[Gpr::Rsi as usize], 0x90000);
        assert_eq!(state.segments[SegmentRegister::Cs as usize].selector, 0x10);
        assert_eq!(state.segments[SegmentRegister::Ss as usize].selector, 0x18);
        assert!(state.segments[SegmentRegister::Cs as usize].attributes.contains(SegmentAttributes::LONG));
        assert_eq!(state.efer & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
    }

    #[test]
    fn the_32_bit_protocols_get_their_registers() {
        let state = protected_mode(0x10_0000, 0x2bad_b002, 0x9_0000);
        assert_eq!(state.gprs[Gpr::Rax as usize], 0x2bad_b002);
        assert_eq!(state.gprs[Gpr::Rbx as usize], 0x9_0000);
        assert_eq!(state.cr0 & (CR0_PE | CR0_PG), CR0_PE);
    }
}
