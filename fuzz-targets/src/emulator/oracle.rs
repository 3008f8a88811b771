// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an instruction may touch, by a second opinion, and the comparison with what it did.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
    RflagsBits,
};
use platform::{Gpr, GuestCpu, SegmentAttributes, SegmentRegister};
use vc_handlers::testing::FakeCpu;
use vc_handlers::{DeviceRequest, Env, Operation, Outcome, Target};

use super::guest::{Machine, PAGE, RAM, Script, TABLES, others};

/// The status flags; no emulated instruction but a system one changes others.
const STATUS: u64 = 0x8d5;
const DIRECTION: u64 = 0x400;

/// Linear bytes.
type Span = (u64, u64);

/// Holds an emulation against everything that is claimed of it.
pub(super) fn check(script: &Script, machine: &Machine, cpu: &FakeCpu, outcome: Outcome) {
    let before = &script.cpu;
    let instruction = decode(script);
    for request in &machine.requests {
        check_request(request);
    }
    assert_eq!(cpu.rip(), before.rip(), "only the run loop moves RIP");
    assert_eq!(others(cpu), others(before), "a register that no emulated instruction writes");
    let allowed = instruction.map(|it| writable(script, cpu, &it)).unwrap_or_default();
    check_memory(script, machine, &allowed);
    check_device_writes(script, machine, &allowed, instruction.as_ref());
    match outcome {
        Outcome::Complete(rip) => {
            let instruction = instruction.expect("an invalid instruction completes");
            check_completed(script, cpu, &instruction, rip);
        }
        Outcome::Resume => check_unfinished(before, machine, cpu, instruction.as_ref(), outcome),
        Outcome::Inject(fault) => {
            assert!(matches!(fault.vector, 0 | 6 | 7 | 10..=14 | 17), "{fault:?}");
            assert_eq!(fault.fault_address.is_some(), fault.vector == 14, "{fault:?}");
            let real = before.state.cr0 & 1 == 0;
            let coded = fault.vector >= 10 && !real;
            assert_eq!(fault.error_code.is_some(), coded, "{fault:?}, real mode: {real}");
            check_unfinished(before, machine, cpu, instruction.as_ref(), outcome);
        }
        other => panic!("{other:?}"),
    }
}

/// Every register that two runs of one instruction leave.
pub(super) fn same_registers(one: &FakeCpu, other: &FakeCpu, when: &str) {
    assert_eq!(one.state, other.state, "{when}");
    assert_eq!(one.vectors, other.vectors, "{when}");
    assert_eq!(others(one), others(other), "{when}");
}

fn bits(cpu: &FakeCpu) -> u32 {
    let code = cpu.segment(SegmentRegister::Cs).attributes;
    if cpu.state.efer & 1 << 10 != 0 && code.contains(SegmentAttributes::LONG) {
        64
    } else if code.contains(SegmentAttributes::DEFAULT_BIG) {
        32
    } else {
        16
    }
}

