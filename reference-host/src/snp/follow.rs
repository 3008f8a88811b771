// SPDX-License-Identifier: MIT OR Apache-2.0
//! Goes on with a guest from one exit to the next where nothing but a few register instructions lie in between, so that
//! runs of exits cost one world switch and not one each (Agesen and others, "Software Techniques for Avoiding Hardware
//! Virtualization Exits", USENIX ATC 2012). Under QEMU a switch costs some 15 µs, and a kernel that rescinds 64 MiB executes
//! PVALIDATE 16,384 times in a row.
//!
//! 64-bit code at CPL 0 only, without a trap flag. Instructions are MOV, TEST, ADD, SUB, AND, OR, XOR and CMP between
//! registers or with a constant, INC and DEC, LEA of a register and a constant, jumps, and NOP (APM vol. 3); at anything else the
//! guest goes on by itself from where it was.

use super::decode::{Kind, decode};

/// So many instructions between two exits, at most.
const LIMIT: usize = 16;
/// What is read of an instruction: enough for all that are known here.
pub const WINDOW: usize = 8;

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// What the instructions change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The general registers, in encoding order.
    pub general: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

/// An instruction that exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// PVALIDATE or RMPADJUST, as #UD.
    OnPage,
    /// VMGEXIT.
    Vmgexit,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
}

/// Goes on to the next instruction that exits. `None`, and `state` means nothing, if that is not near. `fetch` reads what
/// stands at an address, as far as it is known to be code.
pub fn follow(state: &mut State, fetch: impl Fn(u64) -> Option<[u8; WINDOW]>) -> Option<Exit> {
    for _ in 0..LIMIT {
        let bytes = fetch(state.rip)?;
        // None of the instructions that are known here exits.
        if state.execute(&bytes).is_some() {
            continue;
        }
        return match (decode(&bytes, true).kind, bytes) {
            (Kind::Pvalidate | Kind::Rmpadjust, _) => Some(Exit::OnPage),
            (Kind::Vmgexit, _) => Some(Exit::Vmgexit),
            (Kind::Msr, [0x0f, 0x32, ..]) => Some(Exit::ReadMsr),
            (Kind::Msr, [0x0f, 0x30, ..]) => Some(Exit::WriteMsr),
            _ => None,
        };
    }
    None
}

/// Operations by their number in opcodes and in ModRM.
const ADD: u8 = 0;
const OR: u8 = 1;
const AND: u8 = 4;
const SUB: u8 = 5;
const XOR: u8 = 6;
const CMP: u8 = 7;

