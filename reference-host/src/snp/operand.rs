// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest-virtual address of a memory access, which QEMU does not tell with a nested fault and hardware puts into CR2 (APM
//! vol. 2, 15.36.10).
//!
//! It is worked out from the instruction in 64-bit code (APM vol. 3, 1.2 to 1.4 and appendix A). What comes out are
//! candidates: whoever asks translates each and keeps the one that leads where the fault was. So a guest that changes its
//! code meanwhile, or an instruction that is taken for another, gives no address rather than a wrong one.

/// The most addresses that an instruction gives.
pub const CANDIDATES: usize = 4;

/// What an address is made of.
pub struct Registers<'a> {
    /// General registers in encoding order.
    pub general: &'a [u64; 16],
    /// Where the instruction is.
    pub rip: u64,
    /// Base of FS.
    pub fs: u64,
    /// Base of GS.
    pub gs: u64,
}

const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// The instruction's prefixes and where its opcode is.
struct Prefixes {
    segment: u64,
    operand: bool,
    address: bool,
    rex: u8,
    opcode: usize,
}

/// Where an instruction may access memory.
pub fn candidates(bytes: &[u8], registers: &Registers<'_>) -> [Option<u64>; CANDIDATES] {
    let mut found = [None; CANDIDATES];
    let Some(prefixes) = prefixes(bytes, registers) else { return found };
    let mut slots = found.iter_mut();
    let mut add = |address: u64| {
        if let Some(slot) = slots.next() {
            let address = if prefixes.address { address & 0xffff_ffff } else { address };
            *slot = Some(address);
        }
    };
    let at = |register: usize| registers.general.get(register).copied().unwrap_or(0);
    if let Some((address, _)) = modrm_operand(bytes, &prefixes, registers) {
        add(address.wrapping_add(prefixes.segment));
    }
    let opcode = bytes.get(prefixes.opcode).copied().unwrap_or(0);
    match opcode {
        // Strings: source with a segment, destination without.
        0xa4..=0xa7 => [at(RSI).wrapping_add(prefixes.segment), at(RDI)].into_iter().for_each(&mut add),
        0xac | 0xad | 0x6e | 0x6f => add(at(RSI).wrapping_add(prefixes.segment)),
        0xaa | 0xab | 0xae | 0xaf | 0x6c | 0x6d => add(at(RDI)),
        // MOV with an address of eight bytes.
        0xa0..=0xa3 => {
            let address = bytes.get(prefixes.opcode + 1..).and_then(|rest| rest.first_chunk::<8>());
            address.iter().for_each(|address| add(u64::from_le_bytes(**address).wrapping_add(prefixes.segment)));
        }
        _ => {}
    }
    // Whatever pushes writes below the stack pointer, and whatever pops reads at it.
    if matches!(opcode, 0x50..=0x57 | 0x68 | 0x6a | 0x9c | 0xe8 | 0xff) {
        add(at(RSP).wrapping_sub(if prefixes.operand { 2 } else { 8 }));
    }
    if matches!(opcode, 0x58..=0x5f | 0x8f | 0x9d | 0xc2 | 0xc3) {
        add(at(RSP));
    }
    if opcode == 0xc9 {
        add(at(RBP));
    }
    found
}

fn prefixes(bytes: &[u8], registers: &Registers<'_>) -> Option<Prefixes> {
    let mut prefixes = Prefixes { segment: 0, operand: false, address: false, rex: 0, opcode: 0 };
    for (at, byte) in bytes.iter().enumerate() {
        let rex = core::mem::take(&mut prefixes.rex);
        match byte {
            0x66 => prefixes.operand = true,
            0x67 => prefixes.address = true,
            0x64 => prefixes.segment = registers.fs,
            0x65 => prefixes.segment = registers.gs,
            0x26 | 0x2e | 0x36 | 0x3e | 0xf0 | 0xf2 | 0xf3 => {}
            0x40..=0x4f => prefixes.rex = *byte,
            _ => {
                // A REX prefix counts only right before the opcode.
                (prefixes.rex, prefixes.opcode) = (rex, at);
                return Some(prefixes);
            }
        }
    }
    None
}

