// SPDX-License-Identifier: MIT OR Apache-2.0
//! From bytes to an [`Operation`]: the list of instructions that are emulated.

use iced_x86::{
    ConditionCode, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};
use platform::{Gpa, GuestCpu, GuestMemory};

use super::alu::{Binary, Unary};
use super::bit::{Bit, Scan};
use super::context::{CodeSize, Context};
use super::fetch::{Code, MAX_LENGTH};
use super::mmx::MmxMove;
use super::shift::{Shift, Side};
use super::stop::{Result, Stop};
use super::string::Element;
use super::system::System;
use super::vector::VectorMove;

/// What an instruction does, apart from where its operands are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// MOV, MOVNTI, MOVZX: the first operand becomes the second, zero-extended.
    Move,
    /// MOVSX, MOVSXD.
    MoveSigned,
    /// MOVBE.
    MoveSwapped,
    /// CMOVcc.
    MoveIf,
    /// SETcc.
    Set,
    Binary(Binary),
    Unary(Unary),
    Exchange,
    ExchangeAdd,
    CompareExchange,
    /// CMPXCHG8B and CMPXCHG16B.
    CompareExchangeWide,
    Shift(Shift),
    DoubleShift(Side),
    Bit(Bit),
    Scan(Scan),
    /// MUL, and IMUL with one operand.
    Multiply {
        signed: bool,
    },
    /// IMUL with two or three operands.
    MultiplyInto,
    Divide {
        signed: bool,
    },
    String(Element),
    Push,
    Pop,
    Call,
    /// CALL to an address in the instruction.
    CallDirect,
    Jump,
    /// Near RET.
    Return,
    /// ENTER without nesting.
    Enter,
    Leave,
    /// Cache-line maintenance: the address is checked, nothing moves.
    Touch,
    /// Nothing at all happens.
    Prefetch,
    Vector(VectorMove),
    Mmx(MmxMove),
    System(System),
}

impl Operation {
    /// Whether memory operand `index` is read, and whether it is written.
    pub(super) const fn accesses(self, index: u32) -> (bool, bool) {
        match (self, index) {
            (Self::Touch | Self::Prefetch, _) => (false, false),
            (Self::Vector(it), _) => (!it.stores(), it.stores()),
            (Self::Mmx(it), _) => (!it.stores, it.stores),
            (Self::System(it), _) => (!it.stores(), it.stores()),
            (Self::Move | Self::MoveSwapped | Self::Set | Self::Pop, 0) => (false, true),
            (Self::Binary(binary), 0) => (true, binary.writes()),
            (Self::Bit(Bit::Test), 0)
            | (Self::Multiply { .. } | Self::Divide { .. } | Self::Push | Self::Call | Self::Jump, 0) => (true, false),
            (
                Self::Unary(_)
                | Self::Exchange
                | Self::ExchangeAdd
                | Self::CompareExchange
                | Self::CompareExchangeWide
                | Self::Shift(_)
                | Self::DoubleShift(_)
                | Self::Bit(_),
                0,
            ) => (true, true),
            // XCHG with its memory operand named second.
            (Self::Exchange, _) => (true, true),
            _ => (true, false),
        }
    }
}

/// An instruction at RIP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoded {
    pub(super) instruction: Instruction,
    /// `None` for one that is valid but not emulated.
    pub(super) operation: Option<Operation>,
    /// Where the first byte lies.
    pub(super) gpa: Gpa,
    /// RIP after it.
    pub(super) next_rip: u64,
}

/// Fetches and decodes the instruction at RIP.
pub(super) fn decode(cpu: &impl GuestCpu, context: &Context, memory: &impl GuestMemory) -> Result<Decoded> {
    let code = Code::first(cpu, context, memory)?;
    decode_from(code, cpu, context, memory)
}

