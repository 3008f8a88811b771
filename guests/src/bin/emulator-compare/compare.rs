// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both sides of a case, and what is not the same.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use emulator_tests::generate::Cell;
use emulator_tests::layout::{DATA_SIZE, Mode};
use emulator_tests::random::Random;
use emulator_tests::report::Report;
use emulator_tests::state::{Case, End};
use guests::say;

use crate::case::{Machine, Outcome};
use crate::tcg::{self, Corrections};
use crate::world::{self, BEFORE, DEVICE, PLAIN, REAL_STACK, Rights, SECOND, Side};

/// The flags that are compared: the status flags, DF, AC. RF is not told alike by all ways out.
const COMPARED_FLAGS: u64 = 0x8d5 | 1 << 10 | 1 << 18;
/// How far from where a case works its memory is looked at each time.
const REACH: u64 = 0x180;
const PAGE: u64 = 0x1000;
/// All of the data is compared once in so many cases.
const SWEEP: u64 = 256;
/// Differences told of one cell.
const TOLD: u64 = 2;

/// The bench with everything that the cases share.
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) cases: u64,
    pub(crate) corrections: Corrections,
}

/// Calls `with` for the parts of an area that lie on one page each.
fn by_page(start: u64, end: u64, mut with: impl FnMut(u64, u64)) {
    let mut at = start;
    while at < end {
        let next = ((at / PAGE + 1) * PAGE).min(end);
        with(at, next - at);
        at = next;
    }
}

fn device_at(offset: u64, partly: bool) -> u64 {
    if partly && offset / PAGE == 1 { SECOND + offset % PAGE } else { DEVICE + offset }
}

/// Puts bytes into all copies of the data.
fn put(offset: u64, bytes: &[u8]) {
    world::store(PLAIN + offset, bytes);
    world::store(DEVICE + offset, bytes);
    let mut rest = bytes;
    by_page(offset, offset + bytes.len() as u64, |at, length| {
        let (part, others) = rest.split_at(length as usize);
        rest = others;
        if at / PAGE == 1 {
            world::store(SECOND + at % PAGE, part);
        }
    });
}

impl Bench {
    pub(crate) fn compare(&mut self, cell: Cell, case: &mut Case, seed: u64, report: &mut Report) {
        self.cases += 1;
        let rights = self.rights(case, seed);
        let case = &*case;
        let partly = case.partly_memory && case.mode != Mode::Real;
        let legacy_tables = seed & 1 != 0;
        for (offset, bytes) in &case.memory {
            put(*offset, bytes);
        }
        world::copy(PLAIN, BEFORE, DATA_SIZE);
        let mut plain = self.machine.run(case, Side::Plain, rights, legacy_tables);
        if plain.end != End::Completed && !case.is_string {
            // A fault leaves no trace (APM vol. 2, 8.1.2); QEMU's processor may have changed flags or half of its operand.
            world::copy(BEFORE, PLAIN, DATA_SIZE);
            plain.state = case.state;
        }
        let plain_stack = stack(case, &plain);
        let ours = self.machine.run(case, Side::Device { partly }, rights, legacy_tables);
        let ours_stack = stack(case, &ours);
        if partly && plain.end != End::Completed && !case.is_string {
            // On a page that is memory on both sides, QEMU's processor has changed the flags on both.
            plain.state.rflags = ours.state.rflags;
        }
        let is_refused = tcg::refuse_lock(case, &mut plain, &ours, &mut self.corrections);
        if is_refused {
            world::copy(BEFORE, PLAIN, DATA_SIZE);
        }
        tcg::correct(cell, case, &mut plain, &ours, &mut self.corrections);
        let mut differences = differences(case, &plain, &ours);
        if plain_stack != ours_stack && !is_refused {
            differences.push(format!("stack: processor {plain_stack:x?}, emulator {ours_stack:x?}"));
        }
        self.memory(case, &plain, partly, &mut differences);
        let count = report.cells.entry(cell).or_default();
        count.cases += 1;
        count.faults += u64::from(plain.end != End::Completed);
        if differences.is_empty() {
            return;
        }
        count.differences += 1;
        if count.differences <= TOLD {
            tell(cell, case, seed, (partly, rights), &plain, &ours, &differences);
        }
    }

    /// Rights for half of the cases in long mode, mostly such that the access is allowed.
    fn rights(&self, case: &mut Case, seed: u64) -> Rights {
        let is_long = matches!(case.mode, Mode::Long | Mode::Compatibility32 | Mode::Compatibility16);
        let mut random = Random::new(!seed);
        if !is_long || random.one_in(2) {
            return Rights::default();
        }
        let rights = Rights {
            supervisor: random.one_in(3),
            smap: self.machine.smap && random.one_in(2),
            key: (self.machine.keys && random.one_in(2)).then(|| random.pick(&[0, 0, 0, 1, 2, 3])),
        };
        if rights.smap && !random.one_in(4) {
            // AC lets level 0 pass.
            case.state.rflags |= 1 << 18;
        }
        rights
    }

