// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking the host for page-state changes (GHCB 2.0, 4.1.6): a list of pages, of which the host does as many as it likes at once.
//!
//! Hostile party: the host, which may do a part and stop, say the same for ever, or report what cannot be. What it says is read
//! once; it can only go forward, within the list, and if it stands still it is asked a few times and no more. Whether it tells the
//! truth shows when a page is validated: that is not for here.

use platform::{Gpa, MemoryError, PAGE_SIZE, PageRange, PageSize};
use specs::ghcb::{exit, page, page_state};

use crate::ghcb::{Refusal, Request, SharedPage};
use crate::local::Local;

/// How often a host that does nothing is asked again.
const PATIENCE: u32 = 4;

/// How many pages of 4 KiB make up an entry's page.
const fn parts(size: PageSize) -> u64 {
    size.bytes() / PAGE_SIZE
}

/// A list, and how far the host has come.
struct List {
    start: Gpa,
    entries: u64,
    size: PageSize,
    /// Entries that are done, and pages of 4 KiB in the next one.
    done: (u64, u64),
}

impl List {
    fn bytes(&self) -> u64 {
        self.done.0 * self.size.bytes() + self.done.1 * PAGE_SIZE
    }

    /// Takes note of what the host reports: the header, and the entry that is next.
    fn advance(&mut self, header: u64, entry: impl Fn(u64) -> u64) -> Result<(), MemoryError> {
        let (current, end) = (header & 0xffff, header >> 16 & 0xffff);
        if current > self.entries || end != self.entries - 1 {
            return Err(MemoryError::Host);
        }
        let within = if current == self.entries { 0 } else { entry(current) & 0xfff };
        let done = match within {
            // The whole page, although the count has not moved on yet.
            all if all == parts(self.size) => (current + 1, 0),
            some if some < parts(self.size) => (current, some),
            _ => return Err(MemoryError::Host),
        };
        if done < self.done {
            return Err(MemoryError::Host);
        }
        self.done = done;
        Ok(())
    }
}

/// Has the host make pages private or shared (one of `specs::ghcb::page_state`). How many bytes, from the range's start on, it says
/// that it has done.
pub(crate) fn change(range: PageRange, size: PageSize, operation: u64) -> Result<u64, MemoryError> {
    let local = Local::current();
    let page = local.ghcb().ok_or(MemoryError::Host)?;
    let mut done = 0;
    while done < range.bytes() {
        let start = Gpa(range.start().0 + done);
        let entries = ((range.bytes() - done) / size.bytes()).min(page_state::ENTRIES.into());
        let list = List { start, entries, size, done: (0, 0) };
        let came = ask(page, list, operation, || {
            let mut request = Request::new(local, exit::PAGE_STATE_CHANGE, 0, 0)?;
            request.set(page::SW_SCRATCH, page.address() + page::SHARED_BUFFER as u64);
            request.send(local)
        })?;
        done += came;
        if came < entries * size.bytes() {
            break;
        }
    }
    Ok(done)
}

