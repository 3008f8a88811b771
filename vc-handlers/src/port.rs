// SPDX-License-Identifier: MIT OR Apache-2.0
//! IN and OUT, the forms without a string (APM vol. 3, IN and OUT). The processor has checked IOPL and the TSS bitmap.

use platform::{Direction, Gpr, GuestCpu, IoAccess, IoWidth};

use crate::{DeviceReply, DeviceRequest, Env, Operation, Outcome, Target};

/// An IN or OUT that waits for its device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    access: IoAccess,
    next_rip: u64,
}

/// IN or OUT.
#[inline]
pub fn handle(access: &IoAccess, next_rip: u64, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Outcome {
    let operation = match access.direction {
        Direction::Read => Operation::Read,
        Direction::Write => Operation::Write(cpu.gpr(Gpr::Rax) & u64::from(access.width.ones())),
    };
    let request = DeviceRequest { target: Target::Port(access.port), width: access.width as u8, operation };
    let pending = Pending { access: *access, next_rip };
    match env.access(request) {
        DeviceReply::Done(value) => pending.finish(value, cpu),
        DeviceReply::Defer(token) => {
            env.park(pending.into());
            Outcome::Defer(token)
        }
    }
}

impl Pending {
    /// Completes the instruction with the device's answer, which does not matter for OUT.
    #[inline]
    pub(crate) fn finish(self, value: u64, cpu: &mut impl GuestCpu) -> Outcome {
        if self.access.direction == Direction::Read {
            let ones = u64::from(self.access.width.ones());
            // A 32-bit result clears the upper half, the others leave it.
            let kept = if self.access.width == IoWidth::Dword { 0 } else { cpu.gpr(Gpr::Rax) & !ones };
            cpu.set_gpr(Gpr::Rax, kept | value & ones);
        }
        Outcome::Complete(self.next_rip)
    }
}
