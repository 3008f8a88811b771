// SPDX-License-Identifier: MIT OR Apache-2.0
//! MOV to and from control registers, CLTS, LMSW and SMSW, where the platform intercepts them (APM vol. 2, chapter 3; SDM
//! vol. 3A, 2.5): the checks that hardware makes on a native MOV.
//!
//! The backend keeps what its hardware needs besides (an SVM host's EFER.SVME, a TD's CR4.VMXE) and flushes translations
//! when a value that it is given demands that.
//!
//! LMSW and SMSW with an operand in memory go to the instruction emulator.

use iced_x86::{Mnemonic, OpKind, Register};
use platform::{
    Control, ControlAccess, Direction, Exception, ExitReason, Gpr, GuestCpu, SegmentAttributes, SegmentRegister, Slip,
    SwitchedMsr,
};
use specs::msr::efer;

use crate::cpuid::{Facts, PHYSICAL_BITS};
use crate::{Env, Found, Oddity, Outcome, VcpuContext, emulate, operand};

/// CR0 (APM vol. 2, 3.1.1).
pub(crate) mod cr0 {
    pub(crate) const PE: u64 = 1 << 0;
    pub(crate) const EM: u64 = 1 << 2;
    pub(crate) const TS: u64 = 1 << 3;
    pub(crate) const ET: u64 = 1 << 4;
    pub(crate) const WP: u64 = 1 << 16;
    pub(crate) const AM: u64 = 1 << 18;
    pub(crate) const NW: u64 = 1 << 29;
    pub(crate) const CD: u64 = 1 << 30;
    pub(crate) const PG: u64 = 1 << 31;
    /// Every bit with a name.
    pub(crate) const DEFINED: u64 = 0x3f | WP | AM | NW | CD | PG;
}

/// CR4 (APM vol. 2, 3.1.3; SDM vol. 3A, 2.5).
pub(crate) mod cr4 {
    pub(crate) const VME: u64 = 1 << 0;
    pub(crate) const PVI: u64 = 1 << 1;
    pub(crate) const TSD: u64 = 1 << 2;
    pub(crate) const DE: u64 = 1 << 3;
    pub(crate) const PSE: u64 = 1 << 4;
    pub(crate) const PAE: u64 = 1 << 5;
    pub(crate) const MCE: u64 = 1 << 6;
    pub(crate) const PGE: u64 = 1 << 7;
    pub(crate) const PCE: u64 = 1 << 8;
    pub(crate) const OSFXSR: u64 = 1 << 9;
    pub(crate) const OSXMMEXCPT: u64 = 1 << 10;
    pub(crate) const UMIP: u64 = 1 << 11;
    pub(crate) const LA57: u64 = 1 << 12;
    pub(crate) const FSGSBASE: u64 = 1 << 16;
    pub(crate) const PCIDE: u64 = 1 << 17;
    pub(crate) const OSXSAVE: u64 = 1 << 18;
    pub(crate) const SMEP: u64 = 1 << 20;
    pub(crate) const SMAP: u64 = 1 << 21;
    pub(crate) const PKE: u64 = 1 << 22;
    /// Bits of features that every guest has.
    pub(crate) const ALWAYS: u64 = TSD | PAE | MCE | PCE;
}

/// What the instruction wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    /// MOV between the control register and this one.
    Move(Gpr),
    /// Clears CR0.TS.
    Clts,
    /// Loads CR0 bits 3:0 from this register; PE is never cleared.
    Lmsw(Gpr),
    /// Stores CR0 to this many bytes of a register.
    Smsw(Gpr, usize),
}

/// A control register access.
pub(crate) fn handle(
    access: &ControlAccess,
    found: Option<&Found>,
    next_rip: u64,
    vcpu: &VcpuContext<'_>,
    cpu: &mut impl GuestCpu,
    env: &mut impl Env,
) -> Outcome {
    let act = match access.operand.map_or_else(|| decode(access, found, cpu, env), |register| Ok(Act::Move(register))) {
        Ok(act) => act,
        Err(outcome) => return outcome,
    };
    let system = cpu.system();
    // SMSW is for every ring, but for UMIP.
    let is_free = matches!(act, Act::Smsw(..)) && system.cr4 & cr4::UMIP == 0;
    if system.cpl != 0 && !is_free {
        return Outcome::Inject(Exception::GENERAL_PROTECTION);
    }
    let facts = vcpu.cpuid.facts();
    let done = match (act, access.direction) {
        (Act::Move(register), Direction::Read) => {
            let value = cpu.control(access.register);
            operand::put_word(register, value, cpu);
            Some(())
        }
        (Act::Move(register), Direction::Write) => {
            let value = operand::get_word(register, cpu);
            write(access.register, value, facts, cpu)
        }
        (Act::Clts, _) => write_cr0(system.cr0 & !cr0::TS, cpu),
        (Act::Lmsw(register), _) => {
            let value = cpu.gpr(register) & 0xf | system.cr0 & cr0::PE;
            write_cr0(system.cr0 & !0xf | value, cpu)
        }
        (Act::Smsw(register, bytes), _) => {
            operand::put(register, bytes, system.cr0, cpu);
            Some(())
        }
    };
    match done {
        Some(()) => Outcome::Complete(next_rip),
        None => Outcome::Inject(Exception::GENERAL_PROTECTION),
    }
}

