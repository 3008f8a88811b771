// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices that kvm-unit-tests expects, present with `--test-devices` alone.
//!
//! They do what QEMU's `pc-testdev` and `isa-debug-exit` do (hw/misc/pc-testdev.c, hw/misc/debugexit.c), as far as a
//! guest can tell: an exit port, four bytes that read back, a byte-wise view of them, wires that can be driven by hand,
//! and 64 KiB that behave as memory but are a device, so that every access has to be emulated. One is our own: a port that makes
//! Parados panic, because what a panic leaves behind must be tested too.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use platform::Slip;
use vmm_interface::{Device, DispatchError, Lifecycle, Line, Machine, Register};

use super::lanes;

/// Range of [`ExitPort`].
pub const EXIT_PORTS: RangeInclusive<u64> = 0xF4..=0xF7;
/// Range of [`TestPorts`].
pub const TEST_PORTS: RangeInclusive<u64> = 0xE0..=0xEB;
/// Range of [`InterruptLines`].
pub const LINE_PORTS: RangeInclusive<u64> = 0x2000..=0x2017;
/// Range of [`IoMemory`].
pub const IO_MEMORY: RangeInclusive<u64> = 0xFF00_0000..=0xFF00_FFFF;

/// The first half of the same memory where real mode reaches it, away from the borders of the gap below 1 MiB; QEMU has a
/// frame buffer there, and `pc-testdev` nothing.
pub const LOW_IO_MEMORY: RangeInclusive<u64> = 0xA_8000..=0xA_FFFF;
/// Range of [`CrashPort`].
pub const CRASH_PORTS: RangeInclusive<u64> = 0xF8..=0xFB;
/// What must be written there.
const CRASH: [u8; 4] = *b"DIE!";

const IO_MEMORY_BYTES: usize = 0x1_0000;

/// A write ends the VM with the value that was written.
#[derive(Debug, Default)]
pub struct ExitPort;

impl Device for ExitPort {
    fn read(&mut self, _: Register, _: &mut impl Machine) -> u64 {
        // As QEMU's: zeros, which tells the port from an absent one.
        0
    }

    fn write(&mut self, _: Register, value: u64, machine: &mut impl Machine) {
        machine.request(Lifecycle::TestExit(value as u32));
    }
}

/// Parados panics when the four bytes read "DIE!", in whichever widths they were written.
#[derive(Debug, Default)]
pub struct CrashPort {
    data: [u8; 4],
}

impl Device for CrashPort {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        at.ones()
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        let bytes = value.to_le_bytes().into_iter().take(at.width.into());
        self.data.iter_mut().skip(at.offset as usize).zip(bytes).for_each(|(to, from)| *to = from);
        if self.data == CRASH {
            machine.request(Lifecycle::TestCrash);
        }
    }
}

/// E0h–E3h read back; E8h–EBh are the same four bytes. E4h–E7h told QEMU to drop a host page, which means nothing here:
/// writes are ignored, reads are all-ones.
#[derive(Debug, Default)]
pub struct TestPorts {
    data: [u8; 4],
}

impl TestPorts {
    fn index(offset: u64) -> Option<usize> {
        matches!(offset, 0..=3 | 8..=11).then_some((offset & 3) as usize)
    }
}

impl Device for TestPorts {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        lanes::read(at, |offset| Self::index(offset).and_then(|index| self.data.get(index)).copied().unwrap_or(0xFF))
    }

    fn write(&mut self, at: Register, value: u64, _: &mut impl Machine) {
        lanes::write(at, value, |offset, byte| {
            if let Some(slot) = Self::index(offset).and_then(|index| self.data.get_mut(index)) {
                *slot = byte;
            }
        });
    }
}

/// Port 2000h + n drives interrupt wire n: up for any value but zero.
#[derive(Debug, Default)]
pub struct InterruptLines;

impl Device for InterruptLines {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        at.ones()
    }

    fn write(&mut self, at: Register, value: u64, machine: &mut impl Machine) {
        if at.width == 1 && at.offset < 24 {
            machine.set_line(Line(at.offset as u8), value != 0);
        }
    }
}

/// 64 KiB of device memory.
#[derive(Debug)]
pub struct IoMemory {
    bytes: Vec<u8>,
}

