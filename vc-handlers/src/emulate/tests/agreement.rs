// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes at RIP must be an instruction that exits as reported: another processor of the guest may have rewritten them.

use platform::{
    Control, ControlAccess, DebugAccess, Direction, ExitReason, IoAccess, IoWidth, MsrAccess, SensitiveInstruction,
};

use super::*;
use crate::Oddity;
use crate::emulate::{load_table, string_io};

const fn io(port: u16, width: IoWidth, direction: Direction) -> ExitReason {
    ExitReason::Io(IoAccess { port, width, direction, string: false, repeat: false })
}

const fn msr(direction: Direction) -> ExitReason {
    ExitReason::Msr(MsrAccess { direction })
}

/// Each kind of exit whose length comes from the bytes, with instructions that make it.
fn exits() -> Vec<(ExitReason, Vec<&'static [u8]>)> {
    use SensitiveInstruction as S;
    let control = |register, direction| ExitReason::Control(ControlAccess { register, direction, operand: None });
    let debug = ExitReason::Debug(DebugAccess { register: 3, direction: Direction::Write, operand: None });
    let sensitive = ExitReason::Sensitive;
    vec![
        (ExitReason::Cpuid, vec![&[0x0f, 0xa2], &[0x66, 0x0f, 0xa2]]),
        (msr(Direction::Read), vec![&[0x0f, 0x32]]),
        (msr(Direction::Write), vec![&[0x0f, 0x30]]),
        (io(0x60, IoWidth::Byte, Direction::Read), vec![&[0xe4, 0x60], &[0xec]]),
        (io(0x60, IoWidth::Dword, Direction::Read), vec![&[0xe5, 0x60], &[0xed]]),
        (io(0x80, IoWidth::Byte, Direction::Write), vec![&[0xe6, 0x80], &[0xee]]),
        (io(0x80, IoWidth::Word, Direction::Write), vec![&[0x66, 0xe7, 0x80], &[0x66, 0xef]]),
        (ExitReason::Hlt, vec![&[0xf4]]),
        (control(Control::Cr4, Direction::Write), vec![&[0x0f, 0x22, 0xe0]]),
        (control(Control::Cr0, Direction::Write), vec![&[0x0f, 0x06], &[0x0f, 0x01, 0xf0]]),
        (control(Control::Cr0, Direction::Read), vec![&[0x0f, 0x01, 0xe0]]),
        (debug, vec![&[0x0f, 0x23, 0xd8]]),
        (
            ExitReason::LoadTable,
            vec![&[0x0f, 0x01, 0x13], &[0x0f, 0x01, 0x1b], &[0x0f, 0x00, 0xd0], &[0x0f, 0x00, 0xd8]],
        ),
        (ExitReason::Xsetbv, vec![&[0x0f, 0x01, 0xd1]]),
        (ExitReason::Vmmcall, vec![&[0x0f, 0x01, 0xd9], &[0x0f, 0x01, 0xc1], &[0xf3, 0x0f, 0x01, 0xd9]]),
        (sensitive(S::Wbinvd), vec![&[0x0f, 0x09], &[0xf3, 0x0f, 0x09], &[0x0f, 0x08]]),
        (sensitive(S::Invd), vec![&[0x0f, 0x09], &[0xf3, 0x0f, 0x09], &[0x0f, 0x08]]),
        (sensitive(S::Monitor), vec![&[0x0f, 0x01, 0xc8], &[0x0f, 0x01, 0xfa]]),
        (sensitive(S::Mwait), vec![&[0x0f, 0x01, 0xc9], &[0x0f, 0x01, 0xfb]]),
        (sensitive(S::Rdpmc), vec![&[0x0f, 0x33], &[0x0f, 0x01, 0xfd]]),
        (sensitive(S::Rdtsc), vec![&[0x0f, 0x31]]),
        (sensitive(S::Rdtscp), vec![&[0x0f, 0x01, 0xf9]]),
        (sensitive(S::Pause), vec![&[0xf3, 0x90]]),
        (sensitive(S::Rsm), vec![&[0x0f, 0xaa]]),
        (sensitive(S::Icebp), vec![&[0xf1]]),
        (sensitive(S::Invlpgb), vec![&[0x0f, 0x01, 0xfe]]),
        (sensitive(S::Tlbsync), vec![&[0x0f, 0x01, 0xff]]),
        (sensitive(S::Svm), vec![&[0x0f, 0x01, 0xd8], &[0x0f, 0x01, 0xda], &[0x0f, 0x01, 0xdf], &[0x0f, 0x01, 0xde]]),
    ]
}

