// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hypercalls, the leaf that announces them, and the page tables that lead to shared addresses.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, CpuidResult};
use core::cell::UnsafeCell;

use guests::attempt;
use guests::instructions::read_cr3;
use guests::report::Report;

const LEAF: u32 = 0x4000_0002;
const SHARE: u64 = 0x5041_0001;
const UNSHARE: u64 = 0x5041_0002;

/// The bit of a shared page's address.
pub(crate) const SHARED: u64 = 1 << 39;
pub(crate) const PAGE: u64 = 4096;
pub(crate) const LARGE: u64 = 2 << 20;

pub(crate) const REFUSED: i64 = -5;
pub(crate) const NOT_MEMORY: i64 = -14;
pub(crate) const INVALID: i64 = -22;
pub(crate) const ALREADY: i64 = -114;
/// What KVM's hypercalls, which come with the test devices, say to a number that they do not know.
const UNKNOWN: u64 = 1000_u64.wrapping_neg();

/// What a call leaves in RAX, RBX and RCX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) result: i64,
    pub(crate) next: u64,
    pub(crate) left: u64,
}

pub(crate) fn leaf() -> [u32; 4] {
    let CpuidResult { eax, ebx, ecx, edx } = __cpuid(LEAF);
    [eax, ebx, ecx, edx]
}

pub(crate) fn announced() -> bool {
    leaf() == [1, SHARED.trailing_zeros(), 0, 0]
}

fn call(number: u64, first: u64, pages: u64) -> Answer {
    let (result, next, left);
    // SAFETY: the caller has nothing in these pages that must stay.
    unsafe {
        asm!(
            "xchg rbx, {first}",
            "vmmcall",
            "xchg rbx, {first}",
            first = inout(reg) first => next,
            inout("rax") number => result,
            inout("rcx") pages => left,
            options(nostack),
        );
    }
    Answer { result, next, left }
}

pub(crate) fn share(first: u64, pages: u64) -> Answer {
    call(SHARE, first, pages)
}

pub(crate) fn unshare(first: u64, pages: u64) -> Answer {
    call(UNSHARE, first, pages)
}

/// A call that did all of it.
pub(crate) const fn done(first: u64, pages: u64) -> Answer {
    Answer { result: 0, next: first + pages * PAGE, left: 0 }
}

/// Without the calls there is nothing in CPUID, and VMMCALL is undefined or, with the test devices, knows no such number.
pub(crate) fn must_be_absent(report: &mut Report) {
    report.check("leaf", leaf() == [0; 4], format_args!("{:x?}", leaf()));
    for number in [SHARE, UNSHARE] {
        let mut result = number;
        let fault = attempt!(
            "xchg rbx, {first}\n vmmcall\n xchg rbx, {first}",
            first = inout(reg) super::AREA => _, inout("rax") result, inout("rcx") 1u64 => _);
        let good = fault == Some(6) || fault.is_none() && result == UNKNOWN;
        report.check("call", good, format_args!("{result:#x}, exception {fault:?}"));
    }
}

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: written once, before other processors start.
unsafe impl Sync for Table {}

static THIRD: Table = Table(UnsafeCell::new([0; 512]));
/// Of the first GiB at its shared addresses, and of the GiB behind 4 GiB at both.
static SECONDS: [Table; 3] = [const { Table(UnsafeCell::new([0; 512])) }; 3];

/// Where memory goes on that does not fit below 4 GiB.
pub(crate) const HIGH: u64 = 4 << 30;

const TABLE: u64 = 3;
const LEAF_2M: u64 = 0x83;
const GIB: u64 = 1 << 30;

/// Maps shared addresses at linear addresses of the same value, by the second entry of the top table; and memory behind 4 GiB at both.
pub(crate) fn map_shared_addresses() {
    let top = read_cr3();
    let [first, high, high_shared] = &SECONDS;
    let third = THIRD.0.get().expose_provenance() as u64;
    set(top, 1, third | TABLE);
    set(third, 0, filled(first, SHARED));
    set(third, HIGH / GIB, filled(high_shared, SHARED + HIGH));
    // The table of the first 512 GiB, of which 4 are mapped.
    set(load(top & !0xfff), HIGH / GIB, filled(high, HIGH));
}

/// An entry for a table of large pages from `start` on.
fn filled(table: &Table, start: u64) -> u64 {
    // SAFETY: nobody else uses the tables yet.
    let entries = unsafe { &mut *table.0.get() };
    (0..).zip(entries).for_each(|(index, entry)| *entry = (start + index * LARGE) | LEAF_2M);
    table.0.get().expose_provenance() as u64 | TABLE
}

/// Writes to a page table, which lies where it says; the entry was not in use.
fn set(table: u64, index: u64, entry: u64) {
    store((table & !0xfff) + 8 * index, entry);
}

pub(crate) fn load(address: u64) -> u64 {
    let value;
    // SAFETY: the address is mapped, and nothing of Rust's lies there.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, readonly, preserves_flags)) };
    value
}

pub(crate) fn store(address: u64, value: u64) {
    // SAFETY: as in `load`.
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack, preserves_flags)) };
}
