// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every page of the region, and every kind of access to it.

use crate::ABSENT;
use core::arch::asm;
use guests::attempt;
use guests::instructions::{in_byte, in_dword, out_dword};
use guests::report::Report;

/// Test port: four bytes that read back.
const PORT: u16 = 0xe0;
/// Test memory that is a device.
const DEVICE: u64 = 0xff00_0000;
const UD: Option<u8> = Some(6);

fn load(address: u64) -> u64 {
    let value;
    // SAFETY: the address is mapped, and nothing of ours lies there.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, readonly)) };
    value
}

fn store(address: u64, value: u64) {
    // SAFETY: as in `load`.
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack)) };
}

/// Reads and writes each page, at its start, end and somewhere between: also where the page that an SNP firmware fills has the
/// keys to itself.
pub(crate) fn sweep(report: &mut Report, start: u64, end: u64) {
    let mut wrong = None;
    let mut pages = 0;
    for page in (start..end).step_by(4096) {
        pages += 1;
        for offset in [0, 0x20, 0x7f8, 0xff8] {
            let before = load(page + offset);
            store(page + offset, 0x5afe_c0de_5afe_c0de);
            let after = load(page + offset);
            if (before, after) != (ABSENT, ABSENT) {
                wrong.get_or_insert((page + offset, before, after));
            }
        }
    }
    report.check("sweep", wrong.is_none(), format_args!("{pages} pages, {wrong:x?}"));
}

fn ones(report: &mut Report, name: &str, fault: Option<u8>, value: u64, wanted: u64) {
    report.check(name, fault.is_none() && value == wanted, format_args!("{value:#x}, exception {fault:?}"));
}

pub(crate) fn kinds(report: &mut Report, at: u64) {
    let mut value: u64 = 0;
    let fault = attempt!("movzx {v:e}, byte ptr [{at}]", v = inout(reg) value, at = in(reg) at);
    ones(report, "byte", fault, value, 0xff);
    let fault = attempt!("movsx {v}, word ptr [{at}]", v = inout(reg) value, at = in(reg) at);
    ones(report, "word, sign-extended", fault, value, u64::MAX);
    value = 0;
    let fault = attempt!("mov {v:e}, [{at}]", v = inout(reg) value, at = in(reg) at);
    ones(report, "dword", fault, value, 0xffff_ffff);
    value = 1;
    let fault = attempt!("xchg {v}, [{at}]", v = inout(reg) value, at = in(reg) at);
    ones(report, "xchg", fault, value, ABSENT);
    value = 1;
    let fault = attempt!("lock xadd [{at}], {v}", v = inout(reg) value, at = in(reg) at);
    ones(report, "lock xadd", fault, value, ABSENT);
    value = 0;
    let fault = attempt!("lock cmpxchg [{at}], {new}", inout("rax") value, at = in(reg) at, new = in(reg) 7u64);
    ones(report, "lock cmpxchg", fault, value, ABSENT);
    value = 0x1234;
    let fault = attempt!("and {v}, [{at}]", v = inout(reg) value, at = in(reg) at);
    ones(report, "and", fault, value, 0x1234);
    let fault = attempt!("add qword ptr [{at}], 5", at = in(reg) at);
    ones(report, "add to memory", fault, load(at), ABSENT);
    let mut buffer = [0u64; 4];
    let fault = attempt!(
        "movups xmm0, [{at}]\n movups [{to}], xmm0", at = in(reg) at, to = in(reg) &raw mut buffer);
    let [low, high, ..] = buffer;
    if fault.is_none() {
        ones(report, "sse load", fault, low & high, ABSENT);
    } else {
        report.check("sse load", fault == UD && buffer == [0; 4], format_args!("exception {fault:?}, not emulated"));
    }
    strings(report, at);
    ports(report, at);
    let fault = attempt!("push qword ptr [{at}]\n pop {v}", v = out(reg) value, at = in(reg) at);
    ones(report, "push from memory", fault, value, ABSENT);
}

