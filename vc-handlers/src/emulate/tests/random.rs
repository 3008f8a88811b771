// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random bytes in random states: whatever a guest does, the emulator answers and leaves a sound state.

use platform::{Direction, IoAccess, IoWidth, Reason, Segment, SegmentAttributes, VcpuState};

use super::*;
use crate::emulate::string_io;

/// Less RAM than elsewhere, because each case has its own.
const RAM: u64 = 0x2_0000;

/// Xorshift, so that a failure can be run again from its case number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// An address near something interesting, or anything.
    fn address(&mut self) -> u64 {
        let near = [DEVICE, RAM, DATA, 0, 0xffff_ffff, 0xffff, 1 << 47, u64::MAX, TABLES, CODE];
        match self.below(12) {
            index @ 0..=9 => near[index as usize].wrapping_add(self.below(64)).wrapping_sub(32),
            10 => self.next(),
            _ => self.below(64),
        }
    }

    /// An opcode that takes a ModRM byte, more often than chance would have it.
    fn code(&mut self) -> [u8; 15] {
        let mut bytes = [0; 15];
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
        let likely = [
            0x88, 0x89, 0x8a, 0x8b, 0xa4, 0xa5, 0xaa, 0xae, 0xa6, 0x0f, 0xff, 0xf7, 0xc1, 0x6c, 0x6f, 0x8f, 0x87, 0x8e,
            0xc5,
        ];
        let prefixes = [0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x48, 0x41];
        let mut at = 0;
        while at < 4 && self.one_in(3) {
            bytes[at] = prefixes[self.below(prefixes.len() as u64) as usize];
            at += 1;
        }
        if !self.one_in(4) {
            bytes[at] = likely[self.below(likely.len() as u64) as usize];
        }
        bytes
    }

    fn segment(&mut self, mut segment: Segment) -> Segment {
        if self.one_in(8) {
            segment.attributes = SegmentAttributes::from_bits_retain(self.next() as u16 & 0xfff);
        }
        if self.one_in(8) {
            segment.limit = self.address() as u32;
        }
        if self.one_in(8) {
            segment.base = self.address();
        }
        segment
    }

    fn guest(&mut self, template: &[u8]) -> Guest {
        let code = self.code();
        let cpu = match self.below(4) {
            0 | 1 => FakeCpu { state: VcpuState { cr3: TABLES, ..FakeCpu::long_mode().state }, ..FakeCpu::long_mode() },
            2 => FakeCpu::protected_mode(),
            _ => FakeCpu::real_mode(),
        };
        let env = FakeEnv::with_ram(0, RAM as usize);
        env.memory.put(0, template);
        let mut guest = Guest { cpu, env };
        for register in Gpr::ALL {
            let value = if register == Gpr::Rcx && self.one_in(2) { self.below(2000) } else { self.address() };
            guest.cpu.set_gpr(register, value);
        }
        let state = &mut guest.cpu.state;
        state.rflags = self.next() & 0x24_0fd5 | 2;
        if self.one_in(4) {
            state.rflags |= self.next() & 0x3_3000;
        }
        for flip in [&mut state.cr0, &mut state.cr4, &mut state.efer] {
            if self.one_in(16) {
                *flip ^= 1 << self.below(32);
            }
        }
        if self.one_in(2) {
            // OSXSAVE, so that AVX exists.
            state.cr4 |= 1 << 18;
            guest.cpu.xcr0 = 7;
        }
        let state = &mut guest.cpu.state;
        if self.one_in(32) {
            state.cr3 = self.next();
        }
        state.segments = state.segments.map(|segment| self.segment(segment));
        let rip = if self.one_in(16) { self.address() } else { CODE };
        state.rip = rip;
        guest.env.memory.put(CODE, &code);
        guest.env.memory.put(0xff80 + self.below(0x80), &code);
        if self.one_in(4) {
            guest.cpu.set_cpl(3);
        }
        for _ in 0..self.below(4) {
            let value = self.next();
            guest.env.reply(value);
        }
        if self.one_in(16) {
            // Page tables that are garbage here and there.
            let at = TABLES + self.below(0x7000);
            let garbage = self.next().to_le_bytes();
            guest.env.memory.put(at, &garbage);
        }
        guest
    }
}

