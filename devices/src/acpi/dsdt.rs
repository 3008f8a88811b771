// SPDX-License-Identifier: MIT OR Apache-2.0
//! The DSDT: processors, the PCI root, the ISA devices behind the LPC bridge, the working and the off state.
//!
//! It holds names and no methods: nothing in this machine changes at run time, so the guest's AML interpreter has nothing
//! to run. There is no keyboard (PNP0303) because none is plugged in, and no power button device because the fixed one of
//! the PM1 block serves.

use vmm_interface::Line;

use super::aml::{self, Pnp, Segment};
use super::writer::Writer;
use super::{Description, IOAPIC_BASE};
use crate::chipset::{ECAM_BASE, ECAM_BYTES, FW_CFG_PORTS, SLEEP_TYPE_S5};

const PCI_EXPRESS_ROOT: Pnp = Pnp(0x0A08);
const PCI_ROOT: Pnp = Pnp(0x0A03);
const MOTHERBOARD: Pnp = Pnp(0x0C02);
const PIC: Pnp = Pnp(0x0000);
const PIT: Pnp = Pnp(0x0100);
const RTC: Pnp = Pnp(0x0B00);
const UART_16550: Pnp = Pnp(0x0501);

/// Bus number, slot and function of the LPC bridge, as `_ADR` has it.
const LPC_ADDRESS: u32 = 0x1F << 16;

/// The window for PCI memory begins here unless RAM reaches higher.
const MEMORY_WINDOW_FLOOR: u64 = 0xC000_0000;

/// The body of the DSDT.
pub(super) fn write(writer: &mut Writer<'_>, description: &Description) {
    aml::root_scope(writer, *b"_SB_", |writer| {
        for index in 0..description.processors {
            processor(writer, index);
        }
        motherboard(writer);
        pci_root(writer, description);
    });
    let off = u32::from(SLEEP_TYPE_S5);
    // PM1a and PM1b sleep types, then two reserved values (7.4.2). Zero is working: S0.
    aml::name_package(writer, *b"_S0_", &[0, 0, 0, 0]);
    aml::name_package(writer, *b"_S5_", &[off, off, 0, 0]);
}

fn processor(writer: &mut Writer<'_>, index: u32) {
    let digit = |shift: u32| match (index >> shift & 0xF) as u8 {
        digit @ 0..=9 => b'0' + digit,
        digit => b'A' + digit - 10,
    };
    aml::device(writer, [b'C', digit(8), digit(4), digit(0)], |writer| {
        aml::name_string(writer, *b"_HID", "ACPI0007");
        aml::name_integer(writer, *b"_UID", index);
    });
}

/// What belongs to no device with a driver, so that nothing is placed over it.
fn motherboard(writer: &mut Writer<'_>) {
    aml::device(writer, *b"MBRD", |writer| {
        aml::name_pnp(writer, *b"_HID", MOTHERBOARD);
        aml::name_resources(writer, *b"_CRS", |writer| {
            aml::fixed_memory(writer, ECAM_BASE as u32, ECAM_BYTES as u32);
            aml::ports(writer, 0x61, 1);
            aml::ports(writer, 0x80, 1);
            aml::ports(writer, 0x92, 1);
            aml::ports(writer, *FW_CFG_PORTS.start() as u16, 2);
        });
    });
}

fn pci_root(writer: &mut Writer<'_>, description: &Description) {
    aml::device(writer, *b"PCI0", |writer| {
        aml::name_pnp(writer, *b"_HID", PCI_EXPRESS_ROOT);
        aml::name_pnp(writer, *b"_CID", PCI_ROOT);
        aml::name_integer(writer, *b"_UID", 0);
        aml::name_integer(writer, *b"_SEG", 0);
        aml::name_integer(writer, *b"_BBN", 0);
        aml::name_resources(writer, *b"_CRS", |writer| {
            aml::bus_window(writer, 0, 0);
            aml::ports(writer, 0xCF8, 8);
            aml::port_window(writer, 0x0000, 0x0CF7);
            aml::port_window(writer, 0x0D00, 0xFFFF);
            if let Some((first, last)) = memory_window(description.low_memory_end) {
                aml::memory_window(writer, first, last);
            }
        });
        // No device has an interrupt pin yet, but an operating system wants the object: slot 1Fh's pins on the
        // IOAPIC's PCI inputs.
        aml::name_table(writer, *b"_PRT", &[0, 1, 2, 3].map(|pin| [LPC_ADDRESS | 0xFFFF, pin, 0, 16 + pin]));
        aml::device(writer, *b"LPCB", |writer| {
            aml::name_integer(writer, *b"_ADR", LPC_ADDRESS);
            isa_devices(writer, description);
        });
    });
}

/// The largest window that is neither RAM nor ours: it ends below the IOAPIC, above which all fixed devices lie.
pub(crate) fn memory_window(low_memory_end: u64) -> Option<(u32, u32)> {
    let first = low_memory_end.checked_next_multiple_of(1 << 20)?.max(MEMORY_WINDOW_FLOOR);
    (first < IOAPIC_BASE).then_some((first as u32, (IOAPIC_BASE - 1) as u32))
}

fn isa_devices(writer: &mut Writer<'_>, description: &Description) {
    isa_device(writer, *b"PIC_", PIC, &[(0x20, 2), (0xA0, 2), (0x4D0, 2)], Some(Line(2)));
    isa_device(writer, *b"PIT_", PIT, &[(0x40, 4)], Some(Line(0)));
    isa_device(writer, *b"RTC_", RTC, &[(0x70, 2)], Some(Line(8)));
    serial_port(writer, *b"COM1", 1, 0x3F8, Line(4));
    if description.command_console {
        serial_port(writer, *b"COM2", 2, 0x2F8, Line(3));
    }
}

fn isa_device(writer: &mut Writer<'_>, name: Segment, id: Pnp, ports: &[(u16, u8)], line: Option<Line>) {
    aml::device(writer, name, |writer| {
        aml::name_pnp(writer, *b"_HID", id);
        resources(writer, ports, line);
    });
}

fn serial_port(writer: &mut Writer<'_>, name: Segment, unique: u32, first: u16, line: Line) {
    aml::device(writer, name, |writer| {
        aml::name_pnp(writer, *b"_HID", UART_16550);
        aml::name_integer(writer, *b"_UID", unique);
        resources(writer, &[(first, 8)], Some(line));
    });
}

fn resources(writer: &mut Writer<'_>, ports: &[(u16, u8)], line: Option<Line>) {
    aml::name_resources(writer, *b"_CRS", |writer| {
        for (first, count) in ports {
            aml::ports(writer, *first, *count);
        }
        if let Some(line) = line {
            aml::irq(writer, line.0);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_memory_window_avoids_ram_and_fixed_devices() {
        assert_eq!(memory_window(0x1000_0000), Some((0xC000_0000, 0xFEBF_FFFF)));
        assert_eq!(memory_window(0xE000_0000), Some((0xE000_0000, 0xFEBF_FFFF)));
        assert_eq!(memory_window(0xE000_0001), Some((0xE010_0000, 0xFEBF_FFFF)));
        assert_eq!(memory_window(0xFEC0_0000), None);
        assert_eq!(memory_window(u64::MAX), None);
    }
}
