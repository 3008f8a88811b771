// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a processor lets a guest do, said once more (APM vol. 2, chapters 3, 7, 11 and 13; SDM vol. 3A, 2.5 and 13.3).

use platform::{
    Control, ControlAccess, DebugAccess, Direction, Exception, ExitReason, Gpr, GuestCpu, MsrAccess,
    SensitiveInstruction as Sensitive,
};
use vc_handlers::cpuid::{CpuidTable, RawCpuid, Registers};
use vc_handlers::testing::{FakeCpu, FakeEnv};
use vc_handlers::{Outcome, VcpuContext, handle};

use super::{Model, NEXT, RIP};

const GP: Outcome = Outcome::Inject(Exception::GENERAL_PROTECTION);
const UD: Outcome = Outcome::Inject(Exception::UNDEFINED);
const DB: Outcome = Outcome::Inject(Exception::DEBUG);
const DONE: Outcome = Outcome::Complete(NEXT);

/// EFER.
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;
/// CR0.
const PE: u64 = 1 << 0;
const NW: u64 = 1 << 29;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;
/// CR4.
const PAE: u64 = 1 << 5;
const PCIDE: u64 = 1 << 17;
const OSXSAVE: u64 = 1 << 18;

/// Bits of a guest-physical address.
const PHYSICAL_BITS: u32 = 40;

/// CR4 bits that need a feature: the bit, leaf, register (EBX, ECX, EDX as 1, 2, 3) and the feature's bit.
const CR4_FEATURES: [(u32, u32, usize, u32); 9] = [
    (11, 7, 2, 2),
    (16, 7, 1, 0),
    (17, 1, 2, 17),
    (18, 1, 2, 26),
    (20, 7, 1, 7),
    (21, 7, 1, 20),
    (22, 7, 2, 3),
    (4, 1, 3, 3),
    (7, 1, 3, 13),
];
/// CR4 bits that no guest may set: VMXE, SMXE, LA57, CET, PKS, and everything above.
const CR4_NEVER: u64 = !0x7f_ffff | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 19;

/// The state that the guest sees and handlers may change.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    state: platform::VcpuState,
    cr8: u64,
    xcr0: u64,
    breakpoints: [u64; 4],
    msrs: Vec<u64>,
}

impl Seen {
    fn of(cpu: &FakeCpu) -> Self {
        let mut state = cpu.state;
        // The run loop's business.
        state.rip = 0;
        let msrs = cpu.msrs.values().copied().collect();
        Self { state, cr8: cpu.cr8, xcr0: cpu.xcr0, breakpoints: cpu.breakpoints, msrs }
    }

    /// The same without general-purpose registers.
    fn system(cpu: &FakeCpu) -> Self {
        let mut seen = Self::of(cpu);
        seen.state.gprs = [0; 16];
        seen
    }
}

/// What is known of one vCPU from outside.
pub(super) struct Oracle<'t> {
    pub(super) model: Model,
    pub(super) table: &'t CpuidTable,
    pub(super) index: u32,
    pub(super) hypercalls: bool,
}

