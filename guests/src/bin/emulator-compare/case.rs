// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs one case on one side.

use core::arch::asm;

use emulator_tests::generate::Tables;
use emulator_tests::layout::{CODE, Mode};
use emulator_tests::state::{Case, End, State};
use guests::exceptions;
use guests::instructions as cpu;

use crate::exchange::{self, Exchange, WAY_PROTECTED, WAY_REAL, WAY_VIRTUAL};
use crate::legacy::{self, RealSlots};
use crate::long;
use crate::world::{self, CODE_AT, Rights, Side};

const BREAKPOINT: u8 = 3;
const PAGE_FAULT: u8 = 14;
const VIRTUAL_8086: u64 = 1 << 17;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_SMAP: u64 = 1 << 21;
const CR4_PKE: u64 = 1 << 22;
const INT3: u8 = 0xcc;

type LoadVectors = unsafe extern "C" fn(*const [u8; 32]);
type SaveVectors = unsafe extern "C" fn(*mut [u8; 32]);

/// What a case came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) state: State,
    /// Registers that system instructions load: base and limit of both tables, LDTR, TR, the low half of CR0.
    pub(crate) system: [u64; 7],
    /// The accessed and dirty bits of the data's pages.
    pub(crate) used: u64,
}

/// What the processor has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) avx: bool,
    /// SMAP, and protection keys.
    pub(crate) smap: bool,
    pub(crate) keys: bool,
}

impl Machine {
    /// The tables that a mode has.
    pub(crate) fn tables(mode: Mode) -> Tables {
        let exchange = exchange::get();
        let parts = |table: [u8; 16]| {
            let word = u128::from_le_bytes(table);
            ((word >> 16) as u64, word as u16)
        };
        let (gdt, idt) = match mode {
            Mode::Long | Mode::Compatibility32 | Mode::Compatibility16 => {
                (parts(exchange.long_gdtr), world::long_idt())
            }
            Mode::Protected32 | Mode::Protected16 | Mode::Virtual8086 => {
                (parts(exchange.legacy_gdtr), parts(exchange.legacy_idtr))
            }
            Mode::Real => (parts(exchange.legacy_gdtr), parts(exchange.real_idtr)),
        };
        Tables {
            gdt: gdt.0,
            gdt_limit: gdt.1,
            idt: idt.0,
            idt_limit: idt.1,
            local: world::LOCAL,
            task: world::SPARE_TASK,
            code: world::selectors(mode).0,
        }
    }

    /// Runs `case` with its data on `side`. `legacy_tables`: without long mode, under tables of 4-byte entries.
    pub(crate) fn run(self, case: &Case, side: Side, rights: Rights, legacy_tables: bool) -> Outcome {
        world::store(CODE_AT + case.state.rip, &case.bytes);
        let mut vectors = case.state.vectors;
        let (load, save): (LoadVectors, SaveVectors) = if self.avx {
            (long::compare_load_ymm, long::compare_store_ymm)
        } else {
            (long::compare_load_xmm, long::compare_store_xmm)
        };
        // SAFETY: the buffer has sixteen registers; the compiler keeps nothing in vector registers.
        unsafe { load(vectors.as_ptr()) };
        let mut outcome = match case.mode {
            Mode::Long | Mode::Compatibility32 | Mode::Compatibility16 => in_long_mode(case, side, rights),
            Mode::Real => in_real_mode(case, side),
            _ => in_protected_mode(case, side, legacy_tables),
        };
        // SAFETY: as above.
        unsafe { save(vectors.as_mut_ptr()) };
        outcome.state.vectors = vectors;
        world::store(CODE_AT + case.state.rip, &[INT3; 15]);
        outcome
    }
}

fn load_tables(gdt: &[u8; 16], idt: &[u8; 16]) {
    // SAFETY: both tables are complete, and the selectors in use mean the same in them.
    unsafe { asm!("lgdt [{}]", "lidt [{}]", in(reg) gdt, in(reg) idt, options(nostack, preserves_flags)) };
}

