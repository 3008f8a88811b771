// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hardware that guests look for and that is not here: it reads all-ones and ignores writes, by name.
//!
//! The dispatcher asks here after no device took an access. An access that is not listed either gets the same answer, but
//! is counted as a surprise: that is how a missing device shows. A device may overlap a listed range; it comes first.

/// A range in which nothing answers, for a known reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Absent {
    /// First port or address.
    pub first: u64,
    /// Last port or address.
    pub last: u64,
    /// What is not there.
    pub name: &'static str,
}

const fn absent(first: u64, last: u64, name: &'static str) -> Absent {
    Absent { first, last, name }
}

/// Sorted and disjoint.
const PORTS: &[Absent] = &[
    absent(0x0000, 0x001F, "8237 DMA controller 1"),
    absent(0x0022, 0x0023, "interrupt mode register, Cyrix configuration"),
    absent(0x002E, 0x002F, "Super I/O"),
    absent(0x004E, 0x004F, "Super I/O, second"),
    absent(0x0062, 0x0062, "embedded controller data"),
    absent(0x0066, 0x0066, "embedded controller command"),
    absent(0x0072, 0x0077, "extended CMOS"),
    absent(0x0081, 0x0091, "DMA page registers"),
    absent(0x0093, 0x009F, "DMA page registers, alias"),
    absent(0x00B2, 0x00B3, "APM and SMI command"),
    absent(0x00C0, 0x00DF, "8237 DMA controller 2"),
    absent(0x00E0, 0x00EB, "test ports"),
    absent(0x00F0, 0x00F1, "coprocessor error"),
    absent(0x00F4, 0x00F7, "test exit port"),
    absent(0x0170, 0x0177, "IDE, secondary"),
    absent(0x01CE, 0x01D0, "Bochs display"),
    absent(0x01F0, 0x01F7, "IDE, primary"),
    absent(0x0200, 0x020F, "game port"),
    absent(0x0220, 0x022F, "sound card"),
    absent(0x0240, 0x024F, "sound card, second"),
    absent(0x0278, 0x027F, "LPT2 and ISA plug and play address"),
    absent(0x02E8, 0x02EF, "COM4"),
    absent(0x02F8, 0x02FF, "COM2"),
    absent(0x0300, 0x031F, "ISA prototype and network cards"),
    absent(0x0376, 0x0376, "IDE control, secondary"),
    absent(0x0378, 0x037F, "LPT1"),
    absent(0x0388, 0x038B, "FM synthesizer"),
    absent(0x03B0, 0x03BB, "MDA"),
    absent(0x03BC, 0x03BF, "LPT3"),
    absent(0x03C0, 0x03DF, "VGA"),
    absent(0x03E8, 0x03EF, "COM3"),
    absent(0x03F0, 0x03F5, "floppy controller"),
    absent(0x03F6, 0x03F6, "IDE control, primary"),
    absent(0x03F7, 0x03F7, "floppy digital input"),
    absent(0x0402, 0x0403, "firmware debug console"),
    absent(0x0480, 0x048F, "EISA DMA high page registers"),
    absent(0x04D2, 0x04D6, "EISA DMA mode"),
    absent(0x0505, 0x0505, "pvpanic"),
    absent(0x0514, 0x051B, "fw_cfg DMA"),
    absent(0x0778, 0x077F, "LPT1 extended control"),
    absent(0x0A79, 0x0A79, "ISA plug and play write data"),
    absent(0x0C80, 0x0C83, "EISA board identity"),
    absent(0x0CD6, 0x0CD7, "AMD power management index"),
    absent(0x0CD8, 0x0CE3, "processor hot-plug"),
    absent(0x2000, 0x2017, "test interrupt lines"),
    absent(0x5658, 0x5659, "VMware backdoor"),
    absent(0xC000, 0xCFFF, "PCI configuration mechanism #2"),
];

/// Sorted and disjoint.
const MMIO: &[Absent] = &[
    absent(0x000A_0000, 0x000B_FFFF, "VGA frame buffer"),
    absent(0xB010_0000, 0xB3FF_FFFF, "PCI buses 1 to 63"),
    absent(0xFEC0_1000, 0xFEC0_FFFF, "second IOAPIC"),
    absent(0xFED0_0000, 0xFED0_3FFF, "HPET"),
    absent(0xFED1_0000, 0xFED1_3FFF, "MCHBAR"),
    absent(0xFED1_8000, 0xFED1_9FFF, "DMIBAR and EPBAR"),
    absent(0xFED1_C000, 0xFED1_FFFF, "root complex register block"),
    absent(0xFED2_0000, 0xFED3_FFFF, "TXT"),
    absent(0xFED4_0000, 0xFED4_4FFF, "TPM"),
    absent(0xFED9_0000, 0xFED9_3FFF, "DMA remapping"),
    absent(0xFF00_0000, 0xFF00_FFFF, "test memory"),
    absent(0xFFC0_0000, 0xFFFF_FFFF, "firmware flash"),
];

fn find(list: &'static [Absent], first: u64, width: u8) -> Option<&'static Absent> {
    let last = first.checked_add(u64::from(width).checked_sub(1)?)?;
    let at = list.partition_point(|entry| entry.last < first);
    list.get(at).filter(|entry| entry.first <= first && last <= entry.last)
}

/// What is known not to be at these ports. An access that is not wholly within one entry is a surprise.
pub fn absent_port(port: u16, width: u8) -> Option<&'static Absent> {
    find(PORTS, port.into(), width)
}

/// What is known not to be at this address.
pub fn absent_mmio(address: u64, width: u8) -> Option<&'static Absent> {
    find(MMIO, address, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_disjoint_and_named() {
        for list in [PORTS, MMIO] {
            assert!(list.iter().all(|entry| entry.first <= entry.last && !entry.name.is_empty()));
            for pair in list.windows(2) {
                assert!(pair[0].last < pair[1].first, "{} and {}", pair[0].name, pair[1].name);
            }
        }
        assert!(PORTS.iter().all(|entry| entry.last <= 0xFFFF));
    }

    #[test]
    fn known_probes_have_names() {
        for (port, name) in [(0x3C0, "VGA"), (0x2E8, "COM4"), (0x87, "DMA page registers"), (0x5658, "VMware backdoor")]
        {
            assert_eq!(absent_port(port, 1).map(|entry| entry.name), Some(name));
        }
        assert_eq!(absent_mmio(0xFED0_0000, 8).map(|entry| entry.name), Some("HPET"));
        assert_eq!(absent_mmio(0xFED4_0000, 4).map(|entry| entry.name), Some("TPM"));
    }

    #[test]
    fn surprises_have_none() {
        assert_eq!(absent_port(0x1234, 1), None);
        assert_eq!(absent_port(0x92, 1), None);
        assert_eq!(absent_port(0x3BF, 2), None, "across two entries");
        assert_eq!(absent_port(0xFFFF, 4), None);
        assert_eq!(absent_port(0x3C0, 0), None);
        assert_eq!(absent_mmio(u64::MAX, 8), None);
        assert_eq!(absent_mmio(0xC_0000, 1), None);
    }
}
