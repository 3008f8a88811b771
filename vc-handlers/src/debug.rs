// SPDX-License-Identifier: MIT OR Apache-2.0
//! MOV to and from debug registers, where the platform intercepts them (APM vol. 2, 13.1).

use iced_x86::{Mnemonic, Register};
use platform::{DebugAccess, Direction, Exception, ExitReason, Gpr, GuestCpu, Slip};

use crate::control::cr4;
use crate::{Env, Found, Oddity, Outcome, emulate, operand};

/// DR6 bits that software may change: which breakpoint hit, and BD, BS, BT.
const DR6_WRITABLE: u64 = 0xf | DR6_ACCESS | 1 << 14 | 1 << 15;
/// DR6 bits that always read as one.
const DR6_ONES: u64 = 0xffff_0ff0;
/// DR6.BD: a debug register was touched while DR7.GD was set.
const DR6_ACCESS: u64 = 1 << 13;
/// DR7 bits that software may change; bit 10 always reads as one.
const DR7_WRITABLE: u64 = 0xffff_23ff;
const DR7_ONES: u64 = 1 << 10;
/// DR7.GD: touching a debug register raises #DB.
const DR7_GUARD: u64 = 1 << 13;

/// A debug register access.
pub(crate) fn handle(
    access: &DebugAccess,
    found: Option<&Found>,
    next_rip: u64,
    cpu: &mut impl GuestCpu,
    env: &mut impl Env,
) -> Outcome {
    let general = match access.operand.map_or_else(|| decode(access, found, cpu, env), Ok) {
        Ok(register) => register,
        Err(outcome) => return outcome,
    };
    let system = cpu.system();
    // DR4 and DR5 are other names of DR6 and DR7, until CR4.DE takes them away.
    if matches!(access.register, 4 | 5) && system.cr4 & cr4::DE != 0 {
        return Outcome::Inject(Exception::UNDEFINED);
    }
    if system.cpl != 0 {
        return Outcome::Inject(Exception::GENERAL_PROTECTION);
    }
    if cpu.debug(7) & DR7_GUARD != 0 {
        // Delivery of the exception clears the guard, so that the handler can read the registers.
        cpu.set_debug(6, cpu.debug(6) | DR6_ACCESS);
        cpu.set_debug(7, cpu.debug(7) & !DR7_GUARD);
        return Outcome::Inject(Exception::DEBUG);
    }
    let register = if access.register >= 4 { access.register & 7 | 2 } else { access.register };
    match access.direction {
        Direction::Read => {
            let value = cpu.debug(register);
            operand::put_word(general, value, cpu);
        }
        Direction::Write => {
            let value = operand::get_word(general, cpu);
            let value = match register {
                6 | 7 if value >> 32 != 0 => return Outcome::Inject(Exception::GENERAL_PROTECTION),
                6 => value & DR6_WRITABLE | DR6_ONES,
                7 if Slip::DebugOne.is_planted() => value & (DR7_WRITABLE | DR7_ONES),
                7 => value & DR7_WRITABLE | DR7_ONES,
                _ => value,
            };
            cpu.set_debug(register, value);
        }
    }
    Outcome::Complete(next_rip)
}

/// The general-purpose register of the MOV at RIP, or the outcome if that is not the access that the exit is about.
fn decode(
    access: &DebugAccess,
    found: Option<&Found>,
    cpu: &impl GuestCpu,
    env: &mut impl Env,
) -> Result<Gpr, Outcome> {
    let found = emulate::found_or(found, &ExitReason::Debug(*access), cpu, env)?;
    let instruction = found.instruction();
    let (first, second) = (instruction.op0_register(), instruction.op1_register());
    let (general, special) = match access.direction {
        Direction::Read => (first, second),
        Direction::Write => (second, first),
    };
    let fits = instruction.mnemonic() == Mnemonic::Mov && special == Register::DR0 + u32::from(access.register & 7);
    operand::general(general).filter(|_| fits).ok_or_else(|| {
        // The guest has rewritten the instruction since; whatever stands there now is for the processor to execute.
        env.oddity(Oddity::Mismatch);
        Outcome::Resume
    })
}