/// What must hold however an emulation ended.
fn check(outcome: Outcome, guest: &Guest, before: &FakeCpu, case: u64) {
    let writes = guest.env.requests.len();
    assert!(writes <= 2 * 1024 * 8, "case {case}: {writes} device accesses in one exit");
    for request in &guest.env.requests {
        let (at, port) = match request.target {
            Target::Mmio(gpa) => (gpa.0, false),
            Target::Port(_) => (0, true),
        };
        assert!(matches!(request.width, 1 | 2 | 4 | 8), "case {case}: {request:?}");
        assert!(port || at % u64::from(request.width) == 0, "case {case}: {request:?}");
        assert!(port || at >= RAM, "case {case}: a device access in RAM, {request:?}");
        if let Operation::Write(value) = request.operation {
            assert_eq!(value & !crate::emulate::operand::mask(request.width), 0, "case {case}: {request:?}");
        }
    }
    assert_eq!(guest.cpu.rip(), before.rip(), "case {case}: only the run loop moves RIP");
    assert_eq!(guest.cpu.injected, [], "case {case}");
    let rflags = guest.cpu.rflags() ^ before.rflags();
    assert_eq!(rflags & !0x8d5, 0, "case {case}: only status flags change");
    match outcome {
        Outcome::Resume | Outcome::Complete(_) => {}
        Outcome::Inject(exception) => {
            assert!(matches!(exception.vector, 0 | 6 | 7 | 11 | 12 | 13 | 14 | 17), "case {case}: {exception:?}");
            assert_eq!(exception.fault_address.is_some(), exception.vector == 14, "case {case}");
        }
        Outcome::Terminate(Reason::GuestMemory, _) => panic!("case {case}: the fake host never fails"),
        other => panic!("case {case}: {other:?}"),
    }
}

#[test]
fn no_bytes_in_no_state_break_the_emulator() {
    const CASES: u64 = 200_000;
    let mut completed = 0;
    let mut accessed = 0;
    let template = Guest::long(&[]).env.memory.get(0, RAM as usize);
    for case in 1..=CASES {
        let mut random = Random(case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next();
        let mut guest = random.guest(&template);
        let before = guest.cpu.clone();
        let outcome = if random.one_in(8) {
            let width = [IoWidth::Byte, IoWidth::Word, IoWidth::Dword][random.below(3) as usize];
            let direction = if random.one_in(2) { Direction::Read } else { Direction::Write };
            let port = guest.cpu.gpr(Gpr::Rdx) as u16;
            let access = IoAccess { port, width, direction, string: true, repeat: random.one_in(2) };
            string_io(&access, &mut guest.cpu, &mut guest.env)
        } else {
            let gpa = random.one_in(8).then_some(()).map_or(Some(Gpa(DEVICE + random.below(4096))), |()| None);
            let access = [Access::Read, Access::Write, Access::Fetch][random.below(3) as usize];
            let fault = MemoryFault { gpa, gva: None, access, table_walk: random.one_in(8) };
            memory_fault(&fault, &mut guest.cpu, &mut guest.env)
        };
        check(outcome, &guest, &before, case);
        let _ = next_rip(&platform::ExitReason::Cpuid, &guest.cpu, &mut guest.env);
        completed += u64::from(matches!(outcome, Outcome::Complete(_)));
        accessed += u64::from(!guest.env.requests.is_empty());
    }
    assert!(completed > CASES / 20, "only {completed} of {CASES} cases completed an instruction");
    assert!(accessed > CASES / 20, "only {accessed} of {CASES} cases reached a device");
}
