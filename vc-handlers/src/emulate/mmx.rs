// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moves between MMX registers and memory: MOVD, MOVQ and MOVNTQ (APM vol. 5).

use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};
use platform::{Exception, GuestCpu};

use super::bits::cr0;
use super::context::Context;
use super::operand::Bytes;
use super::stop::{Result, Stop};

/// A move of an MMX register to or from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MmxMove {
    pub(super) register: u8,
    pub(super) stores: bool,
}

impl MmxMove {
    /// `None` for any other instruction.
    pub(super) fn of(instruction: &Instruction) -> Option<Self> {
        let moves = matches!(instruction.mnemonic(), Mnemonic::Movd | Mnemonic::Movq | Mnemonic::Movntq);
        if !moves || instruction.encoding() != EncodingKind::Legacy {
            return None;
        }
        super::decode::explicit_memory(instruction)?;
        let stores = instruction.op0_kind() == OpKind::Memory;
        let register = if stores { instruction.op1_register() } else { instruction.op0_register() };
        Some(Self { register: number(register)?, stores })
    }

    /// What is checked before the operand's address (APM vol. 5, 1.3).
    pub(super) fn check(cpu: &impl GuestCpu, context: &Context) -> Result<()> {
        let system = &context.system;
        if system.cr0 & cr0::EM != 0 {
            return Err(Stop::UNDEFINED);
        }
        if system.cr0 & cr0::TS != 0 {
            return Err(Stop::Fault(Exception::DEVICE_NOT_AVAILABLE));
        }
        if cpu.x87_exception() {
            return Err(Stop::Fault(Exception::X87));
        }
        Ok(())
    }

    /// The bytes to store.
    pub(super) fn stored(self, cpu: &impl GuestCpu) -> Result<Bytes> {
        cpu.mmx(self.register).map(Bytes::of).ok_or(Stop::Unsupported)
    }
}

fn number(register: Register) -> Option<u8> {
    register.is_mm().then(|| register.number() as u8)
}
