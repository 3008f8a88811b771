// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state in which the boot processor enters a native image.
//!
//! Layout: `IgvmNativeVpContextX64` of the IGVM format. Segment attributes are those of a descriptor's bits 40 to 55
//! (APM vol. 2, section 4.8), which is how QEMU's loader reads them too. What the format does not name has its reset
//! value (APM vol. 2, table 14-1): no task register, an LDT that nobody may use, PAT 0007040600070406h.

use igvm_defs::IgvmNativeVpContextX64;
use zerocopy::FromZeros;

/// Selector of the 64-bit code segment in [`GDT`].
const CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment in [`GDT`].
const DATA_SELECTOR: u16 = 0x10;

/// Present, ring 0, execute and read, accessed; long mode, 4 KiB granularity.
const CODE_ATTRIBUTES: u16 = 0xa09b;
/// Present, ring 0, read and write, accessed; 32-bit stack, 4 KiB granularity.
const DATA_ATTRIBUTES: u16 = 0xc093;

/// The descriptor table: null, code, data. The accessed bits are set, so that no processor ever writes to it.
pub(crate) const GDT: [u64; 3] = [0, descriptor(CODE_ATTRIBUTES), descriptor(DATA_ATTRIBUTES)];

/// A descriptor with base 0 and the highest limit (APM vol. 2, section 4.8.1).
const fn descriptor(attributes: u16) -> u64 {
    0x000f_0000_0000_ffff | (attributes as u64) << 40
}

/// CR0 (APM vol. 2, section 3.1.1): PG, WP, NE, ET, MP, PE.
const CR0: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1 << 0;
/// CR4 (section 3.1.3): PGE, PAE. No OSFXSR: the image uses no vector registers.
const CR4: u64 = 1 << 7 | 1 << 5;
/// EFER (section 3.1.7): NXE, LMA, LME.
const EFER: u64 = 1 << 11 | 1 << 10 | 1 << 8;
/// RFLAGS: the bit that always reads as one; interrupts are off.
const RFLAGS: u64 = 1 << 1;

/// What differs between images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) entry: u64,
    pub(crate) stack_top: u64,
    pub(crate) launch_block: u64,
    pub(crate) page_table_root: u64,
    pub(crate) gdt: u64,
}

/// The boot processor's registers: RDI holds the launch block's address, all other general registers are zero.
pub(crate) fn native(start: Start) -> IgvmNativeVpContextX64 {
    IgvmNativeVpContextX64 {
        rip: start.entry,
        rsp: start.stack_top,
        rdi: start.launch_block,
        rflags: RFLAGS,
        gdtr_base: start.gdt,
        gdtr_limit: (size_of_val(&GDT) - 1) as u16,
        code_selector: CODE_SELECTOR,
        code_attributes: CODE_ATTRIBUTES,
        code_limit: u32::MAX,
        data_selector: DATA_SELECTOR,
        data_attributes: DATA_ATTRIBUTES,
        data_limit: u32::MAX,
        cr0: CR0,
        cr3: start.page_table_root,
        cr4: CR4,
        efer: EFER,
        ..IgvmNativeVpContextX64::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_usual_flat_ones() {
        assert_eq!(GDT, [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
    }

    #[test]
    fn the_processor_starts_in_long_mode_with_write_protection_and_no_execute() {
        let context = native(Start { entry: 1, stack_top: 2, launch_block: 3, page_table_root: 0x4000, gdt: 5 });
        assert_eq!((context.cr0, context.cr4, context.efer), (0x8001_0033, 0xa0, 0xd00));
        assert_eq!((context.rip, context.rsp, context.rdi, context.cr3), (1, 2, 3, 0x4000));
        assert_eq!((context.idtr_base, context.idtr_limit), (0, 0));
    }
}