impl IoMemory {
    /// All zero. Called while the machine is built, hence the error.
    pub fn new() -> Result<Self, DispatchError> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(IO_MEMORY_BYTES).map_err(|_| DispatchError::OutOfMemory)?;
        bytes.resize(IO_MEMORY_BYTES, 0);
        Ok(Self { bytes })
    }
}

impl Device for IoMemory {
    fn read(&mut self, at: Register, _: &mut impl Machine) -> u64 {
        lanes::read(at, |offset| {
            usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset)).copied().unwrap_or(0xFF)
        })
    }

    fn write(&mut self, at: Register, value: u64, _: &mut impl Machine) {
        lanes::write(at, value, |offset, byte| {
            if let Some(slot) = usize::try_from(offset).ok().and_then(|offset| self.bytes.get_mut(offset)) {
                *slot = if offset == 8 && Slip::Forgetful.is_planted() { byte & 0x7f } else { byte };
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, survives_anything, write};
    use super::*;
    use crate::fake::FakeMachine;

    #[test]
    fn any_access_is_answered() {
        survives_anything(&mut ExitPort, 4);
        survives_anything(&mut TestPorts::default(), 12);
        survives_anything(&mut InterruptLines, 24);
        survives_anything(&mut IoMemory::new().unwrap(), 0x1_0000);
    }

    #[test]
    fn exit_port_ends_the_vm_with_the_value() {
        assert_eq!(write(&mut ExitPort, 0, 1, 0x10), Some(Lifecycle::TestExit(0x10)));
        assert_eq!(write(&mut ExitPort, 0, 4, 0x1234_5678), Some(Lifecycle::TestExit(0x1234_5678)));
        assert_eq!(read(&mut ExitPort, 0, 1), 0);
    }

    #[test]
    fn the_crash_port_wants_the_word() {
        let word = u32::from_le_bytes(CRASH).into();
        assert_eq!(write(&mut CrashPort::default(), 0, 4, word), Some(Lifecycle::TestCrash));
        assert_eq!(write(&mut CrashPort::default(), 0, 4, word + 1), None);
        let mut port = CrashPort::default();
        for (offset, byte) in (0..3).zip(CRASH) {
            assert_eq!(write(&mut port, offset, 1, byte.into()), None);
        }
        assert_eq!(write(&mut port, 3, 1, u64::from(CRASH[3])), Some(Lifecycle::TestCrash));
        assert_eq!(read(&mut port, 0, 4), 0xFFFF_FFFF);
    }

    #[test]
    fn bytes_of_the_test_ports_read_back() {
        let mut ports = TestPorts::default();
        write(&mut ports, 0, 4, 0x8765_4321);
        assert_eq!(read(&mut ports, 0, 4), 0x8765_4321);
        assert_eq!(read(&mut ports, 1, 2), 0x6543);
        write(&mut ports, 3, 1, 0xAB);
        assert_eq!(read(&mut ports, 8, 4), 0xAB65_4321);
        write(&mut ports, 4, 4, 0);
        assert_eq!(read(&mut ports, 0, 4), 0xAB65_4321, "the page port is not the data");
        assert_eq!(read(&mut ports, 4, 4), 0xFFFF_FFFF);
    }

    #[test]
    fn each_line_port_drives_its_own_wire() {
        let mut machine = FakeMachine::default();
        for line in 0..24 {
            let at = Register { offset: line, width: 1 };
            InterruptLines.write(at, 0x80, &mut machine);
            assert!(machine.levels[line as usize]);
            assert_eq!(machine.levels.iter().filter(|up| **up).count(), 1);
            InterruptLines.write(at, 0, &mut machine);
            assert!(!machine.levels[line as usize]);
        }
    }

    #[test]
    fn io_memory_keeps_every_width() {
        let mut memory = IoMemory::new().unwrap();
        write(&mut memory, 0xFFF8, 8, 0x0123_4567_89AB_CDEF);
        assert_eq!(read(&mut memory, 0xFFF8, 8), 0x0123_4567_89AB_CDEF);
        assert_eq!(read(&mut memory, 0xFFFB, 2), 0x6789);
        write(&mut memory, 0xFFFF, 1, 0);
        assert_eq!(read(&mut memory, 0xFFFC, 4), 0x0023_4567);
    }
}
