// SPDX-License-Identifier: MIT OR Apache-2.0
//! VMPL2, with everything that a paravisor gives its guest: a virtual top of memory, reflected exits, alternate injection.

use crate::checks::check;
use crate::instructions::{pvalidate, read, rmpadjust, rmpquery, write};
use crate::{FREE, ghcb, number};
use core::arch::global_asm;
use specs::ghcb::{exit as own, msr, page};
use specs::sev::{exit as sev, npf, result};
use specs::svm::{VmcbSegment, exit};
use specs::vmsa::{SevFeatures, Vmsa};
use zerocopy::{FromZeros, IntoBytes};

/// Where this processor's VMPL2 is. Everything lies in one large page that `prepare` validates, but for what is not validated.
fn base() -> u64 {
    FREE + 0x40_0000 + number() * 0x80_0000
}

/// Its VMSA.
pub(crate) fn vmsa_page() -> u64 {
    base() + 0x1000
}

/// What it may and may not touch.
pub(crate) fn open() -> u64 {
    base() + 0x2000
}

fn closed() -> u64 {
    base() + 0x3000
}

fn unvalidated() -> u64 {
    base() + 0x20_0000
}

/// What it runs.
pub(crate) fn code() -> u64 {
    base() + 0x4000
}

fn tables() -> u64 {
    base() + 0x5000
}

/// Offsets in the VMSA page.
pub(crate) const RIP: u64 = 0x178;
const CS: u64 = 0x10;
const SS: u64 = 0x20;
/// The word that ends with the CPL, in its fourth byte.
const CPL: u64 = 0xc8;
const EFER: u64 = 0xd0;
const CR2: u64 = 0x240;
pub(crate) const EXIT_INFO1: u64 = 0x390;
const EXIT_INFO2: u64 = 0x398;
const NEXT_RIP: u64 = 0x3a8;
pub(crate) const EXIT_CODE: u64 = 0x3c0;
pub(crate) const RAX: u64 = 0x1f8;
pub(crate) const RBX: u64 = 0x318;
pub(crate) const VINTR_CTRL: u64 = 0x3b8;
const ALL: u8 = 0xf;

global_asm!(
    r#"
    .pushsection .text.vmpl2, "ax"
    .balign 16
vmpl2_start:
    cpuid
    in al, 0x71
    rdmsr
    mov [rbx], rax              // open
    mov rcx, [rbx]
    mov rax, [rsi]              // closed
    mov rax, [rdi]              // not validated
    mov rax, [rbp]              // no memory
    hlt
    mov ecx, 0xc0010130         // GHCB MSR: run VMPL0
    mov eax, 0x16
    xor edx, edx
    wrmsr
    .byte 0xf3, 0x0f, 0x01, 0xd9
    mov rax, rbx
    xor ecx, ecx
    mov edx, 1
vmpl2_pvalidate:
    .byte 0xf2, 0x0f, 0x01, 0xff
    mov [rbx], rax
    mov rax, rsi                // closed, which VMPL2 can only read: VMPL3 shall write it
    mov edx, 0x303
    .byte 0xf3, 0x0f, 0x01, 0xfe
    mov [rbx + 8], rax
    mov rax, rsi                // VMPL3 shall read it
    mov edx, 0x103
    .byte 0xf3, 0x0f, 0x01, 0xfe
    mov [rbx + 16], rax
    hlt
vmpl2_end:
    .popsection
    "#
);

unsafe extern "C" {
    safe static vmpl2_start: u8;
    safe static vmpl2_pvalidate: u8;
    safe static vmpl2_end: u8;
}

/// What VMPL2's VMSA has at first.
pub(crate) fn vmsa() -> Vmsa {
    let segment = |attributes| VmcbSegment { selector: 8, attributes, limit: u32::MAX, base: 0 };
    let mut vmsa = Vmsa::new_zeroed();
    vmsa.vmpl = 2;
    vmsa.cs = segment(0xa9b);
    (vmsa.ss, vmsa.ds, vmsa.es) = (segment(0xc93), segment(0xc93), segment(0xc93));
    (vmsa.efer, vmsa.cr0, vmsa.cr4, vmsa.cr3) = (0x1500, 0x8000_0033, 0x20, tables());
    (vmsa.rflags, vmsa.rip, vmsa.dr6, vmsa.dr7) = (2, code(), 0xffff_0ff0, 0x400);
    (vmsa.g_pat, vmsa.xcr0, vmsa.mxcsr, vmsa.x87_fcw) = (0x0007_0406_0007_0406, 1, 0x1f80, 0x37f);
    (vmsa.rbx, vmsa.rsi, vmsa.rdi, vmsa.rbp) = (open(), closed(), unvalidated(), 0xfed0_0000);
    let features = SevFeatures::SNP_ACTIVE | SevFeatures::VTOM | SevFeatures::REFLECT_VC;
    vmsa.sev_features = (features | SevFeatures::ALTERNATE_INJECTION).bits();
    vmsa.virtual_tom = 1 << 46;
    vmsa
}