/// One list. `send` hands it to the host and returns SW_EXITINFO2.
fn ask(
    page: &SharedPage,
    mut list: List,
    operation: u64,
    mut send: impl FnMut() -> Result<u64, Refusal>,
) -> Result<u64, MemoryError> {
    let slot = |entry: u64| page::SHARED_BUFFER + page_state::HEADER_BYTES + 8 * entry as usize;
    let large = if list.size == PageSize::Large { page_state::LARGE } else { 0 };
    page.set_word(page::SHARED_BUFFER, (list.entries - 1) << 16);
    for entry in 0..list.entries {
        page.set_word(slot(entry), large | operation << 52 | (list.start.0 + entry * list.size.bytes()));
    }
    let mut idle = 0;
    loop {
        let before = list.done;
        let result = send();
        list.advance(page.word(page::SHARED_BUFFER), |entry| page.word(slot(entry)))?;
        idle = if list.done == before { idle + 1 } else { 0 };
        let complete = list.done == (list.entries, 0);
        if complete || result != Ok(0) || idle > PATIENCE {
            return Ok(list.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x4000_0000;
    const HEADER: usize = page::SHARED_BUFFER;

    fn list(entries: u64, size: PageSize) -> List {
        List { start: Gpa(START), entries, size, done: (0, 0) }
    }

    /// Plays a host: what it does with the page at each turn, and what it says.
    fn play(
        entries: u64,
        size: PageSize,
        mut host: impl FnMut(u32, &SharedPage) -> Result<u64, Refusal>,
    ) -> (Result<u64, MemoryError>, u32) {
        let page = SharedPage::zeroed();
        let mut turns = 0;
        let result = ask(&page, list(entries, size), page_state::SHARED, || {
            turns += 1;
            assert!(turns < 10_000, "no end");
            host(turns, &page)
        });
        (result, turns)
    }

    fn set_current(page: &SharedPage, current: u64) {
        page.set_word(HEADER, page.word(HEADER) & !0xffff | current);
    }

    #[test]
    fn the_list_names_every_page_once() {
        let (result, turns) = play(3, PageSize::Small, |_, page| {
            assert_eq!(page.word(HEADER), 2 << 16);
            let entries: Vec<u64> = (0..3).map(|entry| page.word(HEADER + 8 + 8 * entry)).collect();
            assert_eq!(entries, [START, START + 0x1000, START + 0x2000].map(|gpa| 2 << 52 | gpa));
            set_current(page, 3);
            Ok(0)
        });
        assert_eq!((result, turns), (Ok(3 * PAGE_SIZE), 1));
        let (result, _) = play(1, PageSize::Large, |_, page| {
            assert_eq!(page.word(HEADER + 8), 1 << 56 | 2 << 52 | START);
            set_current(page, 1);
            Ok(0)
        });
        assert_eq!(result, Ok(PageSize::Large.bytes()));
    }

    #[test]
    fn a_host_that_does_a_part_is_asked_for_the_rest() {
        let (result, turns) = play(8, PageSize::Small, |turn, page| {
            set_current(page, 2 * u64::from(turn));
            Ok(0)
        });
        assert_eq!((result, turns), (Ok(8 * PAGE_SIZE), 4));
        // One of 4 KiB at a time, in a page of 2 MiB.
        let (result, turns) = play(1, PageSize::Large, |turn, page| {
            page.set_word(HEADER + 8, page.word(HEADER + 8) & !0xfff | u64::from(turn));
            Ok(0)
        });
        assert_eq!((result, turns), (Ok(PageSize::Large.bytes()), 512));
    }

    #[test]
    fn a_host_that_stops_leaves_what_it_has_done() {
        for refusal in [Ok(page_state::GENERIC), Ok(page_state::BAD_ENTRY), Err(Refusal::Answer(2, 3))] {
            let (result, turns) = play(8, PageSize::Small, |_, page| {
                set_current(page, 5);
                refusal
            });
            assert_eq!((result, turns), (Ok(5 * PAGE_SIZE), 1), "{refusal:?}");
        }
        let (result, _) = play(1, PageSize::Large, |_, page| {
            page.set_word(HEADER + 8, page.word(HEADER + 8) | 77);
            Ok(page_state::GENERIC)
        });
        assert_eq!(result, Ok(77 * PAGE_SIZE));
    }

    /// It could hold a processor of the guest's for ever.
    #[test]
    fn a_host_that_does_nothing_is_not_asked_for_ever() {
        let (result, turns) = play(8, PageSize::Small, |_, _| Ok(0));
        assert_eq!((result, turns), (Ok(0), PATIENCE + 1));
        let (result, turns) = play(8, PageSize::Small, |turn, page| {
            set_current(page, u64::from(turn.min(3)));
            Ok(0)
        });
        assert_eq!((result, turns), (Ok(3 * PAGE_SIZE), 3 + PATIENCE + 1));
    }

    #[test]
    fn a_host_that_reports_what_cannot_be_is_broken() {
        let lies: [fn(u32, &SharedPage); 5] = [
            |_, page| set_current(page, 9),
            |_, page| set_current(page, 0xffff),
            // Backwards.
            |turn, page| set_current(page, 5 - u64::from(turn)),
            // Another end.
            |_, page| page.set_word(HEADER, 4 << 16 | 4),
            // More of a page than it has.
            |_, page| page.set_word(HEADER + 8, page.word(HEADER + 8) | 2),
        ];
        for (number, lie) in lies.into_iter().enumerate() {
            let (result, _) = play(8, PageSize::Small, |turn, page| {
                lie(turn, page);
                Ok(0)
            });
            assert_eq!(result, Err(MemoryError::Host), "lie {number}");
        }
    }
}