impl Oracle<'_> {
    /// What the guest's CPUID shows, in whatever state the guest is.
    fn cpuid(&self, leaf: u32, subleaf: u32, cpu: &FakeCpu) -> Registers {
        let (mut cpu, vcpu) = (cpu.clone(), VcpuContext::new(self.table, self.index));
        cpu.set_gpr(Gpr::Rax, leaf.into());
        cpu.set_gpr(Gpr::Rcx, subleaf.into());
        vc_handlers::cpuid::answer(&vcpu, &mut cpu);
        let value = |register: Gpr| {
            let value = cpu.gpr(register);
            u32::try_from(value).unwrap_or_else(|_| panic!("CPUID leaves {value:#x} in {register:?}"))
        };
        Registers::new(value(Gpr::Rax), value(Gpr::Rbx), value(Gpr::Rcx), value(Gpr::Rdx))
    }

    fn shows(&self, leaf: u32, register: usize, bit: u32, cpu: &FakeCpu) -> bool {
        let Registers { eax, ebx, ecx, edx } = self.cpuid(leaf, 0, cpu);
        [eax, ebx, ecx, edx][register] >> bit & 1 != 0
    }

    /// What holds after every exit.
    pub(super) fn check(&self, reason: ExitReason, before: &FakeCpu, after: &FakeCpu, outcome: Outcome) {
        let user = before.system().cpl != 0;
        let in_memory =
            matches!(reason, ExitReason::Control(ControlAccess { register: Control::Cr0, operand: None, .. }));
        let say = || format!("{reason:?}, CPL {}: {outcome:?}", before.system().cpl);
        match outcome {
            // LMSW and SMSW with an operand in memory are emulated, and then their own length counts.
            Outcome::Complete(next) if in_memory && (RIP + 3..=RIP + 15).contains(&next) => {}
            Outcome::Complete(next) | Outcome::Wait(next) => assert_eq!(next, NEXT, "{}", say()),
            Outcome::Inject(_) | Outcome::Resume => {}
            _ => panic!("{}", say()),
        }
        let guarded = matches!(reason, ExitReason::Debug(_)) && outcome == DB;
        if matches!(outcome, Outcome::Inject(_) | Outcome::Resume) && !guarded {
            assert_eq!(Seen::of(after), Seen::of(before), "{}: something changed", say());
        }
        if user {
            assert_eq!(Seen::system(after), Seen::system(before), "{}: user mode changed the system", say());
        }
        self.check_state(before, after);
        match reason {
            ExitReason::Cpuid => self.check_cpuid(before, after, outcome),
            ExitReason::Msr(_) => assert!(matches!(outcome, DONE | GP) && (!user || outcome == GP), "{}", say()),
            ExitReason::Control(access) => Self::check_control(&access, before, after, outcome),
            ExitReason::Debug(access) => Self::check_debug(&access, before, after, outcome),
            ExitReason::Xsetbv => self.check_xsetbv(before, after, outcome),
            ExitReason::Hlt => assert_eq!(outcome, if user { GP } else { Outcome::Wait(NEXT) }),
            ExitReason::Vmmcall => assert_eq!(outcome, if self.hypercalls { DONE } else { UD }),
            ExitReason::Sensitive(it) => self.check_sensitive(it, before, after, outcome),
            other => panic!("{other:?} is no exit of this fuzzer"),
        }
    }

    /// What a processor never holds.
    fn check_state(&self, before: &FakeCpu, after: &FakeCpu) {
        let (state, old) = (&after.state, &before.state);
        let (cr0, cr4, efer) = (state.cr0, state.cr4, state.efer);
        assert!(cr0 >> 32 == 0 && cr0 & 1 << 4 != 0, "CR0 {cr0:#x}");
        assert!(cr0 & PG == 0 || cr0 & PE != 0, "CR0 {cr0:#x}: paging without protection");
        assert!(cr0 & NW == 0 || cr0 & CD != 0, "CR0 {cr0:#x}: not-write-through without cache disable");
        assert_eq!(efer & LMA != 0, efer & LME != 0 && cr0 & PG != 0, "EFER {efer:#x}, CR0 {cr0:#x}");
        assert_eq!(efer & !(0x4d01 | NXE), 0, "EFER {efer:#x} has a bit that no guest may set");
        assert!(efer & LMA == 0 || cr4 & PAE != 0, "long mode without PAE, CR4 {cr4:#x}");
        assert_eq!(cr4 & CR4_NEVER, 0, "CR4 {cr4:#x}");
        for (bit, leaf, register, feature) in CR4_FEATURES {
            let is_new = cr4 & !old.cr4 & 1 << bit != 0;
            assert!(!is_new || self.shows(leaf, register, feature, after), "CR4 bit {bit} without its feature");
        }
        for (bit, number) in [(NXE, 20), (LME, 29), (1 << 14, 25)] {
            let is_new = efer & !old.efer & bit != 0;
            assert!(!is_new || self.shows(0x8000_0001, 3, number, after), "EFER {efer:#x} without its feature");
        }
        assert!(efer & LMA != 0 || cr4 & PCIDE == 0, "PCIDs outside of long mode, CR4 {cr4:#x}");
        assert!(efer & LMA == 0 || state.cr3 >> PHYSICAL_BITS == 0, "CR3 {:#x}", state.cr3);
        assert!(after.cr8 < 16, "CR8 {:#x}", after.cr8);
        assert_eq!(state.dr6 & !0xe00f, 0xffff_0ff0, "DR6 {:#x}", state.dr6);
        assert_eq!(state.dr7 & !0xffff_23ff, 1 << 10, "DR7 {:#x}", state.dr7);
        assert!(state.pat.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)), "PAT {:#x}", state.pat);
        assert!(after.xcr0 == 1 || self.is_valid_xcr0(after.xcr0, after), "XCR0 {:#x}", after.xcr0);
        for number in [platform::SegmentRegister::Fs, platform::SegmentRegister::Gs] {
            let base = after.segment(number).base as i64;
            assert_eq!(base << 16 >> 16, base, "{number:?} has a base that is not canonical");
        }
    }

    fn is_valid_xcr0(&self, value: u64, cpu: &FakeCpu) -> bool {
        let leaf = self.cpuid(0xd, 0, cpu);
        let offered = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
        let (avx, avx512) = (value & 4 != 0, value & 0xe0);
        value & !offered == 0 && value & 1 != 0 && (!avx || value & 2 != 0) && (avx512 == 0 || avx512 == 0xe0 && avx)
    }

    fn check_xsetbv(&self, before: &FakeCpu, after: &FakeCpu, outcome: Outcome) {
        let index = before.gpr(Gpr::Rcx) as u32;
        let value = before.gpr(Gpr::Rax) & 0xffff_ffff | before.gpr(Gpr::Rdx) << 32;
        let expected = if before.state.cr4 & OSXSAVE == 0 {
            UD
        } else if before.system().cpl == 0 && index == 0 && self.is_valid_xcr0(value, before) {
            assert_eq!(after.xcr0, value);
            DONE
        } else {
            GP
        };
        assert_eq!(outcome, expected, "XSETBV of {value:#x} to {index}");
    }

    /// The value of a MOV's operand, and where it is known, as the instruction sees it.
    fn operand(operand: Gpr, cpu: &FakeCpu) -> u64 {
        let long = cpu.state.efer & LMA != 0
            && cpu.segment(platform::SegmentRegister::Cs).attributes.contains(platform::SegmentAttributes::LONG);
        if long { cpu.gpr(operand) } else { cpu.gpr(operand) & 0xffff_ffff }
    }

    fn check_control(access: &ControlAccess, before: &FakeCpu, after: &FakeCpu, outcome: Outcome) {
        let ControlAccess { register, direction, operand } = *access;
        // Without it, what stands at RIP decides: the emulator target's business. Here only the state counts.
        let Some(operand) = operand else { return };
        if before.system().cpl != 0 {
            return assert_eq!(outcome, GP);
        }
        let (value, old) = (Self::operand(operand, before), before.control(register));
        if direction == Direction::Read {
            assert_eq!(outcome, DONE);
            assert_eq!(Seen::system(after), Seen::system(before));
            let shown = Self::operand(operand, after);
            return assert_eq!(
                shown,
                Self::operand(operand, &{
                    let mut cpu = before.clone();
                    cpu.set_gpr(operand, old);
                    cpu
                })
            );
        }
        let system = before.system();
        let long = system.efer & LMA != 0;
        let allowed = match register {
            Control::Cr0 => Self::takes_cr0(value, before),
            Control::Cr2 => true,
            Control::Cr3 => {
                let kept = if system.cr4 & PCIDE != 0 { 1 << 63 } else { 0 };
                !long || (value & !kept) >> PHYSICAL_BITS == 0
            }
            Control::Cr8 => value < 16,
            // Which bits, `check_state` knows.
            Control::Cr4 => outcome == DONE,
        };
        assert_eq!(outcome, if allowed { DONE } else { GP }, "{value:#x} to {register:?}, which is {old:#x}");
        if !allowed {
            return;
        }
        let new = after.control(register);
        match register {
            Control::Cr0 => assert_eq!((new ^ value) & 0xe005_002f, 0, "CR0 {new:#x} after a write of {value:#x}"),
            Control::Cr3 => assert_eq!(new & !(1 << 63), value & !(1 << 63)),
            _ => assert_eq!(new, value, "{register:?}"),
        }
    }

    fn takes_cr0(value: u64, cpu: &FakeCpu) -> bool {
        let (system, paging) = (cpu.system(), value & PG != 0);
        let in_64bit_code =
            cpu.segment(platform::SegmentRegister::Cs).attributes.contains(platform::SegmentAttributes::LONG);
        let plain = value >> 32 == 0 && (!paging || value & PE != 0) && (value & NW == 0 || value & CD != 0);
        let changes = (value ^ system.cr0) & PG != 0 && system.efer & LME != 0;
        let switch = match (changes, paging) {
            (false, _) => true,
            (true, true) => system.cr4 & PAE != 0 && !in_64bit_code,
            (true, false) => system.cr4 & PCIDE == 0 && !in_64bit_code,
        };
        plain && switch
    }

    fn check_debug(access: &DebugAccess, before: &FakeCpu, after: &FakeCpu, outcome: Outcome) {
        let DebugAccess { register, direction, operand } = *access;
        let Some(operand) = operand else { return };
        let value = Self::operand(operand, before);
        let high = value >> 32 != 0 && register >= 4 && direction == Direction::Write;
        let expected = if matches!(register, 4 | 5) && before.state.cr4 & 1 << 3 != 0 {
            UD
        } else if before.system().cpl != 0 {
            GP
        } else if before.state.dr7 & 1 << 13 != 0 {
            DB
        } else if high {
            GP
        } else {
            DONE
        };
        assert_eq!(outcome, expected, "DR{register}, {direction:?}, {value:#x}");
        if outcome == DB {
            assert_eq!((after.state.dr7 & 1 << 13, after.state.dr6 & 1 << 13), (0, 1 << 13), "the guard");
        } else if outcome == DONE && direction == Direction::Write && register < 4 {
            assert_eq!(after.breakpoints[usize::from(register)], value);
        }
    }

    fn check_sensitive(&self, it: Sensitive, before: &FakeCpu, after: &FakeCpu, outcome: Outcome) {
        let user = before.system().cpl != 0;
        let hidden_from_user = if user { GP } else { DONE };
        let tsc = if before.state.cr4 & 1 << 2 != 0 { hidden_from_user } else { DONE };
        let expected = match it {
            Sensitive::Wbinvd | Sensitive::Invd => hidden_from_user,
            Sensitive::Pause => DONE,
            Sensitive::Rdpmc => GP,
            Sensitive::Icebp => DB,
            Sensitive::Rdtsc => tsc,
            Sensitive::Rdtscp if self.shows(0x8000_0001, 3, 27, before) => tsc,
            _ => UD,
        };
        assert_eq!(outcome, expected, "{it:?}");
        assert_eq!(after.rip(), if it == Sensitive::Icebp { NEXT } else { RIP }, "{it:?}");
        assert_eq!(Seen::system(after), Seen::system(before), "{it:?}");
    }

    fn check_cpuid(&self, before: &FakeCpu, after: &FakeCpu, outcome: Outcome) {
        assert_eq!(outcome, DONE);
        let (leaf, subleaf) = (before.gpr(Gpr::Rax) as u32, before.gpr(Gpr::Rcx) as u32);
        let shown = [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx].map(|register| after.gpr(register));
        assert!(shown.iter().all(|value| value >> 32 == 0), "CPUID {leaf:#x}: {shown:x?}");
        assert_eq!(Seen::system(after), Seen::system(before));
        let [eax, ebx, ecx, edx] = shown.map(|value| value as u32);
        let in_model = |leaf: u32| {
            let range = leaf & 0x8000_0000;
            if leaf <= self.model.read(range, 0).eax { self.model.read(leaf, 0) } else { Registers::ZERO }
        };
        match leaf {
            1 => {
                // Shown whatever the model has: x2APIC, TSC deadline, hypervisor; OSXSAVE is CR4's.
                let emulated = 1 << 21 | 1 << 24 | 1 << 31 | 1 << 27;
                assert_eq!(ecx & !(in_model(1).ecx | emulated), 0, "leaf 1 shows {ecx:#x}, which the model lacks");
                assert_eq!(ecx & (1 << 3 | 1 << 5 | 1 << 6), 0, "MONITOR, VMX or SMX is shown");
                assert_eq!(ecx >> 27 & 1 != 0, before.state.cr4 & OSXSAVE != 0, "OSXSAVE");
                assert_eq!(ebx >> 24, self.index, "APIC ID");
            }
            7 if subleaf == 0 => {
                assert_eq!(ebx & !in_model(7).ebx, 0, "leaf 7 shows {ebx:#x}, which the model lacks");
                assert_eq!(ecx & !(in_model(7).ecx | 1 << 4), 0, "leaf 7 shows {ecx:#x}, which the model lacks");
                assert_eq!(edx & !in_model(7).edx, 0, "leaf 7 shows {edx:#x}, which the model lacks");
                assert_eq!(ecx & 1 << 16, 0, "five-level paging is shown");
            }
            0x8000_0001 => {
                assert_eq!(ecx & !(in_model(leaf).ecx | 2), 0, "{leaf:#x} shows {ecx:#x}, which the model lacks");
                assert_eq!(ecx & 1 << 2, 0, "SVM is shown");
            }
            0x8000_000a | 0x8000_001f => {
                // Intel's processors answer a leaf that they lack with their last basic one (SDM vol. 2A, CPUID).
                let last = self.cpuid(self.cpuid(0, 0, before).eax, subleaf, before);
                let expected = if self.model.amd { Registers::ZERO } else { last };
                let shown = Registers::new(eax, ebx, ecx, edx);
                assert_eq!(shown, expected, "virtualization or encryption is shown");
            }
            _ => {}
        }
    }

    /// What WRMSR stored RDMSR gives back, and a WRMSR that faults stores nothing.
    pub(super) fn check_msr(
        &self,
        access: MsrAccess,
        outcome: Outcome,
        (before, mut old): (&FakeCpu, VcpuContext<'_>),
        (after, vcpu, env): (&FakeCpu, &mut VcpuContext<'_>, &mut FakeEnv),
    ) {
        let index = before.gpr(Gpr::Rcx) as u32;
        if access.direction == Direction::Read || before.system().cpl != 0 || is_apic(index) {
            return;
        }
        let value = before.gpr(Gpr::Rax) & 0xffff_ffff | before.gpr(Gpr::Rdx) << 32;
        let read = |vcpu: &mut VcpuContext<'_>, cpu: &FakeCpu, env: &mut FakeEnv| {
            let mut cpu = cpu.clone();
            let reason = ExitReason::Msr(MsrAccess { direction: Direction::Read });
            let outcome = handle(&platform::Exit { reason, next_rip: NEXT }, None, vcpu, &mut cpu, env);
            (outcome == DONE).then(|| cpu.pair())
        };
        let (was, is) = (read(&mut old, before, env), read(vcpu, after, env));
        if outcome != DONE {
            assert_eq!(was, is, "WRMSR of {value:#x} to {index:#x} faults and changes it");
        } else if gives_back(index) {
            assert_eq!(is, Some(value), "WRMSR of {value:#x} to {index:#x}");
        }
    }
}

const fn is_apic(index: u32) -> bool {
    matches!(index, 0x1b | 0x6e0 | 0x800..=0x8ff)
}

/// MSRs that hold what is written to them, every bit of it.
const fn gives_back(index: u32) -> bool {
    // SYSENTER_CS, MTRRs, PAT; STAR, LSTAR, CSTAR, SFMASK; FS, GS and kernel GS bases.
    matches!(index, 0x174 | 0x200..=0x20f | 0x250 | 0x258 | 0x259 | 0x268..=0x26f | 0x277 | 0x2ff)
        || matches!(index, 0xc000_0081..=0xc000_0084 | 0xc000_0100..=0xc000_0102)
}
