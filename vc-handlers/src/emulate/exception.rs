// SPDX-License-Identifier: MIT OR Apache-2.0
//! The exception that a processor would have raised, where a platform intercepts one because it raises the wrong one.
//!
//! QEMU gives #UD for INT1, and #GP where an address on the stack is not canonical. No processor does either (APM vol. 2,
//! 8.2.13; APM vol. 3, INT1), so where the platform is right already, nothing changes here.

use iced_x86::{Instruction, Mnemonic};
use platform::{Exception, GuestCpu, SegmentRegister};

use super::context::Context;
use super::decode::{self, Decoded, Operation};
use super::operand::{self, Address};
use super::stop::Stop;
use super::{segment, stack};
use crate::{Env, Outcome, instruction};

const GENERAL_PROTECTION: Exception = Exception::GENERAL_PROTECTION;
const UNDEFINED: Exception = Exception::UNDEFINED;

/// An intercepted exception of the instruction at RIP.
pub(crate) fn handle(exception: Exception, cpu: &mut impl GuestCpu, env: &impl Env) -> Outcome {
    if exception != UNDEFINED && exception != GENERAL_PROTECTION {
        return Outcome::Inject(exception);
    }
    let context = Context::of(cpu);
    // Real mode has no error codes, and a processor would push one that is injected.
    let as_it_came = super::end(Stop::Fault(exception), &context);
    // Code that cannot be read any more, or is no instruction, has what it got.
    let Ok(decoded) = decode::decode(cpu, &context, env.memory()) else { return as_it_came };
    match decoded.instruction.mnemonic() {
        Mnemonic::Int1 if exception == UNDEFINED => instruction::icebp(decoded.next_rip, cpu),
        _ if exception == GENERAL_PROTECTION && is_stack_fault(&decoded, cpu, &context) => {
            Outcome::Inject(Exception::STACK)
        }
        _ => as_it_came,
    }
}

/// Whether the first address that is not canonical is one on the stack.
fn is_stack_fault(decoded: &Decoded, cpu: &impl GuestCpu, context: &Context) -> bool {
    // System instructions check the privilege level first.
    if !context.is_64bit() || matches!(decoded.operation, Some(Operation::System(_))) {
        return false;
    }
    let bad = |address: &Address| {
        let linear = segment::unchecked(cpu, context, address.segment, address.offset);
        !context.is_canonical(linear)
    };
    addresses(&decoded.instruction, cpu, context)
        .into_iter()
        .flatten()
        .find(bad)
        .is_some_and(|address| address.segment == SegmentRegister::Ss)
}

/// What the instruction accesses, in the order in which it faults: an operand, then the stack.
fn addresses(instruction: &Instruction, cpu: &impl GuestCpu, context: &Context) -> [Option<Address>; 2] {
    let operand = (0..instruction.op_count()).find_map(|index| operand::address(cpu, instruction, index, 0));
    let slot = instruction.is_stack_instruction().then(|| match instruction.mnemonic() {
        Mnemonic::Leave => stack::frame(cpu, context),
        _ if instruction.stack_pointer_increment() > 0 => stack::popped(cpu, context),
        _ => stack::pushed(cpu, context, instruction),
    });
    [operand, slot]
}
