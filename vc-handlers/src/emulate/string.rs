// SPDX-License-Identifier: MIT OR Apache-2.0
//! String instructions, one element at a time (APM vol. 3; repeat prefixes in 1.2.6).
//!
//! After each element the registers are those that hardware shows when an interrupt comes between elements, so a fault
//! is precise and the instruction can start again where it stands.

use iced_x86::{Instruction, Mnemonic, OpKind};
use platform::{Gpr, GuestCpu};

use super::bits::rflags::{DF, ZF};
use super::operand::{GprPart, mask};

/// What is done to each element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Element {
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
    Ins,
    Outs,
}

impl Element {
    pub(super) const fn of(mnemonic: Mnemonic) -> Option<Self> {
        Some(match mnemonic {
            Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => Self::Movs,
            Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => Self::Stos,
            Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => Self::Lods,
            Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => Self::Cmps,
            Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => Self::Scas,
            Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => Self::Ins,
            Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => Self::Outs,
            _ => return None,
        })
    }

    /// Whether RSI and RDI move.
    const fn moves(self) -> (bool, bool) {
        match self {
            Self::Movs | Self::Cmps => (true, true),
            Self::Lods | Self::Outs => (true, false),
            Self::Stos | Self::Scas | Self::Ins => (false, true),
        }
    }

    /// Whether a repetition ends when ZF says so.
    const fn compares(self) -> bool {
        matches!(self, Self::Cmps | Self::Scas)
    }
}

/// The operand that the source index addresses, and the one that the destination index addresses.
pub(super) fn memory_operands(instruction: &Instruction) -> (Option<u32>, Option<u32>) {
    let find =
        |kinds: [OpKind; 3]| (0..instruction.op_count()).find(|index| kinds.contains(&instruction.op_kind(*index)));
    (
        find([OpKind::MemorySegSI, OpKind::MemorySegESI, OpKind::MemorySegRSI]),
        find([OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI]),
    )
}

/// The size of an address, and so of the count and the indices.
pub(super) fn address_size(instruction: &Instruction) -> u8 {
    (0..instruction.op_count())
        .find_map(|index| match instruction.op_kind(index) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
            OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(4),
            _ => None,
        })
        .unwrap_or(8)
}

/// Whether the instruction repeats. Where REPNE has no meaning of its own, processors take it for REP.
pub(super) fn repeats(instruction: &Instruction) -> bool {
    instruction.has_rep_prefix() || instruction.has_repne_prefix()
}

/// Whether a repetition has nothing left to do.
pub(super) fn is_exhausted(cpu: &impl GuestCpu, instruction: &Instruction) -> bool {
    repeats(instruction) && GprPart::low(Gpr::Rcx, address_size(instruction)).read(cpu) == 0
}

/// Moves the indices and the count past an element. True if the instruction is complete.
pub(super) fn advance(cpu: &mut impl GuestCpu, instruction: &Instruction, element: Element) -> bool {
    let size = address_size(instruction);
    let bytes = instruction.memory_size().size() as u64;
    let flags = cpu.rflags();
    let step = if flags & DF != 0 { bytes.wrapping_neg() } else { bytes };
    let (source, target) = element.moves();
    for (register, moves) in [(Gpr::Rsi, source), (Gpr::Rdi, target)] {
        if moves {
            add(cpu, GprPart::low(register, size), step);
        }
    }
    if !repeats(instruction) {
        return true;
    }
    let left = add(cpu, GprPart::low(Gpr::Rcx, size), u64::MAX);
    let equal = flags & ZF != 0;
    left == 0 || element.compares() && equal == instruction.has_repne_prefix()
}

fn add(cpu: &mut impl GuestCpu, part: GprPart, step: u64) -> u64 {
    let sum = part.read(cpu).wrapping_add(step) & mask(part.size);
    let whole = part.merge(cpu, sum);
    cpu.set_gpr(part.register, whole);
    sum
}