/// Decodes what was fetched, and fetches more where the instruction crosses into the next page.
pub(super) fn decode_from(
    mut code: Code,
    cpu: &impl GuestCpu,
    context: &Context,
    memory: &impl GuestMemory,
) -> Result<Decoded> {
    let rip = context.truncate_rip(cpu.rip());
    // Each turn has more bytes than the last, up to 15.
    loop {
        match decode_bytes(code.bytes(), context.size, rip) {
            Ok(instruction) => {
                let next_rip = context.truncate_rip(rip.wrapping_add(instruction.len() as u64));
                return Ok(Decoded { instruction, operation: operation(&instruction), gpa: code.gpa, next_rip });
            }
            Err(DecoderError::NoMoreBytes) if code.extend(cpu, context, memory)? => {}
            // Longer than 15 bytes.
            Err(DecoderError::NoMoreBytes) => return Err(Stop::GENERAL_PROTECTION),
            Err(_) if is_left_out(code.bytes()) => return Err(Stop::Unsupported),
            Err(_) => return Err(Stop::UNDEFINED),
        }
    }
}

/// Whether the bytes begin like EVEX, XOP or 3DNow!, which the decoder is built without: nothing of them is emulated.
fn is_left_out(bytes: &[u8]) -> bool {
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf2 | 0xf3);
    let opcode = bytes.iter().position(|byte| !is_prefix(byte)).and_then(|at| bytes.get(at..)).unwrap_or_default();
    matches!(opcode, [0x62 | 0x8f, ..] | [0x0f, 0x0f, ..])
}

/// Decodes `bytes` as the instruction at `rip`.
///
/// MOV to and from CR0 with a LOCK prefix is MOV to and from CR8 on processors whose CPUID says so (APM vol. 3, MOV CRn;
/// ALT_MOV_CR8); others raise #UD themselves. The decoder knows that form only with AMD's option, which changes branches too, so
/// the option is tried on nothing but what is invalid otherwise.
pub(super) fn decode_bytes(bytes: &[u8], size: CodeSize, rip: u64) -> core::result::Result<Instruction, DecoderError> {
    const LOCK: u8 = 0xf0;
    match decode_with(bytes, size, rip, DecoderOptions::NONE) {
        Err(DecoderError::InvalidInstruction) if bytes.contains(&LOCK) => {
            decode_with(bytes, size, rip, DecoderOptions::AMD)
                .ok()
                .filter(is_alternative_cr8)
                .ok_or(DecoderError::InvalidInstruction)
        }
        result => result,
    }
}

/// MOV to or from CR8.
fn is_alternative_cr8(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && [instruction.op0_register(), instruction.op1_register()].contains(&Register::CR8)
}

fn decode_with(
    bytes: &[u8],
    size: CodeSize,
    rip: u64,
    options: u32,
) -> core::result::Result<Instruction, DecoderError> {
    let bits = match size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let with = |options| Decoder::try_with_ip(bits, bytes, rip, options).map_err(|_| DecoderError::InvalidInstruction);
    let mut decoder = with(options)?;
    let instruction = decoder.decode();
    // With a LOCK that it must not have, an instruction of 15 bytes is whole and not too long.
    let is_whole =
        || with(options | DecoderOptions::NO_INVALID_CHECK).is_ok_and(|mut decoder| !decoder.decode().is_invalid());
    match decoder.last_error() {
        // Out of bytes because no instruction may be longer.
        DecoderError::InvalidInstruction if decoder.position() >= MAX_LENGTH && !is_whole() => {
            Err(DecoderError::NoMoreBytes)
        }
        DecoderError::None if instruction.is_invalid() => Err(DecoderError::InvalidInstruction),
        DecoderError::None => Ok(instruction),
        error => Err(error),
    }
}

/// The index of the operand in memory that ModRM or a `moffs` gives.
pub(super) fn explicit_memory(instruction: &Instruction) -> Option<u32> {
    (0..instruction.op_count()).find(|index| instruction.op_kind(*index) == OpKind::Memory)
}