/// Whether an opcode has a ModRM byte, and how many bytes of immediate follow its operand. `extension` is ModRM's register.
const fn one_byte(opcode: u8, extension: u8, word: usize) -> Option<usize> {
    match opcode {
        0x00..=0x3f if opcode & 7 < 4 => Some(0),
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => Some(0),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => Some(1),
        0x69 | 0x81 | 0xc7 => Some(word),
        0xf6 => Some(if extension < 2 { 1 } else { 0 }),
        0xf7 => Some(if extension < 2 { word } else { 0 }),
        _ => None,
    }
}

const fn two_byte(opcode: u8) -> Option<usize> {
    match opcode {
        0x05..=0x0c | 0x0e | 0x30..=0x37 | 0x77 | 0x80..=0x8f | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => None,
        0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => Some(1),
        _ => Some(0),
    }
}

/// The address of an instruction's only operand in memory, and the instruction's length.
pub fn memory_operand(bytes: &[u8], registers: &Registers<'_>) -> Option<(u64, u8)> {
    let prefixes = prefixes(bytes, registers)?;
    let (address, length) = modrm_operand(bytes, &prefixes, registers)?;
    let address = address.wrapping_add(prefixes.segment);
    Some((if prefixes.address { address & 0xffff_ffff } else { address }, length as u8))
}

