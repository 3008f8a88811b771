// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the bytes of the instruction at RIP, with the rights of a fetch.
//!
//! Code is never read from a device: where no memory lies, bytes read as FFh, as from absent hardware, and FFh FFh is an
//! invalid opcode.

use platform::{Gpa, GuestCpu, GuestMemory, PAGE_SIZE, Visibility};

use super::context::Context;
use super::segment;
use super::stop::{self, Result};
use super::walk::{self, Intent, Privilege};

/// No instruction is longer (APM vol. 3, 1.1).
pub(super) const MAX_LENGTH: usize = 15;

/// Bytes of an instruction, as far as they were fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code {
    bytes: [u8; MAX_LENGTH],
    length: usize,
    /// Where the first byte lies.
    pub(super) gpa: Gpa,
}

impl Code {
    /// What was fetched.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    /// Fetches from RIP to the end of its page, or 15 bytes if those are fewer.
    pub(super) fn first(cpu: &impl GuestCpu, context: &Context, memory: &impl GuestMemory) -> Result<Self> {
        let rip = context.truncate_rip(cpu.rip());
        let mut code = Self { bytes: [0; MAX_LENGTH], length: 0, gpa: Gpa(0) };
        code.gpa = code.append(context, memory, rip)?;
        Ok(code)
    }

    /// Fetches the rest, from the next page. True if that gave more bytes.
    ///
    /// Called only when the bytes at hand do not make an instruction: the next page's faults count only then.
    pub(super) fn extend(&mut self, cpu: &impl GuestCpu, context: &Context, memory: &impl GuestMemory) -> Result<bool> {
        if self.length >= MAX_LENGTH {
            return Ok(false);
        }
        let rip = context.truncate_rip(cpu.rip().wrapping_add(self.length as u64));
        self.append(context, memory, rip)?;
        Ok(true)
    }

    fn append(&mut self, context: &Context, memory: &impl GuestMemory, rip: u64) -> Result<Gpa> {
        segment::check_branch(context, rip)?;
        let linear = if context.is_64bit() { rip } else { context.code.base.wrapping_add(rip) & 0xffff_ffff };
        let gpa = walk::translate(memory, &context.system, linear, Intent::Fetch, Privilege::Current)?;
        let in_page = (PAGE_SIZE - (linear & (PAGE_SIZE - 1))) as usize;
        let in_segment = if context.is_64bit() {
            MAX_LENGTH
        } else {
            usize::try_from(u64::from(context.code.limit) - rip).map_or(MAX_LENGTH, |left| left.saturating_add(1))
        };
        let room = self.bytes.get_mut(self.length..).unwrap_or(&mut []);
        let wanted = room.len().min(in_page).min(in_segment);
        let Some(part) = room.get_mut(..wanted) else { return Ok(gpa) };
        if stop::memory(memory.copy_in(gpa, Visibility::Private, part), gpa)?.is_none() {
            part.fill(0xff);
        }
        self.length += wanted;
        Ok(gpa)
    }
}
