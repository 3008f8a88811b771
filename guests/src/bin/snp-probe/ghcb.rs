// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the probe says to the host: the MSR protocol, and the page protocol on one page of free memory.

use crate::instructions::{pvalidate, read, read_msr, write, write_msr};
use crate::{FREE, SHARED, number};
use core::arch::asm;
use specs::ghcb::{msr, page as layout};
use specs::sev::MSR_GHCB;

/// The page: the last of the first 2 MiB that are free, and others below it for other processors.
pub(crate) fn page() -> u64 {
    FREE + 0x1f_f000 - number() * 0x4000
}

fn vmgexit() {
    // SAFETY: the host answers in the MSR or in a shared page.
    unsafe { asm!(".byte 0xf3, 0x0f, 0x01, 0xd9") };
}

/// A request of the MSR protocol.
pub(crate) fn ask(request: u64) -> u64 {
    write_msr(MSR_GHCB, request);
    vmgexit();
    read_msr(MSR_GHCB)
}

/// Ends the guest.
pub(crate) fn terminate(set: u8, code: u8) -> ! {
    loop {
        ask(msr::TERMINATE | u64::from(set & 0xf) << 12 | u64::from(code) << 16);
    }
}

/// Ends the guest because of a check that stands in a line.
pub(crate) fn failed(line: u32) -> ! {
    terminate((1 + (line >> 8)) as u8, line as u8)
}

/// Makes a page shared, or private, as the host sees it.
pub(crate) fn change_state(gpa: u64, private: bool) -> u64 {
    let operation = if private { 1u64 } else { 2 };
    ask(msr::PAGE_STATE_REQUEST | gpa | operation << 52)
}

/// Makes a page shared that nobody has touched.
pub(crate) fn share(gpa: u64) {
    pvalidate(gpa, false, true);
    pvalidate(gpa, false, false);
    change_state(gpa, false);
}

/// Makes the page shared and registers it.
pub(crate) fn set_up() -> bool {
    share(page());
    ask(msr::REGISTER_GPA_REQUEST | page()) == msr::REGISTER_GPA_RESPONSE | page()
}

/// A request of the page protocol: fields besides the three of every request. Returns SW_EXITINFO1 and 2.
pub(crate) fn request(code: u64, info1: u64, info2: u64, fields: &[(usize, u64)]) -> (u64, u64) {
    prepare(code, info1, info2, fields);
    write_msr(MSR_GHCB, page());
    vmgexit();
    (field(layout::SW_EXIT_INFO1), field(layout::SW_EXIT_INFO2))
}

/// Fills in the page for a request.
pub(crate) fn prepare(code: u64, info1: u64, info2: u64, fields: &[(usize, u64)]) {
    let ghcb = SHARED + page();
    for at in (0..4096).step_by(8) {
        write(ghcb + at, 0);
    }
    let fixed = [(layout::SW_EXIT_CODE, code), (layout::SW_EXIT_INFO1, info1), (layout::SW_EXIT_INFO2, info2)];
    for (offset, value) in fixed.iter().chain(fields) {
        write(ghcb + *offset as u64, *value);
        let (word, bit) = (layout::VALID_BITMAP + offset / 512 * 8, offset / 8 % 64);
        write(ghcb + word as u64, read(ghcb + word as u64) | 1 << bit);
    }
}

/// A field of the page.
pub(crate) fn field(offset: usize) -> u64 {
    read(SHARED + page() + offset as u64)
}
