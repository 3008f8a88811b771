// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stack pointer and the slots of PUSH, POP and CALL (APM vol. 2, 4.5.3; vol. 3).

use iced_x86::Instruction;
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
    instruction.stack_pointer_increment().unsigned_abs().min(8) as u8
}

/// Where the instruction pushes to.
pub(super) fn pushed(cpu: &impl GuestCpu, context: &Context, instruction: &Instruction) -> Address {
    below(cpu, context, slot(instruction))
}

/// Where the instruction pops from.
pub(super) fn popped(cpu: &impl GuestCpu, context: &Context) -> Address {
    below(cpu, context, 0)
}

fn below(cpu: &impl GuestCpu, context: &Context, bytes: u8) -> Address {
    let part = pointer(cpu, context);
    let offset = part.read(cpu).wrapping_sub(u64::from(bytes)) & mask(part.size);
    Address { segment: SegmentRegister::Ss, offset, size: part.size }
}
