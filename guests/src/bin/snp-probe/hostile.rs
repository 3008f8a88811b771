// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hostile host does to this program, as far as it can be seen from inside: one script of the reference host for each
//! task. The code with which it ends says what it saw; 0 is what an honest host gives.

use crate::checks::check;
use crate::instructions::{flush, pvalidate, read, rmpadjust, write, write_msr};
use crate::{SHARED, doorbell, ghcb, lower};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use guests::attempt;
use guests::exceptions::{Frame, error_code, set_hook};
use specs::ghcb::{exit as own, page, page_state};
use specs::sev::{MSR_GHCB, exit as sev};

/// Memory that the scripts know.
const SNATCHED: u64 = 0x800_0000;

/// Where the last #HV came, and with which vector.
static PLACE: AtomicU64 = AtomicU64::new(0);
static VECTOR: AtomicU64 = AtomicU64::new(0);

/// `second-thought`: an answer that is another one when it is read again.
pub(crate) fn second_thought() -> u8 {
    check!(ghcb::set_up());
    let (info1, features) = ghcb::request(own::FEATURES, 0, 0, &[]);
    let again = ghcb::field(page::SW_EXIT_INFO2);
    let third = ghcb::field(page::SW_EXIT_INFO2);
    check!(info1 == 0 && again == third);
    (features ^ again) as u8
}

fn note(frame: &mut Frame) {
    PLACE.store(frame.rip, SeqCst);
    VECTOR.store(doorbell::take_all() & 0xff, SeqCst);
}

/// `low-vector`: #HV at a place of the host's choice, and at the door a vector that only the processor may use. Also for
/// scripts that inject something else there.
pub(crate) fn low_vector() -> u8 {
    doorbell::set_up();
    set_hook(note);
    ghcb::prepare(own::FEATURES, 0, 0, &[]);
    write_msr(MSR_GHCB, ghcb::page());
    let after: u64;
    // SAFETY: the handler changes nothing that is used here.
    unsafe {
        asm!("lea {after}, [rip + 2f]", ".byte 0xf3, 0x0f, 0x01, 0xd9", "2: nop; nop; nop; nop; nop; nop", after = out(reg) after)
    };
    if PLACE.load(SeqCst) == 0 {
        return 0;
    }
    check!(PLACE.load(SeqCst) == after + 3);
    VECTOR.load(SeqCst) as u8
}

/// `stray-entry`: VMPL0 runs again, and VMPL2 has done nothing that would explain it.
pub(crate) fn stray_entry() -> u8 {
    check!(ghcb::set_up());
    lower::prepare(&lower::vmsa());
    flush();
    // INC RAX, eight times; HLT.
    for word in [0xff48_c0ff_48c0_ff48u64, 0x48c0_ff48_c0ff_48c0, 0xc0ff_48c0_ff48_c0ff, 0xf4] {
        static AT: AtomicU64 = AtomicU64::new(0);
        write(lower::code() + AT.fetch_add(8, SeqCst), word);
    }
    check!(rmpadjust(lower::code(), 2, 0xf, false) == 0);
    lower::run();
    let field = |offset| read(lower::vmsa_page() + offset);
    // As many instructions as have run.
    let done = (field(lower::RIP) - lower::code()) / 3;
    check!(field(lower::RAX) == done);
    if field(lower::EXIT_CODE) == specs::svm::exit::HLT { 0 } else { done as u8 }
}

/// `snatched-page`: a page of ours that was validated is not any more.
pub(crate) fn snatched_page() -> u8 {
    check!(ghcb::set_up());
    check!(pvalidate(SNATCHED, true, true) == (0, false));
    write(SNATCHED, 1);
    // A list of one page, which is private already.
    let buffer = ghcb::page() + page::SHARED_BUFFER as u64;
    ghcb::prepare(own::PAGE_STATE_CHANGE, 0, 0, &[(page::SW_SCRATCH, buffer)]);
    write(SHARED + buffer, 0);
    write(SHARED + buffer + 8, page_state::PRIVATE << 52 | (SNATCHED + 0x20_0000));
    write_msr(MSR_GHCB, ghcb::page());
    // SAFETY: the host answers in the page.
    unsafe { asm!(".byte 0xf3, 0x0f, 0x01, 0xd9") };
    if attempt!("mov rax, [{at}]", at = in(reg) SNATCHED, out("rax") _).is_none() {
        return 0;
    }
    check!(error_code() == sev::NOT_VALIDATED);
    // A program that validated it now would work on another page than before.
    1
}
