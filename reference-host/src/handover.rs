// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaving for good: the switch to the image's page tables must happen in code that both the host's tables and the image's
//! map at the same address.
//!
//! Where an image's tables map free memory at all, they rarely let it be executed. So the host lends them a mapping: an
//! entry of their top table that is absent leads to the host's page for as long as the switch takes, and is absent again
//! before the image's first instruction. The page lies in the host's own memory; the guest's stays as the file made it.

use crate::context::{Context, GDT_BYTES, descriptor};
use crate::loader::{GuestRam, OutsideRam};
use crate::memory::PAGE;
use crate::report::{BadImage, Stop};
use igvm_defs::IgvmNativeVpContextX64;
use zerocopy::{Immutable, IntoBytes};

/// Entries of a top table that the host does not use itself: not the first, and none of the upper half.
const SLOTS: core::ops::Range<u64> = 1..256;
/// What an entry of a top table maps.
const SLOT_BYTES: u64 = 1 << 39;

/// An absent entry of the image's top page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u64);

impl Slot {
    /// Finds one; only an entry that is all zeros can be put back without knowing what it was.
    pub fn find(ram: &impl GuestRam, context: &Context) -> Result<Self, Stop> {
        let bad = |expectation| Stop::Image(BadImage { what: "top page table", offset: 0, expectation });
        for slot in SLOTS {
            match ram.read(context.root() + slot * 8) {
                Ok(0) => return Ok(Self(slot)),
                Ok(_) => (),
                Err(OutsideRam) => return Err(bad("expected CR3 to point to RAM that the VM has")),
            }
        }
        Err(bad("expected at least one entry from 1 to 255 to be zero"))
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The first address that it maps: where the page for the switch is seen.
    pub const fn page(self) -> u64 {
        self.0 * SLOT_BYTES
    }

    /// Where the image's top table is seen, so that the entry can be cleared.
    pub const fn table(self) -> u64 {
        self.page() + PAGE
    }

    /// The address of the entry itself, seen there.
    pub const fn entry(self) -> u64 {
        self.table() + self.0 * 8
    }
}

/// Limit and address, as LGDT and LIDT take them from `limit` on.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct TableRegister {
    padding: [u16; 3],
    limit: u16,
    base: u64,
}

impl TableRegister {
    const fn new(base: u64, limit: u16) -> Self {
        Self { padding: [0; 3], limit, base }
    }
}

/// What the leaving code reads: at offset [`DATA_OFFSET`] of its page.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct HandoverData {
    /// Where the borrowed entry is seen.
    pub entry: u64,
    /// The image's registers.
    pub registers: IgvmNativeVpContextX64,
    /// The table for the switch.
    pub switch_gdt: TableRegister,
    /// The image's table.
    pub gdt: TableRegister,
    /// The image's table.
    pub idt: TableRegister,
    /// The descriptors for the switch.
    pub descriptors: [u64; GDT_BYTES / 8],
}

/// Where [`HandoverData`] is in the page; the code is before it.
pub const DATA_OFFSET: u64 = 0x400;

impl HandoverData {
    /// The data for a switch through `slot`.
    pub fn new(context: &Context, slot: Slot) -> Self {
        let registers = *context.registers();
        let mut descriptors = [0; GDT_BYTES / 8];
        let code = descriptor(registers.code_attributes, registers.code_base, registers.code_limit);
        let data = descriptor(registers.data_attributes, registers.data_base, registers.data_limit);
        for (selector, value) in [(registers.code_selector, code), (registers.data_selector, data)] {
            // `Context` has checked that both selectors are within the table.
            if let Some(slot) = descriptors.get_mut(usize::from(selector / 8)) {
                *slot = value;
            }
        }
        let descriptors_at = slot.page() + DATA_OFFSET + core::mem::offset_of!(Self, descriptors) as u64;
        Self {
            entry: slot.entry(),
            registers,
            switch_gdt: TableRegister::new(descriptors_at, (GDT_BYTES - 1) as u16),
            gdt: TableRegister::new(registers.gdtr_base, registers.gdtr_limit),
            idt: TableRegister::new(registers.idtr_base, registers.idtr_limit),
            descriptors,
        }
    }
}

const _: () = assert!(DATA_OFFSET as usize + size_of::<HandoverData>() <= PAGE as usize);
