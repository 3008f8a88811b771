// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes the handlers of exits that are no device access: CPUID, RDMSR and WRMSR, MOV to and from control and debug
//! registers, LMSW, SMSW, CLTS, XSETBV, HLT, VMMCALL and the instructions with one fixed answer.
//!
//! The input is a processor model, of which the host may have told anything, and a sequence of exits of one vCPU. Claimed:
//! - an exit ends in one of the ways that its instruction has, and goes on where the platform says that the next one is;
//! - an instruction that faults changes nothing; user mode changes no register that belongs to the kernel;
//! - the control registers, EFER, XCR0, debug registers and the PAT never hold what a processor would refuse, and no feature
//!   is on that CPUID does not show (rules of the manuals, said anew in `oracle`);
//! - XSETBV and MOV to CR0, CR3, CR4 and CR8 take exactly what these rules allow, WRMSR what it gives back;
//! - CPUID shows nothing that the model lacks, hides virtualization and encryption, and answers the same twice;
//! - nothing is taken from the heap, and no device is asked but by LMSW and SMSW with their operand there.

mod oracle;

use std::sync::Once;

use platform::{
    Control, ControlAccess, DebugAccess, Direction, Exit, ExitReason, Gpr, MsrAccess, SensitiveInstruction, Slip,
};
use vc_handlers::cpuid::{CpuidTable, PolicyConfig, RawCpuid, Registers, Xcr0};
use vc_handlers::testing::{FakeCpu, FakeEnv};
use vc_handlers::{VcpuContext, emulate, handle};

use crate::input::Input;
use crate::{Target, memory_use};
use oracle::Oracle;

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "exits",
    run: play,
    planted: &[
        ("user mode may read MSRs", |data| Slip::UserMsr.planted(|| play(data))),
        ("EFER.SVME can be set", |data| Slip::Svme.planted(|| play(data))),
        ("a WRMSR that faults leaves its value", |data| Slip::LateFault.planted(|| play(data))),
        ("XCR0 takes AVX without SSE", |data| Slip::Components.planted(|| play(data))),
        ("CR4 takes SMEP although CPUID hides it", |data| Slip::HiddenSmep.planted(|| play(data))),
        ("CPUID shows SVM", |data| Slip::ShownSvm.planted(|| play(data))),
        ("DR7's bit 10 can be cleared", |data| Slip::DebugOne.planted(|| play(data))),
    ],
    longest: 1024,
    mutations: 20_000,
};

/// Exits of one input.
const MOST_EXITS: usize = 64;

/// Where the guest's code is, and the next instruction, wherever that may be.
const RIP: u64 = 0x1000;
const NEXT: u64 = 0x7fff_1234;

/// MSRs that have rows of their own or lie beside some, so that inputs need not find them.
const MSRS: [u32; 40] = [
    0x10,
    0x17,
    0x1b,
    0x3a,
    0x8b,
    0xe7,
    0xfe,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17a,
    0x1a0,
    0x1d9,
    0x200,
    0x201,
    0x20f,
    0x210,
    0x250,
    0x259,
    0x268,
    0x277,
    0x2ff,
    0x400,
    0x6e0,
    0x802,
    0x8ff,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
    0xc001_0015,
    0xc001_0114,
    0xc001_0131,
    0xc001_1029,
];

/// CPUID leaves and those beside them.
const LEAVES: [u32; 16] = [
    0,
    1,
    2,
    4,
    7,
    0xb,
    0xd,
    0x15,
    0x16,
    0x4000_0000,
    0x8000_0000,
    0x8000_0001,
    0x8000_0008,
    0x8000_000a,
    0x8000_001d,
    0x8000_001f,
];

/// A processor model that never was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    amd: bool,
    seed: u64,
    /// None, all, few, half or most of the bits.
    density: u8,
    /// XSAVE areas and address widths, too, are anything.
    wild: bool,
}

