// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a correct program can see.

use crate::instructions::{pvalidate, read, read_cr2, read_msr, rmpadjust, rmpquery, write};
use crate::{FREE, SHARED, ghcb, interrupts, lower};
use guests::attempt;
use guests::exceptions::error_code;
use specs::ghcb::{exit as own, msr, page};
use specs::sev::{MSR_SEV_STATUS, exit as sev, result};
use specs::svm::exit;

/// #VC.
const VC: Option<u8> = Some(29);
/// #GP.
const GP: Option<u8> = Some(13);

/// QEMU's debug console.
const CONSOLE: u64 = 0xe9;

/// Writes a line to the debug console, which is not a guest's unless the host says so, and looks whether it is there.
pub(crate) fn console() -> ! {
    check!(ghcb::set_up());
    for byte in *b"probe\n" {
        let (info1, _) = ghcb::request(exit::IOIO, CONSOLE << 16 | 1 << 4, 0, &[(page::RAX, byte.into())]);
        check!(info1 == 0);
    }
    // The console answers with its own port.
    ghcb::request(exit::IOIO, CONSOLE << 16 | 1 << 4 | 1, 0, &[]);
    let open = ghcb::field(page::RAX) == CONSOLE;
    ghcb::terminate(15, u8::from(open))
}

/// Ends the guest with the line if it is not so.
macro_rules! check {
    ($holds:expr) => {
        if !$holds {
            crate::ghcb::failed(line!())
        }
    };
}
pub(crate) use check;

pub(crate) fn all() {
    exceptions();
    validation();
    views();
    rights();
    guesses();
    host();
    interrupts::all();
    lower::all();
}

/// Exits that hardware turns into exceptions, with the exit code as error code.
fn exceptions() {
    check!(read_msr(MSR_SEV_STATUS) & 7 == 7);
    check!(attempt!("cpuid", inout("eax") 0 => _, out("ecx") _, out("edx") _) == VC);
    check!(error_code() == exit::CPUID);
    check!(attempt!("in al, 0x71", out("al") _) == VC);
    check!(error_code() == exit::IOIO);
    check!(attempt!("rdmsr", in("ecx") 0x1b, out("eax") _, out("edx") _) == VC);
    check!(error_code() == exit::MSR);
    check!(attempt!("wbinvd") == VC);
    check!(error_code() == exit::WBINVD);
    check!(attempt!("vmmcall") == VC);
    check!(error_code() == exit::VMMCALL);
    check!(attempt!("mov rax, [{at}]", at = in(reg) FREE + 0x3000, out("rax") _) == VC);
    check!(error_code() == sev::NOT_VALIDATED && read_cr2() == FREE + 0x3000);
    check!(attempt!("mov rax, [{at} + {by} * 4 + 8]", at = in(reg) FREE, by = in(reg) 0xc08u64, out("rax") _) == VC);
    check!(error_code() == sev::NOT_VALIDATED && read_cr2() == FREE + 0x3028);
    check!(attempt!("mov eax, [{at}]", at = in(reg) SHARED + 0xfee0_0030, out("rax") _) == VC);
    check!(error_code() == exit::NPF);
    check!(attempt!("ud2") == Some(6));
}

fn validation() {
    let page = FREE + 0x4000;
    // The host has given all memory in 2 MiB pages; it splits this one behind our back.
    check!(pvalidate(page, false, true) == (0, false));
    check!(pvalidate(page, false, true) == (0, true));
    check!(pvalidate(page, false, false) == (0, false));
    check!(pvalidate(page, false, false) == (0, true));
    check!(pvalidate(FREE, true, true).0 == result::FAIL_SIZEMISMATCH);
    let large = FREE + 0x20_0000;
    check!(pvalidate(large, true, true) == (0, false));
    check!(rmpquery(large + 0x5000, 1).1 == 1);
    check!(pvalidate(large + 0x5000, false, false) == (0, false));
    check!(rmpquery(large + 0x6000, 1).1 == 0);
    check!(attempt!("mov rax, [{at}]", at = in(reg) large + 0x5000, out("rax") _) == VC);
    write(large + 0x6000, 1);
}

