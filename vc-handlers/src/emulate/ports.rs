// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the guest's own operating system lets the running code use a port (APM vol. 2, 12.2.4 and 15.10.2).
//!
//! Needed only where INS or OUTS arrives as a memory fault; on a port exit the hardware has checked.

use platform::{Gpa, GuestCpu, GuestMemory, SegmentRegister, Visibility};

use super::bits::rflags::{IOPL_SHIFT, VM};
use super::context::Context;
use super::stop::{self, Result, Stop};
use super::walk::{self, Intent, Privilege};

/// Where the TSS holds the offset of its I/O permission map.
const MAP_BASE: u32 = 0x66;

/// Checks the right to `width` ports at `port`: IOPL, then the permission map of the TSS.
pub(super) fn check(
    cpu: &impl GuestCpu,
    context: &Context,
    memory: &impl GuestMemory,
    port: u16,
    width: u8,
) -> Result<()> {
    let system = &context.system;
    let level = (system.rflags >> IOPL_SHIFT & 3) as u8;
    let virtual_8086 = context.is_untyped() && system.rflags & VM != 0;
    if context.is_real() || !virtual_8086 && system.cpl <= level {
        return Ok(());
    }
    let task = cpu.segment(SegmentRegister::Tr);
    let word = |offset: u32| -> Result<u16> {
        let last = offset.checked_add(1).filter(|last| *last <= task.limit);
        last.ok_or(Stop::GENERAL_PROTECTION)?;
        let mut value = [0xff; 2];
        // The two bytes may lie on two pages.
        for (byte, at) in value.iter_mut().zip(u64::from(offset)..) {
            let linear = task.base.wrapping_add(at);
            let gpa: Gpa = walk::translate(memory, system, linear, Intent::Read, Privilege::System)?;
            stop::memory(memory.copy_in(gpa, Visibility::Private, core::slice::from_mut(byte)), gpa)?;
        }
        Ok(u16::from_le_bytes(value))
    };
    let map = u32::from(word(MAP_BASE)?);
    let bits = word(map + u32::from(port / 8))?;
    let wanted = ((1_u16 << width.min(4)) - 1) << (port % 8);
    if bits & wanted == 0 { Ok(()) } else { Err(Stop::GENERAL_PROTECTION) }
}
