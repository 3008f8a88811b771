// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ACPI tables, generated from the same description as the machine itself.
//!
//! Follows ACPI 6.5, chapter 5, and the PCI Firmware Specification 3.2 for the MCFG. What the tables say and what the
//! devices do comes from the same constants in [`crate::chipset`]. The tables lie in the F-segment, where an operating
//! system that was not started by UEFI looks for the RSDP; [`crate::memory_map`] reserves it.
//!
//! An RSDT stands beside the XSDT for small kernels that know no other. Nothing here reads what a guest wrote: tables are
//! made once, before the guest runs, into a buffer that the caller copies out.

mod aml;
pub(crate) mod dsdt;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use specs::acpi::{RSDP_ALIGNMENT, RSDP_AREA, RSDP_CHECKSUMMED, RSDP_SIGNATURE, Rsdp, signature};
use writer::Writer;

/// Where the tables go by default: the F-segment.
pub const BASE: u64 = 0xF_0000;
/// Bytes of the F-segment: enough for every number of processors that the machine can have.
pub const BYTES: usize = 0x1_0000;

/// Where each processor finds its local APIC.
pub const LOCAL_APIC_BASE: u64 = 0xFEE0_0000;
/// Where the IOAPIC is.
pub const IOAPIC_BASE: u64 = 0xFEC0_0000;
/// The IOAPIC's own ID, which its ID register holds after reset. Only the serial APIC bus of old needed it to differ
/// from the processors' IDs.
pub const IOAPIC_ID: u8 = 0;
/// The CMOS register that holds the century.
pub const CENTURY_REGISTER: u8 = 0x32;

/// The most processors whose APIC IDs the MADT's entries can name: 255 means everybody.
const MAX_PROCESSORS: u32 = 255;

/// The machine that the tables describe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Description {
    /// How many processors there are. Their APIC IDs are 0, 1, 2 and so on.
    pub processors: u32,
    /// COM2 exists.
    pub command_console: bool,
    /// One past the last byte of RAM below 4 GiB. PCI memory is placed above it.
    pub low_memory_end: u64,
}

/// Where the tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tables {
    /// Guest-physical address of the RSDP.
    pub rsdp: u64,
    /// Bytes of the buffer that are used, from its start.
    pub used: usize,
}

/// Why no tables were made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// The buffer is too small for this machine.
    TooSmall,
    /// The base is not 16-byte aligned, or the tables would not lie within E0000–FFFFFh.
    Misplaced,
    /// No processors, or more than have an APIC ID.
    Processors,
}

/// Writes all tables for `description` to the start of `into`, which the guest will find at `base`.
pub fn build(description: &Description, into: &mut [u8], base: u64) -> Result<Tables, AcpiError> {
    let last = base.checked_add(into.len() as u64).and_then(|end| end.checked_sub(1)).ok_or(AcpiError::Misplaced)?;
    if !RSDP_AREA.contains(&base) || !RSDP_AREA.contains(&last) {
        return Err(AcpiError::Misplaced);
    }
    build_for_loader(description, into, base)
}

/// The same at any address below 4 GiB, for a loader that tells the guest where the RSDP is.
pub fn build_for_loader(description: &Description, into: &mut [u8], base: u64) -> Result<Tables, AcpiError> {
    let end = base.checked_add(into.len() as u64).ok_or(AcpiError::Misplaced)?;
    if !base.is_multiple_of(RSDP_ALIGNMENT) || end > 1 << 32 {
        return Err(AcpiError::Misplaced);
    }
    if !(1..=MAX_PROCESSORS).contains(&description.processors) {
        return Err(AcpiError::Processors);
    }
    let mut writer = Writer::new(into, base);
    // The RSDP comes first, so that the caller finds it at the base, and is filled in last.
    let rsdp = writer.mark();
    writer.bytes(&[0; size_of::<Rsdp>()]);

    let dsdt = writer.table(signature::DSDT, 2, |writer| dsdt::write(writer, description));
    let facs = tables::facs(&mut writer);
    let roots =
        [tables::fadt(&mut writer, facs, dsdt), tables::madt(&mut writer, description), tables::mcfg(&mut writer)];
    let xsdt = writer.table(signature::XSDT, 1, |writer| roots.iter().for_each(|root| writer.put(root)));
    let rsdt = writer.table(signature::RSDT, 1, |writer| roots.iter().for_each(|root| writer.put(&(*root as u32))));
    write_rsdp(&mut writer, rsdp, rsdt, xsdt);
    Ok(Tables { rsdp: base, used: writer.finish()? })
}

fn write_rsdp(writer: &mut Writer<'_>, at: writer::Mark, rsdt: u64, xsdt: u64) {
    use zerocopy::IntoBytes;

    let bytes = size_of::<Rsdp>();
    let rsdp = Rsdp {
        signature: RSDP_SIGNATURE,
        checksum: 0,
        oem_id: Writer::oem_id(),
        revision: 2,
        rsdt: rsdt as u32,
        length: bytes as u32,
        xsdt,
        extended_checksum: 0,
        reserved: [0; 3],
    };
    writer.patch(at, rsdp.as_bytes());
    writer.checksum(at, RSDP_CHECKSUMMED, at + core::mem::offset_of!(Rsdp, checksum));
    writer.checksum(at, bytes, at + core::mem::offset_of!(Rsdp, extended_checksum));
}
