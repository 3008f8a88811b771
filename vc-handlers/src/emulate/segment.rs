// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a segment and an offset to a linear address: bases, limits, types and canonical form (APM vol. 2, 4.5–4.12).

use platform::{Exception, GuestCpu, Segment, SegmentAttributes, SegmentRegister};

use super::bits::efer;
use super::context::Context;
use super::stop::{Result, Stop};
use super::walk::Intent;

/// The linear address of `length` bytes at `offset`, all of them checked.
pub(super) fn linear(
    cpu: &impl GuestCpu,
    context: &Context,
    register: SegmentRegister,
    offset: u64,
    length: u64,
    intent: Intent,
) -> Result<u64> {
    let fault = match register {
        SegmentRegister::Ss => Exception::STACK,
        _ => Exception::GENERAL_PROTECTION,
    };
    let beyond = length.saturating_sub(1);
    if context.is_64bit() {
        let first = unchecked(cpu, context, register, offset);
        let fits = context.is_canonical(first) && context.is_canonical(first.wrapping_add(beyond));
        return if fits { Ok(first) } else { Err(Stop::Fault(fault)) };
    }
    let segment = cpu.segment(register);
    if !context.is_untyped() && !has_rights(&segment, intent) || !within_limit(&segment, offset, beyond) {
        return Err(Stop::Fault(fault));
    }
    Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
}

/// The linear address of `offset`, whether or not it may be used.
pub(super) fn unchecked(cpu: &impl GuestCpu, context: &Context, register: SegmentRegister, offset: u64) -> u64 {
    if !context.is_64bit() {
        return cpu.segment(register).base.wrapping_add(offset) & 0xffff_ffff;
    }
    match register {
        SegmentRegister::Fs | SegmentRegister::Gs => cpu.segment(register).base.wrapping_add(offset),
        _ => offset,
    }
}

/// Whether the segment's type allows the access; a null selector allows none.
fn has_rights(segment: &Segment, intent: Intent) -> bool {
    let has = |bits| segment.attributes.contains(bits);
    let is_code = has(SegmentAttributes::CODE);
    let read_write = has(SegmentAttributes::READ_WRITE);
    has(SegmentAttributes::PRESENT)
        && match intent {
            Intent::Read => !is_code || read_write,
            Intent::Write => !is_code && read_write,
            Intent::Fetch => is_code,
        }
}

/// Whether `offset` and the `beyond` bytes after it lie inside the segment.
fn within_limit(segment: &Segment, offset: u64, beyond: u64) -> bool {
    let Some(last) = offset.checked_add(beyond) else { return false };
    let limit = u64::from(segment.limit);
    let data_down = segment.attributes.contains(SegmentAttributes::EXPAND_DOWN)
        && !segment.attributes.contains(SegmentAttributes::CODE);
    if data_down {
        let top = if segment.attributes.contains(SegmentAttributes::DEFAULT_BIG) { 0xffff_ffff } else { 0xffff };
        limit < offset && last <= top
    } else {
        last <= limit
    }
}

/// Whether a near branch may go to `rip`.
pub(super) fn check_branch(context: &Context, rip: u64) -> Result<()> {
    let allowed = if context.is_64bit() { context.is_canonical(rip) } else { rip <= u64::from(context.code.limit) };
    if allowed { Ok(()) } else { Err(Stop::GENERAL_PROTECTION) }
}

/// Whether a far branch may go to `rip` in the segment `code`.
pub(super) fn check_far_branch(context: &Context, code: &Segment, rip: u64) -> Result<()> {
    let is_long = context.system.efer & efer::LMA != 0 && code.attributes.contains(SegmentAttributes::LONG);
    let allowed = if is_long { context.is_canonical(rip) } else { rip <= u64::from(code.limit) };
    if allowed { Ok(()) } else { Err(Stop::GENERAL_PROTECTION) }
}