/// What every way in has in common.
fn enter(case: &Case) -> (u16, u16) {
    let (cs, ss) = world::selectors(case.mode);
    exchange::change(|it| {
        it.gprs = case.state.gprs;
        it.rip = case.state.rip;
        it.rflags = case.state.rflags;
        it.cs = cs.into();
        it.ss = ss.into();
        it.ds = case.state.ds.into();
        it.es = case.state.es.into();
        it.gs = case.state.gs.into();
        it.tr = 0;
        it.ldtr = 0;
    });
    (cs, ss)
}

fn end(it: &Exchange) -> End {
    let vector = it.vector as u8;
    if vector == BREAKPOINT {
        return End::Completed;
    }
    End::Fault { vector, code: it.error as u32, address: if vector == PAGE_FAULT { it.cr2 } else { 0 } }
}

/// RIP without the INT3 behind the instruction.
fn rip(it: &Exchange, rip: u64) -> u64 {
    rip - u64::from(it.vector == u64::from(BREAKPOINT))
}

fn table(register: [u8; 16]) -> [u64; 2] {
    let word = u128::from_le_bytes(register);
    [word as u64 & 0xffff, (word >> 16) as u64]
}

fn in_long_mode(case: &Case, side: Side, rights: Rights) -> Outcome {
    enter(case);
    world::freshen();
    world::map(side, rights);
    protect(rights);
    let (base, limit) = world::long_idt();
    let idt = exchange::table(base, limit);
    exchange::change(|it| {
        if case.mode.is_long() {
            it.rip += CODE;
        }
        it.gdtr = [0; 16];
        it.idtr = [0; 16];
        load_tables(&it.long_gdtr, &idt);
    });
    // SAFETY: both descriptors exist, and the task is available.
    unsafe {
        asm!("lldt {:x}", "ltr {:x}", in(reg) world::LOCAL, in(reg) world::MAIN_TASK, options(nostack, preserves_flags));
    };
    // SAFETY: everything is in place; the case returns through the table's gates.
    unsafe { long::compare_run_long() };
    exceptions::load_installed();
    let it = exchange::get();
    cpu::write_cr0(it.host_cr0);
    protect(Rights::default());
    let code = if case.mode.is_long() { CODE } else { 0 };
    let ([gdt_limit, gdt], [idt_limit, idt]) = (table(it.gdtr), table(it.idtr));
    let state = State {
        gprs: it.gprs,
        rip: rip(&it, it.rip).wrapping_sub(code),
        rflags: it.rflags,
        ds: it.ds as u16,
        es: it.es as u16,
        gs: it.gs as u16,
        ..State::default()
    };
    let system = [gdt, gdt_limit, idt, idt_limit, it.ldtr & 0xffff, it.tr & 0xffff, it.cr0 & 0xffff];
    Outcome { end: end(&it), state, system, used: world::used() }
}

/// Sets CR4.SMAP and CR4.PKE, and PKRU. No memory of this program is level 3's.
fn protect(rights: Rights) {
    let smap = if rights.smap { CR4_SMAP } else { 0 };
    let wanted = exchange::get().host_cr4 | smap | if rights.key.is_some() { CR4_PKE } else { 0 };
    if cpu::read_cr4() != wanted {
        cpu::write_cr4(wanted);
    }
    if let Some(key) = rights.key {
        let value = key << (2 * world::KEY);
        // SAFETY: CR4.PKE is set, and the pages that the key protects are the cases'.
        unsafe { asm!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags)) };
    }
}

fn far(offset: u32, selector: u16) -> [u8; 8] {
    (u64::from(offset) | u64::from(selector) << 32).to_le_bytes()
}