fn strings(report: &mut Report, at: u64) {
    let mut buffer = [0u64; 4];
    let to = &raw mut buffer as u64;
    let fault = attempt!("rep movsq", inout("rcx") 4u64 => _, inout("rsi") at => _, inout("rdi") to => _);
    ones(report, "movs from it", fault, buffer.iter().fold(ABSENT, |all, word| all & word), ABSENT);
    let fault = attempt!("rep movsq", inout("rcx") 4u64 => _, inout("rsi") to => _, inout("rdi") at => _);
    ones(report, "movs to it", fault, load(at + 8), ABSENT);
    let fault = attempt!("rep stosb", inout("rcx") 64u64 => _, in("al") 0u8, inout("rdi") at => _);
    ones(report, "stos", fault, load(at), ABSENT);
    let mut value = 0u64;
    let fault = attempt!("lodsq", inout("rsi") at => _, inout("rax") value);
    ones(report, "lods", fault, value, ABSENT);
    let fault = attempt!("rep movsq", inout("rcx") 2u64 => _, inout("rsi") at => _, inout("rdi") DEVICE => _);
    ones(report, "movs to a device", fault, load(DEVICE), ABSENT);
    store(DEVICE, 0x2222);
    let fault = attempt!("rep movsq", inout("rcx") 1u64 => _, inout("rsi") DEVICE => _, inout("rdi") at => _);
    ones(report, "movs from a device", fault, load(at), ABSENT);
    let fault = attempt!("rep movsb", inout("rcx") 16u64 => _, inout("rsi") at + 4096 => _, inout("rdi") at => _);
    ones(report, "movs within it", fault, load(at), ABSENT);
    value = 0;
    let fault = attempt!("scasq", inout("rdi") at => _, in("rax") u64::MAX);
    ones(report, "scas", fault, value, 0);
}

/// Port strings, whose operands the paravisor reads and writes on the guest's behalf.
fn ports(report: &mut Report, at: u64) {
    for offset in [0, 4094, 0x10_0000] {
        out_dword(PORT, 0);
        let fault = attempt!("outsd", inout("rsi") at + offset => _, in("dx") PORT);
        ones(report, "outs from it", fault, in_dword(PORT).into(), 0xffff_ffff);
        out_dword(PORT, 0x1234_5678);
        let fault = attempt!("insd", inout("rdi") at + offset => _, in("dx") PORT);
        ones(report, "ins to it", fault, load(at + offset), ABSENT);
    }
    out_dword(PORT, 0);
    let fault = attempt!("rep outsb", inout("rcx") 5000u64 => _, inout("rsi") at => _, in("dx") PORT);
    ones(report, "many outs", fault, in_byte(PORT).into(), 0xff);
    let fault = attempt!("rep insb", inout("rcx") 5000u64 => _, inout("rdi") at => _, in("dx") PORT);
    ones(report, "many ins", fault, load(at + 4090), ABSENT);
}

/// Ones are no instruction (FF /7), so that #UD comes, and an operand that reaches into the region is ones.
pub(crate) fn code(report: &mut Report, at: u64) {
    for offset in [0, 0x1000, 0x10_0000] {
        let fault = attempt!("jmp {at}", at = in(reg) at + offset);
        report.check("code", fault == UD, format_args!("exception {fault:?}"));
    }
    // MOV AL, imm8 with its operand in the region; then MOV EAX, imm32 with half of it there.
    let saved = load(at - 8);
    for (bytes, code, wanted) in [(1, 0xb0u64, 0xff), (3, 0x22_11b8, 0xffff_2211)] {
        store(at - 8, code << (8 * (8 - bytes)));
        let mut value = 0u64;
        let fault = attempt!("jmp {at}", at = in(reg) at - bytes, inout("rax") value);
        let good = fault == UD && value == wanted;
        report.check("code across the border", good, format_args!("{value:#x}, exception {fault:?}"));
    }
    store(at - 8, saved);
}
