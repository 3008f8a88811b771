// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where QEMU's processor (TCG, version 7.2) is known to be wrong: what it did is replaced by what the manuals say, and
//! counted. `docs/emulator.md` lists these with their sources, and those that the cases stay clear of.

use emulator_tests::generate::Cell;
use emulator_tests::state::{Case, End};
use guests::say;

use crate::case::Outcome;

const UNDEFINED: u8 = 6;
const GENERAL_PROTECTION: u8 = 13;
const STACK: u8 = 12;
const PAGE_FAULT: u8 = 14;
/// A page fault's error code: the access was a write.
const WRITE: u32 = 2;
/// ZF.
const ZERO: u64 = 1 << 6;

/// #UD, without a trace.
const REFUSED: End = End::Fault { vector: UNDEFINED, code: 0, address: 0 };

/// How often each error showed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Corrections {
    stack_not_canonical: u64,
    read_first: u64,
    signed_return: u64,
    accessed_after_fault: u64,
    unprobed_enter: u64,
    scanned_zero: u64,
    locked: u64,
}

impl Corrections {
    /// Prints what was corrected.
    pub(crate) fn tell(&self) {
        for (count, what) in [
            (self.stack_not_canonical, "#GP where a stack address is not canonical, instead of #SS"),
            (self.read_first, "a read-modify-write that faults as a read"),
            (self.signed_return, "RET with an immediate taken as signed"),
            (self.accessed_after_fault, "accessed or dirty bits after a fault"),
            (self.unprobed_enter, "ENTER that does not check the new top of the stack"),
            (self.locked, "an instruction that LOCK must not stand before, executed"),
            (self.scanned_zero, "a 32-bit BSF or BSR of zero that clears the destination's upper half"),
        ] {
            say!("corrected {count} times: {what}");
        }
    }
}

/// #UD in the place of what QEMU's processor does with a LOCK that must not be there. What it executes in memory has reached
/// the device, and the emulator, on the other side; where it faults, the emulator may have been first. Whether it was so.
pub(crate) fn refuse_lock(case: &Case, plain: &mut Outcome, ours: &Outcome, corrections: &mut Corrections) -> bool {
    let is_undefined = |end| matches!(end, End::Fault { vector: UNDEFINED, .. });
    let refused =
        case.is_wrongly_locked && !is_undefined(plain.end) && (plain.end == End::Completed || is_undefined(ours.end));
    if refused {
        corrections.locked += 1;
        let system = ours.system;
        *plain = Outcome { end: REFUSED, state: case.state, system, used: ours.used };
    }
    refused
}

/// Replaces what QEMU's processor is known to do wrong.
pub(crate) fn correct(cell: Cell, case: &Case, plain: &mut Outcome, ours: &Outcome, corrections: &mut Corrections) {
    if let (End::Fault { vector: GENERAL_PROTECTION, code: 0, .. }, End::Fault { vector: STACK, code: 0, .. }) =
        (plain.end, ours.end)
        && case.mode.is_long()
    {
        corrections.stack_not_canonical += 1;
        plain.end = ours.end;
    }
    if let (End::Fault { vector: PAGE_FAULT, code: theirs, .. }, End::Fault { vector: PAGE_FAULT, code, .. }) =
        (plain.end, ours.end)
        && case.reads_and_writes
        && theirs & WRITE == 0
        && code & WRITE != 0
    {
        corrections.read_first += 1;
        plain.end = ours.end;
    }
    let completed = plain.end == End::Completed && ours.end == End::Completed;
    if cell.family == "ret i" && completed {
        let released = case.bytes.last_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes));
        let width = if case.mode.is_long() { u64::MAX } else { 0xffff_ffff };
        let whole = plain.state.gprs[4].wrapping_add(0x1_0000) & width;
        if released >= 0x8000 && plain.state.gprs[4] & width != ours.state.gprs[4] & width {
            corrections.signed_return += 1;
            plain.state.gprs[4] = whole;
        }
    }
    if cell.family == "enter" && completed && plain.used != ours.used && plain.used & ours.used == plain.used {
        corrections.unprobed_enter += 1;
        plain.used = ours.used;
    }
    if matches!(cell.family, "bsf" | "bsr") && cell.size == 4 && completed && plain.state.rflags & ZERO != 0 {
        // With the operand in memory on both sides, ours is QEMU's processor as well.
        for ((theirs, ours), start) in plain.state.gprs.iter_mut().zip(ours.state.gprs).zip(case.state.gprs) {
            let cleared = start & 0xffff_ffff;
            if *theirs != ours && *theirs == cleared && ours == start {
                corrections.scanned_zero += 1;
                *theirs = start;
            }
        }
    }
    if plain.end != End::Completed && plain.used != ours.used {
        // A processor may set these before it finds out that it faults (SDM vol. 3A, 4.8).
        corrections.accessed_after_fault += 1;
        plain.used = ours.used;
    }
}
