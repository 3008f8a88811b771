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
    /// 0F 01 /6, LMSW: its register, or none if the operand is in memory, and then the length is 0.
    Lmsw(Option<u8>),
    /// 0F 06.
    Clts,
    /// 0F 32 or 0F 30.
    Msr,
    /// F4.
    Hlt,
    /// One that a host intercepts and that has no operands in memory: only its length counts.
    Plain,
    /// A port access.
    Port,
    /// Anything else; the length is not known.
    Other,
}

/// An instruction and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Which.
    pub kind: Kind,
    /// In bytes; 0 for [`Kind::Other`], and for LMSW of memory.
    pub length: u8,
    /// The last segment prefix, as EXITINFO1 of a port access numbers segments (ES, CS, SS, DS, FS, GS).
    pub segment: Option<u8>,
    /// An address-size prefix.
    pub address: bool,
}

const REPNE: u8 = 0xf2;
const REP: u8 = 0xf3;

/// Decodes what `bytes` begin with. `long`: 64-bit code, where 40h to 4Fh are prefixes.
pub fn decode(bytes: &[u8], long: bool) -> Instruction {
    let mut rest = bytes.iter().copied();
    let (mut repeat, mut operand, mut rex, mut length) = (0u8, false, 0u8, 0u8);
    let (mut segment, mut address) = (None, false);
    let opcode = loop {
        let Some(byte) = rest.next() else { return OTHER };
        length += 1;
        match byte {
            REPNE | REP => repeat = byte,
            0x66 => operand = true,
            0x67 => address = true,
            0x26 => segment = Some(0),
            0x2e => segment = Some(1),
            0x36 => segment = Some(2),
            0x3e => segment = Some(3),
            0x64 => segment = Some(4),
            0x65 => segment = Some(5),
            0xf0 => {}
            0x40..=0x4f if long => {
                rex = byte;
                continue;
            }
            _ => break byte,
        }
        // A REX prefix counts only right before the opcode.
        rex = 0;
    };
    let found = |kind, length| Instruction { kind, length, segment, address };
    match opcode {
        0xf4 => return found(Kind::Hlt, length),
        0xe4..=0xe7 => return found(Kind::Port, length + 1),
        0xec..=0xef | 0x6c..=0x6f => return found(Kind::Port, length),
        _ => {}
    }
    let (0x0f, Some(second)) = (opcode, rest.next()) else { return OTHER };
    length += 1;
    let kind = match second {
        0x06 => Kind::Clts,
        0x30 | 0x32 => Kind::Msr,
        // INVD, WBINVD, RDTSC, RDPMC, RSM, CPUID.
        0x08 | 0x09 | 0x31 | 0x33 | 0xa2 | 0xaa => Kind::Plain,
        // MOV to and from debug registers.
        0x21 | 0x23 => {
            length += 1;
            Kind::Plain
        }
        0x01 | 0x20 | 0x22 => {
            let Some(third) = rest.next() else { return OTHER };
            length += 1;
            // ModRM: the register fields, each with its bit of REX.
            let (control, general) = (third >> 3 & 7 | (rex & 4) << 1, third & 7 | (rex & 1) << 3);
            match (second, third, repeat) {
                (0x20, ..) => Kind::MovFromControl(control, general),
                (0x22, ..) => Kind::MovToControl(control, general),
                (_, 0xf0..=0xf7, _) => Kind::Lmsw(Some(general)),
                (_, third, _) if third >> 3 & 7 == 6 && third < 0xc0 => return found(Kind::Lmsw(None), 0),
                // MONITOR, MWAIT, VMRUN to INVLPGA, RDTSCP, RDPRU, and VMMCALL below: QEMU's decoder asks for no prefix.
                (_, 0xc8 | 0xc9 | 0xd8 | 0xda..=0xdf | 0xf9, _) | (_, 0xfd, 0 | REPNE) => Kind::Plain,
                (_, 0xd9, _) if operand => Kind::Vmmcall,
                _ if operand => return OTHER,
                (_, 0xff, REPNE) => Kind::Pvalidate,
                (_, 0xfe, REP) => Kind::Rmpadjust,
                (_, 0xfd, REP) => Kind::Rmpquery,
                (_, 0xd9, REP) => Kind::Vmgexit,
                (_, 0xd9, _) => Kind::Vmmcall,
                (_, 0xfe, 0) => Kind::Invlpgb,
                (_, 0xff, 0) => Kind::Tlbsync,
                (_, 0xd1, _) => Kind::Plain,
                _ => return OTHER,
            }
        }
        _ => return OTHER,
    };
    found(kind, length)
}

const OTHER: Instruction = Instruction { kind: Kind::Other, length: 0, segment: None, address: false };

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
        assert_eq!(at(&[0x41, 0x0f, 0x01, 0xf1]), (Kind::Lmsw(Some(9)), 4));
        assert_eq!(at(&[0x66, 0x0f, 0x01, 0xf0]), (Kind::Lmsw(Some(0)), 4));
        assert_eq!(at(&[0x0f, 0x01, 0x75, 0xf0]), (Kind::Lmsw(None), 0));
        assert_eq!(decode(&[0x41, 0x0f, 0x22, 0xd9], false).kind, Kind::Other, "INC ECX in 32-bit code");
    }

    #[test]
    fn what_a_host_intercepts_has_a_length() {
        for (bytes, length) in [
            (&[0x0f, 0xa2][..], 2),
            (&[0x0f, 0x09], 2),
            (&[0xf3, 0x0f, 0x09], 3),
            (&[0x0f, 0x23, 0xf8], 3),
            (&[0x0f, 0x01, 0xd1], 3),
            (&[0x0f, 0x01, 0xc8], 3),
        ] {
            assert_eq!(at(bytes), (Kind::Plain, length), "{bytes:x?}");
        }
        assert_eq!(at(&[0xe4, 0x60]), (Kind::Port, 2));
        assert_eq!(at(&[0x66, 0xef]), (Kind::Port, 2));
        assert_eq!(at(&[0x2e, 0x66, 0x0f, 0x01, 0xdc]), (Kind::Plain, 5), "STGI that QEMU takes with any prefix");
        assert_eq!(at(&[0x66, 0xf3, 0x0f, 0x01, 0xd9]), (Kind::Vmmcall, 5));
        let outs = decode(&[0xf3, 0x64, 0x67, 0x6e], true);
        assert_eq!((outs.kind, outs.length, outs.segment, outs.address), (Kind::Port, 4, Some(4), true));
    }

    #[test]
    fn short_or_endless_input_is_nothing() {
        for bytes in [&[][..], &[0x0f], &[0x0f, 0x01], &[0xf3; 15], &[0x66, 0xf2, 0x0f, 0x01, 0xff]] {
            assert_eq!(at(bytes), (Kind::Other, 0), "{bytes:x?}");
        }
        assert_eq!(at(&[0xf4]), (Kind::Hlt, 1));
        assert_eq!(at(&[0x48, 0x0f, 0x32]), (Kind::Msr, 3));
    }
}
