// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs cases on both sides, compares, and counts by cell.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Error;

use crate::emulated::Emulated;
use crate::forms::{self, Form};
use crate::generate::{self, Cell, Generator, Site};
use crate::layout::{DATA_SIZE, Mode};
use crate::native::Host;
use crate::random::Random;
use crate::report::{PER_CELL, Report};
use crate::state::{Case, End, Ending, State};

/// The flags that are compared: the status flags, DF, AC. RF is the kernel's, IF and the rest do not change.
const COMPARED_FLAGS: u64 = 0x8d5 | 1 << 10 | 1 << 18;

/// #UD.
const UNDEFINED: End = End::Fault { vector: 6, code: 0, address: 0 };

/// Runs at least `cases` cases, and at least [`PER_CELL`] of each cell.
pub fn run(seed: u64, cases: u64) -> Result<Report, Error> {
    let forms = forms::all();
    let mut by_cell: BTreeMap<Cell, Vec<&Form>> = BTreeMap::new();
    for form in &forms {
        for cell in generate::cells(form, &Mode::OF_PROCESSES, Site::Process) {
            by_cell.entry(cell).or_default().push(form);
        }
    }
    let each = cases.div_ceil(by_cell.len() as u64).max(PER_CELL);
    let mut bench = Bench { host: Host::new()?, emulated: Emulated::new() };
    bench.fill(seed);
    let mut report = Report::default();
    for (number, (cell, forms)) in by_cell.into_iter().enumerate() {
        for turn in 0..each {
            let case_seed = Random::new(seed).word() ^ (number as u64) << 32 ^ turn;
            let mut random = Random::new(case_seed);
            let case = Generator::case(&mut random, random_form(&forms, turn), cell, Site::Process);
            bench.compare(cell, case_seed, &case, &mut report);
        }
    }
    Ok(report)
}

fn random_form<'f>(forms: &[&'f Form], turn: u64) -> &'f Form {
    forms[(turn % forms.len() as u64) as usize]
}

/// Both sides.
struct Bench {
    host: Host,
    emulated: Emulated,
}

impl Bench {
    fn fill(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        let data = self.host.data();
        data.iter_mut().for_each(|byte| *byte = random.word() as u8);
        self.emulated.copy_from(data);
    }

    fn compare(&mut self, cell: Cell, seed: u64, case: &Case, report: &mut Report) {
        self.emulated.prepare(case);
        for (offset, bytes) in &case.memory {
            let start = *offset as usize;
            self.host.data()[start..start + bytes.len()].copy_from_slice(bytes);
        }
        let Some(real) = self.host.run(case) else { panic!("the host's processor gave no answer: {case:x?}") };
        let ours = self.emulated.run(case);
        let count = report.cells.entry(cell).or_default();
        count.cases += 1;
        count.faults += u64::from(real.end != End::Completed);
        let mut differences = compare(case, &real, &ours);
        if case.is_wrongly_locked && real.end != UNDEFINED {
            differences.push("the processor takes a LOCK that it must not".into());
        }
        let data: &[u8] = self.host.data();
        if let Some(at) = self.emulated.difference(data) {
            let completed = real.end == End::Completed;
            if !(if completed { case.undefined_result } else { case.stores_before_fault }) {
                differences.push(format!("memory at {at:#x}"));
            }
            let data = data.to_vec();
            self.emulated.copy_from(&data);
        }
        debug_assert_eq!(data_length(&mut self.host), DATA_SIZE);
        if differences.is_empty() {
            return;
        }
        count.differences += 1;
        if count.differences <= 2 {
            report.differences.push(tell(cell, seed, case, &real, &ours, &differences));
        }
    }
}

fn data_length(host: &mut Host) -> u64 {
    host.data().len() as u64
}

/// What is not the same.
fn compare(case: &Case, real: &Ending, ours: &Ending) -> Vec<String> {
    let mut differences = Vec::new();
    let mut note = |what: &str, real: u64, ours: u64| {
        if real != ours {
            differences.push(format!("{what}: processor {real:#x}, emulator {ours:#x}"));
        }
    };
    // Compatibility mode has eight registers of 32 bits.
    let (registers, width) = if case.mode.is_long() { (16, u64::MAX) } else { (8, 0xffff_ffff) };
    for number in 0..registers {
        let name = format!("{:?}", platform::Gpr::from_encoding(number));
        let value = |state: &State| state.gprs[usize::from(number)] & width;
        note(&name, value(&real.state), value(&ours.state));
    }
    note("RIP", real.state.rip, ours.state.rip);
    let flags = COMPARED_FLAGS & !if real.end == End::Completed { case.undefined_flags } else { 0 };
    note("RFLAGS", real.state.rflags & flags, ours.state.rflags & flags);
    for (name, real, ours) in [
        ("DS", real.state.ds, ours.state.ds),
        ("ES", real.state.es, ours.state.es),
        ("GS", real.state.gs, ours.state.gs),
    ] {
        // On its way back to level 3, the kernel's IRET clears null selectors.
        let named = |selector: u16| if selector < 4 { 0 } else { u64::from(selector) };
        note(name, named(real), named(ours));
    }
    let vectors = if case.mode.is_long() { 16 } else { 8 };
    for number in 0..vectors {
        if real.state.vectors[number] != ours.state.vectors[number] {
            differences.push(format!(
                "YMM{number}: processor {:02x?}, emulator {:02x?}",
                real.state.vectors[number], ours.state.vectors[number]
            ));
        }
    }
    if real.end != ours.end {
        differences.push(format!("end: processor {:x?}, emulator {:x?}", real.end, ours.end));
    }
    differences
}

fn tell(cell: Cell, seed: u64, case: &Case, real: &Ending, ours: &Ending, differences: &[String]) -> String {
    let mut text = format!("{cell:?} seed {seed:#x}: {:02x?}\n", case.bytes);
    for difference in differences {
        let _ = writeln!(text, "    {difference}");
    }
    let _ = writeln!(text, "    processor {:x?}, emulator {:x?}", real.end, ours.end);
    let state = &case.state;
    let _ = writeln!(text, "    started with {:x?}", state.gprs);
    let _ = writeln!(
        text,
        "    RIP {:#x}, RFLAGS {:#x}, DS {:#x}, ES {:#x}, GS {:#x}, second page memory: {}, told {:x?}, memory {:02x?}",
        state.rip, state.rflags, state.ds, state.es, state.gs, case.partly_memory, case.told, case.memory
    );
    text
}
