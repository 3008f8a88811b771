// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which instructions have to be emulated, said apart from the forms that are tested and from the emulator's own list: each must
//! be in the table of `docs/emulator.md`, which `vc-handlers` holds to the emulator, and must have a cell for each operand size,
//! mode and address size that exists, in the comparison with the host's processor or in that with QEMU's.
//!
//! Not here: IN, OUT, CLTS, HLT and MOV to and from control and debug registers. They have no operand in memory, so that there is
//! nothing to put on a device; the handlers of their exits have tests of their own, and the fuzzer `exits`.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeSet;

use emulator_tests::forms;
use emulator_tests::generate::{Cell, Site, Tables, cells};
use emulator_tests::layout::Mode;

const ALL: &[u8] = &[1, 2, 4, 8];
const WIDE: &[u8] = &[2, 4, 8];
/// A word, and the rest of a descriptor table's address.
const SYSTEM: &[u8] = &[2, 4];

/// Mnemonic in the table, family of forms, operand sizes.
const GENERAL: &[(&str, &str, &[u8])] = &[
    ("MOV", "mov", ALL),
    ("MOV", "mov m, i", ALL),
    ("MOV", "mov moffs", ALL),
    ("MOV", "mov m, sreg", WIDE),
    ("MOV", "mov sreg, m", &[2]),
    ("MOVZX", "movzx m8", WIDE),
    ("MOVZX", "movzx m16", WIDE),
    ("MOVSX", "movsx m8", WIDE),
    ("MOVSX", "movsx m16", WIDE),
    ("MOVSXD", "movsxd", &[4, 8]),
    ("MOVNTI", "movnti", &[4, 8]),
    ("MOVBE", "movbe", WIDE),
    ("MOVSB", "movs", ALL),
    ("STOSB", "stos", ALL),
    ("LODSB", "lods", ALL),
    ("CMPSB", "cmps", ALL),
    ("SCASB", "scas", ALL),
    ("INSB", "ins", &[1, 2, 4]),
    ("OUTSB", "outs", &[1, 2, 4]),
    ("ADD", "add", ALL),
    ("ADC", "adc", ALL),
    ("SUB", "sub", ALL),
    ("SBB", "sbb", ALL),
    ("AND", "and", ALL),
    ("OR", "or", ALL),
    ("XOR", "xor", ALL),
    ("CMP", "cmp", ALL),
    ("TEST", "test", ALL),
    ("INC", "inc", ALL),
    ("DEC", "dec", ALL),
    ("NOT", "not", ALL),
    ("NEG", "neg", ALL),
    ("MUL", "mul", ALL),
    ("IMUL", "imul", ALL),
    ("IMUL", "imul r, m", WIDE),
    ("IMUL", "imul r, m, i", WIDE),
    ("DIV", "div", ALL),
    ("IDIV", "idiv", ALL),
    ("ROL", "rol", ALL),
    ("ROR", "ror", ALL),
    ("RCL", "rcl", ALL),
    ("RCR", "rcr", ALL),
    ("SHL", "shl", ALL),
    ("SHR", "shr", ALL),
    ("SAL", "sal", ALL),
    ("SAR", "sar", ALL),
    ("SHLD", "shld", WIDE),
    ("SHRD", "shrd", WIDE),
    ("XCHG", "xchg", ALL),
    ("XADD", "xadd", ALL),
    ("CMPXCHG", "cmpxchg", ALL),
    // Twice four bytes, and twice eight.
    ("CMPXCHG8B", "cmpxchg8b", &[4]),
    ("CMPXCHG16B", "cmpxchg16b", &[8]),
    ("BT", "bt", WIDE),
    ("BTS", "bts", WIDE),
    ("BTR", "btr", WIDE),
    ("BTC", "btc", WIDE),
    ("SETA", "setcc", &[1]),
    ("CMOVA", "cmovcc", WIDE),
    ("PUSH", "push", WIDE),
    ("POP", "pop", WIDE),
    ("CALL", "call", WIDE),
    ("JMP", "jmp", WIDE),
    ("LGDT", "lgdt", SYSTEM),
    ("SGDT", "sgdt", SYSTEM),
    ("LIDT", "lidt", SYSTEM),
    ("SIDT", "sidt", SYSTEM),
    ("LTR", "ltr", SYSTEM),
    ("STR", "str", SYSTEM),
    ("LMSW", "lmsw", SYSTEM),
    ("SMSW", "smsw", SYSTEM),
];