/// The same page with and without the C-bit.
fn views() {
    let page = FREE + 0x6000;
    check!(pvalidate(page, false, true) == (0, false));
    let fresh = read(page);
    check!(fresh != 0 && read(page + 8) != 0);
    write(page, 0x1234_5678);
    check!(read(page) == 0x1234_5678);
    check!(read(SHARED + page) != 0x1234_5678);
    // To the host and back: each time the content is lost.
    check!(pvalidate(page, false, false) == (0, false));
    check!(ghcb::change_state(page, false) == msr::PAGE_STATE_RESPONSE);
    check!(read(SHARED + page) != 0x1234_5678 && read(SHARED + page) != 0);
    write(SHARED + page, 7);
    check!(read(SHARED + page) == 7);
    check!(ghcb::change_state(page, true) == msr::PAGE_STATE_RESPONSE);
    check!(attempt!("mov rax, [{at}]", at = in(reg) page, out("rax") _) == VC);
    check!(pvalidate(page, false, true) == (0, false));
    check!(read(page) != 7);
}

fn rights() {
    let page = FREE + 0x8000;
    check!(pvalidate(page, false, true) == (0, false));
    check!(rmpadjust(page, 0, 3, false) == result::FAIL_PERMISSION);
    check!(rmpadjust(page, 1, 2, false) == result::FAIL_INPUT);
    check!(rmpadjust(page, 1, 3, false) == 0);
    check!(rmpquery(page, 1) == (0, 0, 1 | 3 << 8));
    check!(rmpquery(page, 2) == (0, 0, 2));
    check!(rmpadjust(page, 1, 0, false) == 0);
    crate::instructions::flush();
}

/// What no public document says: a code or an exception, but one of those that a switch of the model knows, and no change.
fn guesses() {
    let page = FREE + 0xa000;
    let pvalidate_at = |address: u64, size: u64| {
        let eax: u64;
        let fault =
            attempt!(".byte 0xf2, 0x0f, 0x01, 0xff", inout("rax") address => eax, in("rcx") size, in("rdx") 1u64);
        (fault, eax as u32)
    };
    let refused = |(fault, eax): (Option<u8>, u32)| fault == GP || (fault.is_none() && eax == result::FAIL_INPUT);
    check!(refused(pvalidate_at(SHARED + page, 0)));
    check!(refused(pvalidate_at(page, 1)));
    let (eax, rights): (u64, u64);
    rights = 1 | 3 << 8;
    let fault = attempt!(".byte 0xf3, 0x0f, 0x01, 0xfe", inout("rax") page => eax, in("rcx") 0u64, in("rdx") rights);
    check!(fault == VC || refused((fault, eax as u32)));
    check!(pvalidate(page, false, true) == (0, false));
    check!(rmpquery(page, 1) == (0, 0, 1));
}

/// The host's answers.
fn host() {
    check!(ghcb::ask(msr::SEV_INFO_REQUEST) >> 24 & 0xff == 47);
    check!(ghcb::ask(msr::FEATURES_REQUEST) >> 12 & 1 == 1);
    check!(ghcb::set_up());
    let (info1, _) = ghcb::request(exit::CPUID, 0, 0, &[(page::RAX, 0x8000_001f), (page::RCX, 0)]);
    check!(info1 == 0 && ghcb::field(page::RBX) & 0x3f == 47);
    let (info1, _) = ghcb::request(exit::CPUID, 0, 0, &[(page::RAX, 0)]);
    check!(info1 == 2);
    let (_, features) = ghcb::request(own::FEATURES, 0, 0, &[]);
    check!(features & 1 == 1);
    let buffer = [(page::SW_SCRATCH, ghcb::page() + 0x800)];
    let (info1, _) = ghcb::request(own::MMIO_READ, 0xfee0_0030, 4, &buffer);
    check!(info1 == 0 && ghcb::field(0x800) & 0xf0 == 0x10);
    no_bus_masters();
}

/// No device reads or writes memory by itself: the SATA controller's command register (00:1F.2) keeps that bit clear.
fn no_bus_masters() {
    let dword = |port: u64, value| ghcb::request(exit::IOIO, port << 16 | 1 << 6, 0, &[(page::RAX, value)]);
    dword(0xcf8, 0x8000_fa04);
    dword(0xcfc, 7);
    ghcb::request(exit::IOIO, 0xcfc << 16 | 1 << 6 | 1, 0, &[]);
    check!(ghcb::field(page::RAX) & 7 == 3);
}
