// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where code and data lie, the same for the host's processor and the emulator, and the segments that lead there.

use platform::{Segment, SegmentAttributes};

/// The code: filled with INT3, so that whatever an instruction branches to traps at once.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of code.
pub const CODE_SIZE: u64 = 0x2000;
/// The data: two pages, a read-only one, and one that is not present.
pub const DATA: u64 = 0x2000_0000;
/// Bytes of data that can be read.
pub const DATA_SIZE: u64 = 0x3000;
/// Where the read-only page begins in the data.
pub const READ_ONLY: u64 = 0x2000;

/// In a machine of its own, no operand starts below this in the data: strings and bit strings can reach as far down.
pub const LOWEST: i64 = 0x200;
/// The test device's first port; four bytes there read back.
pub const PORT: u64 = 0xe0;
/// DS and ES in virtual-8086 mode, and in real mode where the data is memory.
pub const DATA_SELECTOR: u16 = 0x5000;
/// GS in these modes.
pub const GS_SELECTOR: u16 = DATA_SELECTOR + (GS_OFFSET >> 4) as u16;
/// DS and ES in 64-bit mode, in a machine of its own.
pub const FLAT: u16 = 0x10;
/// CS in these modes.
pub const CODE_SELECTOR: u16 = 0x1000;

/// What makes bytes decode as they do, and segments mean what they do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// 64-bit mode.
    Long,
    /// A 32-bit segment of compatibility mode.
    Compatibility32,
    /// A 16-bit segment of compatibility mode.
    Compatibility16,
    /// A 32-bit segment of protected mode without long mode.
    Protected32,
    /// A 16-bit segment of protected mode without long mode.
    Protected16,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Real mode.
    Real,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Long,
        Self::Compatibility32,
        Self::Compatibility16,
        Self::Protected32,
        Self::Protected16,
        Self::Virtual8086,
        Self::Real,
    ];
    /// Those that a process can enter.
    pub const OF_PROCESSES: [Self; 3] = [Self::Long, Self::Compatibility32, Self::Compatibility16];

    /// A name for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Long => "64-bit",
            Self::Compatibility32 => "comp. 32",
            Self::Compatibility16 => "comp. 16",
            Self::Protected32 => "prot. 32",
            Self::Protected16 => "prot. 16",
            Self::Virtual8086 => "v86",
            Self::Real => "real",
        }
    }

    /// The two address sizes, the usual one first.
    pub const fn address_sizes(self) -> [u8; 2] {
        match self {
            Self::Long => [8, 4],
            Self::Compatibility32 | Self::Protected32 => [4, 2],
            Self::Compatibility16 | Self::Protected16 | Self::Virtual8086 | Self::Real => [2, 4],
        }
    }

    /// Whether this is 64-bit mode.
    pub const fn is_long(self) -> bool {
        matches!(self, Self::Long)
    }

    /// Whether operands have 16 bits without a prefix.
    pub const fn is_16bit(self) -> bool {
        let [usual, _] = self.address_sizes();
        usual == 2
    }

    /// Real or virtual-8086 mode: a selector is an address.
    pub const fn is_untyped(self) -> bool {
        matches!(self, Self::Virtual8086 | Self::Real)
    }
}

/// A segment of the local descriptor table.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Its place in the table.
    pub index: u16,
    /// Its base.
    pub base: u32,
    /// Its last byte; for an expand-down segment, the byte below its first.
    pub limit: u32,
    /// Contents as `modify_ldt` numbers them: data, expand-down data, code.
    pub contents: u32,
    /// 32-bit.
    pub big: bool,
    /// Neither writable data nor readable code.
    pub restricted: bool,
}

impl Descriptor {
    const fn data(index: u16, base: u64, limit: u32) -> Self {
        Self { index, base: base as u32, limit, contents: 0, big: true, restricted: false }
    }

    /// Its selector, for level 3.
    pub const fn selector(&self) -> u16 {
        self.index << 3 | 7
    }

    /// The segment register that holds it.
    pub fn segment(&self) -> Segment {
        let mut attributes = SegmentAttributes::ACCESSED
            | SegmentAttributes::USER
            | SegmentAttributes::DPL_LOW
            | SegmentAttributes::DPL_HIGH
            | SegmentAttributes::PRESENT;
        attributes.set(SegmentAttributes::READ_WRITE, !self.restricted);
        attributes.set(SegmentAttributes::EXPAND_DOWN, self.contents == 1);
        attributes.set(SegmentAttributes::CODE, self.contents == 2);
        attributes.set(SegmentAttributes::DEFAULT_BIG, self.big);
        Segment { selector: self.selector(), attributes, limit: self.limit, base: u64::from(self.base) }
    }

    /// The descriptor as it lies in the table (APM vol. 2, 4.7.1).
    pub fn bytes(&self) -> [u8; 8] {
        let attributes = u64::from(self.segment().attributes.bits());
        let (base, limit) = (u64::from(self.base), u64::from(self.limit));
        let low = limit & 0xffff | (base & 0xff_ffff) << 16 | (attributes & 0xff) << 40;
        let high = (limit >> 16 & 0xf) << 48 | (attributes >> 8 & 0xf) << 52 | (base >> 24) << 56;
        (low | high).to_le_bytes()
    }
}

/// DS, as far as all of the data and beyond.
pub const DS: Descriptor = Descriptor::data(1, DATA, 0xffff);
/// ES: ends in the second page.
pub const ES: Descriptor = Descriptor::data(2, DATA, 0x17ff);
/// SS: ends in the read-only page.
pub const SS: Descriptor = Descriptor::data(3, DATA, 0x27ff);
/// Where GS lies in the data.
pub const GS_OFFSET: u64 = 0x20;
/// GS: has a base of its own, in 64-bit mode too.
pub const GS: Descriptor = Descriptor::data(4, DATA + GS_OFFSET, 0x1fff);
/// CS of 32-bit code.
pub const CS32: Descriptor =
    Descriptor { index: 5, base: CODE as u32, limit: CODE_SIZE as u32 - 1, contents: 2, big: true, restricted: false };
/// CS of 16-bit code.
pub const CS16: Descriptor = Descriptor { index: 6, big: false, ..CS32 };
/// A DS that expands down to 800h.
pub const DOWN: Descriptor = Descriptor { index: 7, limit: 0x7ff, contents: 1, ..DS };
/// A DS that cannot be written.
pub const CONSTANT: Descriptor = Descriptor { index: 8, restricted: true, ..DS };
/// A DS that expands down and ends at FFFFh.
pub const DOWN16: Descriptor = Descriptor { index: 9, big: false, ..DOWN };
/// All of them.
pub const DESCRIPTORS: [Descriptor; 9] = [DS, ES, SS, GS, CS32, CS16, DOWN, CONSTANT, DOWN16];

/// CS of 64-bit code, as the kernel has it.
pub const CS64: u16 = 0x33;
/// SS of 64-bit code, as the kernel has it.
pub const SS64: u16 = 0x2b;
