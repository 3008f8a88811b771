// SPDX-License-Identifier: MIT OR Apache-2.0
//! Local APIC and IOAPIC registers (SDM vol. 3A, chapter 11; Intel 82093AA data sheet, order number 290566).
//!
//! Section numbers are those of chapter 11, "Advanced Programmable Interrupt Controller". Layouts and bit names only.

use bitflags::bitflags;
use core::mem::{offset_of, size_of};
use static_assertions::const_assert_eq;

/// Where the registers of every local APIC lie after reset (SDM vol. 3A, 11.4.1).
pub const LAPIC_BASE: u64 = 0xfee0_0000;

/// Where a PC has its first IOAPIC (82093AA, 3.0).
pub const IOAPIC_BASE: u64 = 0xfec0_0000;

/// The first MSR of the x2APIC range; register at MMIO offset `n` is MSR `800h + n / 10h` (SDM vol. 3A, 11.12.1.2).
pub const X2APIC_MSR_FIRST: u32 = 0x800;

/// The last MSR of the x2APIC range.
pub const X2APIC_MSR_LAST: u32 = 0x8ff;

bitflags! {
    /// IA32_APIC_BASE, MSR 1Bh, apart from the base address (SDM vol. 3A, 11.4.4 and 11.12.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ApicBase: u64 {
        /// The processor is the bootstrap processor.
        const BOOTSTRAP = 1 << 8;
        /// x2APIC mode.
        const EXTENDED = 1 << 10;
        /// The local APIC is enabled.
        const ENABLED = 1 << 11;
        const _ = !0;
    }
}

/// One register in its 16-byte slot: 32 bits, then 12 reserved bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(16))]
pub struct Slot {
    /// The register.
    pub value: u32,
    reserved: [u32; 3],
}

impl Slot {
    /// A slot that holds `value`.
    pub const fn new(value: u32) -> Self {
        Self { value, reserved: [0; 3] }
    }
}

/// One bit for each vector, 32 in each slot: ISR, TMR or IRR (SDM vol. 3A, figure 11-20).
pub type VectorBits = [Slot; 8];

/// The first KiB of the local APIC's page, all that the architecture defines (SDM vol. 3A, table 11-1).
#[allow(missing_docs, reason = "the architecture's own registers, in the order of the table")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct LapicRegisters {
    reserved_000: [Slot; 2],
    pub id: Slot,
    pub version: Slot,
    reserved_040: [Slot; 4],
    pub task_priority: Slot,
    pub arbitration_priority: Slot,
    pub processor_priority: Slot,
    pub end_of_interrupt: Slot,
    pub remote_read: Slot,
    pub logical_destination: Slot,
    pub destination_format: Slot,
    pub spurious: Slot,
    pub in_service: VectorBits,
    pub trigger_mode: VectorBits,
    pub request: VectorBits,
    pub error_status: Slot,
    reserved_290: [Slot; 6],
    pub lvt_cmci: Slot,
    pub command_low: Slot,
    pub command_high: Slot,
    pub lvt_timer: Slot,
    pub lvt_thermal: Slot,
    pub lvt_performance: Slot,
    pub lvt_lint0: Slot,
    pub lvt_lint1: Slot,
    pub lvt_error: Slot,
    pub initial_count: Slot,
    pub current_count: Slot,
    reserved_3a0: [Slot; 4],
    pub divide: Slot,
    pub self_ipi: Slot,
}

const_assert_eq!(size_of::<LapicRegisters>(), 0x400);
const_assert_eq!(offset_of!(LapicRegisters, task_priority), 0x80);
const_assert_eq!(offset_of!(LapicRegisters, spurious), 0xf0);
const_assert_eq!(offset_of!(LapicRegisters, in_service), 0x100);
const_assert_eq!(offset_of!(LapicRegisters, trigger_mode), 0x180);
const_assert_eq!(offset_of!(LapicRegisters, request), 0x200);
const_assert_eq!(offset_of!(LapicRegisters, error_status), 0x280);
const_assert_eq!(offset_of!(LapicRegisters, command_low), 0x300);
const_assert_eq!(offset_of!(LapicRegisters, lvt_error), 0x370);
const_assert_eq!(offset_of!(LapicRegisters, divide), 0x3e0);

