// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page state changes: pages that go to the guest, or come back (GHCB 2.0, 2.3.1 and 4.1.6).

use crate::ghcb::{Answer, Ghcb, Scratch};
use crate::{Hardware, NotShared};
use specs::ghcb::page_state as operation;
use specs::sev::result;

const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;
/// Pages in a large page.
const SUBPAGES: u64 = LARGE / PAGE;

/// The host could not, or would not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// Converts one page. As KVM, in the largest pieces that the RMP allows.
pub(crate) fn convert(hardware: &mut impl Hardware, gpa: u64, large: bool, private: bool) -> Result<(), Failed> {
    let bytes = if large { LARGE } else { PAGE };
    if !gpa.is_multiple_of(bytes) || !hardware.is_ram(gpa, bytes) {
        return Err(Failed);
    }
    match hardware.rmpupdate(gpa, large, private) {
        result::SUCCESS => Ok(()),
        result::FAIL_OVERLAP if large => {
            (0..SUBPAGES).try_for_each(|page| convert(hardware, gpa + page * PAGE, false, private))
        }
        result::FAIL_OVERLAP => {
            // The page is part of a larger one, which is split first.
            if hardware.psmash(gpa & !(LARGE - 1)) != result::SUCCESS {
                return Err(Failed);
            }
            if hardware.rmpupdate(gpa, false, private) == result::SUCCESS { Ok(()) } else { Err(Failed) }
        }
        _ => Err(Failed),
    }
}

/// One entry of the list.
struct Entry {
    done: u64,
    gpa: u64,
    operation: u64,
    large: bool,
}

impl Entry {
    const fn parse(word: u64) -> Self {
        Self {
            done: word & 0xfff,
            gpa: word & 0x000f_ffff_ffff_f000,
            operation: word >> 52 & 0xf,
            large: word & operation::LARGE != 0,
        }
    }

    /// The word with the pages that are done; all of them is one more than the last.
    const fn with_done(word: u64, done: u64) -> u64 {
        word & !0xfff | done
    }
}

/// The list in a GHCB's scratch area: everything in it that is not done yet.
pub(crate) fn change(ghcb: &Ghcb, hardware: &mut impl Hardware) -> Answer {
    let all = operation::HEADER_BYTES + usize::from(operation::ENTRIES) * 8;
    let Some(scratch) = Scratch::new(ghcb, all as u64) else { return Answer::SCRATCH };
    match run(&scratch, hardware) {
        Ok(result) => Answer::Ok { info2: result },
        Err(NotShared) => Answer::SCRATCH,
    }
}

