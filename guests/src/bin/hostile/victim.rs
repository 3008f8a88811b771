// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a victim does in long mode: one job, then it waits for INIT.

use core::sync::atomic::Ordering::SeqCst;

use guests::instructions::write_cr0;
use guests::{instructions, machine};

use crate::area::{Area, state};
use crate::plan::{Job, PARTS};
use crate::probes::{borders, floods, gates, memory, msrs, paging, ports, registers, stuck};
use crate::random::Random;
use crate::{foreign, tables};

/// Accesses of a job.
const COUNT: u64 = 600;

/// From the trampoline.
pub(crate) extern "C" fn main(area: &'static Area) -> ! {
    gates::reload(area);
    load_task_register();
    area.beat();
    // An earlier job may have left the local APIC anywhere: INIT does not bring it back.
    msrs::settle(area);
    let words = &area.words;
    let mut random = Random::new(words.seed.load(SeqCst), words.part.load(SeqCst), area.index());
    let random = &mut random;
    match Job::at(words.job.load(SeqCst)) {
        Job::Ports => ports::run(area, random, COUNT),
        Job::Memory => memory::run(area, random, COUNT, turn(area)),
        Job::Msrs => msrs::run(area, random, COUNT),
        Job::Registers => registers::run(area, random, COUNT),
        Job::Floods => floods::run(area, random, COUNT / 2),
        Job::Gates => gates::run(area, random, COUNT),
        Job::Paging => paging::run(area, random, COUNT),
        Job::Borders => borders::run(area, random, COUNT),
        Job::Stuck => stuck::run(area, random),
        Job::Long => foreign::run_long(area, random),
        // These start in other modes.
        Job::Tasks | Job::Virtual | Job::Real => {}
    }
    words.state.store(state::DONE, SeqCst);
    machine::halt_forever();
}

/// The number of a job among those of its kind in consecutive seeds: each victim has two in a seed. Parts behind the plan's do
/// again what was done.
fn turn(area: &Area) -> u64 {
    let words = &area.words;
    let (seed, second) = (words.seed.load(SeqCst), words.job.load(SeqCst) >= PARTS / 2);
    (seed * 2 + area.index()) * 2 + u64::from(second)
}

fn load_task_register() {
    // SAFETY: the descriptor was made by the warden before the victim started, and it is not busy.
    unsafe { core::arch::asm!("ltr {:x}", in(reg) 0x30u64, options(nostack)) };
}

/// Puts back what foreign code at level 0 may have changed.
pub(crate) fn repair(area: &Area, boot: u64) {
    const CR0: u64 = 0x8001_0031;
    const CR4: u64 = 0x620;
    if instructions::read_cr0() != CR0 {
        write_cr0(CR0);
    }
    if instructions::read_cr4() != CR4 {
        instructions::write_cr4(CR4);
    }
    instructions::write_cr3(boot);
    crate::handler::clear_breakpoints();
    gates::reload(area);
    let task: u64;
    // SAFETY: only reads a selector.
    unsafe { core::arch::asm!("str {}", out(reg) task, options(nomem, nostack)) };
    if task != 0x30 {
        tables::free_task_segment(area);
        load_task_register();
    }
}
