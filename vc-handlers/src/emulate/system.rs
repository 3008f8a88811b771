// SPDX-License-Identifier: MIT OR Apache-2.0
//! System instructions with an operand in memory, and LLDT and LTR with one in a register: LGDT, SGDT, LIDT, SIDT, LLDT, SLDT, LTR, STR, LMSW, SMSW, MOV to a
//! segment register, and the far JMP (APM vol. 3; UMIP in APM vol. 2, 3.1.3).

use iced_x86::{Code, Instruction, Mnemonic, OpKind};
use platform::{DescriptorTable, GuestCpu, GuestMemory, SegmentRegister, TableRegister};

use super::bits::{cr0, cr4};
use super::context::Context;
use super::descriptor;
use super::effects::Change;
use super::operand::{Bytes, segment_register};
use super::segment;
use super::stop::{Result, Stop};

/// A system instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum System {
    LoadTable(TableRegister),
    StoreTable(TableRegister),
    /// SLDT and STR.
    StoreSelector(SegmentRegister),
    /// LLDT, LTR and MOV.
    LoadSegment(SegmentRegister),
    /// LMSW.
    LoadStatus,
    /// JMP through memory to another code segment.
    JumpFar,
    /// SMSW.
    StoreStatus,
}

impl System {
    /// `None` for any other instruction.
    pub(super) fn of(instruction: &Instruction) -> Option<Self> {
        let in_memory = super::decode::explicit_memory(instruction).is_some();
        Some(match instruction.mnemonic() {
            Mnemonic::Lldt => Self::LoadSegment(SegmentRegister::Ldtr),
            Mnemonic::Ltr => Self::LoadSegment(SegmentRegister::Tr),
            _ if !in_memory => return None,
            Mnemonic::Lgdt => Self::LoadTable(TableRegister::Gdtr),
            Mnemonic::Lidt => Self::LoadTable(TableRegister::Idtr),
            Mnemonic::Sgdt => Self::StoreTable(TableRegister::Gdtr),
            Mnemonic::Sidt => Self::StoreTable(TableRegister::Idtr),
            Mnemonic::Sldt => Self::StoreSelector(SegmentRegister::Ldtr),
            Mnemonic::Str => Self::StoreSelector(SegmentRegister::Tr),
            Mnemonic::Lmsw => Self::LoadStatus,
            Mnemonic::Smsw => Self::StoreStatus,
            Mnemonic::Jmp if instruction.is_jmp_far_indirect() => Self::JumpFar,
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Register => {
                Self::LoadSegment(segment_register(instruction.op0_register())?)
            }
            _ => return None,
        })
    }

    pub(super) const fn stores(self) -> bool {
        matches!(self, Self::StoreTable(_) | Self::StoreSelector(_) | Self::StoreStatus)
    }

    /// Whether the first operand, if it is a register, is the one that is loaded from and not the one that is loaded.
    pub(super) const fn takes_register(self) -> bool {
        matches!(self, Self::LoadSegment(SegmentRegister::Ldtr | SegmentRegister::Tr))
    }

    /// What is checked before the operand's address.
    pub(super) fn check(self, context: &Context) -> Result<()> {
        use SegmentRegister::{Cs, Ldtr, Tr};
        let system = &context.system;
        let needs_protection = matches!(self, Self::LoadSegment(Ldtr | Tr) | Self::StoreSelector(_));
        if needs_protection && context.is_untyped() || self == Self::LoadSegment(Cs) {
            return Err(Stop::UNDEFINED);
        }
        let allowed = match self {
            Self::LoadTable(_) | Self::LoadStatus | Self::LoadSegment(Ldtr | Tr) => system.cpl == 0,
            Self::StoreTable(_) | Self::StoreSelector(_) | Self::StoreStatus => {
                system.cpl == 0 || system.cr4 & cr4::UMIP == 0
            }
            Self::LoadSegment(_) | Self::JumpFar => true,
        };
        if allowed { Ok(()) } else { Err(Stop::GENERAL_PROTECTION) }
    }

    /// The bytes that a store writes. Processors store all 32 bits of the base whatever the operand size.
    pub(super) fn stored(self, cpu: &impl GuestCpu, context: &Context) -> Bytes {
        match self {
            Self::StoreTable(register) => {
                let table = cpu.descriptor_table(register);
                Bytes::wide(u128::from(table.limit) | u128::from(table.base) << 16)
            }
            Self::StoreSelector(register) => Bytes::of(u64::from(cpu.segment(register).selector)),
            _ => Bytes::of(context.system.cr0 & 0xffff),
        }
    }

    /// What a load changes.
    pub(super) fn loaded(
        self,
        cpu: &impl GuestCpu,
        context: &Context,
        memory: &impl GuestMemory,
        instruction: &Instruction,
        loaded: &Bytes,
    ) -> Result<Change> {
        match self {
            Self::LoadTable(register) => {
                let base = match instruction.code() {
                    Code::Lgdt_m1664 | Code::Lidt_m1664 => loaded.get(2, 8),
                    Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => loaded.get(2, 3),
                    _ => loaded.get(2, 4),
                };
                if !context.is_canonical(base) {
                    return Err(Stop::GENERAL_PROTECTION);
                }
                Ok(Change::Table(register, DescriptorTable { base, limit: loaded.get(0, 2) as u16 }))
            }
            Self::LoadSegment(register) => {
                let segment = descriptor::load(cpu, context, memory, register, loaded.get(0, 2) as u16)?;
                Ok(Change::Segment(register, segment))
            }
            Self::JumpFar => {
                let length = instruction.memory_size().size().saturating_sub(2);
                let (offset, selector) = (loaded.get(0, length), loaded.get(length, 2) as u16);
                let code = descriptor::load(cpu, context, memory, SegmentRegister::Cs, selector)?;
                segment::check_far_branch(context, &code, offset)?;
                Ok(Change::Jump(code, offset))
            }
            // PE is set, never cleared (APM vol. 3, LMSW).
            _ => {
                let status = loaded.get(0, 2) & 0xf | context.system.cr0 & cr0::PE;
                Ok(Change::Status(context.system.cr0 & !0xf | status))
            }
        }
    }
}
