// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest `hostile` must have touched over a set of seeds, as numbered points: the guest notes the numbers, and
//! `cargo xtask test hostile` gives the missing ones their names. Both sides use this table, so that they cannot disagree.
//!
//! The ports and pages are those behind which `devices` has a device (a test of `xtask` compares). The MSRs are those of
//! the table in `vc-handlers`, for both vendors.

use core::fmt;

/// Ports with a device behind them when the test devices exist: first and last.
pub const PORTS: [(u16, u16); 21] = [
    (0x20, 0x21),
    (0x40, 0x43),
    (0x60, 0x60),
    (0x61, 0x61),
    (0x64, 0x64),
    (0x70, 0x71),
    (0x80, 0x80),
    (0x92, 0x92),
    (0xa0, 0xa1),
    (0xe0, 0xeb),
    (0xed, 0xed),
    (0xf4, 0xf7),
    (0xf8, 0xfb),
    (0x3f8, 0x3ff),
    (0x4d0, 0x4d1),
    (0x510, 0x511),
    (0x600, 0x67f),
    (0xcf8, 0xcfb),
    (0xcfc, 0xcff),
    (0x2000, 0x200f),
    (0x2010, 0x2017),
];

/// MSRs that the machine knows: first and last.
pub const MSRS: [(u32, u32); 54] = [
    (0x0, 0x1),
    (0x10, 0x10),
    (0x17, 0x17),
    (0x1b, 0x1b),
    (0x2a, 0x2a),
    (0x2c, 0x2c),
    (0x34, 0x34),
    (0x3a, 0x3b),
    (0x4e, 0x4e),
    (0x79, 0x79),
    (0x8b, 0x8b),
    (0xc1, 0xc2),
    (0xce, 0xce),
    (0xe1, 0xe1),
    (0xe7, 0xe8),
    (0xfe, 0xfe),
    (0x140, 0x140),
    (0x174, 0x176),
    (0x179, 0x17a),
    (0x186, 0x187),
    (0x1a0, 0x1a0),
    (0x1d9, 0x1de),
    (0x1fc, 0x1fc),
    (0x200, 0x20f),
    (0x250, 0x250),
    (0x258, 0x259),
    (0x268, 0x26f),
    (0x277, 0x277),
    (0x2ff, 0x2ff),
    (0x400, 0x47f),
    (0x606, 0x606),
    (0x611, 0x611),
    (0x619, 0x619),
    (0x639, 0x639),
    (0x641, 0x641),
    (0x64d, 0x64d),
    (0x6e0, 0x6e0),
    (0x800, 0x83f),
    (0xc000_0080, 0xc000_0084),
    (0xc000_0100, 0xc000_0103),
    (0xc001_0000, 0xc001_0007),
    (0xc001_0010, 0xc001_0010),
    (0xc001_0015, 0xc001_0015),
    (0xc001_001a, 0xc001_001a),
    (0xc001_001d, 0xc001_001d),
    (0xc001_001f, 0xc001_0020),
    (0xc001_0055, 0xc001_0055),
    (0xc001_0058, 0xc001_0058),
    (0xc001_0111, 0xc001_0115),
    (0xc001_0117, 0xc001_0117),
    (0xc001_0140, 0xc001_0141),
    (0xc001_1020, 0xc001_1023),
    (0xc001_1029, 0xc001_1029),
    (0xc001_102a, 0xc001_102b),
];

/// Processor modes in which foreign bytes are executed.
pub const MODES: [&str; 7] = [
    "real mode",
    "virtual-8086 mode",
    "16-bit protected mode",
    "32-bit protected mode",
    "16-bit compatibility mode",
    "32-bit compatibility mode",
    "64-bit mode",
];

/// Areas of the address space.
pub const AREAS: [&str; 10] = [
    "RAM",
    "the video hole",
    "the paravisor's region",
    "the end of RAM",
    "ECAM",
    "the IOAPIC",
    "the LAPIC",
    "test memory",
    "the statistics",
    "nothing",
];

