// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the instruction after an exiting one begins, on hardware that does not tell.
//!
//! The bytes at RIP are read through the guest's page tables and must be the instruction that the exit reported. Walking
//! four levels of tables on each exit would cost more than the exit's own work, so the last code page is remembered: if it
//! holds the plain form of the expected instruction at RIP, that is the answer; anything else is decoded in full.

use platform::{Control, Exit, ExitReason, Gpa, GuestCpu, GuestMemory, SensitiveInstruction, Visibility};
use vc_handlers::{Env, Outcome, emulate};

const PAGE_MASK: u64 = 0xfff;

/// The code page of the last exit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CodePage {
    /// The tables under which it was found, and RIP's page there. In code with another base than zero the same pair may
    /// mean another page; the bytes are compared, and the length alone is at stake.
    key: Option<(u64, u64)>,
    gpa: u64,
}

/// The plain form of the instruction behind an exit, as its first bytes and their number.
fn expected(reason: &ExitReason) -> Option<(u32, u64)> {
    use SensitiveInstruction as Instruction;
    Some(match reason {
        ExitReason::Cpuid => (0xa20f, 2),
        ExitReason::Msr(access) => match access.direction {
            platform::Direction::Read => (0x320f, 2),
            platform::Direction::Write => (0x300f, 2),
        },
        ExitReason::Hlt => (0xf4, 1),
        ExitReason::Xsetbv => (0xd1_010f, 3),
        ExitReason::Vmmcall => (0xd9_010f, 3),
        ExitReason::Sensitive(Instruction::Wbinvd) => (0x090f, 2),
        ExitReason::Sensitive(Instruction::Invd) => (0x080f, 2),
        ExitReason::Sensitive(Instruction::Rdpmc) => (0x330f, 2),
        ExitReason::Sensitive(Instruction::Rdtsc) => (0x310f, 2),
        _ => return None,
    })
}

/// Whether an exit is an instruction's, so that [`Exit::next_rip`] means something.
fn is_instruction(reason: &ExitReason) -> bool {
    !matches!(
        reason,
        ExitReason::Memory(_)
            | ExitReason::Exception(_)
            | ExitReason::HostInterrupt
            | ExitReason::InterruptWindow
            | ExitReason::NmiWindow
            | ExitReason::Shutdown
            | ExitReason::Init
            | ExitReason::Broken(..)
    )
}

impl CodePage {
    /// Fills in [`Exit::next_rip`] where the platform could not. `Err` is what becomes of the guest if its code cannot be
    /// read any more.
    #[inline]
    pub(crate) fn complete(&mut self, exit: &mut Exit, cpu: &impl GuestCpu, env: &impl Env) -> Result<(), Outcome> {
        if exit.next_rip != 0 || !is_instruction(&exit.reason) {
            return Ok(());
        }
        let rip = cpu.rip();
        if let Some((bytes, length)) = expected(&exit.reason)
            && self.key == Some((cpu.control(Control::Cr3), rip & !PAGE_MASK))
            && self.holds(rip, bytes, length, env)
        {
            exit.next_rip = rip.wrapping_add(length);
            return Ok(());
        }
        self.decode(exit, cpu, env)
    }

    /// Whether the remembered page holds these bytes at RIP.
    fn holds(&self, rip: u64, bytes: u32, length: u64, env: &impl Env) -> bool {
        let offset = rip & PAGE_MASK;
        let mut code = [0; 4];
        // Four bytes are read for one look; at the page's very end the full decode does it.
        offset <= PAGE_MASK - 3
            && env.memory().copy_in(Gpa(self.gpa + offset), Visibility::Private, &mut code).is_ok()
            && u32::from_le_bytes(code) & ((1 << (8 * length)) - 1) == bytes
    }

    /// The same without help: finds the code page, and decodes in full what is not the plain form.
    #[cold]
    fn decode(&mut self, exit: &mut Exit, cpu: &impl GuestCpu, env: &impl Env) -> Result<(), Outcome> {
        self.key = None;
        let rip = cpu.rip();
        let gpa = emulate::locate(cpu, env)?;
        // Outside 64-bit code RIP may not be the linear address, of which the low bits alone decide here.
        if gpa.page_offset() == rip & PAGE_MASK {
            self.key = Some((cpu.control(Control::Cr3), rip & !PAGE_MASK));
            self.gpa = gpa.page().0;
            if let Some((bytes, length)) = expected(&exit.reason)
                && self.holds(rip, bytes, length, env)
            {
                exit.next_rip = rip.wrapping_add(length);
                return Ok(());
            }
        }
        exit.next_rip = emulate::next_rip(cpu, env)?;
        Ok(())
    }
}
