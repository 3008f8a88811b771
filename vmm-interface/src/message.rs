// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupt messages: what an IOAPIC, an ICR write or an MSI puts on the APIC bus (SDM vol. 3A, 11.6 and 11.11).

/// Delivery mode, numbered as in the ICR and redirection entries.
#[allow(missing_docs, reason = "the architecture's own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DeliveryMode {
    Fixed = 0,
    LowestPriority = 1,
    Smi = 2,
    Nmi = 4,
    Init = 5,
    Startup = 6,
    ExtInt = 7,
}

impl DeliveryMode {
    /// From the three-bit field; 3 is reserved.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }
}

/// Edge or level.
#[allow(missing_docs, reason = "the architecture's own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TriggerMode {
    Edge,
    Level,
}

/// Which processors a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The processor with this APIC ID; FFh (xAPIC) or FFFF_FFFFh (x2APIC) is everybody.
    Physical(u32),
    /// A logical destination, matched against each LDR; 8 bits from an xAPIC or an IOAPIC, 32 from an x2APIC.
    Logical(u32),
    /// The sender alone.
    Myself,
    /// All, the sender included.
    All,
    /// All but the sender.
    Others,
}

/// One interrupt message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptMessage {
    /// Who gets it.
    pub destination: Destination,
    /// How it is delivered.
    pub mode: DeliveryMode,
    /// The vector; for Startup the page number of the start address.
    pub vector: u8,
    /// Level-triggered messages set the TMR bit, and their EOI is broadcast.
    pub trigger: TriggerMode,
    /// The level bit; false only for an INIT level de-assert, which does nothing.
    pub assert: bool,
}
