// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moves between vector registers and memory: SSE and AVX, 4 to 32 bytes (APM vol. 4).
//!
//! EVEX forms, the 64-bit MMX registers, broadcasts, masked and converting moves are not among them.

use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};
use platform::{Exception, GuestCpu};
use specs::cpuid::Xcr0;

use super::bits::{cr0, cr4};
use super::context::Context;
use super::operand::Bytes;
use super::stop::{Result, Stop};

/// The state of the YMM registers.
const YMM: Xcr0 = Xcr0::SSE.union(Xcr0::AVX);

/// Which part of a register moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Memory to the low part; the rest of the XMM register becomes zero.
    Load,
    /// Memory to one half of the XMM register; the other half stays.
    LoadHalf { high: bool },
    /// The low part, or the high half, to memory.
    Store { high: bool },
}

/// A move of a vector register to or from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct VectorMove {
    kind: Kind,
    /// The operand must lie at a multiple of its size.
    aligned: bool,
    /// VEX-encoded: what the instruction does not write becomes zero.
    vex: bool,
}

/// What becomes of a vector register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum VectorWrite {
    Xmm(u8, [u8; 16]),
    Ymm(u8, [u8; 32]),
}

impl VectorWrite {
    pub(super) fn apply(&self, cpu: &mut impl GuestCpu) {
        match *self {
            Self::Xmm(number, value) => cpu.set_xmm(number, value),
            Self::Ymm(number, value) => cpu.set_ymm(number, value),
        }
    }
}

/// The number of a vector register that exists without AVX-512.
fn number(register: Register) -> Option<u8> {
    let number = u8::try_from(register.number()).ok()?;
    ((register.is_xmm() || register.is_ymm()) && number < 16).then_some(number)
}

impl VectorMove {
    /// `None` for any other instruction.
    pub(super) fn of(instruction: &Instruction) -> Option<Self> {
        let vex = match instruction.encoding() {
            EncodingKind::Legacy => false,
            EncodingKind::VEX => true,
            _ => return None,
        };
        let stores = instruction.op0_kind() == OpKind::Memory;
        let whole = if stores { Kind::Store { high: false } } else { Kind::Load };
        let half = |high| if stores { Kind::Store { high } } else { Kind::LoadHalf { high } };
        let (kind, aligned) = match instruction.mnemonic() {
            Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu | Mnemonic::Lddqu => (whole, false),
            Mnemonic::Vmovups | Mnemonic::Vmovupd | Mnemonic::Vmovdqu | Mnemonic::Vlddqu => (whole, false),
            Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa => (whole, true),
            Mnemonic::Vmovaps | Mnemonic::Vmovapd | Mnemonic::Vmovdqa => (whole, true),
            Mnemonic::Movntps | Mnemonic::Movntpd | Mnemonic::Movntdq | Mnemonic::Movntdqa => (whole, true),
            Mnemonic::Vmovntps | Mnemonic::Vmovntpd | Mnemonic::Vmovntdq | Mnemonic::Vmovntdqa => (whole, true),
            Mnemonic::Movd | Mnemonic::Movq | Mnemonic::Movss | Mnemonic::Movsd => (whole, false),
            Mnemonic::Vmovd | Mnemonic::Vmovq | Mnemonic::Vmovss | Mnemonic::Vmovsd => (whole, false),
            Mnemonic::Movlps | Mnemonic::Movlpd | Mnemonic::Vmovlps | Mnemonic::Vmovlpd => (half(false), false),
            Mnemonic::Movhps | Mnemonic::Movhpd | Mnemonic::Vmovhps | Mnemonic::Vmovhpd => (half(true), false),
            _ => return None,
        };
        let register = if stores { instruction.op1_register() } else { instruction.op0_register() };
        let has_memory = super::decode::explicit_memory(instruction).is_some();
        (has_memory && number(register).is_some()).then_some(Self { kind, aligned, vex })
    }

    pub(super) const fn stores(self) -> bool {
        matches!(self.kind, Kind::Store { .. })
    }

    pub(super) const fn is_aligned(self) -> bool {
        self.aligned
    }

    /// Whether the operating system has vector registers switched on (APM vol. 2, 11.3 and 11.5).
    pub(super) fn check(self, cpu: &impl GuestCpu, context: &Context) -> Result<()> {
        let system = &context.system;
        let on = if self.vex {
            !context.is_untyped() && system.cr4 & cr4::OSXSAVE != 0 && Xcr0::from_bits_retain(cpu.xcr0()).contains(YMM)
        } else {
            system.cr0 & cr0::EM == 0 && system.cr4 & cr4::OSFXSR != 0
        };
        if !on {
            return Err(Stop::UNDEFINED);
        }
        if system.cr0 & cr0::TS != 0 {
            return Err(Stop::Fault(Exception::DEVICE_NOT_AVAILABLE));
        }
        Ok(())
    }

    /// The bytes to store.
    pub(super) fn stored(self, cpu: &impl GuestCpu, instruction: &Instruction) -> Bytes {
        let value = Bytes::from(number(instruction.op1_register()).map_or([0; 32], |number| cpu.vector(number)));
        match self.kind {
            Kind::Store { high: true } => Bytes::of(value.get(8, 8)),
            _ => value,
        }
    }

    /// The new value of the register, from the bytes loaded; those beyond the operand are zero.
    pub(super) fn loaded(self, cpu: &impl GuestCpu, instruction: &Instruction, loaded: &Bytes) -> Option<VectorWrite> {
        let target = number(instruction.op0_register())?;
        let mut value = *loaded;
        if let Kind::LoadHalf { high } = self.kind {
            // The other half comes from the target itself, or from a third operand.
            let other = if self.vex { number(instruction.op1_register())? } else { target };
            let other = Bytes::from(cpu.vector(other));
            value = Bytes::wide(other.low_wide());
            value.put(if high { 8 } else { 0 }, 8, loaded.low());
        }
        Some(if self.vex {
            VectorWrite::Ymm(target, value.all())
        } else {
            VectorWrite::Xmm(target, value.low_wide().to_le_bytes())
        })
    }
}