/// Widths of memory accesses: those of SSE and AVX moves are the last two.
pub const WIDTHS: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// A register of a device in the address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// By its offset in the page.
    Lapic(u64),
    /// Of those behind the IOAPIC's window.
    IoApic(u8),
    /// The IOAPIC's choice of a register.
    IoApicSelect,
    /// Of the host bridge or of the LPC bridge.
    Pci {
        /// Of the LPC bridge.
        lpc: bool,
        /// By its offset in the configuration space.
        offset: u64,
    },
    /// A word of the statistics, by its offset in the window.
    Statistics(u64),
}

/// Words of the window's first page, of which the last ones are not in use.
const HEADER_WORDS: usize = 16;
/// Words of a vCPU's page: one of each histogram, all events and places for more, one of each table.
const HISTOGRAMS: usize = 11;
const EVENTS: usize = 32;
const TABLES: usize = 3;
const STATISTICS: usize = HEADER_WORDS + HISTOGRAMS + EVENTS + TABLES;

/// How many registers [`Register::nth`] knows.
pub const REGISTERS: usize = LAPIC + IOAPIC + 1 + PCI + STATISTICS;

impl Register {
    /// The register of a number.
    pub fn nth(number: usize) -> Self {
        let at = number % REGISTERS;
        if at < LAPIC {
            return Self::Lapic(at as u64 * 16);
        }
        let at = at - LAPIC;
        if at < IOAPIC {
            return Self::IoApic(at as u8);
        }
        let at = at - IOAPIC;
        if at == 0 {
            return Self::IoApicSelect;
        }
        let at = at - 1;
        if at < PCI {
            return Self::Pci { lpc: at >= PCI / 2, offset: (at % (PCI / 2)) as u64 * 4 };
        }
        Self::Statistics(statistics_offset(at - PCI))
    }
}

/// Where a word lies in the window: in the first page, or in the page of vCPU 1 (`docs/statistics.md`).
const fn statistics_offset(word: usize) -> u64 {
    const VCPU: u64 = 0x2000;
    let word = word as u64;
    let (header, histograms, events) = (HEADER_WORDS as u64, HISTOGRAMS as u64, EVENTS as u64);
    if word < header {
        word * 8
    } else if word < header + histograms {
        VCPU + (word - header) * 0x100
    } else if word < header + histograms + events {
        VCPU + 0xb00 + (word - header - histograms) * 8
    } else {
        VCPU + 0xc00 + (word - header - histograms - events) * 0x100
    }
}

/// Register, width by its index, and direction of access number `turn`, round and round through all of them.
pub fn nth_access(turn: u64) -> (usize, usize, bool) {
    let turn = (turn % (2 * REGISTERS * WIDTHS.len()) as u64) as usize;
    (turn / 2 / WIDTHS.len(), turn / 2 % WIDTHS.len(), !turn.is_multiple_of(2))
}

macro_rules! deeds {
    ($($name:ident = $words:literal,)+) => {
        /// What else must have happened.
        #[allow(missing_docs, reason = "the words beside each")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Deed {
            $($name,)+
        }

        const DEEDS: &[&str] = &[$($words,)+];
    };
}

