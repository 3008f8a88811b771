// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is left of Parados's own processor when Parados dies.

/// Names of the registers in [`OwnRegisters`].
pub const OWN_REGISTERS: [&str; 22] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "rflags", "cr0", "cr2", "cr3", "cr4",
];

/// Index of RSP in [`OwnRegisters`].
pub const OWN_RSP: usize = 4;

/// Parados's own registers, in the order of [`OWN_REGISTERS`].
pub type OwnRegisters = [u64; OWN_REGISTERS.len()];

/// A processor exception in Parados itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnException {
    /// Its vector.
    pub vector: u8,
    /// Its error code, zero if it has none.
    pub error_code: u64,
    /// The registers at the instruction that raised it.
    pub registers: OwnRegisters,
}