/// Looks an instruction up in the list.
pub(super) fn operation(instruction: &Instruction) -> Option<Operation> {
    if instruction.is_string_instruction() {
        return Element::of(instruction.mnemonic()).map(Operation::String);
    }
    if let Some(system) = System::of(instruction) {
        return Some(Operation::System(system));
    }
    // MOV to and from control, debug and segment registers, and vector forms that share a mnemonic.
    let general = (0..instruction.op_count()).all(|index| {
        let is_source = index > 0;
        let register = instruction.op_register(index);
        instruction.op_kind(index) != OpKind::Register
            || register.is_gpr()
            || register.is_segment_register() && is_source
    });
    if !general {
        return match MmxMove::of(instruction) {
            Some(it) => Some(Operation::Mmx(it)),
            None => VectorMove::of(instruction).map(Operation::Vector),
        };
    }
    let in_memory = explicit_memory(instruction).is_some();
    Some(match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movnti => Operation::Move,
        Mnemonic::Movsx | Mnemonic::Movsxd => Operation::MoveSigned,
        Mnemonic::Movbe => Operation::MoveSwapped,
        Mnemonic::Add => Operation::Binary(Binary::Add),
        Mnemonic::Or => Operation::Binary(Binary::Or),
        Mnemonic::Adc => Operation::Binary(Binary::Adc),
        Mnemonic::Sbb => Operation::Binary(Binary::Sbb),
        Mnemonic::And => Operation::Binary(Binary::And),
        Mnemonic::Sub => Operation::Binary(Binary::Sub),
        Mnemonic::Xor => Operation::Binary(Binary::Xor),
        Mnemonic::Cmp => Operation::Binary(Binary::Cmp),
        Mnemonic::Test => Operation::Binary(Binary::Test),
        Mnemonic::Inc => Operation::Unary(Unary::Inc),
        Mnemonic::Dec => Operation::Unary(Unary::Dec),
        Mnemonic::Not => Operation::Unary(Unary::Not),
        Mnemonic::Neg => Operation::Unary(Unary::Neg),
        Mnemonic::Xchg => Operation::Exchange,
        Mnemonic::Xadd => Operation::ExchangeAdd,
        Mnemonic::Cmpxchg => Operation::CompareExchange,
        Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => Operation::CompareExchangeWide,
        Mnemonic::Rol => Operation::Shift(Shift::Rol),
        Mnemonic::Ror => Operation::Shift(Shift::Ror),
        Mnemonic::Rcl => Operation::Shift(Shift::Rcl),
        Mnemonic::Rcr => Operation::Shift(Shift::Rcr),
        Mnemonic::Shl | Mnemonic::Sal => Operation::Shift(Shift::Shl),
        Mnemonic::Shr => Operation::Shift(Shift::Shr),
        Mnemonic::Sar => Operation::Shift(Shift::Sar),
        Mnemonic::Shld => Operation::DoubleShift(Side::Left),
        Mnemonic::Shrd => Operation::DoubleShift(Side::Right),
        Mnemonic::Bt => Operation::Bit(Bit::Test),
        Mnemonic::Bts => Operation::Bit(Bit::Set),
        Mnemonic::Btr => Operation::Bit(Bit::Reset),
        Mnemonic::Btc => Operation::Bit(Bit::Complement),
        Mnemonic::Bsf => Operation::Scan(Scan::Forward),
        Mnemonic::Bsr => Operation::Scan(Scan::Reverse),
        Mnemonic::Mul => Operation::Multiply { signed: false },
        Mnemonic::Imul if instruction.op_count() == 1 => Operation::Multiply { signed: true },
        Mnemonic::Imul => Operation::MultiplyInto,
        Mnemonic::Div => Operation::Divide { signed: false },
        Mnemonic::Idiv => Operation::Divide { signed: true },
        Mnemonic::Push => Operation::Push,
        Mnemonic::Pop => Operation::Pop,
        Mnemonic::Call if in_memory && instruction.is_call_near_indirect() => Operation::Call,
        Mnemonic::Call if instruction.is_call_near() => Operation::CallDirect,
        Mnemonic::Ret => Operation::Return,
        Mnemonic::Enter if instruction.immediate8_2nd() & 0x1f == 0 => Operation::Enter,
        Mnemonic::Leave => Operation::Leave,
        Mnemonic::Jmp if in_memory && instruction.is_jmp_near_indirect() => Operation::Jump,
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => Operation::Touch,
        Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2 => Operation::Prefetch,
        _ => return conditional(instruction),
    })
}

/// CMOVcc and SETcc, which are told from the conditional branches by where execution goes on.
fn conditional(instruction: &Instruction) -> Option<Operation> {
    let is_plain = instruction.flow_control() == FlowControl::Next;
    match instruction.op_count() {
        _ if instruction.condition_code() == ConditionCode::None || !is_plain => None,
        1 => Some(Operation::Set),
        2 => Some(Operation::MoveIf),
        _ => None,
    }
}