#[test]
fn each_exit_takes_the_length_of_its_own_instructions_alone() {
    let exits = exits();
    for (reason, own) in &exits {
        for (other, codes) in &exits {
            for code in codes {
                let mut guest = Guest::long(code);
                let told = next_rip(reason, &guest.cpu, &mut guest.env);
                // Which control register is the handler's to check.
                let alike = matches!((reason, other), (ExitReason::Control(_), ExitReason::Control(_)));
                if own.contains(code) || alike {
                    assert_eq!(told, Ok(CODE + code.len() as u64), "{reason:?} {code:x?}");
                    assert_eq!(guest.env.oddities, []);
                } else {
                    assert_eq!(told, Err(Outcome::Resume), "{reason:?} {code:x?}");
                    assert_eq!(guest.env.oddities, [Oddity::Mismatch]);
                }
            }
        }
        for code in [&[0x90][..], &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], &[0xe4, 0x61], &[0xe6, 0x81], &[0xcc]] {
            let mut guest = Guest::long(code);
            assert_eq!(next_rip(reason, &guest.cpu, &mut guest.env), Err(Outcome::Resume), "{reason:?} {code:x?}");
        }
    }
}

/// A processor may take a prefix for meaningless where the decoder knows another instruction; then the guest would exit for
/// ever.
#[test]
fn prefixes_without_a_meaning_do_not_make_another_instruction() {
    // A port's width is the prefix's.
    for (reason, codes) in exits().into_iter().filter(|(reason, _)| !matches!(reason, ExitReason::Io(_))) {
        for code in codes {
            for prefix in [0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x48] {
                let prefixed = [&[prefix][..], code].concat();
                if code.starts_with(&[0x0f, 0x01]) && matches!(prefix, 0x66 | 0xf2 | 0xf3) {
                    // Instructions of their own: MCOMMIT, RMPQUERY and others.
                    continue;
                }
                let mut guest = Guest::long(&prefixed);
                let told = next_rip(&reason, &guest.cpu, &mut guest.env);
                let allowed = [Ok(CODE + prefixed.len() as u64), Err(Outcome::Inject(Exception::UNDEFINED))];
                assert!(allowed.contains(&told), "{reason:?} {prefixed:x?} {told:?}");
            }
        }
    }
}

/// Instructions with one operand at RBX: bytes, whether they read, whether they write. A plain MOV is taken for the one
/// that faulted if direction and page offset fit (see `plain_mov`), so the wrong operands here have another offset.
const ACCESSES: [(&[u8], bool, bool); 14] = [
    (&[0x8b, 0x03], true, false),
    (&[0x89, 0x03], false, true),
    (&[0x0f, 0xb6, 0x03], true, false),
    (&[0x01, 0x03], true, true),
    (&[0x87, 0x03], true, true),
    (&[0xf0, 0x0f, 0xb1, 0x03], true, true),
    (&[0x0f, 0xab, 0x03], true, true),
    (&[0xf7, 0x33], true, false),
    (&[0xff, 0x33], true, false),
    (&[0x0f, 0x95, 0x03], false, true),
    (&[0xc7, 0x03, 1, 0, 0, 0], false, true),
    (&[0xd3, 0x23], true, true),
    (&[0x0f, 0x10, 0x03], true, false),
    (&[0x0f, 0x11, 0x03], false, true),
];

fn with_vectors(code: &[u8]) -> Guest {
    let mut guest = Guest::long(code).gpr(Gpr::Rdx, 0).gpr(Gpr::Rax, 1);
    guest.cpu.state.cr4 |= 1 << 9;
    guest
}

