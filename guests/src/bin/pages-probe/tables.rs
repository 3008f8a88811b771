// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables in the region: all-ones entries have reserved bits set, so that #PF comes from every level.

use guests::attempt;
use guests::instructions::{read_cr2, read_cr3, write_cr3};
use guests::report::Report;

const PF: Option<u8> = Some(14);
/// Present and writable.
const TABLE: u64 = 3;
/// The second entry of the top table: addresses from 512 GiB on.
const VIRTUAL: u64 = 1 << 39;

/// A page of entries.
#[repr(C, align(4096))]
struct Table([u64; 512]);

static mut TABLES: [Table; 2] = [const { Table([0; 512]) }; 2];

fn set(table: u64, index: u64, entry: u64) {
    let slot: *mut u64 = core::ptr::with_exposed_provenance_mut((table + 8 * index) as usize);
    // SAFETY: the tables are this program's, and the entry maps addresses that nothing uses.
    unsafe { slot.write_volatile(entry) };
}

pub(crate) fn run(report: &mut Report, region: u64) {
    let top = read_cr3() & !0xfff;
    let third = &raw mut TABLES as u64;
    let second = third + 4096;
    for page in [region, region + 0x3000, region + 0x10_0000] {
        set(top, 1, page | TABLE);
        walk(report, "third level");
        set(third, 0, page | TABLE);
        set(top, 1, third | TABLE);
        walk(report, "second level");
        set(third, 0, second | TABLE);
        set(second, 0, page | TABLE);
        walk(report, "first level");
    }
    set(top, 1, 0);
    write_cr3(read_cr3());
}

fn walk(report: &mut Report, name: &str) {
    write_cr3(read_cr3());
    let address = VIRTUAL + 0x128;
    let mut value = 0u64;
    let fault = attempt!("mov {v}, [{at}]", v = inout(reg) value, at = in(reg) address);
    let (load, at) = (fault == PF && value == 0, read_cr2());
    let fault = attempt!("mov [{at}], {v}", v = in(reg) 1u64, at = in(reg) address);
    let store = fault == PF;
    let fault = attempt!("jmp {at}", at = in(reg) address);
    let fetch = fault == PF;
    let good = load && store && fetch && at == address;
    report.check(name, good, format_args!("load {load}, store {store}, fetch {fetch}, cr2 {at:#x}, {value:#x}"));
}