impl State {
    /// One instruction, if it is known here; otherwise nothing changes.
    fn execute(&mut self, bytes: &[u8; WINDOW]) -> Option<()> {
        let (rex, code) = match bytes {
            [rex @ 0x40..=0x4f, rest @ ..] => (*rex, rest),
            [rest @ .., _] => (0, rest),
        };
        let length = u64::from(rex != 0);
        let wide = rex & 8 != 0;
        // ModRM's two registers; memory has another mode.
        let pair =
            |modrm: u8| (modrm >> 6 == 3).then_some((modrm & 7 | (rex & 1) << 3, modrm >> 3 & 7 | (rex & 4) << 1));
        let mut next = self.rip.wrapping_add(length);
        match *code {
            [0x90, ..] if rex == 0 => next = next.wrapping_add(1),
            [0x89, modrm, ..] => {
                let (to, from) = pair(modrm)?;
                self.set(to, wide, self.get(from));
                next = next.wrapping_add(2);
            }
            [0x8b, modrm, ..] => {
                let (from, to) = pair(modrm)?;
                self.set(to, wide, self.get(from));
                next = next.wrapping_add(2);
            }
            [0x85, modrm, ..] => {
                let (one, other) = pair(modrm)?;
                self.calculate(AND, wide, None, self.get(one), self.get(other))?;
                next = next.wrapping_add(2);
            }
            [opcode @ 0x00..=0x3f, modrm, ..] if opcode & 7 == 1 => {
                let (to, from) = pair(modrm)?;
                self.calculate(opcode >> 3, wide, Some(to), self.get(to), self.get(from))?;
                next = next.wrapping_add(2);
            }
            [opcode @ 0x00..=0x3f, modrm, ..] if opcode & 7 == 3 => {
                let (from, to) = pair(modrm)?;
                self.calculate(opcode >> 3, wide, Some(to), self.get(to), self.get(from))?;
                next = next.wrapping_add(2);
            }
            [0x83, modrm, constant, ..] => {
                let (to, _) = pair(modrm)?;
                self.calculate(modrm >> 3 & 7, wide, Some(to), self.get(to), extend(constant as i8))?;
                next = next.wrapping_add(3);
            }
            [0x81, modrm, a, b, c, d, ..] => {
                let (to, _) = pair(modrm)?;
                let constant = extend(i32::from_le_bytes([a, b, c, d]));
                self.calculate(modrm >> 3 & 7, wide, Some(to), self.get(to), constant)?;
                next = next.wrapping_add(6);
            }
            [opcode @ 0xb8..=0xbf, a, b, c, d, ..] if !wide => {
                self.set(opcode & 7 | (rex & 1) << 3, false, u32::from_le_bytes([a, b, c, d]).into());
                next = next.wrapping_add(5);
            }
            [0xff, modrm, ..] if modrm >> 3 & 7 <= 1 => {
                let (to, _) = pair(modrm)?;
                let carry = self.rflags & CF;
                self.calculate(if modrm & 8 == 0 { ADD } else { SUB }, wide, Some(to), self.get(to), 1)?;
                // They leave CF alone.
                self.rflags = self.rflags & !CF | carry;
                next = next.wrapping_add(2);
            }
            // LEA, without an index.
            [0x8d, modrm, a, b, c, d, ..] if modrm & 7 != 4 && matches!(modrm >> 6, 1 | 2) => {
                let short = modrm >> 6 == 1;
                let offset = if short { extend(a as i8) } else { extend(i32::from_le_bytes([a, b, c, d])) };
                let base = self.get(modrm & 7 | (rex & 1) << 3);
                self.set(modrm >> 3 & 7 | (rex & 4) << 1, wide, base.wrapping_add(offset));
                next = next.wrapping_add(if short { 3 } else { 6 });
            }
            [opcode @ (0x70..=0x7f | 0xeb), offset, ..] => {
                next = next.wrapping_add(2);
                if opcode == 0xeb || self.holds(opcode & 0xf) {
                    next = next.wrapping_add(extend(offset as i8));
                }
            }
            [0x0f, opcode @ 0x80..=0x8f, a, b, c, d, ..] => {
                next = next.wrapping_add(6);
                if self.holds(opcode & 0xf) {
                    next = next.wrapping_add(extend(i32::from_le_bytes([a, b, c, d])));
                }
            }
            _ => return None,
        }
        self.rip = next;
        Some(())
    }

    fn get(&self, register: u8) -> u64 {
        self.general.get(usize::from(register)).copied().unwrap_or(0)
    }

    /// A result of 32 bits clears the upper half.
    fn set(&mut self, register: u8, wide: bool, value: u64) {
        if let Some(slot) = self.general.get_mut(usize::from(register)) {
            *slot = if wide { value } else { value & 0xffff_ffff };
        }
    }

