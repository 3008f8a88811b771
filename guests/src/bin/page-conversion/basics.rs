// SPDX-License-Identifier: MIT OR Apache-2.0
//! One processor: what each call does, and what it refuses.

use guests::attempt;
use guests::machine::memory_map;
use guests::report::Report;

use crate::AREA;
use crate::call::{ALREADY, Answer, HIGH, INVALID, LARGE, NOT_MEMORY, PAGE, SHARED, done, load, share, store, unshare};

/// What absent memory reads as.
const ABSENT: u64 = u64::MAX;
/// Test memory that is a device.
const DEVICE: u64 = 0xff00_0000;
/// Where the paravisor has its memory.
const PARAVISOR: u64 = 128 << 20;

pub(crate) fn run(report: &mut Report, start_info: u64) {
    one_page(report);
    large_page(report);
    refusals(report, start_info);
    emulated(report);
    high_memory(report, start_info);
}

/// What lies above 4 GiB, which nobody has touched before: in one piece, one page of it, and over its end.
fn high_memory(report: &mut Report, start_info: u64) {
    let high = memory_map(start_info).filter(|entry| entry.kind == 1 && entry.start >= HIGH);
    let Some(end) = high.map(|entry| entry.start + entry.bytes).max().filter(|end| *end >= HIGH + 4 * LARGE) else {
        return report.skip("high memory", "there is none");
    };
    let (head, page) = (HIGH + LARGE, HIGH + 3 * LARGE + 5 * PAGE);
    is(report, "share 2 MiB above 4 GiB", share(head, 512), done(head, 512));
    store(head + SHARED + 0x1f_fff8, 0x77);
    reads(report, "they keep what is written", head + SHARED + 0x1f_fff8, 0x77);
    reads(report, "their private address is nothing", head, ABSENT);
    is(report, "share a page above 4 GiB", share(page, 1), done(page, 1));
    store(page + PAGE, 0x88);
    hides(report, "its neighbour is not shared", page + PAGE);
    is(report, "over the end", share(end - 2 * PAGE, 3), Answer { result: NOT_MEMORY, next: end, left: 1 });
    for (first, pages) in [(head, 512), (page, 1), (end - 2 * PAGE, 2)] {
        is(report, "back to private", unshare(first, pages), done(first, pages));
        reads(report, "it comes back empty", first + pages * PAGE - 8, 0);
    }
}

fn is(report: &mut Report, name: &str, got: Answer, wanted: Answer) {
    report.check(name, got == wanted, format_args!("{got:x?}, wanted {wanted:x?}"));
}

fn reads(report: &mut Report, name: &str, address: u64, wanted: u64) {
    let got = load(address);
    report.check(name, got == wanted, format_args!("{got:#x} at {address:#x}, wanted {wanted:#x}"));
}

/// What stands in a private page must not be seen at its shared address. What is there is the platform's: ones, or noise.
fn hides(report: &mut Report, name: &str, page: u64) {
    let (content, seen) = (load(page), load(page + SHARED));
    report.check(name, seen != content, format_args!("{seen:#x} at its shared address"));
}

fn one_page(report: &mut Report) {
    let (page, neighbour) = (AREA + 3 * PAGE, AREA + 4 * PAGE);
    store(page, 0x11);
    store(neighbour, 0x22);
    is(report, "share a page", share(page, 1), done(page, 1));
    store(page + SHARED, 0x33);
    store(page + SHARED + 0xff8, 0x44);
    reads(report, "a shared page keeps what is written", page + SHARED, 0x33);
    reads(report, "its private address is nothing", page, ABSENT);
    store(page, 0x55);
    reads(report, "a write there goes nowhere", page + SHARED, 0x33);
    reads(report, "the neighbour is private", neighbour, 0x22);
    hides(report, "and not shared", neighbour);
    is(report, "share it again", share(page, 1), Answer { result: ALREADY, next: page, left: 1 });
    is(report, "share up to it", share(page - 2 * PAGE, 4), Answer { result: ALREADY, next: page, left: 2 });
    is(report, "and take that back", unshare(page - 2 * PAGE, 3), done(page - 2 * PAGE, 3));
    reads(report, "a page comes back empty", page, 0);
    reads(report, "to its end", page + 0xff8, 0);
    hides(report, "and is not shared", page);
    is(report, "take it back again", unshare(page, 1), Answer { result: ALREADY, next: page, left: 1 });
    reads(report, "the neighbour has not changed", neighbour, 0x22);
}

