// SPDX-License-Identifier: MIT OR Apache-2.0
//! The instruction emulator: guest accesses to device memory, and string port I/O.
//!
//! The hardware says that an access hit no memory; the instruction that made it is fetched through the guest's own page
//! tables, decoded, and done here, with the faults that hardware would raise. References: APM vol. 1–3, SDM vol. 3A where
//! the APM is silent.
//!
//! `docs/emulator.md` has the table of what is emulated, which `tests/coverage.rs` holds to the decoder's list, and what a
//! comparison with a real processor covers. Any other instruction on device memory gives the guest #UD and is counted
//! ([`Oddity::NotEmulated`]).
//!
//! Accesses that the processor makes by itself (descriptor tables, TSS, interrupt frames) cannot be emulated on devices; see
//! `memory_fault`.
//!
//! Hostile party: the guest, with every byte, register and page table, on several processors at once. Nothing here
//! panics, each loop has a bound, and nothing is allocated after [`initialise`].

mod agreement;
mod alu;
mod bit;
mod bits;
mod context;
mod decode;
mod descriptor;
mod effects;
pub(crate) mod exception;
mod fetch;
mod flags;
mod machine;
mod mmx;
mod muldiv;
mod operand;
mod place;
mod plain_mov;
mod ports;
mod segment;
mod shift;
mod stack;
mod stop;
mod string;
mod system;
#[cfg(test)]
mod tests;
mod vector;
mod walk;

use iced_x86::{Instruction, Mnemonic, OpKind};
use platform::{Access, Direction, Exception, ExitReason, Gpa, GuestCpu, IoAccess, MemoryFault};

use self::context::{CodeSize, Context};
use self::decode::{Decoded, Operation};
use self::fetch::Code;
use self::machine::{Machine, Step};
use self::operand::{Address, Span};
use self::stop::{Result, Stop};
use self::string::Element;
use self::walk::Intent;
use crate::{DeviceReply, Env, Oddity, Outcome, port};

/// An instruction that waits for a device. Plain data: it holds no reference, and the vCPU may be saved meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Emulation(State);

#[derive(Clone, Copy, Debug)]
#[allow(clippy::large_enum_variant, reason = "copied only when a device defers; a box would allocate")]
enum State {
    Plain(plain_mov::Pending),
    General(Machine),
    Port(port::Pending),
}

impl From<port::Pending> for Emulation {
    fn from(pending: port::Pending) -> Self {
        Self(State::Port(pending))
    }
}

/// Builds the decoder's tables. The first decode would do it, and allocate; so this is called at boot.
pub fn initialise() {
    // Which bytes it decodes does not matter.
    let _ = decode::decode_bytes(&[0x90], CodeSize::Bits64, 0);
}

