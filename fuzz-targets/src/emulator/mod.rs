// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes the instruction emulator: any bytes, in any mode, on memory, devices and the borders between them.
//!
//! What is claimed of each emulation, however it ends:
//! - memory and devices are written only where the instruction's operands lie, by a second opinion: the decoder crate's
//!   list of what an instruction uses, and this crate's own page map;
//! - an instruction that does not complete leaves registers, memory and devices as they were, but for the elements of a
//!   string instruction that are through;
//! - one that completes changes only registers and flags that it writes, and goes on where it ends;
//! - device accesses are aligned, of legal widths, never in memory, bounded in number;
//! - a device that answers later makes no difference;
//! - a device that holds what is written to it gives the same result as memory in its place;
//! - nothing is taken from the heap.

mod guest;
mod oracle;

use std::sync::Once;

use platform::{Access, Direction, Gpa, GuestCpu, IoAccess, IoWidth, MemoryFault, Slip};
use vc_handlers::testing::FakeCpu;
use vc_handlers::{Outcome, emulate, resume};

use crate::Target;
use crate::input::Input;
use crate::memory_use;
use guest::{Machine, Script};

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "emulator",
    run: play,
    planted: &[
        ("a 16-bit store spills into the next byte", |data| Slip::Spill.planted(|| play(data))),
        ("a device write goes out with a wrong width", |data| Slip::Width.planted(|| play(data))),
        ("a device gets the halves of eight bytes swapped", |data| Slip::Order.planted(|| play(data))),
        ("registers are written before a store that may fail", |data| Slip::EarlyRegisters.planted(|| play(data))),
    ],
    longest: 160,
    mutations: 60_000,
};

/// The exit that starts an emulation.
#[derive(Clone, Copy, Debug)]
enum Exit {
    Memory(MemoryFault),
    String(IoAccess),
}

impl Exit {
    fn read(input: &mut Input<'_>, cpu: &FakeCpu) -> Self {
        let kind = input.byte();
        let at = u64::from(input.half());
        if kind & 7 == 7 {
            let width = [IoWidth::Byte, IoWidth::Word, IoWidth::Dword, IoWidth::Byte][usize::from(kind >> 4 & 3)];
            let direction = if kind & 8 == 0 { Direction::Read } else { Direction::Write };
            let port = cpu.gpr(platform::Gpr::Rdx) as u16;
            return Self::String(IoAccess { port, width, direction, string: true, repeat: kind & 0x40 != 0 });
        }
        let access = [Access::Read, Access::Write, Access::Fetch, Access::Write][usize::from(kind >> 3 & 3)];
        let gpa = (kind & 1 != 0).then(|| Gpa(guest::DEVICE + at));
        Self::Memory(MemoryFault { gpa, gva: None, access, table_walk: kind & 0x20 != 0 })
    }

    fn emulate(&self, cpu: &mut FakeCpu, machine: &mut Machine) -> Outcome {
        match self {
            Self::Memory(fault) => emulate::memory_fault(fault, cpu, machine),
            Self::String(access) => emulate::string_io(access, cpu, machine),
        }
    }
}

fn play(data: &[u8]) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        emulate::initialise();
        assert!(!guest::PATTERN.is_empty());
    });
    let mut input = Input::new(data);
    let script = Script::read(&mut input);
    let exit = Exit::read(&mut input, &script.cpu);
    let (prompt, mut cpu) = (&mut Machine::new(&script), script.cpu.clone());
    let outcome = memory_use::without_heap(|| exit.emulate(&mut cpu, prompt));
    oracle::check(&script, prompt, &cpu, outcome);
    let (late, mut late_cpu) = (&mut Machine::new(&script), script.cpu.clone());
    late.defers = true;
    let late_outcome = memory_use::without_heap(|| {
        let mut outcome = exit.emulate(&mut late_cpu, late);
        while let Outcome::Defer(token) = outcome {
            let (emulation, value) = late.unpark(token);
            outcome = resume(emulation, value, &mut late_cpu, late);
        }
        outcome
    });
    assert_eq!(outcome, late_outcome, "a late answer changes the outcome");
    assert_eq!(prompt.requests, late.requests, "a late answer changes the device accesses");
    assert_eq!(prompt.total, late.total, "a late answer changes the device accesses");
    assert!(*prompt.ram() == *late.ram(), "a late answer changes memory");
    oracle::same_registers(&cpu, &late_cpu, "after a late answer");
    if !prompt.not_emulated && prompt.total.0 > 0 && matches!(outcome, Outcome::Complete(_) | Outcome::Inject(_)) {
        compare_with_memory(&script, exit, (prompt, &cpu, outcome));
    }
}

/// The same instruction where memory is in place of the devices. The processor itself would execute it there, but says that
/// it cannot, and the emulator does as it is told, one element of a repetition at a time.
fn compare_with_memory(script: &Script, exit: Exit, devices: (&Machine, &FakeCpu, Outcome)) {
    let (machine, mut cpu) = (&mut Machine::new(script), script.cpu.clone());
    machine.make_devices_memory();
    let exit = match exit {
        Exit::Memory(fault) => Exit::Memory(MemoryFault { gpa: None, access: Access::Read, ..fault }),
        string => string,
    };
    let mut outcome = exit.emulate(&mut cpu, machine);
    for _ in 0..1024 {
        if outcome != Outcome::Resume {
            break;
        }
        outcome = exit.emulate(&mut cpu, machine);
    }
    let (other, other_cpu, other_outcome) = devices;
    if machine.code_changed(script) || other.code_changed(script) {
        // A repetition that overwrites itself: one of the two looked at its bytes more often.
        return;
    }
    assert_eq!(outcome, other_outcome, "on memory and on a device");
    oracle::same_registers(&cpu, other_cpu, "on memory and on a device");
    assert!(*machine.ram() == *other.ram(), "memory differs from when the device was one");
    assert!(*machine.held() == *other.held(), "the device does not hold what memory would");
}