impl RawCpuid for Model {
    fn read(&self, leaf: u32, subleaf: u32) -> Registers {
        let random = |number: u64| {
            let mut value = self.seed ^ u64::from(leaf) << 24 ^ u64::from(subleaf) << 8 ^ number;
            for _ in 0..2 {
                value = (value ^ value >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31);
            }
            value
        };
        let bits = |number: u64| {
            let (one, other) = (random(number) as u32, (random(number + 8) >> 32) as u32);
            match self.density % 5 {
                0 => 0,
                1 => u32::MAX,
                2 => one & other,
                3 => one,
                _ => one | other,
            }
        };
        let any = Registers::new(bits(0), bits(1), bits(2), bits(3));
        let (ebx, ecx, edx) =
            if self.amd { (0x6874_7541, 0x444d_4163, 0x6974_6e65) } else { (0x756e_6547, 0x6c65_746e, 0x4965_6e69) };
        match leaf {
            0 => Registers::new(if self.wild { bits(0) & 0x3f } else { 0x20 }, ebx, ecx, edx),
            0x8000_0000 => Registers::new(0x8000_0000 | if self.wild { bits(0) & 0x3f } else { 0x21 }, ebx, ecx, edx),
            0xd if subleaf > 1 && !self.wild => Registers::new(64, 576 + 64 * (subleaf & 63), 0, 0),
            0x8000_0008 if !self.wild => Registers { eax: 0x3030, ..any },
            _ => any,
        }
    }
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Exit(ExitReason),
    /// The guest changes its mode without an exit.
    Mode(u8),
}

impl Step {
    fn read(input: &mut Input<'_>, cpu: &mut FakeCpu) -> Self {
        let kind = input.byte();
        let direction = if kind & 0x80 == 0 { Direction::Write } else { Direction::Read };
        let operand = Gpr::from_encoding(kind >> 4 & 7);
        Self::Exit(match kind & 15 {
            0..=4 => {
                let choice = input.byte();
                let index = MSRS.get(usize::from(choice) % 48).copied().unwrap_or_else(|| input.word());
                cpu.set_pair(index, input.integer());
                ExitReason::Msr(MsrAccess { direction })
            }
            5..=7 => {
                let choice = input.byte();
                let register =
                    [Control::Cr0, Control::Cr2, Control::Cr3, Control::Cr4, Control::Cr8][usize::from(choice) % 5];
                let near = cpu.control_value(register);
                // Mostly near what is there: one bit more or less.
                let value = if choice & 0x40 == 0 { near ^ 1 << (input.byte() & 63) } else { input.integer() };
                cpu.state.gprs[operand as usize] = value;
                let operand = if choice & 0x80 == 0 { Some(operand) } else { None };
                ExitReason::Control(ControlAccess { register, direction, operand })
            }
            8 | 9 => {
                let choice = input.byte();
                cpu.state.gprs[operand as usize] = input.integer();
                let operand = if choice & 0x80 == 0 { Some(operand) } else { None };
                ExitReason::Debug(DebugAccess { register: choice & 7, direction, operand })
            }
            10 => {
                cpu.set_pair(u32::from(kind >> 4 == 15), input.integer());
                ExitReason::Xsetbv
            }
            11 | 12 => {
                let choice = input.byte();
                let leaf = LEAVES.get(usize::from(choice) % 20).copied().unwrap_or_else(|| input.word());
                cpu.set_pair(u32::from(kind >> 4), u64::from(leaf));
                ExitReason::Cpuid
            }
            13 => {
                use SensitiveInstruction::*;
                let all = [
                    Wbinvd, Invd, Monitor, Mwait, Rdpmc, Rdtsc, Rdtscp, Pause, Rsm, Icebp, Invlpgb, Tlbsync, Svm, Svm,
                    Rdtsc, Rdtscp,
                ];
                ExitReason::Sensitive(all[usize::from(kind >> 4)])
            }
            14 if kind & 0x10 == 0 => ExitReason::Hlt,
            14 => {
                let registers = [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi];
                registers.into_iter().for_each(|register| cpu.state.gprs[register as usize] = input.integer());
                ExitReason::Vmmcall
            }
            _ => return Self::Mode(kind >> 4),
        })
    }
}

/// The value of a control register, for whoever has not imported the trait.
trait ControlValue {
    fn control_value(&self, register: Control) -> u64;
}

impl ControlValue for FakeCpu {
    fn control_value(&self, register: Control) -> u64 {
        platform::GuestCpu::control(self, register)
    }
}

