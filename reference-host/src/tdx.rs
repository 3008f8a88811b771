// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a TD starts: the first state of its processors, and the few calls that an image makes before it has a guest.
//!
//! This is no model of TDX: no secure EPT but the question whether a page was accepted, no #VE, no L2. It shows an image's start-up
//! code on a processor, from the reset vector to its end, and stops at everything that it does not know.
//!
//! Sources: TDXBASE, initial state of TD vCPUs (the values are those of the module's td_vmcs_init.c and tdh_vp_init.c); TDXABI, TDG
//! leaves; GHCI, TDG.VP.VMCALL. The software that runs may do anything.

use crate::memory::{BLOCK, PAGE, PageSet};
use specs::svm::VmcbSegment;
use specs::tdx::{attribute, initial, leaf, status, vmcall};
use specs::vmcb::VmcbSave;

/// The page with the reset vector, which no VM's RAM reaches.
pub const RESET_PAGE: u64 = initial::RIP & !(PAGE - 1);

/// The width of guest-physical addresses: four levels of tables.
pub const ADDRESS_BITS: u64 = 48;

/// What a host may leave in RCX and R8, and nobody is to believe.
const HOSTS_CHOICE: u64 = 0x0bad_0bad_0bad_0bad;

/// General-purpose registers by their numbers in instructions.
pub type Registers = [u64; 16];

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSI: usize = 6;
const RDI: usize = 7;

/// The first state of processor `index`.
///
/// Three bits are QEMU's and not a TD's: SVM wants its own in EFER, CR4.VMXE is unknown, and a processor that is to wait, other than
/// the first, has CR4.PAE set. Without it QEMU (7.2) would leave a guest that has EFER.LME and no paging with paging off for this
/// program as well.
pub fn first_state(save: &mut VmcbSave, registers: &mut Registers, index: u32, signature: u32) {
    let flat = |attributes| VmcbSegment { selector: 0, attributes, limit: u32::MAX, base: 0 };
    let table = |attributes| VmcbSegment { selector: 0, attributes, limit: 0xffff, base: 0 };
    const CODE: u16 = 0xc9b;
    const DATA: u16 = 0xc93;
    const BUSY_TASK: u16 = 0x8b;
    const SVME: u64 = 1 << 12;
    const VMXE: u64 = 1 << 13;
    const PAE: u64 = 1 << 5;
    (save.cs, save.tr, save.ldtr) = (flat(CODE), table(BUSY_TASK), table(0));
    (save.ds, save.es, save.ss, save.fs, save.gs) = (flat(DATA), flat(DATA), flat(DATA), flat(DATA), flat(DATA));
    (save.gdtr, save.idtr) = (table(0), table(0));
    (save.cr0, save.cr3, save.cr4) = (initial::CR0, 0, initial::CR4 & !VMXE);
    if index != 0 {
        save.cr4 |= PAE;
    }
    (save.efer, save.rip, save.rflags) = (initial::EFER | SVME, initial::RIP, 2);
    (save.dr6, save.dr7, save.g_pat) = (0xffff_0ff0, 0x400, 0x0007_0406_0007_0406);
    (save.rax, save.rsp) = (0, 0);
    *registers = [0; 16];
    let told =
        [(RBX, ADDRESS_BITS), (RCX, HOSTS_CHOICE), (RDX, signature.into()), (RSI, index.into()), (8, HOSTS_CHOICE)];
    for (register, value) in told {
        set(registers, register, value);
    }
}

/// ATTRIBUTES for an image's policy (IGVM, `TdxPolicy`).
pub const fn attributes(policy: u64) -> u64 {
    let mut attributes = 0;
    if policy & 1 << 0 != 0 {
        attributes |= attribute::DEBUG;
    }
    if policy & 1 << 1 != 0 {
        attributes |= attribute::SEPT_VE_DISABLE;
    }
    if policy & 1 << 2 != 0 {
        attributes |= attribute::MIGRATABLE;
    }
    attributes
}

/// A TD, as far as its processors can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Td {
    /// ATTRIBUTES.
    pub attributes: u64,
    /// How many processors it has.
    pub processors: u32,
}

/// What becomes of a TDCALL. But for the end, RIP moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The registers have the answer.
    Done,
    /// Private memory was accepted: these bytes at this address are to be zero, and there.
    Accepted(u64, u64),
    /// A byte for a port.
    Output(u16, u8),
    /// The processor sleeps.
    Sleep,
    /// The TD reports a fatal error: code and message.
    Fatal(u64, [u8; 64]),
    /// Leaf, and function if it is a TDG.VP.VMCALL: nothing that is played here.
    Unknown(u64, u64),
}