fn decode(script: &Script) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(bits(&script.cpu), &script.code, script.cpu.rip(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

fn check_request(request: &DeviceRequest) {
    match request.target {
        Target::Mmio(gpa) => {
            assert!(matches!(request.width, 1 | 2 | 4 | 8), "{request:?}");
            assert!(gpa.0.is_multiple_of(request.width.into()), "{request:?}");
            assert!(gpa.0 >= RAM, "a device access in memory: {request:?}");
        }
        Target::Port(_) => assert!(matches!(request.width, 1 | 2 | 4), "{request:?}"),
    }
    if let Operation::Write(value) = request.operation
        && request.width < 8
    {
        assert_eq!(value >> (8 * request.width), 0, "{request:?}");
    }
}

/// Where the instruction may write, in linear addresses.
fn writable(script: &Script, after: &FakeCpu, instruction: &Instruction) -> Vec<Span> {
    let before = &script.cpu;
    if instruction.is_string_instruction() {
        return string_target(before, after, instruction);
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let mut spans = Vec::new();
    for memory in info.used_memory().iter().filter(|memory| writes(memory.access())) {
        let address = memory.virtual_address(0, |register, _, _| Some(value(before, register)));
        let Some(mut address) = address else { continue };
        let length = memory.memory_size().size() as u64;
        if is_bit_string(instruction) {
            let number = value(before, instruction.op1_register());
            let bits = 8 * instruction.op1_register().size() as u32;
            let index = ((number << (64 - bits)) as i64 >> (64 - bits)) >> bits.ilog2();
            // The sum wraps at the address size before the segment's base is added, as here where no base is odd.
            let beyond = (index as u64).wrapping_mul(length);
            let offset_mask = u64::MAX >> (64 - 8 * u32::from(address_bytes(instruction)));
            let base = value(before, instruction.memory_segment());
            address = base.wrapping_add(address.wrapping_sub(base).wrapping_add(beyond) & offset_mask);
        }
        spans.push((linear(before, address), length));
    }
    if matches!(instruction.mnemonic(), Mnemonic::Ltr | Mnemonic::Pop | Mnemonic::Mov) {
        // The accessed or busy bit of the descriptor.
        spans.push((linear(before, before.state.gdtr.base), u64::from(before.state.gdtr.limit) + 1));
    }
    spans
}

fn address_bytes(instruction: &Instruction) -> u8 {
    match instruction.memory_base().size().max(instruction.memory_index().size()) {
        0 => instruction.memory_displ_size().max(2) as u8,
        size => size as u8,
    }
}

/// The elements that a string instruction has stored by now, and the one that it is at.
fn string_target(before: &FakeCpu, after: &FakeCpu, instruction: &Instruction) -> Vec<Span> {
    let kinds = [OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI];
    let Some(index) = (0..instruction.op_count()).find(|index| kinds.contains(&instruction.op_kind(*index))) else {
        return Vec::new();
    };
    if matches!(instruction.mnemonic(), Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq)
        || instruction.op0_kind() != instruction.op_kind(index)
    {
        return Vec::new();
    }
    let (width, mask) = match instruction.op_kind(index) {
        OpKind::MemoryESDI => (2, 0xffff),
        OpKind::MemoryESEDI => (4, 0xffff_ffff),
        _ => (8, u64::MAX),
    };
    let step = instruction.memory_size().size() as u64;
    let base = if bits(before) == 64 { 0 } else { before.segment(SegmentRegister::Es).base };
    let start = before.gpr(Gpr::Rdi) & mask;
    let backwards = before.rflags() & DIRECTION != 0;
    let moved = after.gpr(Gpr::Rdi).wrapping_sub(before.gpr(Gpr::Rdi)) & mask;
    let count = if backwards { moved.wrapping_neg() & mask } else { moved } / step;
    assert!(count <= 1024, "{count} elements in one exit, address size {width}");
    let element = |n: u64| {
        let offset = if backwards { start.wrapping_sub(n * step) } else { start.wrapping_add(n * step) } & mask;
        (linear(before, base.wrapping_add(offset)), step)
    };
    (0..=count).map(element).collect()
}

fn is_bit_string(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && instruction.op1_kind() == OpKind::Register
}

const fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// A register as an address is computed from it: general-purpose ones by value, segments by base.
fn value(cpu: &FakeCpu, register: Register) -> u64 {
    let segment = match register {
        Register::ES => Some(SegmentRegister::Es),
        Register::CS => Some(SegmentRegister::Cs),
        Register::SS => Some(SegmentRegister::Ss),
        Register::DS => Some(SegmentRegister::Ds),
        Register::FS => Some(SegmentRegister::Fs),
        Register::GS => Some(SegmentRegister::Gs),
        _ => None,
    };
    if let Some(segment) = segment {
        let based = bits(cpu) != 64 || matches!(segment, SegmentRegister::Fs | SegmentRegister::Gs);
        return if based { cpu.segment(segment).base } else { 0 };
    }
    if !register.is_gpr() {
        return 0;
    }
    let whole = cpu.state.gprs[register.full_register().number()];
    match register.size() {
        1 if matches!(register, Register::AH | Register::CH | Register::DH | Register::BH) => whole >> 8 & 0xff,
        1 => whole & 0xff,
        2 => whole & 0xffff,
        4 => whole & 0xffff_ffff,
        _ => whole,
    }
}

/// Outside 64-bit mode, linear addresses have 32 bits.
fn linear(cpu: &FakeCpu, address: u64) -> u64 {
    if bits(cpu) == 64 { address } else { address & 0xffff_ffff }
}

/// Whether the byte at a guest-physical address belongs to one of `spans`.
fn covers(script: &Script, spans: &[Span], gpa: u64) -> bool {
    spans.iter().any(|(start, length)| {
        // A span lies on few pages, and each of them leads to one place.
        let last = linear(&script.cpu, start.wrapping_add(length.saturating_sub(1)));
        let mut page = start & !(PAGE - 1);
        loop {
            let hit = script.translate(page).is_some_and(|frame| {
                let linear = page | gpa & (PAGE - 1);
                frame == gpa & !(PAGE - 1) && linear.wrapping_sub(*start) < *length
            });
            if hit || page == last & !(PAGE - 1) {
                return hit;
            }
            page = linear(&script.cpu, page.wrapping_add(PAGE));
        }
    })
}

fn check_memory(script: &Script, machine: &Machine, allowed: &[Span]) {
    let after = machine.ram();
    for (page, (old, new)) in (0u64..).zip(machine.before.chunks(0x1000).zip(after.chunks(0x1000))) {
        if old == new {
            continue;
        }
        for (offset, (old, new)) in (0u64..).zip(old.iter().zip(new)).filter(|(_, (old, new))| old != new) {
            let gpa = page * PAGE + offset;
            // The walk sets accessed and dirty bits.
            let walked =
                script.is_paged() && TABLES.contains(&gpa) && gpa.is_multiple_of(8) && (old ^ new) & !0x60 == 0;
            assert!(
                walked || covers(script, allowed, gpa),
                "memory at {gpa:#x} changed from {old:#x} to {new:#x}, outside of what the instruction writes: {allowed:x?}"
            );
        }
    }
}

fn check_device_writes(script: &Script, machine: &Machine, allowed: &[Span], instruction: Option<&Instruction>) {
    for request in &machine.requests {
        match (request.target, request.operation) {
            (Target::Mmio(gpa), Operation::Write(_)) => {
                for byte in gpa.0..gpa.0 + u64::from(request.width) {
                    assert!(
                        covers(script, allowed, byte),
                        "{request:x?}: byte {byte:#x} is outside of what the instruction writes: {allowed:x?}"
                    );
                }
            }
            (Target::Port(port), _) => {
                let instruction = instruction.expect("a port access by an invalid instruction");
                assert!(instruction.is_string_instruction(), "{request:x?}");
                assert_eq!(u64::from(port), script.cpu.gpr(Gpr::Rdx) & 0xffff, "{request:x?}");
            }
            (Target::Mmio(_), Operation::Read) => {}
        }
    }
}

/// An instruction that faulted, or is to be executed again.
fn check_unfinished(
    before: &FakeCpu,
    machine: &Machine,
    cpu: &FakeCpu,
    instruction: Option<&Instruction>,
    outcome: Outcome,
) {
    let mut expected = before.clone();
    if instruction.is_some_and(Instruction::is_string_instruction) {
        // Elements that are through.
        for register in [Gpr::Rcx, Gpr::Rsi, Gpr::Rdi, Gpr::Rax] {
            expected.set_gpr(register, cpu.gpr(register));
        }
        expected.state.rflags = before.state.rflags & !STATUS | cpu.state.rflags & STATUS;
    } else {
        let written = machine.requests.iter().any(|request| matches!(request.operation, Operation::Write(_)));
        // A store of which the second page changes its state right now is done again from the start, which is as good as
        // once: it does not read what it writes.
        let again = outcome == Outcome::Resume && machine.memory().met_change.get();
        let stored = written || machine.memory().stores.get() != 0;
        assert!(!stored || again, "memory or a device was written, and the instruction did not complete: {outcome:?}");
    }
    same_registers(&expected, cpu, "an instruction that did not complete changed registers");
}

fn check_completed(script: &Script, cpu: &FakeCpu, instruction: &Instruction, rip: u64) {
    let before = &script.cpu;
    let next = linear(before, before.rip().wrapping_add(instruction.len() as u64));
    let stays = instruction.is_string_instruction() && before.rflags() & 0x100 != 0 && rip == before.rip();
    if instruction.flow_control() == FlowControl::Next {
        assert!(rip == next || stays, "goes on at {rip:#x} after {instruction:?}, expected {next:#x}");
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let written = |full: Register| {
        let mut used = info.used_registers().iter().filter(|used| writes(used.access()));
        used.any(|used| used.register().full_register() == full)
    };
    for register in Gpr::ALL {
        let name = Register::RAX + register as u32;
        // A repetition counts and moves its registers.
        let unchanged = cpu.gpr(register) == before.gpr(register);
        assert!(unchanged || written(name), "{register:?} changed, which {instruction:?} does not write");
    }
    for number in 0..16 {
        let unchanged = cpu.vectors[number] == before.vectors[number];
        // The decoder's full register of a vector is ZMM.
        let name = Register::ZMM0 + number as u32;
        assert!(unchanged || written(name), "vector register {number} changed, which {instruction:?} does not write");
    }
    // OF is undefined after a rotation through carry by more than one, which the decoder knows only for some counts.
    let undefined = if matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr) { 1 << 11 } else { 0 };
    let flags = (cpu.rflags() ^ before.rflags()) & !rflags(instruction.rflags_modified()) & !undefined;
    assert_eq!(flags, 0, "flags changed, which {instruction:?} does not write");
    let (mut expected, mnemonic) = (before.state, instruction.mnemonic());
    expected.gprs = cpu.state.gprs;
    expected.rflags = cpu.state.rflags;
    match mnemonic {
        Mnemonic::Lgdt => expected.gdtr = cpu.state.gdtr,
        Mnemonic::Lidt => expected.idtr = cpu.state.idtr,
        // Of CR0, the low four bits; PE is never cleared.
        Mnemonic::Lmsw => {
            expected.cr0 = before.state.cr0 & !0xf | cpu.state.cr0 & 0xf;
            assert!(cpu.state.cr0 & 1 >= before.state.cr0 & 1, "LMSW cleared CR0.PE");
        }
        Mnemonic::Lldt | Mnemonic::Ltr | Mnemonic::Mov | Mnemonic::Pop => expected.segments = cpu.state.segments,
        _ => {}
    }
    assert_eq!(cpu.state, expected, "{instruction:?} changed state that it does not write");
    let only = |register: SegmentRegister| {
        (0..8).all(|n| n == register as usize || cpu.state.segments[n] == before.state.segments[n])
    };
    match mnemonic {
        Mnemonic::Lldt => assert!(only(SegmentRegister::Ldtr)),
        Mnemonic::Ltr => assert!(only(SegmentRegister::Tr)),
        _ => {}
    }
}

/// The decoder's flags as RFLAGS has them.
fn rflags(bits: u32) -> u64 {
    let table = [
        (RflagsBits::OF, 1 << 11),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::CF, 1),
        (RflagsBits::PF, 1 << 2),
    ];
    table.iter().filter(|(flag, _)| bits & flag != 0).map(|(_, bit)| bit).sum()
}
