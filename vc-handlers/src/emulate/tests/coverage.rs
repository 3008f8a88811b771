// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every instruction that can have an operand in memory: either it is emulated, or the guest gets #UD and it is counted.
//! `docs/emulator.md` lists both kinds; the list there is made here.
//!
//! `EMULATOR_DOCS=write cargo test -p vc-handlers every_instruction_is_listed` writes it anew.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Code, EncodingKind, Instruction, Mnemonic, OpKind, Register};

use super::*;
use crate::Oddity;
use crate::emulate::context::CodeSize;
use crate::emulate::decode::{decode_bytes, operation};

/// One encoding of an instruction whose operand is at RBX.
struct Encoding {
    bytes: Vec<u8>,
    size: CodeSize,
    instruction: Instruction,
}

/// What may follow an opcode: displacement, immediate.
const REST: [u8; 10] = [0; 10];

fn legacy() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for prefix in [&[][..], &[0x66], &[0xf2], &[0xf3]] {
        for rex in [&[][..], &[0x48]] {
            for map in [&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]] {
                for opcode in 0..=255 {
                    for digit in 0..8 {
                        all.push([prefix, rex, map, &[opcode, digit << 3 | 3], &REST].concat());
                    }
                }
            }
        }
    }
    all
}

/// VEX; with a vector of indices too.
fn vectors() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for opcode in 0..=255_u8 {
        for (pp, wide) in (0..4_u8).flat_map(|pp| [(pp, 0_u8), (pp, 0x80)]) {
            // The opcodes whose ModRM byte tells more.
            let digits = if matches!(opcode, 0x71..=0x73 | 0xae | 0xc6 | 0xc7) { 8_u8 } else { 1 };
            for modrm in (0..digits).map(|digit| digit << 3 | 3).chain([0x0c]) {
                let tail = [&[opcode, modrm, 0x0b][..], &REST].concat();
                for length in 0..2_u8 {
                    for map in 1..=3 {
                        // One other source, or none.
                        for other in [0x78, 0x70] {
                            all.push([&[0xc4, 0xe0 | map, wide | other | length << 2 | pp][..], &tail].concat());
                        }
                    }
                }
            }
        }
    }
    all
}

/// One of each code that can have its operand in memory and moves anything there or from there.
fn encodings() -> Vec<Encoding> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    let sized = |bytes: Vec<u8>| [(bytes.clone(), CodeSize::Bits64), (bytes, CodeSize::Bits32)];
    let vectors = vectors().into_iter().map(|bytes| (bytes, CodeSize::Bits64));
    for (bytes, size) in legacy().into_iter().flat_map(sized).chain(vectors) {
        let Ok(instruction) = decode_bytes(&bytes, size, CODE) else { continue };
        let at_rbx = matches!(instruction.memory_base(), Register::RBX | Register::EBX);
        let memory = (0..instruction.op_count()).any(|index| match instruction.op_kind(index) {
            OpKind::Memory => at_rbx,
            kind => is_string(kind),
        });
        let moves = !matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop | Mnemonic::Reservednop);
        if memory && moves && seen.insert(instruction.code() as usize) {
            all.push(Encoding { bytes, size, instruction });
        }
    }
    assert!(seen.len() > 1500 && seen.contains(&(Code::Mov_r32_rm32 as usize)), "{}", seen.len());
    all
}

fn is_string(kind: OpKind) -> bool {
    use OpKind::{MemoryESEDI, MemoryESRDI, MemorySegEDI, MemorySegESI, MemorySegRDI, MemorySegRSI};
    matches!(kind, MemoryESEDI | MemoryESRDI | MemorySegEDI | MemorySegESI | MemorySegRDI | MemorySegRSI)
}

/// By mnemonic: whether some form is emulated, and whether some form is not.
type Kinds = BTreeMap<String, (bool, bool)>;

fn list() -> String {
    let (mut legacy, mut vector) = (Kinds::new(), Kinds::new());
    for Encoding { instruction, .. } in encodings() {
        let kinds = if instruction.encoding() == EncodingKind::Legacy { &mut legacy } else { &mut vector };
        let name = format!("{:?}", instruction.mnemonic()).to_uppercase();
        let (emulated, not) = kinds.entry(name).or_default();
        let known = operation(&instruction).is_some();
        *emulated |= known;
        *not |= !known;
    }
    let names = |kinds: &Kinds, wanted: (bool, bool)| {
        let names: Vec<_> = kinds.iter().filter(|(_, kind)| **kind == wanted).map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    };
    let of_vectors = vector.values().filter(|kind| **kind == (false, true)).count();
    format!(
        "| | |\n|---|---|\n| emulated | {} |\n| emulated in part | {} |\n| #UD | {} |\n\
         | VEX: emulated | {} |\n| VEX: #UD | {of_vectors} others |\n| EVEX, XOP, 3DNow!: #UD | all |\n",
        names(&legacy, (true, false)),
        names(&legacy, (true, true)),
        names(&legacy, (false, true)),
        names(&vector, (true, false)),
    )
}

const BEGIN: &str = "<!-- made by vc-handlers/src/emulate/tests/coverage.rs -->\n";
const END: &str = "<!-- end -->";

#[test]
fn every_instruction_is_listed_in_the_book() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/emulator.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("docs/emulator.md has a place for the list");
    let (listed, after) = rest.split_once(END).expect("docs/emulator.md ends the list");
    let list = list();
    if std::env::var("EMULATOR_DOCS").as_deref() == Ok("write") {
        std::fs::write(path, format!("{before}{BEGIN}{list}{END}{after}")).unwrap();
    } else {
        assert_eq!(listed, list, "write it anew, as this file says");
    }
}

#[test]
fn what_is_not_emulated_is_undefined_and_counted_and_stops_nothing() {
    let mut long = Guest::long(&[]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rsi, DEVICE).gpr(Gpr::Rdi, DEVICE);
    let mut protected = Guest::protected(&[]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rsi, DEVICE).gpr(Gpr::Rdi, DEVICE);
    for guest in [&mut long, &mut protected] {
        // Whatever an instruction needs to be switched on.
        guest.cpu.state.cr4 |= 1 << 9 | 1 << 18;
        guest.cpu.xcr0 = 7;
    }
    let (long_state, protected_state) = (long.cpu.state, protected.cpu.state);
    let mut refused = 0;
    for Encoding { bytes, size, instruction } in encodings() {
        let (guest, state) =
            if size == CodeSize::Bits64 { (&mut long, long_state) } else { (&mut protected, protected_state) };
        guest.cpu.state = state;
        guest.env.memory.put(CODE, &bytes);
        guest.env.oddities.clear();
        guest.env.requests.clear();
        let outcome = guest.read(DEVICE);
        if operation(&instruction).is_some() {
            assert!(!matches!(outcome, Outcome::Terminate(..)), "{bytes:x?} {outcome:?}");
            assert!(!guest.env.oddities.contains(&Oddity::NotEmulated(Gpa(CODE))), "{bytes:x?}");
        } else {
            refused += 1;
            assert_eq!(outcome, Outcome::Inject(Exception::UNDEFINED), "{bytes:x?} {:?}", instruction.code());
            assert_eq!(guest.env.oddities, [Oddity::NotEmulated(Gpa(CODE))], "{bytes:x?} {:?}", instruction.code());
            assert_eq!(guest.env.requests, [], "{bytes:x?}");
            assert_eq!(guest.cpu.state, state, "{bytes:x?}");
        }
    }
    assert!(refused > 1000, "{refused}");
}