impl Td {
    /// Carries out the TDCALL of processor `index`. `placed` are the pages that are private memory already.
    pub fn call(&self, registers: &mut Registers, index: u32, placed: &mut PageSet<'_>) -> Outcome {
        match get(registers, RAX) {
            leaf::VP_INFO => {
                let count = u64::from(self.processors);
                let answer = [(RCX, ADDRESS_BITS), (RDX, self.attributes), (8, count | count << 32), (9, index.into())];
                answer.into_iter().chain([(10, 1), (11, 0)]).for_each(|(at, value)| set(registers, at, value));
                answered(registers, status::SUCCESS, 0)
            }
            leaf::MEM_PAGE_ACCEPT => accept(registers, placed),
            leaf::VP_VMCALL => host_call(registers),
            other => Outcome::Unknown(other, 0),
        }
    }
}

/// TDG.MEM.PAGE.ACCEPT. The host has given every page of the VM's RAM, by 2 MiB where none of them was placed.
fn accept(registers: &mut Registers, placed: &mut PageSet<'_>) -> Outcome {
    const LEVEL: u64 = 7;
    let operand = get(registers, RCX);
    let (gpa, bytes) = (operand & !LEVEL, if operand & LEVEL == 1 { BLOCK } else { PAGE });
    if operand & LEVEL > 1 || !gpa.is_multiple_of(bytes) || !placed.knows(gpa) || !placed.knows(gpa + bytes - 1) {
        return answered(registers, status::OPERAND_INVALID, 1);
    }
    let pages = || (gpa..gpa + bytes).step_by(PAGE as usize);
    if pages().any(|page| placed.contains(page)) {
        let refused = if bytes == PAGE { status::PAGE_ALREADY_ACCEPTED } else { status::PAGE_SIZE_MISMATCH };
        return answered(registers, refused, 0);
    }
    pages().for_each(|page| {
        placed.insert(page);
    });
    answered(registers, status::SUCCESS, 0);
    Outcome::Accepted(gpa, bytes)
}

/// TDG.VP.VMCALL.
fn host_call(registers: &mut Registers) -> Outcome {
    // What the module lets nobody show: RAX, RCX, RSP, and anything above the general-purpose and XMM registers.
    const NEVER: u64 = !0xffff_ffff | 1 << RAX | 1 << RCX | 1 << 4;
    let (shown, function) = (get(registers, RCX), get(registers, 11));
    if shown & NEVER != 0 {
        return answered(registers, status::OPERAND_INVALID, RCX as u32);
    }
    // A host sees zero in place of a register that it is not shown.
    let seen = |register: usize| if shown & 1 << register != 0 { get(registers, register) } else { 0 };
    let (function, arguments) = (if seen(10) == 0 { seen(11) } else { function }, [12, 13, 14, 15].map(seen));
    let outcome = match (seen(10), function, arguments) {
        (0, vmcall::IO, [1, 1, port @ 0..=0xffff, value]) => Outcome::Output(port as u16, value as u8),
        (0, vmcall::HLT, _) => Outcome::Sleep,
        (0, vmcall::REPORT_FATAL_ERROR, [code, ..]) => {
            // Linux's order (arch/x86/coco/tdx/tdx.c).
            let words = [14, 15, RBX, RDI, RSI, 8, 9, RDX].map(seen);
            let mut message = [0; 64];
            for (to, word) in message.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *to = word.to_le_bytes();
            }
            Outcome::Fatal(code, message)
        }
        _ => Outcome::Unknown(leaf::VP_VMCALL, function),
    };
    set(registers, 10, 0);
    answered(registers, status::SUCCESS, 0);
    outcome
}

fn answered(registers: &mut Registers, status: u32, detail: u32) -> Outcome {
    set(registers, RAX, u64::from(status) << 32 | u64::from(detail));
    Outcome::Done
}

fn get(registers: &Registers, register: usize) -> u64 {
    registers.get(register).copied().unwrap_or_default()
}