/// Emulates the instruction at RIP, whose access to memory the hardware could not complete.
///
/// The instruction may not fit the fault, because the guest has rewritten it or its page tables since, or because the
/// processor itself made the access (a descriptor, a TSS, an interrupt frame). If then one of its operands is on a
/// device, it is emulated all the same. If none is, the guest runs it again: the processor can complete it, or faults
/// anew. A guest that has put its descriptor tables or its interrupt stack on a device thus faults forever, one exit at
/// a time, and stops nobody but itself.
#[inline(never)]
pub fn memory_fault(fault: &MemoryFault, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Outcome {
    let context = Context::of(cpu);
    let code = match Code::first(cpu, &context, env.memory()) {
        Ok(code) => code,
        Err(stop) => return end(stop, &context),
    };
    if let Some((request, pending)) = plain_mov::attempt(fault, &code, cpu, &context, env) {
        return match env.access(request) {
            DeviceReply::Done(value) => Outcome::Complete(pending.finish(value, cpu)),
            DeviceReply::Defer(token) => {
                env.park(Emulation(State::Plain(pending)));
                Outcome::Defer(token)
            }
        };
    }
    let gpa = code.gpa;
    let decoded = match decode::decode_from(code, cpu, &context, env.memory()) {
        Ok(decoded) => decoded,
        Err(stop) => {
            if stop == Stop::Unsupported {
                env.oddity(Oddity::NotEmulated(gpa));
            }
            return end(stop, &context);
        }
    };
    match prepare(fault, decoded, cpu, &context, env) {
        Ok(Some(machine)) => drive(machine, None, cpu, &context, env),
        Ok(None) => {
            env.oddity(Oddity::Mismatch);
            Outcome::Resume
        }
        Err(stop) => refuse(stop, &decoded, &context, env),
    }
}

/// Emulates INS or OUTS, one batch of elements. RCX, RSI, RDI and RIP are left so that the instruction goes on.
///
/// Everything comes from the instruction's own bytes; `access` is what the hardware reported, which must fit.
#[inline(never)]
pub fn string_io(access: &IoAccess, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Outcome {
    let context = Context::of(cpu);
    let decoded = match decode::decode(cpu, &context, env.memory()) {
        Ok(decoded) => decoded,
        Err(stop) => return end(stop, &context),
    };
    let element = match access.direction {
        Direction::Read => Element::Ins,
        Direction::Write => Element::Outs,
    };
    let fits = decoded.operation == Some(Operation::String(element))
        && decoded.instruction.memory_size().size() == access.width.bytes()
        && string::repeats(&decoded.instruction) == access.repeat
        && cpu.gpr(platform::Gpr::Rdx) as u16 == access.port;
    if !fits {
        // The guest has rewritten the instruction since; whatever stands there now is for the processor to execute.
        env.oddity(Oddity::Mismatch);
        return Outcome::Resume;
    }
    match Machine::begin(decoded, Operation::String(element), cpu, &context, env) {
        Ok(machine) => drive(machine, None, cpu, &context, env),
        Err(stop) => refuse(stop, &decoded, &context, env),
    }
}

/// Goes on with an instruction whose device has answered. For a write, `value` does not matter.
pub fn resume(emulation: Emulation, value: u64, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Outcome {
    match emulation.0 {
        State::Plain(pending) => Outcome::Complete(pending.finish(value, cpu)),
        State::Port(pending) => pending.finish(value, cpu),
        State::General(machine) => {
            let context = Context::of(cpu);
            drive(machine, Some(value), cpu, &context, env)
        }
    }
}

/// An instruction that exited, fetched once: its length and its operands are of the same bytes, however the guest's other
/// processors rewrite them.
#[derive(Clone, Copy, Debug)]
pub struct Found(Decoded);

impl Found {
    /// RIP after it.
    pub const fn next_rip(&self) -> u64 {
        self.0.next_rip
    }

    /// Where its first byte lies.
    pub const fn gpa(&self) -> Gpa {
        self.0.gpa
    }

    pub(crate) const fn instruction(&self) -> &Instruction {
        &self.0.instruction
    }
}

/// The instruction at RIP, which exited for `reason`, for a backend whose hardware does not tell of it. The exception, if the
/// instruction cannot be fetched or is invalid, or the outcome that takes its place: an instruction that does not exit so is for
/// the processor to execute.
pub fn find(reason: &ExitReason, cpu: &impl GuestCpu, env: &mut impl Env) -> core::result::Result<Found, Outcome> {
    let context = Context::of(cpu);
    let decoded = decode::decode(cpu, &context, env.memory()).map_err(|stop| end(stop, &context))?;
    if !agreement::fits(reason, &decoded.instruction) {
        env.oddity(Oddity::Mismatch);
        // The guest has rewritten the instruction since; whatever stands there now is for the processor to execute.
        return Err(Outcome::Resume);
    }
    Ok(Found(decoded))
}

/// What was found already, or what [`find`] finds now.
pub(crate) fn found_or(
    found: Option<&Found>,
    reason: &ExitReason,
    cpu: &impl GuestCpu,
    env: &mut impl Env,
) -> core::result::Result<Found, Outcome> {
    found.map_or_else(|| find(reason, cpu, env), |found| Ok(*found))
}

/// LGDT, LIDT, LLDT or LTR, which the platform intercepts for what it does.
pub(crate) fn load_table(found: Option<&Found>, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Outcome {
    match found_or(found, &ExitReason::LoadTable, cpu, env) {
        Ok(found) => intercepted(&found, cpu, env),
        Err(outcome) => outcome,
    }
}

/// Emulates an instruction that the platform intercepts for what it does and not for where its operand is.
pub(crate) fn intercepted(found: &Found, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Outcome {
    let context = Context::of(cpu);
    let decoded = found.0;
    let machine = decoded
        .operation
        .ok_or(Stop::Unsupported)
        .and_then(|operation| Machine::begin(decoded, operation, cpu, &context, env));
    match machine {
        Ok(machine) => drive(machine, None, cpu, &context, env),
        Err(stop) => refuse(stop, &decoded, &context, env),
    }
}

/// The instruction, ready to run; `None` if the guest shall execute it again.
fn prepare(
    fault: &MemoryFault,
    decoded: Decoded,
    cpu: &impl GuestCpu,
    context: &Context,
    env: &mut impl Env,
) -> Result<Option<Machine>> {
    let Some(operation) = decoded.operation else {
        return if touches_device(fault, &decoded, cpu, context, env)? { Err(Stop::Unsupported) } else { Ok(None) };
    };
    if let Operation::String(Element::Ins | Element::Outs) = operation {
        // The right to the port comes before the right to the memory.
        let width = decoded.instruction.memory_size().size() as u8;
        ports::check(cpu, context, env.memory(), cpu.gpr(platform::Gpr::Rdx) as u16, width)?;
    }
    let machine = Machine::begin(decoded, operation, cpu, context, env)?;
    if !machine.agrees(fault) {
        if !machine.touches_mmio() && fault.access != Access::Fetch {
            return Ok(None);
        }
        env.oddity(Oddity::Mismatch);
    }
    Ok(Some(machine))
}

/// Whether an instruction that is not emulated would fault for good: its operand, or the stack that it uses, is on a
/// device or on the page of the fault.
fn touches_device(
    fault: &MemoryFault,
    decoded: &Decoded,
    cpu: &impl GuestCpu,
    context: &Context,
    env: &impl Env,
) -> Result<bool> {
    let instruction = &decoded.instruction;
    if fault.access == Access::Fetch {
        return Ok(true);
    }
    let hits = |address: Address, length: u8| -> Result<bool> {
        let span = Span::place(cpu, context, env, address, length, Intent::Read)?;
        Ok(span.touches_mmio() || fault.gpa.is_some_and(|gpa| span.touches(gpa)))
    };
    let reaches_memory = !matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop | Mnemonic::Reservednop);
    for index in (0..instruction.op_count()).filter(|_| reaches_memory) {
        if let Some(address) = operand::address(cpu, instruction, index, 0) {
            let length = instruction.memory_size().size().clamp(1, 255) as u8;
            return hits(address, length);
        }
        if instruction.op_kind(index) == OpKind::Memory {
            // A gather: its addresses are many, and it is not emulated whichever of them faulted.
            return Ok(true);
        }
    }
    if instruction.is_stack_instruction() {
        let top = stack::popped(cpu, context);
        let below = stack::pushed(cpu, context, instruction);
        return Ok(hits(top, 1)? || hits(below, 1)?);
    }
    Ok(false)
}

/// Runs an instruction until it is over or a device defers its answer.
fn drive(
    mut machine: Machine,
    mut reply: Option<u64>,
    cpu: &mut impl GuestCpu,
    context: &Context,
    env: &mut impl Env,
) -> Outcome {
    // Bounded as the machine's steps are.
    loop {
        let request = match machine.step(reply.take(), cpu, context, env) {
            Ok(Step::Request(request)) => request,
            Ok(Step::Finished(outcome)) => return outcome,
            Err(stop) => return refuse(stop, &machine.decoded, context, env),
        };
        match env.access(request) {
            DeviceReply::Done(value) => reply = Some(value),
            DeviceReply::Defer(token) => {
                env.park(Emulation(State::General(machine)));
                return Outcome::Defer(token);
            }
        }
    }
}

/// Ends an emulation early, and counts what is not emulated.
fn refuse(stop: Stop, decoded: &Decoded, context: &Context, env: &mut impl Env) -> Outcome {
    if stop == Stop::Unsupported {
        env.oddity(Oddity::NotEmulated(decoded.gpa));
    }
    end(stop, context)
}

fn end(stop: Stop, context: &Context) -> Outcome {
    match stop {
        // Real mode has no error codes.
        Stop::Fault(exception) if context.is_real() => Outcome::Inject(Exception { error_code: None, ..exception }),
        Stop::Fault(exception) => Outcome::Inject(exception),
        Stop::Retry => Outcome::Resume,
        Stop::Unsupported => Outcome::Inject(Exception::UNDEFINED),
        Stop::Terminate(reason, detail) => Outcome::Terminate(reason, detail),
    }
}