    /// One of the eight operations of the opcode map, and its flags (APM vol. 1, 3.1.4). CMP, and TEST, keep no result.
    fn calculate(&mut self, operation: u8, wide: bool, to: Option<u8>, a: u64, b: u64) -> Option<()> {
        let (mask, sign) = if wide { (u64::MAX, 1 << 63) } else { (0xffff_ffff, 1 << 31) };
        let (a, b) = (a & mask, b & mask);
        let (result, carry, overflow) = match operation {
            ADD => {
                let sum = a.wrapping_add(b) & mask;
                (sum, sum < a, !(a ^ b) & (a ^ sum) & sign != 0)
            }
            SUB | CMP => {
                let difference = a.wrapping_sub(b) & mask;
                (difference, a < b, (a ^ b) & (a ^ difference) & sign != 0)
            }
            AND => (a & b, false, false),
            OR => (a | b, false, false),
            XOR => (a ^ b, false, false),
            _ => return None,
        };
        // Undefined after the three logical ones.
        let auxiliary = matches!(operation, ADD | SUB | CMP) && (a ^ b ^ result) & 0x10 != 0;
        let flags = [
            (CF, carry),
            (PF, (result as u8).count_ones().is_multiple_of(2)),
            (AF, auxiliary),
            (ZF, result == 0),
            (SF, result & sign != 0),
            (OF, overflow),
        ];
        for (bit, on) in flags {
            self.rflags = if on { self.rflags | bit } else { self.rflags & !bit };
        }
        if let Some(to) = to.filter(|_| operation != CMP) {
            self.set(to, wide, result);
        }
        Some(())
    }

    /// A condition by its number (APM vol. 3, table A-1, Jcc).
    fn holds(&self, condition: u8) -> bool {
        let is = |bit: u64| self.rflags & bit != 0;
        let less = is(SF) != is(OF);
        let plain = match condition >> 1 {
            0 => is(OF),
            1 => is(CF),
            2 => is(ZF),
            3 => is(CF) || is(ZF),
            4 => is(SF),
            5 => is(PF),
            6 => less,
            _ => less || is(ZF),
        };
        plain != (condition & 1 != 0)
    }
}