fn in_protected_mode(case: &Case, side: Side, legacy_tables: bool) -> Outcome {
    let (cs, ss) = enter(case);
    let cr3 = world::root(legacy_tables);
    world::freshen();
    world::freshen_tasks(cr3);
    world::map(side, Rights::default());
    let is_virtual = case.mode == Mode::Virtual8086;
    exchange::change(|it| {
        it.way = if is_virtual { WAY_VIRTUAL } else { WAY_PROTECTED };
        if is_virtual {
            it.rflags |= VIRTUAL_8086;
        }
        it.far_stack = far(case.state.gprs[4] as u32, ss);
        it.far_code = far(case.state.rip as u32, cs);
        it.case_cr3 = cr3;
        it.case_cr4 = if legacy_tables { it.host_cr4 & !CR4_PAE | CR4_PSE } else { it.host_cr4 };
        it.gdtr = [0; 16];
        it.idtr = [0; 16];
    });
    // SAFETY: everything is in place; the case returns through the table's gates.
    unsafe { legacy::compare_run_legacy() };
    exceptions::load_installed();
    let it = exchange::get();
    let (task, selector) = world::interrupted(it.vector as u8);
    let ([gdt_limit, gdt], [idt_limit, idt]) = (table(it.gdtr), table(it.idtr));
    let mut state = State {
        rip: rip(&it, task.0[8].into()),
        rflags: task.0[9].into(),
        es: task.0[18] as u16,
        ds: task.0[21] as u16,
        gs: task.0[23] as u16,
        ..State::default()
    };
    for (to, from) in state.gprs.iter_mut().zip(&task.0[10..18]) {
        *to = (*from).into();
    }
    // A task switch sets TS.
    let system = [gdt, gdt_limit, idt, idt_limit, 0, selector.into(), it.cr0 & 0xfff7];
    Outcome { end: end(&it), state, system, used: world::used() }
}

fn in_real_mode(case: &Case, side: Side) -> Outcome {
    let (cs, ss) = enter(case);
    let stack = (u64::from(case.state.gprs[4] as u16)).wrapping_sub(0x40);
    // What the exception's frame of the other side may have covered.
    for offset in (0..0x50).step_by(8) {
        world::store(world::REAL_STACK + (stack.wrapping_add(offset) & 0xffff), &case.state.gprs[3].to_le_bytes());
    }
    for (offset, bytes) in &case.memory {
        world::store(world::REAL_STACK + offset, bytes);
    }
    let moved = |selector: u16| match side {
        Side::Plain => selector,
        Side::Device { .. } => selector.wrapping_add(world::DEVICE_SELECTOR - emulator_tests::layout::DATA_SELECTOR),
    };
    let legacy_gdtr = exchange::get().legacy_gdtr;
    world::freshen();
    world::set_slots(RealSlots {
        gprs: core::array::from_fn(|index| case.state.gprs[index] as u32),
        far_stack: [case.state.gprs[4] as u16, (case.state.gprs[4] >> 16) as u16, ss],
        far_code: [case.state.rip as u16, cs],
        ds: moved(case.state.ds),
        es: moved(case.state.es),
        gs: moved(case.state.gs),
        rflags: case.state.rflags as u32,
        back_gdtr: core::array::from_fn(|index| {
            u16::from_le_bytes([legacy_gdtr[2 * index], legacy_gdtr[2 * index + 1]])
        }),
        ..RealSlots::default()
    });
    exchange::change(|it| {
        it.way = WAY_REAL;
        it.case_cr4 = it.host_cr4;
    });
    // SAFETY: everything is in place; the case returns through the vectors of real mode.
    unsafe { legacy::compare_run_legacy() };
    exceptions::load_installed();
    let seen = world::slots();
    exchange::change(|it| {
        it.vector = seen.vector.into();
        it.error = 0;
        it.cr2 = 0;
    });
    let it = exchange::get();
    let back = |selector: u16| {
        let known = [case.state.ds, case.state.gs].into_iter().find(|known| moved(*known) == selector);
        known.unwrap_or(selector)
    };
    let mut state = State {
        rip: rip(&it, seen.rip.into()),
        rflags: seen.flags.into(),
        ds: back(seen.ds),
        es: back(seen.es),
        gs: back(seen.gs),
        ..State::default()
    };
    for (to, from) in state.gprs.iter_mut().zip(seen.gprs) {
        *to = from.into();
    }
    // The frame of four words.
    let esp = &mut state.gprs[4];
    *esp = *esp & !0xffff | u64::from((*esp as u16).wrapping_add(8));
    let word = |table: [u16; 3]| [u64::from(table[0]), u64::from(table[1]) | u64::from(table[2]) << 16];
    let ([gdt_limit, gdt], [idt_limit, idt]) = (word(seen.gdtr), word(seen.idtr));
    let system = [gdt, gdt_limit, idt, idt_limit, 0, 0, u64::from(seen.status)];
    Outcome { end: end(&it), state, system, used: 0 }
}
