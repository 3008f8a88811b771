// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine for the unit tests: a clock that the test sets, wires that remember their edges, and a record of everything
//! else.

use vmm_interface::{Console, Device, Instant, Lifecycle, Line, Machine, Register};

/// What a device under test is plugged into.
#[derive(Default)]
pub(crate) struct FakeMachine {
    pub(crate) now: Instant,
    pub(crate) levels: [bool; 24],
    pub(crate) edges: [u32; 24],
    pub(crate) sent: Vec<(Console, u8)>,
    pub(crate) requests: Vec<Lifecycle>,
}

impl FakeMachine {
    pub(crate) fn level(&self, line: u8) -> bool {
        self.levels[usize::from(line)]
    }

    /// Rising edges since the last call.
    pub(crate) fn take_edges(&mut self, line: u8) -> u32 {
        core::mem::take(&mut self.edges[usize::from(line)])
    }

    /// Lets time pass without telling the device.
    pub(crate) fn advance(&mut self, nanos: u64) {
        self.now = self.now.after(nanos);
    }

    /// Lets time pass, calling the device at each deadline, as a prompt core does. Returns the number of calls.
    pub(crate) fn run(&mut self, device: &mut impl Device, nanos: u64) -> u32 {
        let end = self.now.after(nanos);
        let mut calls = 0;
        while device.deadline() <= end {
            self.now = self.now.max(device.deadline());
            device.expire(self);
            calls += 1;
            assert!(calls < 1_000_000, "the device asks for attention without end");
        }
        self.now = end;
        calls
    }
}

impl Machine for FakeMachine {
    fn now(&self) -> Instant {
        self.now
    }

    fn set_line(&mut self, Line(line): Line, level: bool) {
        let before = core::mem::replace(&mut self.levels[usize::from(line)], level);
        if level && !before {
            self.edges[usize::from(line)] += 1;
        }
    }

    fn transmit(&mut self, console: Console, byte: u8) {
        self.sent.push((console, byte));
    }

    fn request(&mut self, change: Lifecycle) {
        self.requests.push(change);
    }
}

/// Reads a byte register.
pub(crate) fn read(device: &mut impl Device, offset: u64, machine: &mut FakeMachine) -> u8 {
    let value = device.read(Register { offset, width: 1 }, machine);
    u8::try_from(value).expect("a byte register gave more than a byte")
}

/// Writes a byte register.
pub(crate) fn write(device: &mut impl Device, offset: u64, value: u8, machine: &mut FakeMachine) {
    device.write(Register { offset, width: 1 }, u64::from(value), machine);
}