fn run(scratch: &Scratch, hardware: &mut impl Hardware) -> Result<u64, NotShared> {
    let mut header = [0; operation::HEADER_BYTES];
    scratch.read(hardware, 0, &mut header)?;
    let [cur0, cur1, end0, end1, reserved @ ..] = header;
    let (mut current, end) = (u16::from_le_bytes([cur0, cur1]), u16::from_le_bytes([end0, end1]));
    if reserved != [0; 4] || end >= operation::ENTRIES {
        return Ok(operation::BAD_HEADER);
    }
    // The guest may write the list meanwhile; the loop's bounds are ours.
    while current <= end {
        let at = operation::HEADER_BYTES as u64 + u64::from(current) * 8;
        let mut word = [0; 8];
        scratch.read(hardware, at, &mut word)?;
        let word = u64::from_le_bytes(word);
        let entry = Entry::parse(word);
        let pages = if entry.large { SUBPAGES } else { 1 };
        if entry.done > pages || (entry.large && !entry.gpa.is_multiple_of(LARGE)) {
            return Ok(operation::BAD_ENTRY);
        }
        let outcome = match entry.operation {
            operation::PRIVATE | operation::SHARED => {
                let private = entry.operation == operation::PRIVATE;
                if entry.done == 0 {
                    convert(hardware, entry.gpa, entry.large, private)
                } else {
                    (entry.done..pages).try_for_each(|page| convert(hardware, entry.gpa + page * PAGE, false, private))
                }
            }
            // Splitting and joining are hints, which KVM does not follow.
            operation::PSMASH | operation::UNSMASH => Ok(()),
            _ => return Ok(operation::BAD_ENTRY),
        };
        if outcome.is_err() {
            return Ok(operation::GENERIC);
        }
        scratch.write(hardware, at, &Entry::with_done(word, pages).to_le_bytes())?;
        current += 1;
        scratch.write(hardware, 0, &current.to_le_bytes())?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Machine, Request};
    use specs::ghcb::exit::PAGE_STATE_CHANGE;
    use specs::ghcb::page_state::*;

    /// Runs a list in the page's own buffer; returns SW_EXITINFO2 and the list afterwards.
    fn run(machine: &mut Machine, current: u16, end: u16, entries: &[u64]) -> (u64, Vec<u64>) {
        let mut bytes = [current.to_le_bytes(), end.to_le_bytes(), [0; 2], [0; 2]].concat();
        bytes.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
        let reply = Request::new(PAGE_STATE_CHANGE).scratch_inside(&bytes).run(machine);
        let after = reply.page[0x800..].chunks(8).take(entries.len() + 1);
        let words = after.map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(reply.info1, 0);
        (reply.info2, words)
    }

    #[test]
    fn a_list_is_carried_out_and_marked_done() {
        let mut machine = Machine::default();
        let list = [1 << 52 | 0x7000, 1 << 52 | LARGE | 0x20_0000, 2 << 52 | 0x9000];
        let (result, after) = run(&mut machine, 0, 2, &list);
        assert_eq!((result, after[0] & 0xffff), (0, 3));
        assert_eq!(after[1..], [list[0] | 1, list[1] | 512, list[2] | 1]);
        assert!(machine.memory.is_private(0x7000) && machine.memory.is_private(0x20_0000 + 77 * 4096));
        assert!(!machine.memory.is_private(0x9000));
    }

    #[test]
    fn a_part_of_a_large_page_splits_it() {
        let mut machine = Machine::default();
        run(&mut machine, 0, 0, &[1 << 52 | LARGE | 0x20_0000]);
        let (result, _) = run(&mut machine, 0, 0, &[2 << 52 | 0x20_3000]);
        assert_eq!(result, 0);
        assert!(!machine.memory.is_private(0x20_3000) && machine.memory.is_private(0x20_2000));
        let (result, _) = run(&mut machine, 0, 0, &[2 << 52 | LARGE | 0x20_0000]);
        assert_eq!(result, 0);
        assert!(!machine.memory.is_private(0x20_2000));
    }

    #[test]
    fn bad_lists_get_their_codes() {
        let mut machine = Machine::default();
        assert_eq!(run(&mut machine, 0, 253, &[]).0, BAD_HEADER);
        assert_eq!(run(&mut machine, 0, 0, &[7 << 52 | 0x7000]).0, BAD_ENTRY);
        assert_eq!(run(&mut machine, 0, 0, &[1 << 52 | LARGE | 0x7000]).0, BAD_ENTRY);
        assert_eq!(run(&mut machine, 0, 0, &[1 << 52 | 2 | 0x7000]).0, BAD_ENTRY);
        assert_eq!(run(&mut machine, 0, 0, &[1 << 52 | 0xffff_ffff_f000]).0, GENERIC);
        assert_eq!(run(&mut machine, 5, 0, &[]).0, 0, "nothing is left to do");
    }

    #[test]
    fn what_is_done_is_not_done_again() {
        let mut machine = Machine::default();
        let (result, after) = run(&mut machine, 0, 0, &[1 << 52 | LARGE | 0x20_0000 | 510]);
        assert_eq!((result, after[1] & 0xfff), (0, 512));
        assert!(
            !machine.memory.is_private(0x20_0000 + 509 * 4096) && machine.memory.is_private(0x20_0000 + 510 * 4096)
        );
    }
}
