// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of the SEV-SNP model that stands between the rules (`snp-model`), the host (`snp-host`) and QEMU's SVM: what
//! hardware does in microcode and QEMU does not know. The guest is hostile: its tables, code and stacks are read as they
//! are, never trusted, and no loop depends on them.
//!
//! [`walk`] translates guest-virtual addresses, [`state`] moves a processor between a VMSA and a VMCB, [`decode`] recognises
//! the few instructions that matter, [`operand`] finds the address of an access, [`deliver`] raises #VC, [`cpuid`] says which
//! processor the guest has, [`control`] what that refuses, [`firmware`] is the secure processor, [`dma`] keeps devices out of
//! memory, [`follow`] saves exits.

pub mod control;
pub mod cpuid;
pub mod decode;
pub mod deliver;
pub mod dma;
pub mod firmware;
pub mod follow;
pub mod operand;
pub mod state;
pub mod walk;

/// Where the C-bit is: the highest address bit by which QEMU's four-level nested walk still tells two pages apart.
pub const C_BIT: u8 = 47;
/// The same as a mask.
pub const C_MASK: u64 = 1 << C_BIT;
/// The guest's address-space identifier.
pub const ASID: u32 = 1;
