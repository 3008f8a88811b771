// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of fixed layout: FADT, FACS, MADT, MCFG.

use specs::acpi::{
    FACS_ALIGNMENT, Facs, FadtBody, GenericAddress, MadtBody, MadtIoApic, MadtLocalApic, MadtLocalApicNmi,
    MadtSourceOverride, McfgBody, PCAT_COMPAT, PROCESSOR_ENABLED, SYSTEM_IO, boot_arch, fadt_flag, mps_inti, signature,
};

use super::writer::Writer;
use super::{CENTURY_REGISTER, Description, IOAPIC_BASE, IOAPIC_ID, LOCAL_APIC_BASE};
use crate::chipset::{ECAM_BASE, HARD_RESET, PM_BASE, RESET_CONTROL_PORT, SCI, block};

/// The local interrupt pin that carries NMI.
const NMI_PIN: u8 = 1;
/// Latencies above 100 and 1000 microseconds say that there is no C2 and no C3 (ACPI 6.5, 5.2.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// A register block of `bytes` bytes at a port, accessed by 1, 2 or 4 bytes at a time.
const fn port_block(port: u16, bytes: u8, access: u8) -> GenericAddress {
    // Access size 1, 2, 3 is byte, word, doubleword.
    let access_size = access.trailing_zeros() as u8 + 1;
    GenericAddress { address_space: SYSTEM_IO, bit_width: bytes * 8, bit_offset: 0, access_size, address: port as u64 }
}

/// Writes the FACS; returns its address.
pub(super) fn facs(writer: &mut Writer<'_>) -> u64 {
    writer.align(FACS_ALIGNMENT);
    let address = writer.address(writer.mark());
    writer.put(&Facs {
        signature: signature::FACS,
        length: size_of::<Facs>() as u32,
        hardware_signature: 0,
        waking_vector: 0,
        global_lock: 0,
        flags: 0,
        x_waking_vector: 0,
        version: 2,
        reserved: [0; 31],
    });
    address
}

/// Writes the FADT; returns its address. Everything is below 1 MiB, so 32-bit fields suffice for addresses.
///
/// SMI_CMD stays zero: the machine has no SMM and is always in ACPI mode, see [`crate::chipset::Power`].
pub(super) fn fadt(writer: &mut Writer<'_>, facs: u64, dsdt: u64) -> u64 {
    const PM1_EVENT: u16 = PM_BASE + block::PM1_EVENT;
    const PM1_CONTROL: u16 = PM_BASE + block::PM1_CONTROL;
    const TIMER: u16 = PM_BASE + block::TIMER;
    const GPE0: u16 = PM_BASE + block::GPE0;
    let body = FadtBody {
        firmware_ctrl: facs as u32,
        dsdt: dsdt as u32,
        sci_int: SCI.0.into(),
        pm1a_evt_blk: PM1_EVENT.into(),
        pm1a_cnt_blk: PM1_CONTROL.into(),
        pm_tmr_blk: TIMER.into(),
        gpe0_blk: GPE0.into(),
        pm1_evt_len: block::PM1_EVENT_BYTES,
        pm1_cnt_len: block::PM1_CONTROL_BYTES,
        pm_tmr_len: block::TIMER_BYTES,
        gpe0_blk_len: block::GPE0_BYTES,
        p_lvl2_lat: NO_C2,
        p_lvl3_lat: NO_C3,
        century: CENTURY_REGISTER,
        iapc_boot_arch: boot_arch::LEGACY_DEVICES | boot_arch::KEYBOARD_CONTROLLER | boot_arch::VGA_NOT_PRESENT,
        // The power button is the fixed one (PWR_BUTTON clear), the timer has 24 bits (TMR_VAL_EXT clear).
        flags: fadt_flag::WBINVD
            | fadt_flag::PROC_C1
            | fadt_flag::SLP_BUTTON
            | fadt_flag::FIX_RTC
            | fadt_flag::RESET_REG_SUP,
        reset_reg: port_block(RESET_CONTROL_PORT, 1, 1),
        reset_value: HARD_RESET,
        minor_version: 5,
        x_dsdt: dsdt,
        x_pm1a_evt_blk: port_block(PM1_EVENT, block::PM1_EVENT_BYTES, 2),
        x_pm1a_cnt_blk: port_block(PM1_CONTROL, block::PM1_CONTROL_BYTES, 2),
        x_pm_tmr_blk: port_block(TIMER, block::TIMER_BYTES, 4),
        x_gpe0_blk: port_block(GPE0, block::GPE0_BYTES, 1),
        ..FadtBody::default()
    };
    writer.table(signature::FADT, 6, |writer| writer.put(&body))
}

/// Writes the MADT; returns its address. A processor's `_UID` and APIC ID are its index.
pub(super) fn madt(writer: &mut Writer<'_>, description: &Description) -> u64 {
    writer.table(signature::MADT, 5, |writer| {
        writer.put(&MadtBody { local_apic: LOCAL_APIC_BASE as u32, flags: PCAT_COMPAT });
        for id in 0..description.processors as u8 {
            writer.put(&MadtLocalApic { kind: 0, length: 8, uid: id, apic_id: id, flags: PROCESSOR_ENABLED });
        }
        let address = IOAPIC_BASE as u32;
        writer.put(&MadtIoApic { kind: 1, length: 12, id: IOAPIC_ID, reserved: 0, address, gsi_base: 0 });
        // The timer is on pin 2; SCI keeps its pin but is level-triggered.
        source_override(writer, 0, 2, mps_inti::EDGE_HIGH);
        source_override(writer, SCI.0, SCI.0.into(), mps_inti::LEVEL_HIGH);
        let flags = mps_inti::CONFORMS;
        writer.put(&MadtLocalApicNmi { kind: 4, length: 6, uid: 0xFF, flags, pin: NMI_PIN });
    })
}

fn source_override(writer: &mut Writer<'_>, source: u8, gsi: u32, flags: u16) {
    writer.put(&MadtSourceOverride { kind: 2, length: 10, bus: 0, source, gsi, flags });
}

/// Writes the MCFG; returns its address. Bus 0 alone.
pub(super) fn mcfg(writer: &mut Writer<'_>) -> u64 {
    writer.table(signature::MCFG, 1, |writer| {
        let body = McfgBody { reserved: 0, base: ECAM_BASE, segment: 0, first_bus: 0, last_bus: 0, reserved_end: 0 };
        writer.put(&body);
    })
}