#[test]
fn bytes_that_reach_no_device_are_not_emulated_whatever_was_reported() {
    for (code, ..) in ACCESSES {
        for access in [Access::Read, Access::Write] {
            let mut guest = with_vectors(code).gpr(Gpr::Rbx, DATA + 8);
            let before = guest.cpu.state;
            assert_eq!(guest.fault(access, DEVICE), Outcome::Resume, "{code:x?}");
            assert_eq!(guest.cpu.state, before, "{code:x?}");
            assert_eq!(guest.env.requests, [], "{code:x?}");
            assert_eq!(guest.env.oddities, [Oddity::Mismatch], "{code:x?}");
        }
    }
}

#[test]
fn bytes_that_reach_another_device_or_the_other_way_are_counted() {
    for (code, reads, writes) in ACCESSES {
        // The page reported is not the operand's.
        let mut guest = with_vectors(code).gpr(Gpr::Rbx, DEVICE + 0x2008);
        guest.env.reply(1);
        guest.fault(if writes { Access::Write } else { Access::Read }, DEVICE);
        assert_eq!(guest.env.oddities, [Oddity::Mismatch], "{code:x?}");
        let elsewhere =
            |request: &DeviceRequest| matches!(request.target, Target::Mmio(gpa) if gpa.0 < DEVICE + 0x2008);
        assert!(!guest.env.requests.iter().any(elsewhere), "{code:x?} at the reported address");
        // A write was reported of an instruction that only reads.
        if reads && !writes {
            let mut guest = with_vectors(code).gpr(Gpr::Rbx, DEVICE);
            guest.env.reply(1);
            guest.fault(Access::Write, DEVICE);
            assert_eq!(guest.env.oddities, [Oddity::Mismatch], "{code:x?}");
        }
        // As reported.
        let mut guest = with_vectors(code).gpr(Gpr::Rbx, DEVICE);
        guest.env.reply(1);
        guest.fault(if writes { Access::Write } else { Access::Read }, DEVICE);
        assert_eq!(guest.env.oddities, [], "{code:x?}");
    }
}

#[test]
fn port_strings_of_other_kinds_reach_no_port() {
    let codes: [(&[u8], Direction, IoWidth, bool); 6] = [
        (&[0x6c], Direction::Read, IoWidth::Byte, false),
        (&[0x6d], Direction::Read, IoWidth::Dword, false),
        (&[0xf3, 0x6c], Direction::Read, IoWidth::Byte, true),
        (&[0x6e], Direction::Write, IoWidth::Byte, false),
        (&[0x66, 0x6f], Direction::Write, IoWidth::Word, false),
        (&[0xf3, 0x6f], Direction::Write, IoWidth::Dword, true),
    ];
    for (code, direction, width, repeat) in codes {
        for (other, ..) in codes.into_iter().filter(|(other, ..)| *other != code) {
            let mut guest = Guest::long(other).gpr(Gpr::Rdx, 0x1f0).gpr(Gpr::Rdi, DATA).gpr(Gpr::Rsi, DATA);
            let access = IoAccess { port: 0x1f0, width, direction, string: true, repeat };
            assert_eq!(string_io(&access, &mut guest.cpu, &mut guest.env), Outcome::Resume, "{code:x?} {other:x?}");
            assert_eq!((&guest.env.requests[..], &guest.env.oddities[..]), (&[][..], &[Oddity::Mismatch][..]));
        }
        // Another port than the one reported.
        let mut guest = Guest::long(code).gpr(Gpr::Rdx, 0x1f1).gpr(Gpr::Rcx, 1);
        let access = IoAccess { port: 0x1f0, width, direction, string: true, repeat };
        assert_eq!(string_io(&access, &mut guest.cpu, &mut guest.env), Outcome::Resume, "{code:x?}");
        assert_eq!(guest.env.requests, []);
    }
}

#[test]
fn a_load_of_a_table_that_was_rewritten_loads_nothing() {
    for code in [&[0x0f, 0x01, 0x33][..], &[0x8b, 0x03], &[0x0f, 0x00, 0x0b]] {
        let mut guest = Guest::long(code).gpr(Gpr::Rbx, DATA);
        let before = guest.cpu.state;
        assert_eq!(load_table(None, &mut guest.cpu, &mut guest.env), Outcome::Resume);
        assert_eq!(guest.cpu.state, before);
        assert_eq!(guest.env.oddities, [Oddity::Mismatch]);
    }
}
