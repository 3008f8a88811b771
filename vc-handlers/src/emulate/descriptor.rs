// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads a segment register from its descriptor, with the checks of APM vol. 2, 4.7, 4.8 and 4.11.
//!
//! Hostile party: the guest owns the tables. A descriptor is read once and then used; one on a device is not emulated.

use platform::{
    Exception, Gpa, GuestCpu, GuestMemory, Segment, SegmentAttributes, SegmentRegister, TableRegister, Visibility,
};

use super::bits::efer;
use super::context::Context;
use super::stop::{self, Result, Stop};
use super::walk::{self, Intent, Privilege};

/// Selector bits: the table indicator, and the requested privilege level.
const TABLE_INDICATOR: u16 = 4;
const REQUESTED_LEVEL: u16 = 3;
/// System descriptor types (APM vol. 2, 4.8.3).
const TYPE_LDT: u16 = 2;
const TYPE_TSS_16: u16 = 1;
const TYPE_TSS: u16 = 9;
const TYPE_CALL_GATE_16: u16 = 4;
const TYPE_TASK_GATE: u16 = 5;
const TYPE_CALL_GATE: u16 = 12;
/// Where the attributes have the descriptor's privilege level.
const LEVEL_SHIFT: u16 = 5;
/// #NP and #SS.
const NOT_PRESENT: u8 = 11;
const STACK_FAULT: u8 = 12;
/// The bit that tells a busy TSS from an available one.
const BUSY: u8 = 2;
/// Where a descriptor has its type.
const TYPE_BYTE: u64 = 5;

/// The segment that `selector` names, as `register` gets it. Marks the descriptor as accessed or busy.
pub(super) fn load(
    cpu: &impl GuestCpu,
    context: &Context,
    memory: &impl GuestMemory,
    register: SegmentRegister,
    selector: u16,
) -> Result<Segment> {
    if context.is_untyped() {
        return Ok(Segment { selector, base: u64::from(selector) << 4, ..cpu.segment(register) });
    }
    let refused = Stop::Fault(with_selector(Exception::GENERAL_PROTECTION, selector));
    let is_system = matches!(register, SegmentRegister::Ldtr | SegmentRegister::Tr);
    if selector & !REQUESTED_LEVEL == 0 {
        return match register {
            SegmentRegister::Tr | SegmentRegister::Cs => Err(Stop::GENERAL_PROTECTION),
            SegmentRegister::Ss => null_stack(context, selector),
            _ => Ok(Segment { selector, ..Segment::default() }),
        };
    }
    let (table, limit) = match (selector & TABLE_INDICATOR != 0, is_system) {
        (false, _) => {
            let table = cpu.descriptor_table(TableRegister::Gdtr);
            (table.base, u32::from(table.limit))
        }
        (true, true) => return Err(refused),
        (true, false) => {
            let table = cpu.segment(SegmentRegister::Ldtr);
            if !table.attributes.contains(SegmentAttributes::PRESENT) {
                return Err(refused);
            }
            (table.base, table.limit)
        }
    };
    let is_wide = is_system && context.system.efer & efer::LMA != 0;
    let length = if is_wide { 16 } else { 8 };
    let offset = selector & !(TABLE_INDICATOR | REQUESTED_LEVEL);
    if u32::from(offset) + (length - 1) > limit {
        return Err(refused);
    }
    let reader = Reader { context, memory, start: table.wrapping_add(u64::from(offset)) };
    let low = reader.quadword(0)?;
    let high = if is_wide { reader.quadword(8)? } else { 0 };
    let segment = parse(selector, low, high);
    if register == SegmentRegister::Cs && is_gate(&segment) {
        return Err(Stop::Unsupported);
    }
    let allowed = match register {
        SegmentRegister::Cs => is_code_for(&segment, context),
        SegmentRegister::Ss => is_stack_for(&segment, context.system.cpl),
        SegmentRegister::Ldtr | SegmentRegister::Tr => is_system_type(register, &segment, high, is_wide),
        _ => is_data_for(&segment, context.system.cpl),
    };
    if !allowed || is_wide && !context.is_canonical(segment.base) {
        return Err(refused);
    }
    if !segment.attributes.contains(SegmentAttributes::PRESENT) {
        let vector = if register == SegmentRegister::Ss { STACK_FAULT } else { NOT_PRESENT };
        return Err(Stop::Fault(with_selector(Exception { vector, ..Exception::GENERAL_PROTECTION }, selector)));
    }
    let mark = match register {
        SegmentRegister::Ldtr => return Ok(segment),
        SegmentRegister::Tr => BUSY,
        _ => SegmentAttributes::ACCESSED.bits() as u8,
    };
    reader.mark(low, mark)?;
    let attributes = segment.attributes | SegmentAttributes::from_bits_retain(u16::from(mark));
    // CS says at which level the code runs, whatever level was asked for.
    let selector = match register {
        SegmentRegister::Cs => selector & !REQUESTED_LEVEL | u16::from(context.system.cpl),
        _ => selector,
    };
    Ok(Segment { selector, attributes, ..segment })
}

fn with_selector(exception: Exception, selector: u16) -> Exception {
    Exception { error_code: Some(u32::from(selector & !REQUESTED_LEVEL)), ..exception }
}