deeds! {
    Cpuid = "CPUID",
    Hlt = "HLT",
    Cr0 = "a write of CR0",
    Cr3 = "a write of CR3",
    Cr4 = "a write of CR4",
    Cr8 = "a write of CR8",
    BadCr0 = "a refused write of CR0",
    BadCr3 = "a refused write of CR3",
    BadCr4 = "a refused write of CR4",
    Breakpoint = "a write of a breakpoint register",
    Dr6 = "a write of DR6",
    Dr7 = "a write of DR7",
    Xsetbv = "XSETBV",
    Rdpmc = "RDPMC",
    Invd = "INVD",
    Wbinvd = "WBINVD",
    Monitor = "MONITOR",
    Mwait = "MWAIT",
    Rsm = "RSM",
    Vmmcall = "VMMCALL",
    Svm = "an SVM instruction",
    Undefined = "an undefined instruction",
    StringIn = "string port input",
    StringOut = "string port output",
    StringRegion = "a port string on the paravisor's region",
    Flood = "an interrupt of a flood",
    Nmi = "an NMI",
    Command = "an interrupt command",
    Startup = "INIT and a start-up IPI",
    Gate = "an absurd gate",
    Descriptor = "an absurd descriptor",
    Entry = "an absurd page-table entry",
    TablesOnDevice = "page tables on a device",
    GatesOnDevice = "an interrupt table on a device",
    StackOnDevice = "a stack on a device",
    CodeOnDevice = "code on a device",
    Stuck = "a vCPU that stood still and was started again",
    TwoLevel = "two-level paging",
    Pae = "PAE paging",
    Unpaged = "protected mode without paging",
    Locked = "a locked access to a device",
    IntoDevice = "an access across a border of RAM and a device",
    OutOfDevice = "an access across a border of a device and RAM",
    AcrossDevices = "an access across two devices",
    AcrossAbsent = "an access across an absent page",
    AcrossReadOnly = "an access across a read-only page",
    AcrossCanonical = "an access across the end of the canonical addresses",
    Scan = "a scan of all memory for the canary",
}

/// Number `turn` of all that some ranges hold, round and round.
pub fn nth_of(ranges: &[(u32, u32)], turn: u64) -> u32 {
    let all: u64 = ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
    let mut index = turn % all.max(1);
    for (first, last) in ranges {
        let count = u64::from(last - first) + 1;
        if index < count {
            return first + index as u32;
        }
        index -= count;
    }
    0
}

/// The check sum of a line, byte by byte (FNV-1a).
pub const fn checked(sum: u32, byte: u8) -> u32 {
    (sum ^ byte as u32 ^ 0x811c_9dc5).wrapping_mul(0x0100_0193)
}

const fn total(ranges: &[(u16, u16)]) -> usize {
    let (mut sum, mut rest) = (0, ranges);
    while let [(first, last), more @ ..] = rest {
        sum += (*last - *first) as usize + 1;
        rest = more;
    }
    sum
}

const fn total_msrs(ranges: &[(u32, u32)]) -> usize {
    let (mut sum, mut rest) = (0, ranges);
    while let [(first, last), more @ ..] = rest {
        sum += (*last - *first) as usize + 1;
        rest = more;
    }
    sum
}

/// Registers of indexed devices.
const CMOS: usize = 128;
const IOAPIC: usize = 64;
const LAPIC: usize = 64;
const PCI: usize = 128;

const PORT_BASE: usize = 0;
const MSR_BASE: usize = PORT_BASE + 2 * total(&PORTS);
const CMOS_BASE: usize = MSR_BASE + 2 * total_msrs(&MSRS);
const IOAPIC_BASE: usize = CMOS_BASE + 2 * CMOS;
const LAPIC_BASE: usize = IOAPIC_BASE + 2 * IOAPIC;
const PCI_BASE: usize = LAPIC_BASE + 2 * LAPIC;
const AREA_BASE: usize = PCI_BASE + 2 * PCI;
const REGISTER_BASE: usize = AREA_BASE + 2 * AREAS.len() * WIDTHS.len();
const MODE_BASE: usize = REGISTER_BASE + 2 * REGISTERS * WIDTHS.len();
const DEED_BASE: usize = MODE_BASE + 4 * MODES.len();

/// How many points there are.
pub const COUNT: usize = DEED_BASE + DEEDS.len();

/// A point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point(pub usize);

impl Point {
    /// A port that has a device behind it.
    pub fn port(port: u16, write: bool) -> Option<Self> {
        let mut base = PORT_BASE;
        for (first, last) in PORTS {
            if (first..=last).contains(&port) {
                return Some(Self(base + 2 * usize::from(port - first) + usize::from(write)));
            }
            base += 2 * (usize::from(last - first) + 1);
        }
        None
    }

