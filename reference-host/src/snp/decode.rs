// SPDX-License-Identifier: MIT OR Apache-2.0
//! The instructions that the model must recognise because QEMU does not know them, or does not say how long they are (APM
//! vol. 3).

/// What stands at RIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// F2 0F 01 FF.
    Pvalidate,
    /// F3 0F 01 FE.
    Rmpadjust,
    /// F3 0F 01 FD.
    Rmpquery,
    /// F3 0F 01 D9.
    Vmgexit,
    /// 0F 01 D9.
    Vmmcall,
    /// 0F 01 FE, without a prefix.
    Invlpgb,
    /// 0F 01 FF, without a prefix.
    Tlbsync,
    /// MOV to a control register: its number, and the register moved.
    MovToControl(u8, u8),
    /// MOV from a control register.
    MovFromControl(u8, u8),
    /// 0F 06.
    Clts,
    /// 0F 32 or 0F 30.
    Msr,
    /// F4.
    Hlt,
    /// Anything else; the length is not known.
    Other,
}

/// An instruction and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Which.
    pub kind: Kind,
    /// In bytes; 0 for [`Kind::Other`].
    pub length: u8,
}

const REPNE: u8 = 0xf2;
const REP: u8 = 0xf3;

/// Decodes what `bytes` begin with. `long`: 64-bit code, where 40h to 4Fh are prefixes.
pub fn decode(bytes: &[u8], long: bool) -> Instruction {
    let mut rest = bytes.iter().copied();
    let (mut repeat, mut operand, mut rex, mut length) = (0u8, false, 0u8, 0u8);
    let opcode = loop {
        let Some(byte) = rest.next() else { return OTHER };
        length += 1;
        match byte {
            REPNE | REP => repeat = byte,
            0x66 => operand = true,
            0x67 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 => {}
            0x40..=0x4f if long => {
                rex = byte;
                continue;
            }
            _ => break byte,
        }
        // A REX prefix counts only right before the opcode.
        rex = 0;
    };
    if opcode == 0xf4 {
        return Instruction { kind: Kind::Hlt, length };
    }
    let (0x0f, Some(second)) = (opcode, rest.next()) else { return OTHER };
    length += 1;
    let kind = match second {
        0x06 => Kind::Clts,
        0x30 | 0x32 => Kind::Msr,
        0x01 | 0x20 | 0x22 => {
            let Some(third) = rest.next() else { return OTHER };
            length += 1;
            // ModRM: the register fields, each with its bit of REX.
            let (control, general) = (third >> 3 & 7 | (rex & 4) << 1, third & 7 | (rex & 1) << 3);
            match (second, third, repeat) {
                (0x20, ..) => Kind::MovFromControl(control, general),
                (0x22, ..) => Kind::MovToControl(control, general),
                _ if operand => return OTHER,
                (_, 0xff, REPNE) => Kind::Pvalidate,
                (_, 0xfe, REP) => Kind::Rmpadjust,
                (_, 0xfd, REP) => Kind::Rmpquery,
                (_, 0xd9, REP) => Kind::Vmgexit,
                (_, 0xd9, _) => Kind::Vmmcall,
                (_, 0xfe, 0) => Kind::Invlpgb,
                (_, 0xff, 0) => Kind::Tlbsync,
                _ => return OTHER,
            }
        }
        _ => return OTHER,
    };
    Instruction { kind, length }
}

const OTHER: Instruction = Instruction { kind: Kind::Other, length: 0 };

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bytes: &[u8]) -> (Kind, u8) {
        let found = decode(bytes, true);
        (found.kind, found.length)
    }

    #[test]
    fn each_instruction_is_told_by_its_prefix() {
        assert_eq!(at(&[0xf2, 0x0f, 0x01, 0xff, 0x90]), (Kind::Pvalidate, 4));
        assert_eq!(at(&[0xf3, 0x0f, 0x01, 0xfe]), (Kind::Rmpadjust, 4));
        assert_eq!(at(&[0xf3, 0x0f, 0x01, 0xfd]), (Kind::Rmpquery, 4));
        assert_eq!(at(&[0xf3, 0x0f, 0x01, 0xd9]), (Kind::Vmgexit, 4));
        assert_eq!(at(&[0x0f, 0x01, 0xd9]), (Kind::Vmmcall, 3));
        assert_eq!(at(&[0x0f, 0x01, 0xfe]), (Kind::Invlpgb, 3));
        assert_eq!(at(&[0x0f, 0x01, 0xff]), (Kind::Tlbsync, 3));
        // The host's instructions are not a guest's.
        assert_eq!(at(&[0xf2, 0x0f, 0x01, 0xfe]).0, Kind::Other);
        assert_eq!(at(&[0xf3, 0x0f, 0x01, 0xff]).0, Kind::Other);
    }

    #[test]
    fn registers_need_their_rex_bits() {
        assert_eq!(at(&[0x0f, 0x22, 0xc0]), (Kind::MovToControl(0, 0), 3));
        assert_eq!(at(&[0x41, 0x0f, 0x22, 0xd9]), (Kind::MovToControl(3, 9), 4));
        assert_eq!(at(&[0x44, 0x0f, 0x20, 0xc0]), (Kind::MovFromControl(8, 0), 4));
        assert_eq!(decode(&[0x41, 0x0f, 0x22, 0xd9], false).kind, Kind::Other, "INC ECX in 32-bit code");
    }

    #[test]
    fn short_or_endless_input_is_nothing() {
        for bytes in [&[][..], &[0x0f], &[0x0f, 0x01], &[0xf3; 15], &[0x66, 0xf3, 0x0f, 0x01, 0xd9]] {
            assert_eq!(at(bytes), (Kind::Other, 0), "{bytes:x?}");
        }
        assert_eq!(at(&[0xf4]), (Kind::Hlt, 1));
        assert_eq!(at(&[0x48, 0x0f, 0x32]), (Kind::Msr, 3));
    }
}