    /// Compares the memory around the operands, and all of it now and then; makes it equal again.
    fn memory(&self, case: &Case, plain: &Outcome, partly: bool, differences: &mut Vec<String>) {
        let end = if case.mode == Mode::Real { world::DEVICE_BYTES } else { DATA_SIZE };
        // On a fault, the processor itself may have stored half of the operand to the page that is memory.
        let undefined = case.undefined_result && plain.end == End::Completed
            || (case.stores_before_fault || partly) && plain.end != End::Completed;
        let mut area = |from: u64, to: u64| {
            by_page(from, to, |at, length| {
                let there = device_at(at, partly);
                if let Some(offset) = world::difference(PLAIN + at, there, length) {
                    if !undefined {
                        differences.push(format!("memory around {:#x}", at + offset));
                    }
                    world::copy(PLAIN + at, there, length);
                }
                if at / PAGE == 1 {
                    let other = device_at(at, !partly);
                    world::copy(PLAIN + at, other, length);
                }
            });
        };
        for region in &case.regions {
            let from = region.saturating_sub(REACH) & !7;
            area(from.min(end), ((region + REACH) & !7).min(end));
        }
        if self.cases.is_multiple_of(SWEEP) {
            area(0, end);
        }
    }
}

/// What lies on the stack of real mode.
fn stack(case: &Case, outcome: &Outcome) -> [u8; 8] {
    let mut bytes = [0; 8];
    if case.mode == Mode::Real {
        let top = outcome.state.gprs[4] as u16;
        if top < 0xfff0 {
            world::load(REAL_STACK + u64::from(top), &mut bytes);
        }
    }
    bytes
}

fn differences(case: &Case, plain: &Outcome, ours: &Outcome) -> Vec<String> {
    let mut differences = Vec::new();
    let mut note = |what: &str, plain: u64, ours: u64| {
        if plain != ours {
            differences.push(format!("{what}: processor {plain:#x}, emulator {ours:#x}"));
        }
    };
    let (registers, width) = if case.mode.is_long() { (16, u64::MAX) } else { (8, 0xffff_ffff) };
    for (number, (plain, ours)) in plain.state.gprs.iter().zip(&ours.state.gprs).enumerate().take(registers) {
        const NAMES: [&str; 16] = [
            "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14",
            "R15",
        ];
        note(NAMES[number], plain & width, ours & width);
    }
    note("RIP", plain.state.rip, ours.state.rip);
    let undefined = if plain.end == End::Completed { case.undefined_flags } else { 0 };
    // Real mode's frames have sixteen flags.
    let told = if case.mode == Mode::Real { 0xffff } else { COMPARED_FLAGS };
    let flags = COMPARED_FLAGS & told & !undefined;
    note("RFLAGS", plain.state.rflags & flags, ours.state.rflags & flags);
    note("DS", plain.state.ds.into(), ours.state.ds.into());
    note("ES", plain.state.es.into(), ours.state.es.into());
    note("GS", plain.state.gs.into(), ours.state.gs.into());
    note("used pages", plain.used, ours.used);
    const SYSTEM: [&str; 7] = ["GDTR base", "GDTR limit", "IDTR base", "IDTR limit", "LDTR", "TR", "CR0"];
    for (name, (plain, ours)) in SYSTEM.into_iter().zip(plain.system.into_iter().zip(ours.system)) {
        note(name, plain, ours);
    }
    let vectors = if case.mode.is_long() { 16 } else { 8 };
    for (number, (plain, ours)) in plain.state.vectors.iter().zip(&ours.state.vectors).enumerate().take(vectors) {
        if plain != ours {
            differences.push(format!("YMM{number}: processor {plain:02x?}, emulator {ours:02x?}"));
        }
    }
    if plain.end != ours.end {
        differences.push(format!("end: processor {:x?}, emulator {:x?}", plain.end, ours.end));
    }
    differences
}

fn tell(
    cell: Cell,
    case: &Case,
    seed: u64,
    (partly, rights): (bool, Rights),
    plain: &Outcome,
    ours: &Outcome,
    differences: &[String],
) {
    say!("DIFFERENT {cell:?} seed {seed:#x}: {:02x?}", case.bytes);
    let mut text = String::new();
    for difference in differences {
        let _ = writeln!(text, "    {difference}");
    }
    say!("{text}    processor {:x?}, emulator {:x?}", plain.end, ours.end);
    let state = &case.state;
    say!(
        "    started with {:x?}, RIP {:#x}, RFLAGS {:#x}, DS {:#x}, ES {:#x}, GS {:#x}, second page memory: {partly}, {rights:?}, memory {:02x?}",
        state.gprs,
        state.rip,
        state.rflags,
        state.ds,
        state.es,
        state.gs,
        case.memory
    );
}