fn set(registers: &mut Registers, register: usize, value: u64) {
    if let Some(slot) = registers.get_mut(register) {
        *slot = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMap;
    use zerocopy::FromZeros;

    const TD: Td = Td { attributes: attribute::SEPT_VE_DISABLE, processors: 3 };

    fn call(registers: &mut Registers, placed: &[u64]) -> (Outcome, u32) {
        let map = GuestMap::new(8 << 20);
        let mut bits = vec![0; PageSet::bytes(&map) as usize];
        let mut set = PageSet::new(map, &mut bits);
        placed.iter().for_each(|page| assert!(set.insert(*page)));
        let outcome = TD.call(registers, 2, &mut set);
        (outcome, (registers[RAX] >> 32) as u32)
    }

    fn with(values: &[(usize, u64)]) -> Registers {
        let mut registers = [0; 16];
        values.iter().for_each(|(register, value)| registers[*register] = *value);
        registers
    }

    #[test]
    fn a_processor_starts_in_flat_32_bit_mode_and_knows_its_index() {
        let (mut save, mut registers) = (VmcbSave::new_zeroed(), [7; 16]);
        first_state(&mut save, &mut registers, 5, 0x806f8);
        assert_eq!((save.rip, save.cr0, save.efer & 0xfff, save.cr3), (0xffff_fff0, 0x21, 0x901, 0));
        assert_eq!((save.cs.base, save.cs.limit, save.cs.attributes), (0, u32::MAX, 0xc9b));
        assert_eq!((registers[RBX], registers[RSI], registers[RDX]), (48, 5, 0x806f8));
        assert_eq!((registers[RAX], registers[RDI], registers[15]), (0, 0, 0));
    }

    #[test]
    fn the_module_tells_attributes_and_index() {
        let mut registers = with(&[(RAX, leaf::VP_INFO)]);
        assert_eq!(call(&mut registers, &[]), (Outcome::Done, status::SUCCESS));
        assert_eq!((registers[RCX], registers[RDX], registers[8], registers[9]), (48, 1 << 28, 3 | 3 << 32, 2));
    }

    #[test]
    fn memory_is_accepted_once_and_only_where_there_is_some() {
        let accept = |gpa: u64, placed: &[u64]| call(&mut with(&[(RAX, leaf::MEM_PAGE_ACCEPT), (RCX, gpa)]), placed);
        assert_eq!(accept(0x1000, &[]), (Outcome::Accepted(0x1000, PAGE), status::SUCCESS));
        assert_eq!(accept(0x1000, &[0x1000]), (Outcome::Done, status::PAGE_ALREADY_ACCEPTED));
        assert_eq!(accept(BLOCK | 1, &[]), (Outcome::Accepted(BLOCK, BLOCK), status::SUCCESS));
        assert_eq!(accept(BLOCK | 1, &[2 * BLOCK - PAGE]), (Outcome::Done, status::PAGE_SIZE_MISMATCH));
        for gpa in [0x1800, BLOCK | 2, 0x1001, 8 << 20, 1 << 47, u64::MAX] {
            assert_eq!(accept(gpa, &[]), (Outcome::Done, status::OPERAND_INVALID), "{gpa:#x}");
        }
    }

    #[test]
    fn a_host_sees_what_it_is_shown() {
        let io = [(RCX, vmcall::R10_TO_R15), (11, vmcall::IO), (12, 1), (13, 1), (14, 0xe9), (15, 0x141)];
        assert_eq!(call(&mut with(&io), &[]), (Outcome::Output(0xe9, 0x41), status::SUCCESS));
        let mut hidden = with(&io);
        hidden[RCX] = 0x7c00;
        assert_eq!(call(&mut hidden, &[]).0, Outcome::Output(0xe9, 0));
        for forbidden in [1 << 0, 1 << 1, 1 << 4, 1 << 32] {
            let mut registers = with(&io);
            registers[RCX] |= forbidden;
            assert_eq!(call(&mut registers, &[]), (Outcome::Done, status::OPERAND_INVALID), "{forbidden:#x}");
        }
        assert_eq!(call(&mut with(&[(RCX, 0xfc00), (11, vmcall::HLT)]), &[]).0, Outcome::Sleep);
    }

    /// Both sides have the table from their sources.
    #[test]
    fn a_fatal_error_arrives_as_parados_reports_it() {
        for &reason in platform::Reason::ALL {
            let end = platform::Termination::Fatal(reason, 0);
            let mut registers = [0; 16];
            for (register, value) in platform_tdx::fatal_error_call(end) {
                registers[register as usize] = value;
            }
            let (Outcome::Fatal(code, message), status::SUCCESS) = call(&mut registers, &[]) else {
                panic!("{reason}")
            };
            assert_eq!(code, reason.code().into());
            assert_eq!(str::from_utf8(&message).unwrap().trim_end_matches('\0'), end.words());
        }
    }

    #[test]
    fn what_is_not_played_is_said_to_be_unknown() {
        assert_eq!(call(&mut with(&[(RAX, 25)]), &[]).0, Outcome::Unknown(25, 0));
        assert_eq!(call(&mut with(&[(RCX, 0xfc00), (11, 0x1_0001)]), &[]).0, Outcome::Unknown(0, 0x1_0001));
        assert_eq!(attributes(0b111), 1 << 0 | 1 << 28 | 1 << 29);
    }
}
