// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stack pointer and the slots of PUSH, POP, CALL, RET, ENTER and LEAVE (APM vol. 2, 4.5.3; vol. 3).

use iced_x86::{Code, Instruction, Mnemonic};
use platform::{Gpr, GuestCpu, SegmentAttributes, SegmentRegister};

use super::context::Context;
use super::operand::{Address, GprPart, mask};

/// As much of RSP as addresses the stack.
pub(super) fn pointer(cpu: &impl GuestCpu, context: &Context) -> GprPart {
    let size = if context.is_64bit() {
        8
    } else if cpu.segment(SegmentRegister::Ss).attributes.contains(SegmentAttributes::DEFAULT_BIG) {
        4
    } else {
        2
    };
    GprPart::low(Gpr::Rsp, size)
}

/// Bytes that the instruction pushes or pops.
pub(super) fn slot(instruction: &Instruction) -> u8 {
    match instruction.code() {
        Code::Enterw_imm16_imm8 | Code::Leavew => 2,
        Code::Enterd_imm16_imm8 | Code::Leaved => 4,
        Code::Enterq_imm16_imm8 | Code::Leaveq => 8,
        _ => {
            let whole = instruction.stack_pointer_increment().unsigned_abs();
            whole.saturating_sub(released(instruction).into()).min(8) as u8
        }
    }
}

/// Bytes of arguments that RET releases, or of local variables that ENTER reserves.
pub(super) fn released(instruction: &Instruction) -> u16 {
    let has_count = match instruction.mnemonic() {
        Mnemonic::Ret => instruction.op_count() == 1,
        mnemonic => mnemonic == Mnemonic::Enter,
    };
    if has_count { instruction.immediate16() } else { 0 }
}

/// Where the frame that LEAVE ends has the caller's RBP.
pub(super) fn frame(cpu: &impl GuestCpu, context: &Context) -> Address {
    let size = pointer(cpu, context).size;
    Address { segment: SegmentRegister::Ss, offset: GprPart::low(Gpr::Rbp, size).read(cpu), size }
}

/// Where the instruction pushes to.
pub(super) fn pushed(cpu: &impl GuestCpu, context: &Context, instruction: &Instruction) -> Address {
    below(cpu, context, slot(instruction).into())
}

/// Where ENTER leaves the stack pointer, below the local variables.
pub(super) fn reserved(cpu: &impl GuestCpu, context: &Context, instruction: &Instruction) -> Address {
    below(cpu, context, u64::from(slot(instruction)) + u64::from(released(instruction)))
}

/// Where the instruction pops from.
pub(super) fn popped(cpu: &impl GuestCpu, context: &Context) -> Address {
    below(cpu, context, 0)
}

fn below(cpu: &impl GuestCpu, context: &Context, bytes: u64) -> Address {
    let part = pointer(cpu, context);
    let offset = part.read(cpu).wrapping_sub(bytes) & mask(part.size);
    Address { segment: SegmentRegister::Ss, offset, size: part.size }
}
