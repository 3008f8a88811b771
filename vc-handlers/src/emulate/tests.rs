// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the emulator claims, on a fake processor and a fake machine.

mod agreement;
mod arithmetic;
mod coverage;
mod faults;
mod moves;
mod paging;
mod plain;
mod ports;
mod random;
mod strings;
mod system;
mod vectors;

use platform::{Access, Exception, ExitReason, Gpa, Gpr, GuestCpu, MemoryFault, SegmentRegister};

use super::{exception, find, memory_fault};
use crate::testing::{FakeCpu, FakeEnv};
use crate::{DeviceRequest, Operation, Outcome, Target};

/// Where the tests put code, stack and data; RAM is the first MiB, and devices are everything above.
const CODE: u64 = 0x2000;
const DATA: u64 = 0x8000;
const DEVICE: u64 = 0xfee0_0000;
const TABLES: u64 = 0x10000;

const PRESENT_WRITABLE_USER: u64 = 7;

/// RIP after the instruction that exited.
fn next_rip(reason: &ExitReason, cpu: &FakeCpu, env: &mut FakeEnv) -> Result<u64, Outcome> {
    find(reason, cpu, env).map(|found| found.next_rip())
}

/// A processor with its machine.
struct Guest {
    cpu: FakeCpu,
    env: FakeEnv,
}

impl Guest {
    /// 64-bit kernel mode; the first 4 GiB are mapped one to one by 2 MiB pages, the first 2 MiB by 4 KiB pages.
    fn long(code: &[u8]) -> Self {
        let mut guest = Self::with(FakeCpu::long_mode(), code);
        let put = |gpa: u64, value: u64| guest.env.memory.put(gpa, &value.to_le_bytes());
        put(TABLES, (TABLES + 0x1000) | PRESENT_WRITABLE_USER);
        for gib in 0..4 {
            let directory = TABLES + 0x2000 + gib * 0x1000;
            put(TABLES + 0x1000 + 8 * gib, directory | PRESENT_WRITABLE_USER);
            for index in 0..512 {
                put(directory + 8 * index, gib << 30 | index << 21 | 0x80 | PRESENT_WRITABLE_USER);
            }
        }
        put(TABLES + 0x2000, (TABLES + 0x6000) | PRESENT_WRITABLE_USER);
        for index in 0..512 {
            put(TABLES + 0x6000 + 8 * index, index << 12 | PRESENT_WRITABLE_USER);
        }
        guest.cpu.state.cr3 = TABLES;
        guest
    }

    /// 32-bit kernel mode without paging.
    fn protected(code: &[u8]) -> Self {
        Self::with(FakeCpu::protected_mode(), code)
    }

    /// Real mode.
    fn real(code: &[u8]) -> Self {
        Self::with(FakeCpu::real_mode(), code)
    }

    fn with(mut cpu: FakeCpu, code: &[u8]) -> Self {
        let env = FakeEnv::default();
        env.memory.put(CODE, code);
        cpu.state.rip = CODE;
        cpu.set_gpr(Gpr::Rsp, 0x7000);
        Self { cpu, env }
    }

    fn gpr(mut self, register: Gpr, value: u64) -> Self {
        self.cpu.set_gpr(register, value);
        self
    }

    fn flags(mut self, flags: u64) -> Self {
        self.cpu.state.rflags = flags | 2;
        self
    }

    fn reply(mut self, value: u64) -> Self {
        self.env.reply(value);
        self
    }

    fn base(mut self, register: SegmentRegister, base: u64) -> Self {
        self.cpu.state.segments[register as usize].base = base;
        self
    }

    fn fault(&mut self, access: Access, gpa: u64) -> Outcome {
        let fault = MemoryFault { gpa: Some(Gpa(gpa)), gva: None, access, table_walk: false };
        memory_fault(&fault, &mut self.cpu, &mut self.env)
    }

    fn read(&mut self, gpa: u64) -> Outcome {
        self.fault(Access::Read, gpa)
    }

    fn write(&mut self, gpa: u64) -> Outcome {
        self.fault(Access::Write, gpa)
    }

    fn rax(&self) -> u64 {
        self.cpu.gpr(Gpr::Rax)
    }
}

const fn done(length: u64) -> Outcome {
    Outcome::Complete(CODE + length)
}

const fn mmio_read(gpa: u64, width: u8) -> DeviceRequest {
    DeviceRequest { target: Target::Mmio(Gpa(gpa)), width, operation: Operation::Read }
}

const fn mmio_write(gpa: u64, width: u8, value: u64) -> DeviceRequest {
    DeviceRequest { target: Target::Mmio(Gpa(gpa)), width, operation: Operation::Write(value) }
}

const fn page_fault(code: u32, address: u64) -> Outcome {
    Outcome::Inject(Exception::page_fault(code, address))
}
