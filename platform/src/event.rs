// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be injected into a guest at its next entry.

/// An exception with what the processor pushes or latches for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// The vector, 0–31.
    pub vector: u8,
    /// The error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// The address that CR2 shall hold, for a page fault.
    pub fault_address: Option<u64>,
}

impl Exception {
    /// #DE, divide error.
    pub const DIVIDE: Self = Self::plain(0);
    /// #DB, debug.
    pub const DEBUG: Self = Self::plain(1);
    /// #UD, invalid opcode.
    pub const UNDEFINED: Self = Self::plain(6);
    /// #NM, device not available.
    pub const DEVICE_NOT_AVAILABLE: Self = Self::plain(7);
    /// #GP(0), general protection.
    pub const GENERAL_PROTECTION: Self = Self::with_code(13, 0);
    /// #SS(0), stack.
    pub const STACK: Self = Self::with_code(12, 0);
    /// #MF, pending x87 exception.
    pub const X87: Self = Self::plain(16);
    /// #AC(0), alignment check.
    pub const ALIGNMENT: Self = Self::with_code(17, 0);

    const fn plain(vector: u8) -> Self {
        Self { vector, error_code: None, fault_address: None }
    }

    const fn with_code(vector: u8, code: u32) -> Self {
        Self { vector, error_code: Some(code), fault_address: None }
    }

    /// #PF with its error code and the faulting linear address.
    pub const fn page_fault(code: u32, address: u64) -> Self {
        Self { vector: 14, error_code: Some(code), fault_address: Some(address) }
    }
}

/// An event that the next guest entry delivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A fault or trap.
    Exception(Exception),
    /// An external interrupt with its vector. The guest must be able to take it; see [`crate::InjectionState`].
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
}