    /// An MSR that the machine knows.
    pub fn msr(index: u32, write: bool) -> Option<Self> {
        let mut base = MSR_BASE;
        for (first, last) in MSRS {
            if (first..=last).contains(&index) {
                return Some(Self(base + 2 * (index - first) as usize + usize::from(write)));
            }
            base += 2 * ((last - first) as usize + 1);
        }
        None
    }

    /// A byte of CMOS memory.
    pub const fn cmos(index: u8, write: bool) -> Self {
        Self(CMOS_BASE + 2 * (index as usize % CMOS) + write as usize)
    }

    /// A register of the IOAPIC.
    pub const fn ioapic(index: u8, write: bool) -> Self {
        Self(IOAPIC_BASE + 2 * (index as usize % IOAPIC) + write as usize)
    }

    /// A register of the local APIC, by its offset in the page.
    pub const fn lapic(offset: u64, write: bool) -> Self {
        Self(LAPIC_BASE + 2 * (offset as usize / 16 % LAPIC) + write as usize)
    }

    /// A doubleword of the configuration space of the host bridge or of the LPC bridge.
    pub const fn pci(lpc: bool, offset: u64, write: bool) -> Self {
        let register = offset as usize / 4 % 64 + if lpc { 64 } else { 0 };
        Self(PCI_BASE + 2 * register + write as usize)
    }

    /// An access of a width to an area, both by their index.
    pub const fn area(area: usize, width: usize, write: bool) -> Self {
        Self(AREA_BASE + 2 * (area % AREAS.len() * WIDTHS.len() + width % WIDTHS.len()) + write as usize)
    }

    /// An access of a width to a register, both by their number.
    pub const fn register(register: usize, width: usize, write: bool) -> Self {
        Self(REGISTER_BASE + 2 * (register % REGISTERS * WIDTHS.len() + width % WIDTHS.len()) + write as usize)
    }

    /// Foreign bytes in a mode, by its index, at a privilege level. `None` where the mode has no such level.
    pub const fn mode(mode: usize, level: u64) -> Option<Self> {
        match (mode, level) {
            (0, 1..) | (1, 0..=2) | (7.., _) | (_, 4..) => None,
            _ => Some(Self(MODE_BASE + 4 * mode + level as usize)),
        }
    }

    /// What else must have happened.
    pub const fn deed(deed: Deed) -> Self {
        Self(DEED_BASE + deed as usize)
    }

    /// Whether only a move of AVX comes to the point.
    pub const fn needs_avx(self) -> bool {
        let widths = WIDTHS.len();
        self.0 >= REGISTER_BASE && self.0 < MODE_BASE && (self.0 - REGISTER_BASE) / 2 % widths == widths - 1
    }

