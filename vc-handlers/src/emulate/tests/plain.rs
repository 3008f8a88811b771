// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short way for 32-bit MOV.

use iced_x86::{Code as IcedCode, Register};

use super::*;
use crate::emulate::context::CodeSize;
use crate::emulate::decode::{decode_bytes, explicit_memory};
use crate::emulate::operand::GprPart;
use crate::emulate::plain_mov::PlainMov;

fn gpr(register: Register) -> Option<Gpr> {
    GprPart::of(register).map(|part| part.register)
}

/// The same instruction as the full decoder sees it.
fn reference(bytes: &[u8], rip: u64) -> Option<PlainMov> {
    let instruction = decode_bytes(bytes, CodeSize::Bits64, rip).ok()?;
    let (store, register) = match instruction.code() {
        IcedCode::Mov_rm32_r32 => (true, instruction.op1_register()),
        IcedCode::Mov_r32_rm32 => (false, instruction.op0_register()),
        _ => return None,
    };
    explicit_memory(&instruction)?;
    let relative = instruction.memory_base() == Register::RIP;
    let next = rip + instruction.len() as u64;
    let displacement = instruction.memory_displacement64().wrapping_sub(if relative { next } else { 0 });
    let index =
        gpr(instruction.memory_index()).map(|index| (index, instruction.memory_index_scale().trailing_zeros() as u8));
    Some(PlainMov {
        register: gpr(register).unwrap(),
        store,
        base: gpr(instruction.memory_base()),
        index,
        displacement: displacement as i32,
        relative,
        length: instruction.len() as u8,
    })
}

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

#[test]
fn prefixes_that_change_the_access_are_left_to_the_full_decoder() {
    for prefix in (0..=255).filter(|byte| is_prefix(*byte) && byte & 0xf8 != 0x40) {
        assert_eq!(PlainMov::decode(&[prefix, 0x8b, 0x03]), None);
    }
}

#[test]
fn every_encoding_decodes_as_the_full_decoder_decodes_it() {
    let rip = 0xffff_ffff_8100_0000;
    let mut decoded = 0;
    let prefixes = [&[][..]].into_iter().map(<[u8]>::to_vec).chain((0x40..=0x4f).map(|rex| vec![rex]));
    for prefix in prefixes {
        for opcode in (0..=255_u8).filter(|opcode| !is_prefix(*opcode)) {
            let plain = opcode & !2 == 0x89;
            for modrm in 0..=255_u8 {
                let sibs = if modrm & 7 == 4 && modrm < 0xc0 && plain { 0..=255_u8 } else { 0x24..=0x24 };
                for sib in sibs {
                    let mut bytes = prefix.clone();
                    bytes.extend([opcode, modrm, sib, 0x87, 0x65, 0x43, 0xa1, 0x90, 0x90, 0x90]);
                    let ours = PlainMov::decode(&bytes);
                    assert_eq!(ours, reference(&bytes, rip), "{bytes:x?}");
                    decoded += u32::from(ours.is_some());
                    let length = ours.map_or(0, |mov| usize::from(mov.length));
                    for shorter in 0..length {
                        assert_eq!(PlainMov::decode(&bytes[..shorter]), None, "cut to {shorter}");
                    }
                }
            }
        }
    }
    assert_eq!(decoded, 9 * 2 * (21 * 8 + 3 * 8 * 256));
}

#[test]
fn the_short_way_reads_the_operands_page_tables_not_at_all() {
    // mov [0xfee000b0], eax as Linux writes EOI, at an address with no mapping of its own.
    let mut guest = Guest::long(&[0x89, 0x04, 0x25, 0xb0, 0xd0, 0x5f, 0xff]).gpr(Gpr::Rax, 0xffff_ffff_0000_0000);
    let _ = guest.write(DEVICE);
    guest.env.memory.accesses.set(0);
    guest.env.requests.clear();
    assert_eq!(guest.write(DEVICE + 0xb0), done(7));
    assert_eq!(guest.env.requests, [mmio_write(DEVICE + 0xb0, 4, 0)]);
    assert_eq!(guest.env.memory.accesses.get(), 5, "four tables and the code");
}

#[test]
fn the_short_way_is_not_taken_where_address_or_direction_differ() {
    // The fault names another offset; the long way finds the true operand.
    let mut guest = Guest::long(&[0x8b, 0x03]).gpr(Gpr::Rbx, DEVICE + 0x20).reply(3);
    assert_eq!(guest.read(DEVICE + 0x24), done(2));
    assert_eq!(guest.env.requests, [mmio_read(DEVICE + 0x20, 4)]);
    let mut guest = Guest::long(&[0x8b, 0x03]).gpr(Gpr::Rbx, DEVICE + 0x20).reply(3);
    assert_eq!(guest.write(DEVICE + 0x20), done(2));
    assert_eq!(guest.env.oddities, [crate::Oddity::Mismatch]);
}