/// Vector moves of whole registers; each has a VEX form of 16 and 32 bytes.
const VECTORS: &[(&str, &str)] = &[
    ("MOVUPS", "movups"),
    ("MOVUPD", "movupd"),
    ("MOVDQU", "movdqu"),
    ("LDDQU", "lddqu"),
    ("MOVAPS", "movaps"),
    ("MOVAPD", "movapd"),
    ("MOVDQA", "movdqa"),
    ("MOVNTPS", "movntps"),
    ("MOVNTPD", "movntpd"),
    ("MOVNTDQ", "movntdq"),
    ("MOVNTDQA", "movntdqa"),
];

/// All cells that one of the two comparisons has.
fn compared() -> BTreeSet<Cell> {
    let forms = forms::all();
    let process = forms.iter().flat_map(|form| cells(form, &Mode::OF_PROCESSES, Site::Process));
    let machine = forms.iter().flat_map(|form| cells(form, &Mode::ALL, Site::Machine(Tables::default())));
    process.chain(machine).collect()
}

/// Whether there is no such instruction, or nothing to compare it with.
fn is_exempt(family: &str, size: u8, mode: Mode) -> bool {
    let long = mode == Mode::Long;
    match (family, size) {
        ("movsxd" | "cmpxchg16b", _) => !long,
        // No operand of 32 bits in 64-bit mode, where vendors differ in 16-bit branches besides.
        ("push" | "pop", 4) | ("call" | "jmp", 2 | 4) if long => true,
        // The processor may not have it in a process's modes, and QEMU's decodes it wrongly in 16-bit code.
        ("movbe", _) if matches!(mode, Mode::Protected16 | Mode::Virtual8086 | Mode::Real) => true,
        (_, 8) => !long,
        _ => false,
    }
}

#[test]
fn every_instruction_asked_for_has_all_its_cells() {
    let compared = compared();
    let mut missing = Vec::new();
    let mut need = |family: &'static str, size: u8, mode: Mode| {
        for address in mode.address_sizes() {
            let found = compared
                .iter()
                .any(|cell| cell.family == family && cell.size == size && cell.mode == mode && cell.address == address);
            if !found {
                missing.push(format!("{family} of {size} bytes, {} a{}", mode.name(), 8 * address));
            }
        }
    };
    for mode in Mode::ALL {
        for (_, family, sizes) in GENERAL {
            sizes.iter().filter(|size| !is_exempt(family, **size, mode)).for_each(|size| need(family, *size, mode));
        }
        for (_, family) in VECTORS {
            need(family, 16, mode);
            // In the other modes these bytes are LES and LDS.
            if !matches!(mode, Mode::Virtual8086 | Mode::Real) {
                let named = forms::all().into_iter().find(|form| form.family == format!("v{family}"));
                let named = named.unwrap_or_else(|| panic!("v{family} has no form")).family;
                [16, 32].into_iter().for_each(|size| need(named, size, mode));
            }
        }
    }
    assert!(missing.is_empty(), "no cell for {missing:#?}");
}

#[test]
fn every_instruction_asked_for_is_in_the_table_of_what_is_emulated() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/emulator.md");
    let text = std::fs::read_to_string(path).expect("docs/emulator.md");
    let row = |starts: &str| -> BTreeSet<String> {
        let row = text.lines().find_map(|line| line.strip_prefix(starts)).unwrap_or_else(|| panic!("no row {starts}"));
        row.trim_end_matches('|').split(',').map(|name| name.trim().to_owned()).collect()
    };
    // Of CALL only the far form is not.
    let (whole, part, vex) = (row("| emulated |"), row("| emulated in part |"), row("| VEX: emulated |"));
    for (mnemonic, ..) in GENERAL {
        assert!(whole.contains(*mnemonic) || (*mnemonic == "CALL" && part.contains("CALL")), "{mnemonic}");
    }
    for (mnemonic, _) in VECTORS {
        assert!(whole.contains(*mnemonic) && vex.contains(&format!("V{mnemonic}")), "{mnemonic}");
    }
}