    /// Whether the point can be reached at all.
    pub const fn exists(self) -> bool {
        if self.0 >= MODE_BASE && self.0 < DEED_BASE {
            let at = self.0 - MODE_BASE;
            return Self::mode(at / 4, (at % 4) as u64).is_some();
        }
        self.0 < COUNT
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lapic(offset) => write!(f, "LAPIC register {offset:#x}"),
            Self::IoApic(index) => write!(f, "IOAPIC register {index:#x}"),
            Self::IoApicSelect => f.write_str("the IOAPIC's choice of a register"),
            Self::Pci { lpc, offset } => write!(f, "PCI register {}.0:{offset:#x}", if *lpc { 0x1f } else { 0 }),
            Self::Statistics(offset) => write!(f, "the statistics' word {offset:#x}"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0;
        let groups = [PORT_BASE, MSR_BASE, CMOS_BASE, IOAPIC_BASE, LAPIC_BASE, PCI_BASE, AREA_BASE, REGISTER_BASE];
        let group = groups.iter().rposition(|base| *base <= at).unwrap_or(0);
        let offset = at - groups.get(group).unwrap_or(&0);
        let (half, verb) = (offset / 2, if offset.is_multiple_of(2) { "read" } else { "write" });
        if at >= DEED_BASE {
            return f.write_str(DEEDS.get(at - DEED_BASE).unwrap_or(&"nothing"));
        }
        if at >= MODE_BASE {
            let (mode, level) = (MODES.get((at - MODE_BASE) / 4).unwrap_or(&""), (at - MODE_BASE) % 4);
            return write!(f, "foreign bytes in {mode} at level {level}");
        }
        match group {
            0 => write!(f, "{verb} of port {:#x}", nth_of(&PORTS.map(|(a, b)| (a.into(), b.into())), half as u64)),
            1 => write!(f, "{verb} of MSR {:#x}", nth_of(&MSRS, half as u64)),
            2 => write!(f, "{verb} of CMOS byte {half:#x}"),
            3 => write!(f, "{verb} of IOAPIC register {half:#x}"),
            4 => write!(f, "{verb} of LAPIC register {:#x}", half * 16),
            5 => write!(f, "{verb} of PCI register {}.0:{:#x}", half / 64 * 0x1f, half % 64 * 4),
            7 => {
                let width = WIDTHS.get(half % WIDTHS.len()).unwrap_or(&0);
                write!(f, "{verb} of {width} bytes at {}", Register::nth(half / WIDTHS.len()))
            }
            _ => {
                let (area, width) = (AREAS.get(half / WIDTHS.len()), WIDTHS.get(half % WIDTHS.len()));
                write!(f, "{verb} of {} bytes of {}", width.unwrap_or(&0), area.unwrap_or(&""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_its_own_name() {
        let mut names: Vec<_> = (0..COUNT).map(|id| Point(id).to_string()).collect();
        names.sort();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }

    #[test]
    fn accesses_come_round_to_every_register_in_every_width() {
        let count = 2 * REGISTERS * WIDTHS.len();
        let mut points: Vec<_> =
            (0..count as u64).map(nth_access).map(|(r, w, x)| Point::register(r, w, x).0).collect();
        points.sort_unstable();
        points.dedup();
        assert_eq!(
            (points.len(), points.first(), points.last()),
            (count, Some(&REGISTER_BASE), Some(&(MODE_BASE - 1)))
        );
        assert_eq!(nth_access(count as u64), nth_access(0));
    }

    #[test]
    fn only_registers_in_32_bytes_need_avx() {
        let needing: Vec<_> =
            (0..COUNT).map(Point).filter(|point| point.needs_avx()).map(|it| it.to_string()).collect();
        assert_eq!(needing.len(), 2 * REGISTERS);
        assert!(needing.iter().all(|name| name.contains(" of 32 bytes at ")), "{needing:?}");
    }

    #[test]
    fn numbers_and_names_agree() {
        assert_eq!(Point::port(0x4d1, true).unwrap().to_string(), "write of port 0x4d1");
        assert_eq!(Point::msr(0xc000_0080, false).unwrap().to_string(), "read of MSR 0xc0000080");
        assert_eq!(Point::cmos(0x7f, true).to_string(), "write of CMOS byte 0x7f");
        assert_eq!(Point::ioapic(0x3f, false).to_string(), "read of IOAPIC register 0x3f");
        assert_eq!(Point::lapic(0x3f0, true).to_string(), "write of LAPIC register 0x3f0");
        assert_eq!(Point::pci(true, 0xfc, false).to_string(), "read of PCI register 31.0:0xfc");
        assert_eq!(Point::area(2, 4, true).to_string(), "write of 16 bytes of the paravisor's region");
        let access = |name: &str| {
            (0..).map(nth_access).map(|(r, w, x)| Point::register(r, w, x)).find(|it| it.to_string() == name)
        };
        assert!(access("write of 32 bytes at LAPIC register 0x300").is_some());
        assert!(access("read of 16 bytes at the statistics' word 0x2b08").is_some());
        assert_eq!(Point::mode(1, 3).unwrap().to_string(), "foreign bytes in virtual-8086 mode at level 3");
        assert_eq!(Point::deed(Deed::Hlt).to_string(), "HLT");
        assert_eq!(Point::port(0x22, false), None);
        assert_eq!(Point::mode(0, 3), None);
    }
}