/// The address that ModRM, SIB and displacement name, and where the instruction ends.
fn modrm_operand(bytes: &[u8], prefixes: &Prefixes, registers: &Registers<'_>) -> Option<(u64, usize)> {
    let byte = |at: usize| bytes.get(at).copied();
    let word = if prefixes.operand { 2 } else { 4 };
    let (opcode, mut at) = (byte(prefixes.opcode)?, prefixes.opcode + 1);
    let immediate = if opcode != 0x0f {
        one_byte(opcode, byte(at)? >> 3 & 7, word)?
    } else {
        let second = byte(at)?;
        at += 1;
        match second {
            0x38 => {
                at += 1;
                0
            }
            0x3a => {
                at += 1;
                1
            }
            _ => two_byte(second)?,
        }
    };
    let modrm = byte(at)?;
    at += 1;
    let (mode, low) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return None;
    }
    let general = |number: u8, high: u8| registers.general.get(usize::from(number | high << 3)).copied().unwrap_or(0);
    let (rex_b, rex_x) = (prefixes.rex & 1, prefixes.rex >> 1 & 1);
    let mut address = 0u64;
    let mut far = mode == 2;
    let mut relative = false;
    if low == 4 {
        let sib = byte(at)?;
        at += 1;
        let (base, index) = (sib & 7, sib >> 3 & 7);
        if index != 4 || rex_x != 0 {
            address = general(index, rex_x) << (sib >> 6);
        }
        if base == 5 && mode == 0 {
            far = true;
        } else {
            address = address.wrapping_add(general(base, rex_b));
        }
    } else if low == 5 && mode == 0 {
        (far, relative) = (true, true);
    } else {
        address = general(low, rex_b);
    }
    if far {
        let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>())?;
        at += 4;
        address = address.wrapping_add(i32::from_le_bytes(*bytes) as u64);
    } else if mode == 1 {
        address = address.wrapping_add(byte(at)? as i8 as u64);
        at += 1;
    }
    if relative {
        address = address.wrapping_add(registers.rip).wrapping_add((at + immediate) as u64);
    }
    Some((address, at + immediate))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIP: u64 = 0xffff_ffff_8100_0000;

    fn of(bytes: &[u8]) -> Vec<u64> {
        let mut general = [0; 16];
        (0u64..).zip(&mut general).for_each(|(number, register)| *register = 0x1_0000 * (number + 1));
        let registers = Registers { general: &general, rip: RIP, fs: 0x7000_0000, gs: 0xffff_8880_0000_0000 };
        candidates(bytes, &registers).into_iter().flatten().collect()
    }

    #[test]
    fn registers_index_and_displacement_make_an_address() {
        assert_eq!(of(&[0x8b, 0x03]), [0x4_0000], "mov eax, [rbx]");
        assert_eq!(of(&[0x89, 0x43, 0xf8]), [0x3_fff8], "mov [rbx - 8], eax");
        assert_eq!(of(&[0x48, 0x8b, 0x84, 0x8b, 0x00, 0x01, 0, 0]), [0x4_0100 + 4 * 0x2_0000], "[rbx + rcx*4 + 100h]");
        assert_eq!(of(&[0x43, 0x8b, 0x04, 0x27]), [0x10_0000 + 0xd_0000], "[r15 + r12]");
        assert_eq!(of(&[0x8b, 0x04, 0x25, 0x00, 0x00, 0xe0, 0xfe]), [0xffff_ffff_fee0_0000], "[fee00000h]");
        assert_eq!(of(&[0x67, 0x8b, 0x04, 0x25, 0x00, 0x00, 0xe0, 0xfe]), [0xfee0_0000], "with a 32-bit address");
        assert_eq!(of(&[0x8b, 0x04, 0x24]), [0x5_0000], "[rsp]");
        assert_eq!(of(&[0x8b, 0x45, 0x10]), [0x6_0010], "[rbp + 16]");
    }

    #[test]
    fn an_address_relative_to_rip_counts_from_the_next_instruction() {
        assert_eq!(of(&[0x8b, 0x05, 0x10, 0, 0, 0]), [RIP + 6 + 0x10]);
        assert_eq!(of(&[0xc7, 0x05, 0x10, 0, 0, 0, 1, 0, 0, 0]), [RIP + 10 + 0x10]);
        assert_eq!(of(&[0x66, 0xc7, 0x05, 0x10, 0, 0, 0, 1, 0]), [RIP + 9 + 0x10]);
        assert_eq!(of(&[0xf6, 0x05, 0x10, 0, 0, 0, 1]), [RIP + 7 + 0x10], "test byte");
        assert_eq!(of(&[0xf7, 0x1d, 0x10, 0, 0, 0]), [RIP + 6 + 0x10], "neg has no immediate");
        assert_eq!(of(&[0x0f, 0xba, 0x25, 0x10, 0, 0, 0, 3]), [RIP + 8 + 0x10], "bt");
        assert_eq!(of(&[0x0f, 0xb6, 0x05, 0xf0, 0xff, 0xff, 0xff]), [RIP + 7 - 0x10], "movzx");
    }

    #[test]
    fn segments_with_a_base_count() {
        assert_eq!(of(&[0x65, 0x48, 0x8b, 0x03]), [0xffff_8880_0004_0000]);
        assert_eq!(of(&[0x64, 0x8b, 0x03]), [0x7004_0000]);
        assert_eq!(of(&[0x2e, 0x8b, 0x03]), [0x4_0000]);
    }

    #[test]
    fn strings_and_the_stack_have_addresses_of_their_own() {
        assert_eq!(of(&[0xf3, 0xa4]), [0x7_0000, 0x8_0000]);
        assert_eq!(of(&[0xf3, 0x48, 0xab]), [0x8_0000]);
        assert_eq!(of(&[0xac]), [0x7_0000]);
        assert_eq!(of(&[0x50]), [0x4_fff8]);
        assert_eq!(of(&[0xc3]), [0x5_0000]);
        assert_eq!(of(&[0xff, 0x33]), [0x4_0000, 0x4_fff8], "push [rbx]");
        assert_eq!(of(&[0xa1, 1, 2, 3, 4, 5, 6, 7, 8]), [0x0807_0605_0403_0201]);
    }

    #[test]
    fn what_has_no_operand_in_memory_has_no_address() {
        for bytes in
            [&[0x90][..], &[0x89, 0xd8], &[0x0f, 0xa2], &[0xb8, 1, 0, 0, 0], &[0x74, 5], &[], &[0x66; 15], &[0x8b]]
        {
            assert_eq!(of(bytes), [0u64; 0], "{bytes:x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(0u8..=255, 0..16)) {
            of(&bytes);
        }
    }
}