/// Sign extension to 64 bits.
fn extend(value: impl Into<i64>) -> u64 {
    value.into() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: u64 = 0xffff_ffff_8107_6000;

    fn state(rip: u64) -> State {
        State { general: [0; 16], rip, rflags: 2 }
    }

    fn run(code: &[u8], state: &mut State) -> Option<Exit> {
        follow(state, |rip| {
            let mut window = [0; WINDOW];
            let at = usize::try_from(rip.checked_sub(BASE)?).ok()?;
            let rest = code.get(at..).filter(|rest| !rest.is_empty())?;
            let length = rest.len().min(WINDOW);
            window[..length].copy_from_slice(&rest[..length]);
            Some(window)
        })
    }

    /// The loop of Linux 6.1's `pvalidate_pages`.
    #[test]
    fn a_kernels_loop_leads_to_its_next_pvalidate() {
        let code = [
            0x85, 0xc0, //                                test eax, eax
            0x75, 0x1e, //                                jne out
            0x48, 0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, //  add rsi, 1000h
            0x48, 0x39, 0xfe, //                          cmp rsi, rdi
            0x73, 0x32, //                                jae out
            0x48, 0x89, 0xf0, //                          mov rax, rsi
            0xf2, 0x0f, 0x01, 0xff, //                    pvalidate
            0x41, 0x89, 0xc0, //                          mov r8d, eax
            0x73, 0xe4, //                                jae start
        ];
        let mut at = state(BASE + 23);
        (at.general[6], at.general[7], at.general[8]) = (0x7fff_e000, 0x8000_0000, u64::MAX);
        assert_eq!(run(&code, &mut at), Some(Exit::OnPage));
        assert_eq!((at.rip, at.general[0], at.general[6], at.general[8]), (BASE + 19, 0x7fff_f000, 0x7fff_f000, 0));
        assert_eq!(at.rflags & (CF | ZF | SF), CF | SF);
        // The last page: the way out is not known.
        (at.rip, at.general[0]) = (BASE + 23, 0);
        at.rflags &= !CF;
        assert_eq!(run(&code, &mut at), None);
    }

    /// Parados's loop over the small pages of 2 MiB (`platform-snp/src/accept.rs`).
    #[test]
    fn a_loop_of_rmpadjust_leads_to_its_next_one() {
        let code = [
            0x49, 0xff, 0xc3, //                          inc r11
            0x74, 0xcb, //                                je out
            0x4c, 0x8d, 0xa8, 0x00, 0x10, 0x00, 0x00, //  lea r13, [rax + 1000h]
            0xba, 0x02, 0x0f, 0x00, 0x00, //              mov edx, f02h
            0x31, 0xc9, //                                xor ecx, ecx
            0xf3, 0x0f, 0x01, 0xfe, //                    rmpadjust
            0x48, 0x89, 0xc1, //                          mov rcx, rax
            0x4c, 0x89, 0xe8, //                          mov rax, r13
            0x85, 0xc9, //                                test ecx, ecx
            0x74, 0xdf, //                                je start
        ];
        let mut at = state(BASE + 23);
        (at.general[2], at.general[11], at.general[13]) = (u64::MAX, 0u64.wrapping_sub(2), 0x8000_1000);
        assert_eq!(run(&code, &mut at), Some(Exit::OnPage));
        assert_eq!((at.rip, at.general[0], at.general[1]), (BASE + 19, 0x8000_1000, 0));
        assert_eq!((at.general[2], at.general[11], at.general[13]), (0xf02, u64::MAX, 0x8000_2000));
        // The last page: the way out is not known.
        (at.rip, at.general[0]) = (BASE + 23, 0);
        assert_eq!(run(&code, &mut at), None);
    }

    #[test]
    fn inc_and_dec_leave_the_carry_alone() {
        for (modrm, before, after, flags) in [
            (0xc0, u64::MAX, 0, ZF | PF | AF),
            (0xc8, 0, u64::MAX, SF | PF | AF),
            (0xc0, u64::MAX >> 1, 1 << 63, OF | SF | PF | AF),
        ] {
            for carry in [0, CF] {
                let mut at = State { rflags: 2 | carry, ..state(BASE) };
                at.general[0] = before;
                assert_eq!(run(&[0x48, 0xff, modrm, 0x0f, 0x30], &mut at), Some(Exit::WriteMsr));
                assert_eq!((at.general[0], at.rflags), (after, 2 | carry | flags));
            }
        }
        // INC of memory, CALL, PUSH.
        for code in [[0xff, 0x00, 0x90], [0xff, 0xd0, 0x90], [0xff, 0xf0, 0x90]] {
            assert_eq!(run(&code, &mut state(BASE)), None);
        }
    }

    #[test]
    fn lea_takes_a_register_and_an_offset() {
        let lea = |code: &[u8]| {
            let mut at = state(BASE);
            (at.general[1], at.general[5]) = (0x1_0000_0000, 0x20);
            run(&[code, &[0x0f, 0x30]].concat(), &mut at).map(|_| at.general[3])
        };
        assert_eq!(lea(&[0x48, 0x8d, 0x59, 0xff]), Some(0xffff_ffff));
        assert_eq!(lea(&[0x48, 0x8d, 0x5d, 0x08]), Some(0x28));
        assert_eq!(lea(&[0x8d, 0x99, 0x00, 0x10, 0x00, 0x00]), Some(0x1000), "32 bits of it");
        // An index, no offset, RIP, a register.
        for code in [
            &[0x48, 0x8d, 0x5c, 0x09, 0x08][..],
            &[0x48, 0x8d, 0x19],
            &[0x48, 0x8d, 0x1d, 0, 0, 0, 0],
            &[0x48, 0x8d, 0xd9],
        ] {
            assert_eq!(lea(code), None, "{code:x?}");
        }
    }

    #[test]
    fn the_two_halves_of_a_call_to_the_host_are_told_apart() {
        for (code, exit) in [
            (&[0xf3, 0x0f, 0x01, 0xd9][..], Some(Exit::Vmgexit)),
            (&[0x90, 0x0f, 0x30], Some(Exit::WriteMsr)),
            (&[0x0f, 0x32], Some(Exit::ReadMsr)),
            // CPUID, REP WRMSR, a read of memory, ADC, nothing.
            (&[0x0f, 0xa2], None),
            (&[0xf3, 0x0f, 0x30], None),
            (&[0x48, 0x8b, 0x00], None),
            (&[0x48, 0x11, 0xc0], None),
            (&[], None),
        ] {
            assert_eq!(run(code, &mut state(BASE)), exit, "{code:x?}");
        }
    }

    #[test]
    fn no_loop_is_followed_for_ever() {
        assert_eq!(run(&[0xeb, 0xfe], &mut state(BASE)), None);
        assert_eq!(run(&[0xeb, 0x80], &mut state(BASE)), None, "to where no code is known");
    }

    #[test]
    fn jumps_of_either_length_obey_all_conditions() {
        // JO to JG; what must hold in the flags for each, and for its opposite the contrary.
        let cases = [OF, CF, ZF, CF, SF, PF, SF, ZF];
        for (condition, flag) in (0u8..).step_by(2).zip(cases) {
            for (flags, jumps) in [(flag, true), (0, false)] {
                for opposite in [0, 1] {
                    let jumps = jumps != (opposite == 1);
                    let short = [0x70 + condition + opposite, 0x7f, 0x0f, 0x30];
                    let near = [0x0f, 0x80 + condition + opposite, 0, 1, 0, 0, 0x0f, 0x30];
                    for code in [&short[..], &near] {
                        let mut at = State { rflags: 2 | flags, ..state(BASE) };
                        assert_eq!(run(code, &mut at).is_none(), jumps, "{code:x?} with {flags:x}");
                    }
                }
            }
        }
        let less_and_overflow = State { rflags: SF | OF, ..state(0) };
        assert!(!less_and_overflow.holds(0xc) && less_and_overflow.holds(0xd));
    }

    proptest! {
        #[test]
        fn sums_and_differences_have_the_flags_of_exact_ones(a: u64, b: u64, wide: bool, minus: bool) {
            let code = [if wide { 0x48 } else { 0x40 }, if minus { 0x29 } else { 0x01 }, 0xd8, 0x0f, 0x30];
            let mut at = state(BASE);
            (at.general[0], at.general[3]) = (a, b);
            prop_assert_eq!(run(&code, &mut at), Some(Exit::WriteMsr));
            let bits = if wide { 64 } else { 32 };
            let mask = u128::from(u64::MAX >> (64 - bits));
            let (a, b) = (u128::from(a) & mask, u128::from(b) & mask);
            let signed = |value: u128| (value as i128) << (128 - bits) >> (128 - bits);
            let (whole, exact) = if minus {
                (a.wrapping_sub(b), signed(a) - signed(b))
            } else {
                (a + b, signed(a) + signed(b))
            };
            let result = whole & mask;
            prop_assert_eq!(u128::from(at.general[0]), result);
            let is = |bit| at.rflags & bit != 0;
            prop_assert_eq!(is(CF), whole > mask);
            prop_assert_eq!(is(OF), signed(result) != exact);
            prop_assert_eq!(is(ZF), result == 0);
            prop_assert_eq!(is(SF), signed(result) < 0);
            prop_assert_eq!(is(PF), (result & 0xff).count_ones() % 2 == 0);
            let nibble = if minus { (a & 0xf) < (b & 0xf) } else { (a & 0xf) + (b & 0xf) > 0xf };
            prop_assert_eq!(is(AF), nibble);
        }

        #[test]
        fn no_code_makes_it_fail(code: [u8; 32], general: [u64; 16], rflags: u64) {
            let mut at = State { general, rip: BASE, rflags };
            run(&code, &mut at);
        }

        #[test]
        fn what_is_not_known_changes_nothing(bytes: [u8; WINDOW], general: [u64; 16], rflags: u64) {
            let before = State { general, rip: BASE, rflags };
            let mut after = before;
            if after.execute(&bytes).is_none() {
                prop_assert_eq!(after, before);
            } else {
                prop_assert_eq!(decode(&bytes, true).kind, Kind::Other);
            }
        }
    }
}
