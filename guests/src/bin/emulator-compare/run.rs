// SPDX-License-Identifier: MIT OR Apache-2.0
//! All cells of one mode, one case after another.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use emulator_tests::forms::{self, Form, Kind};
use emulator_tests::generate::{self, Cell, Generator, Site};
use emulator_tests::layout::Mode;
use emulator_tests::random::Random;
use emulator_tests::report::Report;
use guests::instructions as cpu;
use guests::{machine, say};

use crate::case::Machine;
use crate::compare::Bench;
use crate::world::{DEVICE, DEVICE_SELECTOR};
use crate::{heap, world};

/// CR4: OSFXSR, OSXSAVE.
const OSFXSR: u64 = 1 << 9;
const OSXSAVE: u64 = 1 << 18;
/// Leaf 1, ECX: XSAVE and AVX.
const XSAVE: u32 = 1 << 26;
const AVX: u32 = 1 << 28;
/// Leaf 7: EBX and ECX.
const SMAP: u32 = 1 << 20;
const PKU: u32 = 1 << 3;
/// CR0: EM and TS, and MP.
const EM_TS: u64 = 0xc;
const MP: u64 = 2;

/// Turns vector registers on, as far as there are any.
fn prepare() -> Machine {
    let features = __cpuid(1).ecx;
    cpu::write_cr0(cpu::read_cr0() & !EM_TS | MP);
    cpu::write_cr4(cpu::read_cr4() | OSFXSR | if features & XSAVE != 0 { OSXSAVE } else { 0 });
    let avx = features & AVX != 0;
    if avx {
        // SAFETY: x87, SSE and AVX exist.
        unsafe { asm!("xsetbv", in("ecx") 0, in("eax") 7, in("edx") 0, options(nostack)) };
    }
    let leaf7 = __cpuid_count(7, 0);
    Machine { avx, smap: leaf7.ebx & SMAP != 0, keys: leaf7.ecx & PKU != 0 }
}

/// Whether both windows of the device are there, and are the same memory.
fn has_device() -> bool {
    let mut seen = [0; 4];
    world::store(DEVICE + 0x10, &[1, 2, 3, 4]);
    world::load((u64::from(DEVICE_SELECTOR) << 4) + 0x10, &mut seen);
    seen == [1, 2, 3, 4]
}

fn cells(forms: &'static [Form], mode: Mode, machine: Machine) -> BTreeMap<Cell, Vec<&'static Form>> {
    let site = Site::Machine(Machine::tables(mode));
    let mut cells: BTreeMap<Cell, Vec<&Form>> = BTreeMap::new();
    let there = |form: &&Form| machine.avx || !matches!(form.kind, Kind::Vex { .. });
    for form in forms.iter().filter(there) {
        for cell in generate::cells(form, &[mode], site) {
            cells.entry(cell).or_default().push(form);
        }
    }
    cells
}

/// The whole of a run.
pub(crate) fn all(start_info: u64) -> u32 {
    let number = |index, otherwise| machine::command_line_numbers(start_info).nth(index).unwrap_or(otherwise);
    let (seed, each) = (number(0, 1), number(1, 4));
    let Some(mode) = Mode::ALL.get(number(2, 0) as usize).copied() else {
        say!("emulator-compare: there are {} modes", Mode::ALL.len());
        return 2;
    };
    if !has_device() {
        say!("emulator-compare: the test devices are not here");
        return 3;
    }
    let machine = prepare();
    say!("AVX: {}, SMAP: {}, protection keys: {}", machine.avx, machine.smap, machine.keys);
    world::build();
    let cells = cells(forms::all().leak(), mode, machine);
    let mut report = Report::default();
    for cell in cells.keys() {
        report.cells.insert(*cell, Default::default());
    }
    let mut bench = Bench { machine, cases: 0, corrections: Default::default() };
    for (number, (cell, forms)) in (0_u64..).zip(&cells) {
        for turn in 0..each {
            let mark = heap::mark();
            let case_seed = Random::new(seed).word() ^ number << 32 ^ turn;
            let mut random = Random::new(case_seed);
            let form = forms[(turn % forms.len() as u64) as usize];
            let mut case = Generator::case(&mut random, form, *cell, Site::Machine(Machine::tables(mode)));
            bench.compare(*cell, &mut case, case_seed, &mut report);
            drop(case);
            // SAFETY: the case was the last to allocate, and the report's cells exist since before.
            unsafe { heap::release(mark) };
        }
    }
    say!("{}", report.table());
    bench.corrections.tell();
    let (cases, least, different) = (report.cases(), report.least(), report.different());
    say!("{cases} cases in {} cells of at least {least}, {different} different, seed {seed}", cells.len());
    u32::from(different != 0 || least < each)
}
