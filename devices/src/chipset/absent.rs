// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hardware that guests look for and that is not here: it reads all-ones and ignores writes.
//!
//! The dispatcher asks here after no device took an access. An access that is not listed either gets the same answer, but
//! is counted as a surprise: that is how a missing device shows. A device may overlap a listed range; it comes first.

use core::ops::RangeInclusive;

/// Ports, sorted and disjoint.
const PORTS: &[RangeInclusive<u64>] = &[
    0x0000..=0x001F, // 8237 DMA controller 1
    0x0022..=0x0023, // interrupt mode register, Cyrix configuration
    0x002E..=0x002F, // Super I/O
    0x004E..=0x004F, // Super I/O, second
    0x0062..=0x0062, // embedded controller data
    0x0066..=0x0066, // embedded controller command
    0x0072..=0x0077, // extended CMOS
    0x0081..=0x0091, // DMA page registers
    0x0093..=0x009F, // DMA page registers, alias
    0x00B2..=0x00B3, // APM and SMI command
    0x00C0..=0x00DF, // 8237 DMA controller 2
    0x00E0..=0x00EB, // test ports
    0x00F0..=0x00F1, // coprocessor error
    0x00F4..=0x00F7, // test exit port
    0x0170..=0x0177, // IDE, secondary
    0x01CE..=0x01D0, // Bochs display
    0x01F0..=0x01F7, // IDE, primary
    0x0200..=0x020F, // game port
    0x0220..=0x022F, // sound card
    0x0240..=0x024F, // sound card, second
    0x0278..=0x027F, // LPT2 and ISA plug and play address
    0x02E8..=0x02EF, // COM4
    0x02F8..=0x02FF, // COM2
    0x0300..=0x031F, // ISA prototype and network cards
    0x0376..=0x0376, // IDE control, secondary
    0x0378..=0x037F, // LPT1
    0x0388..=0x038B, // FM synthesizer
    0x03B0..=0x03BB, // MDA
    0x03BC..=0x03BF, // LPT3
    0x03C0..=0x03DF, // VGA
    0x03E8..=0x03EF, // COM3
    0x03F0..=0x03F5, // floppy controller
    0x03F6..=0x03F6, // IDE control, primary
    0x03F7..=0x03F7, // floppy digital input
    0x0402..=0x0403, // firmware debug console
    0x0480..=0x048F, // EISA DMA high page registers
    0x04D2..=0x04D6, // EISA DMA mode
    0x0505..=0x0505, // pvpanic
    0x0514..=0x051B, // fw_cfg DMA
    0x0778..=0x077F, // LPT1 extended control
    0x0A79..=0x0A79, // ISA plug and play write data
    0x0C80..=0x0C83, // EISA board identity
    0x0CD6..=0x0CD7, // AMD power management index
    0x0CD8..=0x0CE3, // processor hot-plug
    0x2000..=0x2017, // test interrupt lines
    0x5658..=0x5659, // VMware backdoor
    0xC000..=0xCFFF, // PCI configuration mechanism #2
];

/// Addresses, sorted and disjoint.
const MMIO: &[RangeInclusive<u64>] = &[
    0x000A_0000..=0x000B_FFFF, // VGA frame buffer
    0xB010_0000..=0xB3FF_FFFF, // PCI buses 1 to 63
    0xFEC0_1000..=0xFEC0_FFFF, // second IOAPIC
    0xFED0_0000..=0xFED0_3FFF, // HPET
    0xFED1_0000..=0xFED1_3FFF, // MCHBAR
    0xFED1_8000..=0xFED1_9FFF, // DMIBAR and EPBAR
    0xFED1_C000..=0xFED1_FFFF, // root complex register block
    0xFED2_0000..=0xFED3_FFFF, // TXT
    0xFED4_0000..=0xFED4_4FFF, // TPM
    0xFED9_0000..=0xFED9_3FFF, // DMA remapping
    0xFF00_0000..=0xFF00_FFFF, // test memory
    0xFFC0_0000..=0xFFFF_FFFF, // firmware flash
];

fn is_within(list: &[RangeInclusive<u64>], first: u64, width: u8) -> bool {
    let last = u64::from(width).checked_sub(1).and_then(|rest| first.checked_add(rest));
    let range = list.get(list.partition_point(|range| *range.end() < first));
    last.zip(range).is_some_and(|(last, range)| *range.start() <= first && last <= *range.end())
}

/// Whether it is known that nothing is at these ports. An access that is not wholly within one range is a surprise.
pub fn is_absent_port(port: u16, width: u8) -> bool {
    is_within(PORTS, port.into(), width)
}

/// Whether it is known that nothing is at this address.
pub fn is_absent_mmio(address: u64, width: u8) -> bool {
    is_within(MMIO, address, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_disjoint() {
        for list in [PORTS, MMIO] {
            assert!(list.iter().all(|range| !range.is_empty()));
            for pair in list.windows(2) {
                assert!(pair[0].end() < pair[1].start(), "{:x?} and {:x?}", pair[0], pair[1]);
            }
        }
        assert!(PORTS.iter().all(|range| *range.end() <= 0xFFFF));
    }

    #[test]
    fn probes_of_operating_systems_are_known() {
        for (port, name) in [(0x3C0, "VGA"), (0x2E8, "COM4"), (0x87, "DMA page registers"), (0x5658, "VMware backdoor")]
        {
            assert!(is_absent_port(port, 1), "{name}");
        }
        assert!(is_absent_mmio(0xFED0_0000, 8), "HPET");
        assert!(is_absent_mmio(0xFED4_0000, 4), "TPM");
    }

    #[test]
    fn surprises_are_not() {
        assert!(!is_absent_port(0x1234, 1));
        assert!(!is_absent_port(0x92, 1));
        assert!(!is_absent_port(0x3BF, 2), "across two ranges");
        assert!(!is_absent_port(0xFFFF, 4));
        assert!(!is_absent_port(0x3C0, 0));
        assert!(!is_absent_mmio(u64::MAX, 8));
        assert!(!is_absent_mmio(0xC_0000, 1));
    }
}
