// SPDX-License-Identifier: MIT OR Apache-2.0
//! INS and OUTS.

use platform::{Direction, IoAccess, IoWidth};

use super::*;
use crate::emulate::string_io;
use crate::{DeviceReply, Oddity, Token};

fn io(width: IoWidth, direction: Direction, repeat: bool) -> IoAccess {
    IoAccess { port: 0x1f0, width, direction, string: true, repeat }
}

fn port(width: u8, operation: Operation) -> DeviceRequest {
    DeviceRequest { target: Target::Port(0x1f0), width, operation }
}

impl Guest {
    fn string_io(&mut self, access: &IoAccess) -> Outcome {
        string_io(access, &mut self.cpu, &mut self.env)
    }
}

#[test]
fn rep_ins_fills_memory_from_the_port() {
    let mut guest =
        Guest::long(&[0xf3, 0x66, 0x6d]).gpr(Gpr::Rdx, 0x1f0).gpr(Gpr::Rcx, 2).gpr(Gpr::Rdi, DATA).reply(0x1122);
    guest.env.reply(0x3344);
    assert_eq!(guest.string_io(&io(IoWidth::Word, Direction::Read, true)), done(3));
    assert_eq!(guest.env.memory.get(DATA, 4), [0x22, 0x11, 0x44, 0x33]);
    assert_eq!(guest.env.requests, [port(2, Operation::Read); 2]);
    assert_eq!((guest.cpu.gpr(Gpr::Rcx), guest.cpu.gpr(Gpr::Rdi)), (0, DATA + 4));
}

#[test]
fn outs_takes_the_segment_override() {
    let mut guest = Guest::real(&[0x2e, 0x6e]).gpr(Gpr::Rdx, 0x1f0).gpr(Gpr::Rsi, DATA);
    guest.env.memory.put(DATA, &[0x77]);
    assert_eq!(guest.string_io(&io(IoWidth::Byte, Direction::Write, false)), done(2));
    assert_eq!(guest.env.requests, [port(1, Operation::Write(0x77))]);
}

#[test]
fn a_destination_that_faults_costs_no_device_access() {
    let mut guest = Guest::long(&[0x6c]).gpr(Gpr::Rdx, 0x1f0).gpr(Gpr::Rdi, 0x1_0000_0000);
    assert_eq!(guest.string_io(&io(IoWidth::Byte, Direction::Read, false)), page_fault(2, 0x1_0000_0000));
    assert_eq!(guest.env.requests, []);
}

#[test]
fn bytes_that_do_not_fit_the_exit_are_left_to_the_processor() {
    for code in [&[0x90][..], &[0x6e], &[0x6d], &[0xf3, 0x6c]] {
        let mut guest = Guest::long(code).gpr(Gpr::Rdx, 0x1f0).gpr(Gpr::Rdi, DATA);
        assert_eq!(guest.string_io(&io(IoWidth::Byte, Direction::Read, false)), Outcome::Resume);
        assert_eq!(guest.env.oddities, [Oddity::Mismatch]);
    }
}

#[test]
fn a_memory_fault_of_outs_asks_the_permission_map() {
    let allowed = |cpl, iopl: u64, map: Option<u8>| {
        let mut guest = Guest::long(&[0x6e]).gpr(Gpr::Rdx, 0x1f0).gpr(Gpr::Rsi, DEVICE).flags(iopl << 12).reply(1);
        guest.cpu.set_cpl(cpl);
        let task = &mut guest.cpu.state.segments[SegmentRegister::Tr as usize];
        task.base = 0xa000;
        task.limit = if map.is_some() { 0x2000 } else { 0x67 };
        guest.env.memory.put(0xa066, &[0x68, 0]);
        guest.env.memory.put(0xa068 + 0x1f0 / 8, &[map.unwrap_or(0)]);
        let outcome = guest.read(DEVICE);
        assert_eq!(outcome == done(1), guest.env.requests.len() == 2);
        outcome == done(1)
    };
    assert!(allowed(0, 0, None));
    assert!(allowed(3, 3, None));
    assert!(!allowed(3, 2, None));
    assert!(allowed(3, 0, Some(0xfe)));
    assert!(!allowed(3, 0, Some(0x01)));
}

/// The map was looked for beyond 4 GiB, behind the four entries at the top of PAE tables.
#[test]
fn a_permission_map_goes_on_at_zero_outside_long_mode() {
    let allowed = |map: u8| {
        let mut guest = Guest::protected(&[0x6e]).gpr(Gpr::Rdx, 0x1f0).gpr(Gpr::Rsi, DEVICE).reply(1);
        // The first 2 MiB, the device, and the last page at A000h.
        for (at, entry) in [
            (TABLES, (TABLES + 0x1000) | 1),
            (TABLES + 8 * 3, (TABLES + 0x2000) | 1),
            (TABLES + 0x1000, 0x87),
            (TABLES + 0x2000 + 8 * 0x1f7, DEVICE | 0x87),
            (TABLES + 0x2000 + 8 * 0x1ff, (TABLES + 0x3000) | 7),
            (TABLES + 0x3000 + 8 * 0x1ff, 0xa000 | 7),
        ] {
            guest.env.memory.put(at, &entry.to_le_bytes());
        }
        (guest.cpu.state.cr0, guest.cpu.state.cr3, guest.cpu.state.cr4) = (0x8000_0011, TABLES, 0x20);
        guest.cpu.set_cpl(3);
        let task = &mut guest.cpu.state.segments[SegmentRegister::Tr as usize];
        (task.base, task.limit) = (0xffff_f000, 0x2000);
        guest.env.memory.put(0xa066, &[0x00, 0x13]);
        guest.env.memory.put(0x300 + 0x1f0 / 8, &[map]);
        guest.read(DEVICE) == done(1)
    };
    assert!(allowed(0xfe));
    assert!(!allowed(0x01));
}

#[test]
fn a_deferred_device_gets_its_answer_in() {
    let mut guest = Guest::long(&[0x03, 0x03]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, 1);
    guest.env.replies.push_back(DeviceReply::Defer(Token(9)));
    assert_eq!(guest.read(DEVICE), Outcome::Defer(Token(9)));
    let emulation = guest.env.parked.take().unwrap();
    assert_eq!(crate::emulate::resume(emulation, 4, &mut guest.cpu, &mut guest.env), done(2));
    assert_eq!(guest.rax(), 5);
    let mut guest = Guest::long(&[0x8b, 0x03]).gpr(Gpr::Rbx, DEVICE).gpr(Gpr::Rax, 1);
    guest.env.replies.push_back(DeviceReply::Defer(Token(9)));
    assert_eq!(guest.read(DEVICE), Outcome::Defer(Token(9)));
    let emulation = guest.env.parked.take().unwrap();
    assert_eq!(crate::emulate::resume(emulation, 4, &mut guest.cpu, &mut guest.env), done(2));
    assert_eq!(guest.rax(), 4);
}