/// The fields of a descriptor (APM vol. 2, 4.7.1).
fn parse(selector: u16, low: u64, high: u64) -> Segment {
    let attributes = SegmentAttributes::from_bits_retain((low >> 40 & 0xff | low >> 52 << 8 & 0xf00) as u16);
    let raw = (low & 0xffff | low >> 32 & 0xf_0000) as u32;
    let limit = if attributes.contains(SegmentAttributes::GRANULARITY) { raw << 12 | 0xfff } else { raw };
    let base = low >> 16 & 0xff_ffff | low >> 32 & 0xff00_0000 | high << 32;
    Segment { selector, attributes, limit, base }
}

fn is_system_type(register: SegmentRegister, segment: &Segment, high: u64, is_wide: bool) -> bool {
    let kind = segment.attributes.bits() & 0xf;
    let wanted = match register {
        SegmentRegister::Ldtr => kind == TYPE_LDT,
        _ => kind == TYPE_TSS || kind == TYPE_TSS_16 && !is_wide,
    };
    // The second half has a type of its own, which must be zero.
    wanted && !segment.attributes.contains(SegmentAttributes::USER) && high >> 40 & 0x1f == 0
}

/// The null selector in SS, which 64-bit code below level 3 may have, at its own level (APM vol. 2, 4.8.1).
fn null_stack(context: &Context, selector: u16) -> Result<Segment> {
    let cpl = u16::from(context.system.cpl);
    if !context.is_64bit() || cpl == 3 || selector & REQUESTED_LEVEL != cpl {
        return Err(Stop::GENERAL_PROTECTION);
    }
    // The level of SS stays that of the code.
    Ok(Segment { selector, attributes: SegmentAttributes::from_bits_retain(cpl << LEVEL_SHIFT), ..Segment::default() })
}

/// A call or task gate, or a task: a far branch to one is more than a branch.
fn is_gate(segment: &Segment) -> bool {
    let kind = segment.attributes.bits() & 0xf;
    !segment.attributes.contains(SegmentAttributes::USER)
        && matches!(kind, TYPE_TSS_16 | TYPE_CALL_GATE_16 | TYPE_TASK_GATE | TYPE_TSS | TYPE_CALL_GATE)
}

/// Code to which a branch from the current level may go (APM vol. 2, 4.11.1).
fn is_code_for(segment: &Segment, context: &Context) -> bool {
    let has = |bits| segment.attributes.contains(bits);
    let cpl = u16::from(context.system.cpl);
    let level = segment.attributes.bits() >> LEVEL_SHIFT & 3;
    let allowed = if has(SegmentAttributes::EXPAND_DOWN) {
        level <= cpl // Conforming.
    } else {
        level == cpl && segment.selector & REQUESTED_LEVEL <= cpl
    };
    let long = context.system.efer & efer::LMA != 0 && has(SegmentAttributes::LONG);
    has(SegmentAttributes::USER)
        && has(SegmentAttributes::CODE)
        && allowed
        && !(long && has(SegmentAttributes::DEFAULT_BIG))
}

/// Writable data of exactly the current level (APM vol. 2, 4.11.2).
fn is_stack_for(segment: &Segment, cpl: u8) -> bool {
    let has = |bits| segment.attributes.contains(bits);
    let levels = [segment.attributes.bits() >> LEVEL_SHIFT & 3, segment.selector & REQUESTED_LEVEL];
    has(SegmentAttributes::USER)
        && !has(SegmentAttributes::CODE)
        && has(SegmentAttributes::READ_WRITE)
        && levels == [u16::from(cpl); 2]
}

/// Data or readable code that the current and the requested privilege level may use.
fn is_data_for(segment: &Segment, cpl: u8) -> bool {
    let has = |bits| segment.attributes.contains(bits);
    let is_code = has(SegmentAttributes::CODE);
    let readable = has(SegmentAttributes::USER) && (!is_code || has(SegmentAttributes::READ_WRITE));
    let is_conforming = is_code && has(SegmentAttributes::EXPAND_DOWN);
    let level = segment.attributes.bits() >> LEVEL_SHIFT & 3;
    readable && (is_conforming || level >= u16::from(cpl) && level >= segment.selector & REQUESTED_LEVEL)
}

/// A descriptor in the guest's memory.
struct Reader<'a, M> {
    context: &'a Context,
    memory: &'a M,
    start: u64,
}

impl<M: GuestMemory> Reader<'_, M> {
    fn at(&self, offset: u64, intent: Intent) -> Result<Gpa> {
        let linear = self.start.wrapping_add(offset);
        walk::translate(self.memory, &self.context.system, linear, intent, Privilege::System)
    }

    fn quadword(&self, offset: u64) -> Result<u64> {
        let mut value = [0; 8];
        // The bytes may lie on two pages.
        for (byte, offset) in value.iter_mut().zip(offset..) {
            let gpa = self.at(offset, Intent::Read)?;
            let read = self.memory.copy_in(gpa, Visibility::Private, core::slice::from_mut(byte));
            stop::memory(read, gpa)?.ok_or(Stop::Unsupported)?;
        }
        Ok(u64::from_le_bytes(value))
    }

    /// Sets bits of the type, unless the descriptor has changed since it was read.
    fn mark(&self, low: u64, bits: u8) -> Result<()> {
        let old = (low >> 40) as u8;
        if old & bits == bits {
            return Ok(());
        }
        let gpa = self.at(TYPE_BYTE, Intent::Write)?;
        let exchange =
            self.memory.compare_exchange(gpa, Visibility::Private, 1, u128::from(old), u128::from(old | bits));
        if stop::memory(exchange, gpa)? == Some(u128::from(old)) { Ok(()) } else { Err(Stop::Retry) }
    }
}
