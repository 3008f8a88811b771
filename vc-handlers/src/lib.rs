// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Parados does about a guest exit: [`handle`] turns an [`platform::Exit`] into an [`Outcome`].
//!
//! Handlers decode, check, act on the [`Env`] and return plain data; only the run loop applies an outcome to the guest's
//! control flow. They know no platform, touch no hardware and own no global.
//!
//! A device may answer later: the outcome is then [`Outcome::Defer`], what remains of the instruction is parked as plain
//! data ([`Env::park`]), and [`resume`] goes on with it once the answer is there.
//!
//! Hostile party: the guest chooses every exit, register and byte that is looked at here. What it does wrong gets what
//! real hardware would give it; nothing here panics, and nothing loops without bound.

#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

mod control;
mod conversion;
pub mod cpuid;
mod debug;
pub mod emulate;
mod env;
mod hypercall;
mod instruction;
pub mod msr;
mod operand;
mod outcome;
pub mod port;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod vcpu;
mod xsetbv;

pub use emulate::{Emulation, Found, resume};
pub use env::{Conversion, DeviceReply, DeviceRequest, Env, Oddity, Operation, Target, Token};
pub use outcome::Outcome;
pub use vcpu::{VcpuContext, Vendor};

use platform::{Exit, ExitReason, GuestCpu, Reason};

/// Handles a guest exit. Registers are written; the caller applies the outcome. `found` is the instruction, if its bytes had
/// to be looked at before; then they are not read again.
#[inline]
pub fn handle(
    exit: &Exit,
    found: Option<&Found>,
    vcpu: &mut VcpuContext<'_>,
    cpu: &mut impl GuestCpu,
    env: &mut impl Env,
) -> Outcome {
    let next_rip = exit.next_rip;
    match exit.reason {
        ExitReason::Cpuid => cpuid::handle(next_rip, vcpu, cpu),
        ExitReason::Msr(access) => msr::handle(access, next_rip, vcpu, cpu, env),
        ExitReason::Io(access) if access.string => emulate::string_io(&access, cpu, env),
        ExitReason::Io(access) => port::handle(&access, next_rip, cpu, env),
        ExitReason::Memory(fault) => emulate::memory_fault(&fault, cpu, env),
        _ => rare(exit, found, vcpu, cpu, env),
    }
}
/// The exits of which no guest makes many: apart, so that the frequent ones share few pages of code.
#[inline(never)]
fn rare(
    exit: &Exit,
    found: Option<&Found>,
    vcpu: &mut VcpuContext<'_>,
    cpu: &mut impl GuestCpu,
    env: &mut impl Env,
) -> Outcome {
    let next_rip = exit.next_rip;
    match exit.reason {
        // `handle` takes these.
        ExitReason::Cpuid | ExitReason::Msr(_) | ExitReason::Io(_) | ExitReason::Memory(_) => Outcome::Resume,
        ExitReason::Hlt => instruction::hlt(next_rip, cpu),
        ExitReason::Control(access) => control::handle(&access, found, next_rip, vcpu, cpu, env),
        ExitReason::Debug(access) => debug::handle(&access, found, next_rip, cpu, env),
        ExitReason::LoadTable => emulate::load_table(found, cpu, env),
        ExitReason::Xsetbv => xsetbv::handle(next_rip, vcpu, cpu),
        ExitReason::Vmmcall => hypercall::handle(next_rip, vcpu, cpu, env),
        ExitReason::Sensitive(it) => instruction::sensitive(it, next_rip, vcpu, cpu, env),
        ExitReason::Exception(exception) => emulate::exception::handle(exception, cpu, env),
        ExitReason::HostInterrupt | ExitReason::InterruptWindow | ExitReason::NmiWindow => Outcome::Resume,
        ExitReason::Shutdown => Outcome::TripleFault,
        // INIT for a vCPU is emulated and never reaches the processor below.
        ExitReason::Init => Outcome::Terminate(Reason::UnexpectedInit, 0),
        ExitReason::Broken(reason, detail) => Outcome::Terminate(reason, detail),
    }
}