/// Writes the pages, gives VMPL2 its rights, and tells the host.
pub(crate) fn prepare(vmsa: &Vmsa) {
    check!(pvalidate(base(), true, true) == (0, false));
    for (at, chunk) in (vmsa_page()..).step_by(8).zip(vmsa.as_bytes().chunks_exact(8)) {
        write(at, u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
    }
    // Four-level tables without a C-bit, for every privilege level, in which 2 MiB pages map the first 4 GiB.
    for at in (tables()..tables() + 0x6000).step_by(8) {
        write(at, 0);
    }
    write(tables(), (tables() + 0x1000) | 0x27);
    for directory in 0..4 {
        let table = tables() + 0x2000 + directory * 0x1000;
        write(tables() + 0x1000 + directory * 8, table | 0x27);
        for entry in 0..512 {
            write(table + entry * 8, (directory << 30 | entry << 21) | 0xe7);
        }
    }
    let (start, end) = (&raw const vmpl2_start as u64, &raw const vmpl2_end as u64);
    for at in 0..(end - start).div_ceil(8) {
        write(code() + at * 8, read(start + at * 8));
    }
    check!(rmpadjust(vmsa_page(), 1, 0, true) == 0);
    for page in [
        open(),
        code(),
        tables(),
        tables() + 0x1000,
        tables() + 0x2000,
        tables() + 0x3000,
        tables() + 0x4000,
        tables() + 0x5000,
    ] {
        check!(rmpadjust(page, 2, ALL, false) == 0);
    }
    let create = number() << 32 | 1 | 2 << 16;
    // A VMSA that begins with a 2 MiB page is one that some processors run wrongly: no host takes it.
    check!(ghcb::request(own::AP_CREATION, create, base(), &[(page::RAX, vmsa.sev_features)]).0 != 0);
    let (info1, _) = ghcb::request(own::AP_CREATION, create, vmsa_page(), &[(page::RAX, vmsa.sev_features)]);
    check!(info1 == 0);
}

/// Runs VMPL2 until it comes back.
pub(crate) fn run() -> u64 {
    ghcb::ask(msr::RUN_VMPL_REQUEST | 2 << 32)
}

/// Goes on behind the instruction that exited.
fn complete() {
    write(vmsa_page() + RIP, read(vmsa_page() + NEXT_RIP));
}

pub(crate) fn all() {
    check!(run() == msr::RUN_VMPL_RESPONSE | 1 << 32);
    prepare(&vmsa());
    let field = |offset| read(vmsa_page() + offset);
    check!(run() == msr::RUN_VMPL_RESPONSE);
    check!(field(EXIT_CODE) == exit::CPUID && field(RIP) == code() && field(NEXT_RIP) == code() + 2);
    write(vmsa_page() + RBX, open());
    complete();
    run();
    check!(field(EXIT_CODE) == exit::IOIO && field(EXIT_INFO1) >> 16 == 0x71 && field(EXIT_INFO1) & 0x11 == 0x11);
    check!(field(EXIT_INFO1) >> 7 & 7 == 4);
    complete();
    run();
    check!(field(EXIT_CODE) == exit::MSR && field(EXIT_INFO1) == 0);
    write(vmsa_page() + RAX, 0x55);
    complete();
    run();
    // Two instructions have run: a store and a load.
    check!(field(EXIT_CODE) == exit::NPF && field(EXIT_INFO1) & npf::VMPL != 0 && field(EXIT_INFO2) == closed());
    check!(read(open()) == 0x55 && field(0x308) == 0x55);
    // Given the right, the instruction goes on by itself.
    check!(rmpadjust(closed(), 2, 1, false) == 0);
    run();
    check!(field(EXIT_CODE) == sev::NOT_VALIDATED && field(EXIT_INFO2) == unvalidated());
    check!(field(CR2) == unvalidated());
    write(vmsa_page() + RIP, field(RIP) + 3);
    run();
    check!(field(EXIT_CODE) == exit::NPF && field(EXIT_INFO1) & npf::RESERVED != 0 && field(EXIT_INFO2) == 0xfed0_0000);
    write(vmsa_page() + RIP, field(RIP) + 4);
    run();
    check!(field(EXIT_CODE) == exit::HLT);
    run();
    check!(field(EXIT_CODE) == sev::VMGEXIT);
    // A VMSA without SVME would end the run; one that its owner holds only sends us back.
    write(vmsa_page() + VINTR_CTRL, 1 << 63);
    check!(run() == msr::RUN_VMPL_RESPONSE && field(EXIT_CODE) == sev::VMGEXIT);
    check!(field(EFER) & 0x1000 != 0);
    write(vmsa_page() + VINTR_CTRL, 0);
    instructions();
}

/// What SNP's instructions say to a VMPL that is not the first, and outside of the kernel.
fn instructions() {
    let field = |offset| read(vmsa_page() + offset);
    let at = code() + (&raw const vmpl2_pvalidate as u64 - &raw const vmpl2_start as u64);
    run();
    if field(EXIT_CODE) == exit::SHUTDOWN {
        // The other assumption, a #GP, for which there is no handler.
        check!(field(RIP) == at);
        go_on(at + 4);
        run();
    } else {
        check!(read(open()) == u64::from(result::FAIL_PERMISSION));
    }
    check!(field(EXIT_CODE) == exit::HLT);
    check!(read(open() + 8) == u64::from(result::FAIL_PERMISSION) && read(open() + 16) == 0);
    check!(rmpquery(closed(), 3).2 >> 8 & 0xff == 1);
    // In user mode: #GP.
    for (segment, attributes) in [(CS, 0xafb), (SS, 0xcf3)] {
        write(vmsa_page() + segment, field(segment) & !0xffff_0000 | attributes << 16);
    }
    write(vmsa_page() + CPL, field(CPL) | 3 << 24);
    write(open(), 0x55);
    go_on(at);
    run();
    check!(field(EXIT_CODE) == exit::SHUTDOWN && field(RIP) == at && read(open()) == 0x55);
}

/// Has VMPL2 go on elsewhere, without what it could not deliver.
fn go_on(rip: u64) {
    write(vmsa_page() + RIP, rip);
    write(vmsa_page() + VINTR_CTRL, 0);
}