/// A vCPU and what is around it.
fn guest(input: &mut Input<'_>) -> (FakeCpu, FakeEnv) {
    let mut cpu = FakeCpu::long_mode();
    // Maps grow where they are new; nothing here is about that.
    cpu.msrs.extend((0..64).map(|number| (number, 0)));
    let mut env = FakeEnv::with_ram(0, 0x3000);
    env.apic.extend([0x1b, 0x6e0].into_iter().chain(0x800..0x840).map(|index| (index, 0)));
    env.oddities.reserve(4 * MOST_EXITS);
    env.sent.reserve(128 * MOST_EXITS);
    env.requests.reserve(4 * MOST_EXITS);
    env.memory.put(RIP, &input.bytes::<15>());
    (cpu, env)
}

fn play(data: &[u8]) {
    // The decoder's tables are built before a guest runs.
    static ONCE: Once = Once::new();
    ONCE.call_once(emulate::initialise);
    let mut input = Input::new(data);
    let (kind, seed) = (input.byte(), input.integer());
    let model = Model { amd: kind & 1 == 0, seed, density: kind >> 1 & 7, wild: kind & 0x70 == 0x70 };
    let processors = u32::from(input.byte()).max(1);
    // No platform switches AVX-512 yet, but the rules know it.
    let more = if seed & 1 == 0 { Xcr0::empty() } else { Xcr0::AVX512 };
    let config = PolicyConfig {
        processors,
        tsc_hz: 2_000_000_000,
        apic_timer_hz: 1_000_000_000,
        page_conversion: false,
        invariant_tsc: true,
        components: PolicyConfig::DEFAULT_COMPONENTS | more,
    };
    let Ok(table) = memory_use::without_heap(|| CpuidTable::new(&model, &config)) else { return };
    let index = u32::from(input.byte()) % processors;
    let mut vcpu = VcpuContext::new(&table, index).with_hypercalls(kind & 8 != 0);
    let (mut cpu, mut env) = guest(&mut input);
    let oracle = Oracle { model, table: &table, index, hypercalls: kind & 8 != 0 };
    for _ in 0..MOST_EXITS {
        if input.is_empty() {
            break;
        }
        match Step::read(&mut input, &mut cpu) {
            Step::Exit(reason) => {
                cpu.state.rip = RIP;
                one(&oracle, reason, (&mut vcpu, &mut cpu, &mut env));
            }
            Step::Mode(mode) => change_mode(mode, &mut cpu),
        }
    }
}

/// The guest goes on in another mode. Everything but control registers and segments stays.
fn change_mode(mode: u8, cpu: &mut FakeCpu) {
    let other = match mode & 7 {
        0..=3 => return cpu.set_cpl(mode & 3),
        4 => FakeCpu::real_mode(),
        5 => FakeCpu::protected_mode(),
        _ => FakeCpu::long_mode(),
    };
    (cpu.state.cr0, cpu.state.cr3, cpu.state.cr4) = (other.state.cr0, 0, other.state.cr4);
    (cpu.state.efer, cpu.state.segments) = (other.state.efer, other.state.segments);
}

/// One exit, held against the claims.
fn one(oracle: &Oracle<'_>, reason: ExitReason, (vcpu, cpu, env): (&mut VcpuContext<'_>, &mut FakeCpu, &mut FakeEnv)) {
    let (before, own) = (cpu.clone(), vcpu.clone());
    let exit = Exit { reason, next_rip: NEXT };
    let outcome = memory_use::without_heap(|| handle(&exit, None, vcpu, cpu, env));
    // LMSW and SMSW can have their operand there.
    let in_memory = matches!(reason, ExitReason::Control(ControlAccess { register: Control::Cr0, operand: None, .. }));
    assert!(env.requests.is_empty() || in_memory, "{reason:?} asks a device");
    env.requests.clear();
    oracle.check(reason, &before, cpu, outcome);
    if let ExitReason::Msr(access) = reason {
        oracle.check_msr(access, outcome, (&before, own), (cpu, vcpu, env));
    }
    env.oddities.clear();
    env.sent.clear();
}