/// A local APIC register (SDM vol. 3A, table 11-1). The number of an ISR, TMR or IRR word is 0–7.
#[allow(missing_docs, reason = "the architecture's own registers")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LapicRegister {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    EndOfInterrupt,
    RemoteRead,
    LogicalDestination,
    DestinationFormat,
    Spurious,
    InService(u8),
    TriggerMode(u8),
    Request(u8),
    ErrorStatus,
    LvtCmci,
    CommandLow,
    CommandHigh,
    LvtTimer,
    LvtThermal,
    LvtPerformance,
    LvtLint0,
    LvtLint1,
    LvtError,
    InitialCount,
    CurrentCount,
    Divide,
    SelfIpi,
}

impl LapicRegister {
    /// The register whose slot holds the byte at `offset` of the page; `None` for a reserved slot.
    pub const fn from_offset(offset: u16) -> Option<Self> {
        // The slot's number; its low three bits number a word of ISR, TMR and IRR.
        let slot = offset >> 4;
        let word = (slot & 7) as u8;
        Some(match slot {
            0x02 => Self::Id,
            0x03 => Self::Version,
            0x08 => Self::TaskPriority,
            0x09 => Self::ArbitrationPriority,
            0x0a => Self::ProcessorPriority,
            0x0b => Self::EndOfInterrupt,
            0x0c => Self::RemoteRead,
            0x0d => Self::LogicalDestination,
            0x0e => Self::DestinationFormat,
            0x0f => Self::Spurious,
            0x10..=0x17 => Self::InService(word),
            0x18..=0x1f => Self::TriggerMode(word),
            0x20..=0x27 => Self::Request(word),
            0x28 => Self::ErrorStatus,
            0x2f => Self::LvtCmci,
            0x30 => Self::CommandLow,
            0x31 => Self::CommandHigh,
            0x32 => Self::LvtTimer,
            0x33 => Self::LvtThermal,
            0x34 => Self::LvtPerformance,
            0x35 => Self::LvtLint0,
            0x36 => Self::LvtLint1,
            0x37 => Self::LvtError,
            0x38 => Self::InitialCount,
            0x39 => Self::CurrentCount,
            0x3e => Self::Divide,
            0x3f => Self::SelfIpi,
            _ => return None,
        })
    }

    /// The register behind an x2APIC MSR; `None` for a reserved one. Which of the registers exist in x2APIC mode is
    /// not decided here (SDM vol. 3A, table 11-6).
    pub const fn from_msr(index: u32) -> Option<Self> {
        if index < X2APIC_MSR_FIRST || index > X2APIC_MSR_LAST {
            return None;
        }
        Self::from_offset(((index - X2APIC_MSR_FIRST) << 4) as u16)
    }
}

/// Version register: bits 7:0 the version, 1Xh for an integrated APIC; bits 23:16 the number of LVT entries minus one; bit
/// 24 support for suppressing EOI broadcasts (SDM vol. 3A, 11.4.8).
pub const fn lapic_version(version: u8, max_lvt: u8) -> u32 {
    version as u32 | (max_lvt as u32) << 16
}

/// Spurious-interrupt vector register: the APIC is enabled by software (SDM vol. 3A, 11.9).
pub const SPURIOUS_ENABLE: u32 = 1 << 8;
/// Spurious-interrupt vector register: focus processor checking is off.
pub const SPURIOUS_NO_FOCUS: u32 = 1 << 9;