/// What stands at RIP, or the outcome if it is not an access to the control register that the exit is about.
fn decode(
    access: &ControlAccess,
    found: Option<&Found>,
    cpu: &mut impl GuestCpu,
    env: &mut impl Env,
) -> Result<Act, Outcome> {
    let found = emulate::found_or(found, &ExitReason::Control(*access), cpu, env)?;
    let instruction = found.instruction();
    let (first, second) = (instruction.op0_register(), instruction.op1_register());
    let in_memory = instruction.op0_kind() == OpKind::Memory;
    let act = match (instruction.mnemonic(), access.register, access.direction) {
        (Mnemonic::Mov, control, Direction::Read) if second == name(control) => operand::general(first).map(Act::Move),
        (Mnemonic::Mov, control, Direction::Write) if first == name(control) => operand::general(second).map(Act::Move),
        (Mnemonic::Clts, Control::Cr0, Direction::Write) => Some(Act::Clts),
        (Mnemonic::Lmsw, Control::Cr0, Direction::Write) | (Mnemonic::Smsw, Control::Cr0, Direction::Read)
            if in_memory =>
        {
            return Err(emulate::intercepted(&found, cpu, env));
        }
        (Mnemonic::Lmsw, Control::Cr0, Direction::Write) => operand::general(first).map(Act::Lmsw),
        (Mnemonic::Smsw, Control::Cr0, Direction::Read) => {
            operand::general(first).map(|register| Act::Smsw(register, first.size()))
        }
        _ => None,
    };
    // The guest has rewritten the instruction since; whatever stands there now is for the processor to execute.
    act.ok_or_else(|| {
        env.oddity(Oddity::Mismatch);
        Outcome::Resume
    })
}

const fn name(register: Control) -> Register {
    match register {
        Control::Cr0 => Register::CR0,
        Control::Cr2 => Register::CR2,
        Control::Cr3 => Register::CR3,
        Control::Cr4 => Register::CR4,
        Control::Cr8 => Register::CR8,
    }
}

/// `None` is #GP.
fn write(register: Control, value: u64, facts: &Facts, cpu: &mut impl GuestCpu) -> Option<()> {
    match register {
        Control::Cr0 => return write_cr0(value, cpu),
        Control::Cr3 => return write_cr3(value, cpu),
        Control::Cr4 => return write_cr4(value, facts, cpu),
        Control::Cr8 if value > 0xf => return None,
        Control::Cr2 | Control::Cr8 => cpu.set_control(register, value),
    }
    Some(())
}

/// CR0, and EFER.LMA, which follows CR0.PG while EFER.LME is set (APM vol. 2, 14.6).
fn write_cr0(value: u64, cpu: &mut impl GuestCpu) -> Option<()> {
    let system = cpu.system();
    let new = value & cr0::DEFINED | cr0::ET;
    let in_64bit_code = cpu.segment(SegmentRegister::Cs).attributes.contains(SegmentAttributes::LONG);
    let refused =
        value >> 32 != 0 || new & cr0::PG != 0 && new & cr0::PE == 0 || new & cr0::NW != 0 && new & cr0::CD == 0;
    if refused {
        return None;
    }
    if (new ^ system.cr0) & cr0::PG != 0 && system.efer & efer::LME != 0 {
        let starts = new & cr0::PG != 0;
        // Starting wants PAE; neither way may 64-bit code do it.
        if starts && system.cr4 & cr4::PAE == 0 || in_64bit_code || !starts && system.cr4 & cr4::PCIDE != 0 {
            return None;
        }
        let efer = if starts { system.efer | efer::LMA } else { system.efer & !efer::LMA };
        cpu.set_switched_msr(SwitchedMsr::Efer, efer);
    }
    cpu.set_control(Control::Cr0, new);
    Some(())
}

/// CR3: in long mode the address has the guest's width, and bit 63 only says that nothing need be flushed, which may be
/// taken as false.
fn write_cr3(value: u64, cpu: &mut impl GuestCpu) -> Option<()> {
    const KEEP_TRANSLATIONS: u64 = 1 << 63;
    let system = cpu.system();
    let ignored = if system.cr4 & cr4::PCIDE != 0 { KEEP_TRANSLATIONS } else { 0 };
    let new = value & !ignored;
    if system.efer & efer::LMA != 0 && new >> PHYSICAL_BITS != 0 {
        return None;
    }
    cpu.set_control(Control::Cr3, new);
    Some(())
}

fn write_cr4(value: u64, facts: &Facts, cpu: &mut impl GuestCpu) -> Option<()> {
    let system = cpu.system();
    let long = system.efer & efer::LMA != 0;
    let sets_pcide = value & !system.cr4 & cr4::PCIDE != 0;
    let offered = if Slip::HiddenSmep.is_planted() { facts.cr4 | cr4::SMEP } else { facts.cr4 };
    let refused =
        value & !offered != 0 || long && value & cr4::PAE == 0 || sets_pcide && (!long || system.cr3 & 0xfff != 0);
    if refused {
        return None;
    }
    cpu.set_control(Control::Cr4, value);
    Some(())
}