fn large_page(report: &mut Report) {
    let head = AREA + LARGE;
    is(report, "share 2 MiB", share(head, 512), done(head, 512));
    (0..512).for_each(|page| store(head + SHARED + page * PAGE, page));
    let kept = (0..512).all(|page| load(head + SHARED + page * PAGE) == page && load(head + page * PAGE) == ABSENT);
    report.check("each of its pages is shared", kept, 512);
    is(report, "take one page of it back", unshare(head + 7 * PAGE, 1), done(head + 7 * PAGE, 1));
    reads(report, "which is empty", head + 7 * PAGE, 0);
    reads(report, "the one before it is shared", head + SHARED + 6 * PAGE, 6);
    let stopped = Answer { result: ALREADY, next: head + 7 * PAGE, left: 505 };
    is(report, "a call stops at what is private already", unshare(head, 512), stopped);
    is(report, "and goes on behind it", unshare(head + 8 * PAGE, 504), done(head + 8 * PAGE, 504));
    let empty = (0..512).all(|page| load(head + page * PAGE) == 0 && load(head + SHARED + page * PAGE) != 0);
    report.check("all of it is private and empty", empty, 512);
    is(report, "2 MiB that were small pages", share(head, 512), done(head, 512));
    is(report, "across three of 2 MiB, unaligned", share(head - PAGE, 1), done(head - PAGE, 1));
    is(report, "back at once", unshare(head - PAGE, 513), done(head - PAGE, 513));
    is(report, "4 MiB and some", share(head - 5 * PAGE, 1034), done(head - 5 * PAGE, 1034));
    is(report, "and back", unshare(head - 5 * PAGE, 1034), done(head - 5 * PAGE, 1034));
}

fn refusals(report: &mut Report, start_info: u64) {
    let refused = |result, next, left| Answer { result, next, left };
    is(report, "no pages", share(AREA, 0), done(AREA, 0));
    for (first, pages) in
        [(AREA + 8, 1), (AREA, u64::MAX), (AREA, u64::MAX / PAGE), (SHARED + AREA, 1), (SHARED - PAGE, 2)]
    {
        is(report, "nonsense", share(first, pages), refused(INVALID, first, pages));
        is(report, "nonsense", unshare(first, pages), refused(INVALID, first, pages));
    }
    // The paravisor, the video memory, a hole, the ECAM, both kinds of APIC, and what lies beyond everything.
    for first in [PARAVISOR, 0xa_0000, 0xd000_0000, 0xb000_0000, 0xfec0_0000, 0xfee0_0000, SHARED - PAGE] {
        is(report, "no memory", share(first, 1), refused(NOT_MEMORY, first, 1));
        is(report, "no memory", unshare(first, 1), refused(NOT_MEMORY, first, 1));
    }
    let low = memory_map(start_info).filter(|entry| entry.kind == 1 && entry.start < 1 << 32);
    let end = low.map(|entry| entry.start + entry.bytes).max().unwrap_or(0) & !(PAGE - 1);
    is(report, "beyond the end", share(end - 3 * PAGE, 8), refused(NOT_MEMORY, end, 5));
    is(report, "what was converted comes back", unshare(end - 3 * PAGE, 3), done(end - 3 * PAGE, 3));
    is(report, "into the paravisor", share(PARAVISOR - PAGE, 2), refused(NOT_MEMORY, PARAVISOR, 1));
    is(report, "and back", unshare(PARAVISOR - PAGE, 1), done(PARAVISOR - PAGE, 1));
}

/// The paravisor reads and writes shared pages on the guest's behalf, and none through the other name.
fn emulated(report: &mut Report) {
    let (private, shared) = (AREA + 9 * PAGE, AREA + 10 * PAGE);
    is(report, "share an operand's page", share(shared, 1), done(shared, 1));
    store(DEVICE, 0x1122_3344_5566_7788);
    store(private, 0x99);
    let copy = |from: u64, to: u64| attempt!("rep movsq", inout("rcx") 1u64 => _, inout("rsi") from => _, inout("rdi") to => _);
    let fault = copy(DEVICE, shared + SHARED);
    report.check("a device to a shared page", fault.is_none(), format_args!("exception {fault:?}"));
    reads(report, "a device to a shared page", shared + SHARED, 0x1122_3344_5566_7788);
    store(shared + SHARED, 0xabcd);
    let fault = copy(shared + SHARED, DEVICE);
    report.check("a shared page to a device", fault.is_none(), format_args!("exception {fault:?}"));
    reads(report, "a shared page to a device", DEVICE, 0xabcd);
    let fault = copy(shared, DEVICE);
    report.check("by its private name", fault.is_none(), format_args!("exception {fault:?}"));
    reads(report, "by its private name it is nothing", DEVICE, ABSENT);
    let fault = copy(private + SHARED, DEVICE);
    report.check("a private page by a shared name", fault.is_none(), format_args!("exception {fault:?}"));
    reads(report, "a private page by a shared name is nothing", DEVICE, ABSENT);
    reads(report, "and untouched", private, 0x99);
    is(report, "and back", unshare(shared, 1), done(shared, 1));
}