bitflags! {
    /// Error status register (SDM vol. 3A, 11.5.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ErrorStatus: u32 {
        /// The APIC was told to send an illegal vector (0–15).
        const SEND_ILLEGAL_VECTOR = 1 << 5;
        /// The APIC received an illegal vector, its own LVT included.
        const RECEIVE_ILLEGAL_VECTOR = 1 << 6;
        /// A reserved register was accessed in xAPIC mode.
        const ILLEGAL_REGISTER = 1 << 7;
    }
}

/// An entry of the local vector table (SDM vol. 3A, figure 11-8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lvt(pub u32);

impl Lvt {
    /// Delivery status; read-only.
    pub const DELIVERY_STATUS: u32 = 1 << 12;
    /// Input pin polarity, LINT0 and LINT1.
    pub const ACTIVE_LOW: u32 = 1 << 13;
    /// Remote IRR, LINT0 and LINT1; read-only.
    pub const REMOTE_IRR: u32 = 1 << 14;
    /// Level-triggered, LINT0 and LINT1.
    pub const LEVEL: u32 = 1 << 15;
    /// Masked.
    pub const MASKED: u32 = 1 << 16;
    /// The vector.
    pub const VECTOR: u32 = 0xff;
    /// The delivery mode.
    pub const DELIVERY_MODE: u32 = 7 << 8;
    /// The timer's mode.
    pub const TIMER_MODE: u32 = 3 << 17;

    /// The vector.
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Whether nothing is delivered.
    pub const fn masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }

    /// Delivery mode, three bits.
    pub const fn delivery_mode(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }

    /// Timer mode, two bits: 0 one-shot, 1 periodic, 2 TSC-deadline.
    pub const fn timer_mode(self) -> u8 {
        (self.0 >> 17) as u8 & 3
    }
}

/// Interrupt command register (SDM vol. 3A, figure 11-12 and, for x2APIC mode, 11-28).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptCommand(pub u32);

impl InterruptCommand {
    /// Delivery status; read-only, absent in x2APIC mode.
    pub const DELIVERY_STATUS: u32 = 1 << 12;
    /// Bits of the low half that software can write.
    pub const WRITABLE: u32 = 0x000c_cfff;

    /// The vector, or the page of a start-up IPI.
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Delivery mode, three bits.
    pub const fn delivery_mode(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }

    /// Whether the destination is logical.
    pub const fn logical(self) -> bool {
        self.0 & 1 << 11 != 0
    }

    /// The level bit: 0 only for an INIT level de-assert.
    pub const fn assert(self) -> bool {
        self.0 & 1 << 14 != 0
    }

    /// The trigger bit; meaningful for an INIT level de-assert only.
    pub const fn level_triggered(self) -> bool {
        self.0 & 1 << 15 != 0
    }

    /// Destination shorthand: 0 none, 1 self, 2 all including self, 3 all excluding self.
    pub const fn shorthand(self) -> u8 {
        (self.0 >> 18) as u8 & 3
    }
}

/// How far the divide configuration register shifts the input clock: 0 (by 1) to 7 (by 128) (SDM vol. 3A, figure 11-10).
pub const fn divide_shift(divide: u32) -> u8 {
    let code = (divide & 3 | divide >> 1 & 4) as u8;
    // 000b divides by 2, 110b by 128, 111b by 1.
    (code + 1) & 7
}

/// The logical ID of an x2APIC: cluster in bits 31:16, one bit of 15:0 (SDM vol. 3A, 11.12.10.2).
pub const fn x2apic_logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 15)
}

/// Destination format register, bits 31:28: the flat model (SDM vol. 3A, figure 11-14).
pub const DESTINATION_FLAT: u32 = 0xf;
/// Destination format register, bits 31:28: the cluster model.
pub const DESTINATION_CLUSTER: u32 = 0;

