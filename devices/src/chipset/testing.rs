// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accesses of any width for this folder's tests, each to a fresh machine.

use vmm_interface::{Device, Lifecycle, Register};

use crate::fake::FakeMachine;

pub(super) fn read(device: &mut impl Device, offset: u64, width: u8) -> u64 {
    device.read(Register { offset, width }, &mut FakeMachine::default())
}

/// Writes, and returns what the device asked of the machine.
pub(super) fn write(device: &mut impl Device, offset: u64, width: u8, value: u64) -> Option<Lifecycle> {
    let mut machine = FakeMachine::default();
    device.write(Register { offset, width }, value, &mut machine);
    machine.requests.first().copied()
}

/// Throws accesses of every width at every offset of a range of `bytes`, aligned or not, inside or not, and checks that
/// replies keep within their width.
pub(super) fn survives_anything(device: &mut impl Device, bytes: u64) {
    let mut machine = FakeMachine::default();
    for offset in (0..bytes + 8).chain([u64::MAX - 8, u64::MAX]) {
        for width in [0, 1, 2, 4, 8, 255] {
            let at = Register { offset, width };
            for value in [0, 0x5A5A_5A5A_5A5A_5A5A, u64::MAX] {
                device.write(at, value & at.ones(), &mut machine);
                assert_eq!(device.read(at, &mut machine) & !at.ones(), 0, "offset {offset:#x}, width {width}");
            }
        }
    }
    device.expire(&mut machine);
    let _ = device.deadline();
}