/// IOAPIC: offset of the register select register, IOREGSEL (82093AA, 3.1.1).
pub const IOREGSEL: u64 = 0x00;
/// IOAPIC: offset of the window, IOWIN (82093AA, 3.1.2).
pub const IOWIN: u64 = 0x10;
/// IOAPIC: index of the identification register (82093AA, 3.2.1).
pub const IOAPIC_ID: u8 = 0x00;
/// IOAPIC: index of the version register (82093AA, 3.2.2).
pub const IOAPIC_VERSION: u8 = 0x01;
/// IOAPIC: index of the arbitration register (82093AA, 3.2.3).
pub const IOAPIC_ARBITRATION: u8 = 0x02;
/// IOAPIC: index of the low half of the first redirection entry (82093AA, 3.2.4).
pub const IOAPIC_REDIRECTION: u8 = 0x10;

/// An entry of the IOAPIC's redirection table (82093AA, 3.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedirectionEntry(pub u64);

impl RedirectionEntry {
    /// Delivery status; read-only.
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    /// Remote IRR; read-only.
    pub const REMOTE_IRR: u64 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u64 = 1 << 15;
    /// Masked.
    pub const MASKED: u64 = 1 << 16;
    /// Bits that software can write. The destination has the eight bits of later parts.
    pub const WRITABLE: u64 = 0xff00_0000_0001_afff;
    /// After reset: masked, all else zero.
    pub const RESET: Self = Self(Self::MASKED);

    /// The vector.
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Delivery mode, three bits.
    pub const fn delivery_mode(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }

    /// Whether the destination is logical.
    pub const fn logical(self) -> bool {
        self.0 & 1 << 11 != 0
    }

    /// Whether the interrupt was accepted and not yet ended.
    pub const fn remote_irr(self) -> bool {
        self.0 & Self::REMOTE_IRR != 0
    }

    /// Whether the trigger mode is level.
    pub const fn level(self) -> bool {
        self.0 & Self::LEVEL != 0
    }

    /// Whether nothing is delivered.
    pub const fn masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }

    /// The destination field.
    pub const fn destination(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dividers_follow_figure_11_10() {
        let table = [(0b0000, 2), (0b0001, 4), (0b0010, 8), (0b0011, 16), (0b1000, 32), (0b1001, 64), (0b1010, 128)];
        for (code, divisor) in table {
            assert_eq!(1 << divide_shift(code), divisor, "{code:#b}");
        }
        assert_eq!(divide_shift(0b1011), 0);
        assert_eq!(divide_shift(0b0100), divide_shift(0), "bit 2 is reserved");
    }

    #[test]
    fn registers_are_found_by_offset_and_msr() {
        assert_eq!(LapicRegister::from_offset(0x20), Some(LapicRegister::Id));
        assert_eq!(LapicRegister::from_offset(0x17f), Some(LapicRegister::InService(7)));
        assert_eq!(LapicRegister::from_offset(0x1f0), Some(LapicRegister::TriggerMode(7)));
        assert_eq!(LapicRegister::from_offset(0x200), Some(LapicRegister::Request(0)));
        for reserved in [0, 0x10, 0x40, 0x70, 0x290, 0x3a0, 0x3d0, 0x400, 0xff0, u16::MAX] {
            assert_eq!(LapicRegister::from_offset(reserved), None, "{reserved:#x}");
        }
        assert_eq!(LapicRegister::from_msr(0x80b), Some(LapicRegister::EndOfInterrupt));
        assert_eq!(LapicRegister::from_msr(0x83f), Some(LapicRegister::SelfIpi));
        assert_eq!(LapicRegister::from_msr(0x840), None);
        assert_eq!(LapicRegister::from_msr(0x7ff), None);
        assert_eq!(LapicRegister::from_msr(0x900), None);
    }

    #[test]
    fn an_x2apic_logical_id_is_cluster_and_bit() {
        assert_eq!(x2apic_logical_id(0), 1);
        assert_eq!(x2apic_logical_id(0x2f), 0x0002_8000);
        assert_eq!(x2apic_logical_id(254), 0x000f_4000);
    }
}
