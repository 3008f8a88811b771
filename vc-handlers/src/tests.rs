// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exits to outcomes, for all handlers but CPUID, MSRs and the emulator, which have tests of their own.

use platform::{
    Access, Control, ControlAccess, DebugAccess, Direction, Exception, Gpr, IoAccess, IoWidth, MemoryFault, MsrAccess,
    SensitiveInstruction, SwitchedMsr,
};
use specs::cpuid::Xcr0;
use specs::msr::efer;
use vmm_interface::{DeliveryMode, Destination};

use super::*;
use crate::control::{cr0, cr4};
use crate::cpuid::{CpuidTable, PolicyConfig};
use crate::testing::models::{Model, config, everything};
use crate::testing::{FakeCpu, FakeEnv};

const NEXT: u64 = 0x1003;
const DONE: Outcome = Outcome::Complete(NEXT);
const FAULT: Outcome = Outcome::Inject(Exception::GENERAL_PROTECTION);
const UNDEFINED: Outcome = Outcome::Inject(Exception::UNDEFINED);

struct Guest<'t> {
    vcpu: VcpuContext<'t>,
    cpu: FakeCpu,
    env: FakeEnv,
}

impl<'t> Guest<'t> {
    fn new(table: &'t CpuidTable) -> Self {
        Self { vcpu: VcpuContext::new(table, 0), cpu: FakeCpu::long_mode(), env: FakeEnv::default() }
    }

    fn exit(&mut self, reason: ExitReason) -> Outcome {
        handle(&Exit { reason, next_rip: NEXT }, None, &mut self.vcpu, &mut self.cpu, &mut self.env)
    }

    fn sensitive(&mut self, instruction: SensitiveInstruction) -> Outcome {
        self.exit(ExitReason::Sensitive(instruction))
    }

    fn xsetbv(&mut self, index: u32, value: u64) -> Outcome {
        self.cpu.set_pair(index, value);
        self.exit(ExitReason::Xsetbv)
    }

    /// MOV to a control register from RDX.
    fn load(&mut self, register: Control, value: u64) -> Outcome {
        self.cpu.set_gpr(Gpr::Rdx, value);
        let operand = Some(Gpr::Rdx);
        self.exit(ExitReason::Control(ControlAccess { register, direction: Direction::Write, operand }))
    }

    fn debug(&mut self, register: u8, direction: Direction) -> Outcome {
        self.exit(ExitReason::Debug(DebugAccess { register, direction, operand: Some(Gpr::Rdx) }))
    }

    /// Puts code at RIP, unpaged, in 32-bit protected mode.
    fn with_code(mut self, code: &[u8]) -> Self {
        self.cpu = FakeCpu::protected_mode();
        self.env.memory.put(self.cpu.state.rip, code);
        self
    }

    fn undecoded(&mut self, register: Control, direction: Direction) -> Outcome {
        self.exit(ExitReason::Control(ControlAccess { register, direction, operand: None }))
    }
}

fn io(width: IoWidth, direction: Direction) -> ExitReason {
    ExitReason::Io(IoAccess { port: 0x60, width, direction, string: false, repeat: false })
}

#[test]
fn in_replaces_as_much_of_rax_as_the_processor_does() {
    let table = everything(Vendor::Amd);
    for (width, result) in
        [(IoWidth::Byte, 0x1122_3344_5566_77a5), (IoWidth::Word, 0x1122_3344_5566_a5a5), (IoWidth::Dword, 0xa5a5_a5a5)]
    {
        let mut guest = Guest::new(&table);
        guest.cpu.set_gpr(Gpr::Rax, 0x1122_3344_5566_7788);
        // A reply with bits beyond the width.
        guest.env.reply(0xa5a5_a5a5_a5a5_a5a5);
        assert_eq!(guest.exit(io(width, Direction::Read)), DONE);
        assert_eq!(guest.cpu.gpr(Gpr::Rax), result);
        let request = DeviceRequest { target: Target::Port(0x60), width: width as u8, operation: Operation::Read };
        assert_eq!(guest.env.requests, [request]);
    }
}

#[test]
fn out_sends_only_the_operand() {
    let table = everything(Vendor::Amd);
    for (width, sent) in [(IoWidth::Byte, 0x88), (IoWidth::Word, 0x7788), (IoWidth::Dword, 0x5566_7788)] {
        let mut guest = Guest::new(&table);
        guest.cpu.set_gpr(Gpr::Rax, 0x1122_3344_5566_7788);
        assert_eq!(guest.exit(io(width, Direction::Write)), DONE);
        assert_eq!(guest.cpu.gpr(Gpr::Rax), 0x1122_3344_5566_7788);
        assert_eq!(guest.env.requests[0].operation, Operation::Write(sent));
    }
}

#[test]
fn a_deferred_in_waits_for_its_answer() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.cpu.set_gpr(Gpr::Rax, 0xffff_ffff);
    guest.env.replies.push_back(DeviceReply::Defer(Token(9)));
    assert_eq!(guest.exit(io(IoWidth::Byte, Direction::Read)), Outcome::Defer(Token(9)));
    assert_eq!(guest.cpu.gpr(Gpr::Rax), 0xffff_ffff);
    let emulation = guest.env.parked.take().unwrap();
    assert_eq!(resume(emulation, 0x42, &mut guest.cpu, &mut guest.env), DONE);
    assert_eq!(guest.cpu.gpr(Gpr::Rax), 0xffff_ff42);
    assert_eq!(guest.env.requests.len(), 1);
}

#[test]
fn exits_without_an_instruction_have_their_fixed_outcome() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    for quiet in [ExitReason::HostInterrupt, ExitReason::InterruptWindow, ExitReason::NmiWindow] {
        assert_eq!(guest.exit(quiet), Outcome::Resume);
    }
    assert_eq!(guest.exit(ExitReason::Shutdown), Outcome::TripleFault);
    assert_eq!(guest.exit(ExitReason::Init), Outcome::Terminate(Reason::UnexpectedInit, 0));
    let broken = ExitReason::Broken(Reason::InvalidGuestState, 5);
    assert_eq!(guest.exit(broken), Outcome::Terminate(Reason::InvalidGuestState, 5));
    let exception = Exception::page_fault(2, 0x1234);
    assert_eq!(guest.exit(ExitReason::Exception(exception)), Outcome::Inject(exception));
}

#[test]
fn cpuid_msr_and_memory_exits_reach_their_handlers() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.cpu.set_gpr(Gpr::Rax, 0x4000_0000);
    assert_eq!(guest.exit(ExitReason::Cpuid), DONE);
    assert_eq!(guest.cpu.gpr(Gpr::Rbx) as u32, u32::from_le_bytes(*b"Para"));
    guest.cpu.set_pair(0xfe, 0);
    assert_eq!(guest.exit(ExitReason::Msr(MsrAccess { direction: Direction::Read })), DONE);
    assert_eq!(guest.cpu.pair(), 0x508);
    // MOV EAX, [ECX], with ECX outside memory.
    let mut guest = guest.with_code(&[0x8b, 0x01]);
    guest.cpu.set_gpr(Gpr::Rcx, 0xfee0_0020);
    guest.env.reply(0x55);
    let gpa = Some(platform::Gpa(0xfee0_0020));
    let fault = MemoryFault { gpa, gva: None, access: Access::Read, table_walk: false };
    assert_eq!(guest.exit(ExitReason::Memory(fault)), Outcome::Complete(0x1002));
    assert_eq!(guest.cpu.gpr(Gpr::Rax), 0x55);
}

#[test]
fn privileged_instructions_fault_in_user_code() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    assert_eq!(guest.exit(ExitReason::Hlt), Outcome::Wait(NEXT));
    assert_eq!(guest.sensitive(SensitiveInstruction::Wbinvd), DONE);
    assert_eq!(guest.sensitive(SensitiveInstruction::Invd), DONE);
    for cpl in 1..=3 {
        guest.cpu.set_cpl(cpl);
        assert_eq!(guest.exit(ExitReason::Hlt), FAULT);
        assert_eq!(guest.sensitive(SensitiveInstruction::Wbinvd), FAULT);
        assert_eq!(guest.sensitive(SensitiveInstruction::Invd), FAULT);
        assert_eq!(guest.load(Control::Cr3, 0), FAULT);
        assert_eq!(guest.debug(7, Direction::Read), FAULT);
        assert_eq!(guest.sensitive(SensitiveInstruction::Pause), DONE);
    }
}

#[test]
fn instructions_that_cpuid_hides_are_undefined() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    for cpl in [0, 3] {
        guest.cpu.set_cpl(cpl);
        for hidden in [
            SensitiveInstruction::Monitor,
            SensitiveInstruction::Mwait,
            SensitiveInstruction::Rsm,
            SensitiveInstruction::Invlpgb,
            SensitiveInstruction::Tlbsync,
            SensitiveInstruction::Svm,
        ] {
            assert_eq!(guest.sensitive(hidden), UNDEFINED, "{hidden:?}");
        }
        assert_eq!(guest.exit(ExitReason::Vmmcall), UNDEFINED);
        assert_eq!(guest.sensitive(SensitiveInstruction::Rdpmc), FAULT);
    }
}

#[test]
fn int1_is_a_trap_behind_itself_for_every_ring() {
    let table = everything(Vendor::Amd);
    for cpl in [0, 3] {
        let mut guest = Guest::new(&table);
        guest.cpu.set_cpl(cpl);
        let dr6 = guest.cpu.state.dr6;
        assert_eq!(guest.sensitive(SensitiveInstruction::Icebp), Outcome::Inject(Exception::DEBUG));
        assert_eq!((guest.cpu.state.rip, guest.cpu.state.dr6), (NEXT, dr6));
    }
}

/// VMMCALL with RAX, RBX, RCX, RDX and RSI; what RAX is afterwards.
fn hypercall(guest: &mut Guest<'_>, words: [u64; 5]) -> i64 {
    for (register, word) in [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi].into_iter().zip(words) {
        guest.cpu.set_gpr(register, word);
    }
    assert_eq!(guest.exit(ExitReason::Vmmcall), DONE);
    guest.cpu.gpr(Gpr::Rax) as i64
}

/// kvm-unit-tests' `apic` sends IPIs by hypercall without asking CPUID: it died of #UD.
#[test]
fn a_hypercall_sends_interrupts_to_the_processors_of_its_bitmap() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.vcpu = guest.vcpu.with_hypercalls(true);
    // Processors 0, 1 and 2, of which the machine has two; then the upper word, for 64 and up.
    assert_eq!(hypercall(&mut guest, [10, 0b111, 0, 0, 0x45]), 2);
    assert_eq!(hypercall(&mut guest, [10, 0, 1, 0, 0x45]), 0);
    let sent: Vec<_> = guest.env.sent.iter().map(|message| (message.destination, message.vector)).collect();
    assert_eq!(sent, [0, 1, 2, 64].map(|id| (Destination::Physical(id), 0x45)));
    // An NMI has no vector.
    assert_eq!(hypercall(&mut guest, [10, 1, 0, 1, 0x4400]), 1);
    assert_eq!(guest.env.sent.last().map(|message| message.mode), Some(DeliveryMode::Nmi));
}

#[test]
fn a_hypercall_reaches_no_broadcast_and_no_processor_beyond() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.vcpu = guest.vcpu.with_hypercalls(true);
    for first in [0xff, 0xffff_ffff, u64::MAX] {
        assert_eq!(hypercall(&mut guest, [10, u64::MAX, u64::MAX, first, 0x45]), 0, "{first:x}");
    }
    assert!(guest.env.sent.is_empty());
    assert_eq!(hypercall(&mut guest, [10, 0b110, 0, 0xfe, 0x45]), 0);
    assert!(guest.env.sent.is_empty(), "FFh is everybody");
}

#[test]
fn a_hypercall_refuses_what_it_does_not_know() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.vcpu = guest.vcpu.with_hypercalls(true);
    assert_eq!(hypercall(&mut guest, [u64::MAX, 0, 0, 0, 0]), -1000);
    // INIT, a shorthand, a logical destination.
    for icr in [0x545, 0x4_0045, 0x845] {
        assert_eq!(hypercall(&mut guest, [10, 1, 0, 0, icr]), -22, "{icr:x}");
    }
    // An illegal vector reaches nobody.
    assert_eq!(hypercall(&mut guest, [10, 1, 0, 0, 0x0f]), 0);
    guest.cpu.set_cpl(3);
    assert_eq!(hypercall(&mut guest, [10, 1, 0, 0, 0x45]), -1);
    assert!(guest.env.sent.is_empty());
}

#[test]
fn hypercalls_of_32_bit_code_have_32_bit_words() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table).with_code(&[0x0f, 0x01, 0xd9]);
    guest.vcpu = guest.vcpu.with_hypercalls(true);
    assert_eq!(hypercall(&mut guest, [0xffff_ffff_0000_000a, 0, 1 << 32 | 1, 0, 0x45]), 0);
    assert_eq!(guest.env.sent.first().map(|message| message.destination), Some(Destination::Physical(32)));
    assert_eq!(hypercall(&mut guest, [11, 0, 0, 0, 0]), 0xffff_fc18);
}

#[test]
fn rdtsc_reads_the_clock_unless_user_code_may_not() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    let tsc = guest.env.clock.tsc.get();
    assert_eq!(guest.sensitive(SensitiveInstruction::Rdtsc), DONE);
    assert_eq!(guest.cpu.pair(), tsc);
    guest.cpu.state.cr4 |= cr4::TSD;
    assert_eq!(guest.sensitive(SensitiveInstruction::Rdtsc), DONE);
    guest.cpu.set_cpl(3);
    assert_eq!(guest.sensitive(SensitiveInstruction::Rdtsc), FAULT);
    assert_eq!(guest.sensitive(SensitiveInstruction::Rdtscp), FAULT);
    guest.cpu.state.cr4 &= !cr4::TSD;
    assert_eq!(guest.sensitive(SensitiveInstruction::Rdtsc), DONE);
}

#[test]
fn rdtscp_also_returns_tsc_aux() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.cpu.set_switched_msr(SwitchedMsr::TscAux, 5);
    guest.cpu.set_gpr(Gpr::Rcx, u64::MAX);
    assert_eq!(guest.sensitive(SensitiveInstruction::Rdtscp), DONE);
    assert_eq!((guest.cpu.pair(), guest.cpu.gpr(Gpr::Rcx)), (guest.env.clock.tsc.get(), 5));
    let without = Model::opteron().table(&config());
    assert_eq!(Guest::new(&without).sensitive(SensitiveInstruction::Rdtscp), UNDEFINED);
}

/// The cases of kvm-unit-tests' `xsave` test, and those of AVX-512.
#[test]
fn xsetbv_takes_only_what_the_manual_allows() {
    let table = everything(Vendor::Intel);
    let mut guest = Guest::new(&table);
    assert_eq!(guest.xsetbv(0, 1), UNDEFINED, "CR4.OSXSAVE is clear");
    guest.cpu.state.cr4 |= cr4::OSXSAVE;
    for value in [0b1, 0b11, 0b111, 0b1110_0111, 0x2e7, 0x203] {
        assert_eq!(guest.xsetbv(0, value), DONE, "{value:#x}");
        assert_eq!(guest.cpu.xcr0(), value);
    }
    guest.cpu.set_xcr0(3);
    for value in
        [0, 0b10, 0b100, 0b101, 0b110, 0x27, 0x67, 0xe3, 0xe0, 0b1_1111, 1 << 8 | 1, 1 << 62 | 1, 1 << 63 | 1, u64::MAX]
    {
        assert_eq!(guest.xsetbv(0, value), FAULT, "{value:#x}");
    }
    for index in 1..64 {
        assert_eq!(guest.xsetbv(index, 1), FAULT);
        assert_eq!(guest.xsetbv(1_u32.checked_shl(index).unwrap_or(7), 1), FAULT);
    }
    guest.cpu.set_pair(0, 1);
    guest.cpu.set_gpr(Gpr::Rcx, 0xffff_ffff << 32);
    assert_eq!(guest.exit(ExitReason::Xsetbv), DONE, "the upper half of RCX does not count");
    guest.cpu.set_cpl(3);
    assert_eq!(guest.xsetbv(0, 1), FAULT);
    assert_eq!(guest.cpu.xcr0(), 1);
}

#[test]
fn xsetbv_enables_no_component_that_is_not_offered() {
    let components = Xcr0::X87 | Xcr0::SSE;
    let table = Model::all_ones(Vendor::Amd).table(&PolicyConfig { components, ..config() });
    let mut guest = Guest::new(&table);
    guest.cpu.state.cr4 |= cr4::OSXSAVE;
    assert_eq!(guest.xsetbv(0, 3), DONE);
    assert_eq!(guest.xsetbv(0, 7), FAULT);
}

#[test]
fn cr0_follows_the_manual() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    let on = cr0::PG | cr0::PE;
    assert_eq!(guest.load(Control::Cr0, on | cr0::WP | 1 << 6), DONE);
    assert_eq!(guest.cpu.state.cr0, on | cr0::WP | cr0::ET, "reserved bits are ignored, ET is always set");
    for bad in [cr0::PG, on | cr0::NW, on | 1 << 32, on | 1 << 63, cr0::PE] {
        assert_eq!(guest.load(Control::Cr0, bad), FAULT, "{bad:#x}");
    }
    assert_eq!(guest.load(Control::Cr0, on | cr0::NW | cr0::CD), DONE);
}

#[test]
fn long_mode_starts_and_ends_with_paging() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.cpu = FakeCpu::protected_mode();
    guest.cpu.state.efer = efer::LME;
    assert_eq!(guest.load(Control::Cr0, cr0::PG | cr0::PE), FAULT, "without PAE");
    guest.cpu.state.cr4 = cr4::PAE;
    assert_eq!(guest.load(Control::Cr0, cr0::PG | cr0::PE), DONE);
    assert_eq!(guest.cpu.state.efer, efer::LME | efer::LMA);
    guest.cpu.state.cr4 |= cr4::PCIDE;
    assert_eq!(guest.load(Control::Cr0, cr0::PE), FAULT, "with PCIDs on");
    guest.cpu.state.cr4 = cr4::PAE;
    assert_eq!(guest.load(Control::Cr0, cr0::PE), DONE);
    assert_eq!(guest.cpu.state.efer, efer::LME);
}

#[test]
fn cr3_has_the_guests_address_width() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    assert_eq!(guest.load(Control::Cr3, 0xff_ffff_f018), DONE);
    assert_eq!(guest.cpu.state.cr3, 0xff_ffff_f018);
    assert_eq!(guest.load(Control::Cr3, 1 << 40), FAULT);
    assert_eq!(guest.load(Control::Cr3, 1 << 63), FAULT, "reserved without PCIDs");
    guest.cpu.state.cr4 |= cr4::PCIDE;
    assert_eq!(guest.load(Control::Cr3, 1 << 63 | 0x5005), DONE);
    assert_eq!(guest.cpu.state.cr3, 0x5005, "bit 63 is a hint");
}

#[test]
fn cr4_takes_only_features_that_cpuid_shows() {
    let rich = everything(Vendor::Intel);
    let poor = Model::opteron().table(&config());
    for feature in [cr4::SMEP, cr4::SMAP, cr4::UMIP, cr4::OSXSAVE, cr4::FSGSBASE, cr4::PKE] {
        assert_eq!(Guest::new(&rich).load(Control::Cr4, cr4::PAE | feature), DONE, "{feature:#x}");
        assert_eq!(Guest::new(&poor).load(Control::Cr4, cr4::PAE | feature), FAULT, "{feature:#x}");
    }
    let mut guest = Guest::new(&rich);
    // LA57, VMXE, SMXE, CET, PKS, reserved.
    for bit in [12, 13, 14, 23, 24, 15, 31, 32, 63] {
        assert_eq!(guest.load(Control::Cr4, cr4::PAE | 1 << bit), FAULT, "bit {bit}");
    }
    assert_eq!(guest.load(Control::Cr4, 0), FAULT, "PAE stays in long mode");
    guest.cpu.state.cr3 = 0x1001;
    assert_eq!(guest.load(Control::Cr4, cr4::PAE | cr4::PCIDE), FAULT, "CR3 names a PCID already");
    guest.cpu.state.cr3 = 0x1000;
    assert_eq!(guest.load(Control::Cr4, cr4::PAE | cr4::PCIDE), DONE);
    guest.cpu = FakeCpu::protected_mode();
    assert_eq!(guest.load(Control::Cr4, cr4::PCIDE), FAULT, "only in long mode");
}

#[test]
fn cr8_is_four_bits_and_cr2_is_anything() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    assert_eq!(guest.load(Control::Cr8, 0xf), DONE);
    assert_eq!(guest.load(Control::Cr8, 0x10), FAULT);
    assert_eq!(guest.cpu.cr8, 0xf);
    assert_eq!(guest.load(Control::Cr2, u64::MAX), DONE);
    assert_eq!(guest.cpu.state.cr2, u64::MAX);
}

#[test]
fn operands_are_32_bits_wide_outside_64_bit_mode() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.cpu = FakeCpu::protected_mode();
    assert_eq!(guest.load(Control::Cr3, 0xdead_beef_0000_5000), DONE);
    assert_eq!(guest.cpu.state.cr3, 0x5000);
    guest.cpu.state.cr2 = 0x1_2345_6789;
    let read = ControlAccess { register: Control::Cr2, direction: Direction::Read, operand: Some(Gpr::Rsi) };
    assert_eq!(guest.exit(ExitReason::Control(read)), DONE);
    assert_eq!(guest.cpu.gpr(Gpr::Rsi), 0x2345_6789);
}

#[test]
fn undecoded_control_accesses_are_decoded_here() {
    let table = everything(Vendor::Amd);
    // MOV CR3, EDI.
    let mut guest = Guest::new(&table).with_code(&[0x0f, 0x22, 0xdf]);
    guest.cpu.set_gpr(Gpr::Rdi, 0x7000);
    assert_eq!(guest.undecoded(Control::Cr3, Direction::Write), DONE);
    assert_eq!(guest.cpu.state.cr3, 0x7000);
    // MOV EDX, CR2.
    let mut guest = Guest::new(&table).with_code(&[0x0f, 0x20, 0xd2]);
    guest.cpu.state.cr2 = 0x99;
    assert_eq!(guest.undecoded(Control::Cr2, Direction::Read), DONE);
    assert_eq!(guest.cpu.gpr(Gpr::Rdx), 0x99);
    // CLTS.
    let mut guest = Guest::new(&table).with_code(&[0x0f, 0x06]);
    guest.cpu.state.cr0 |= cr0::TS;
    assert_eq!(guest.undecoded(Control::Cr0, Direction::Write), DONE);
    assert_eq!(guest.cpu.state.cr0 & cr0::TS, 0);
    // LMSW CX: cannot clear PE.
    let mut guest = Guest::new(&table).with_code(&[0x0f, 0x01, 0xf1]);
    guest.cpu.set_gpr(Gpr::Rcx, 0xfff8);
    assert_eq!(guest.undecoded(Control::Cr0, Direction::Write), DONE);
    assert_eq!(guest.cpu.state.cr0, 0x19);
    // SMSW BX, allowed in user code.
    let mut guest = Guest::new(&table).with_code(&[0x66, 0x0f, 0x01, 0xe3]);
    guest.cpu.set_gpr(Gpr::Rbx, 0xffff_0000);
    guest.cpu.set_cpl(3);
    assert_eq!(guest.undecoded(Control::Cr0, Direction::Read), DONE);
    assert_eq!(guest.cpu.gpr(Gpr::Rbx), 0xffff_0011);
    guest.cpu.state.cr4 |= cr4::UMIP;
    assert_eq!(guest.undecoded(Control::Cr0, Direction::Read), FAULT);
}

/// A guest that trusted CPUID's ALT_MOV_CR8 got #UD, if an interrupt waited for the task priority.
#[test]
fn a_locked_mov_of_cr0_is_one_of_cr8() {
    let table = everything(Vendor::Amd);
    // LOCK MOV CR0, EAX.
    let mut guest = Guest::new(&table).with_code(&[0xf0, 0x0f, 0x22, 0xc0]);
    guest.cpu.set_gpr(Gpr::Rax, 7);
    let access = ControlAccess { register: Control::Cr8, direction: Direction::Write, operand: None };
    let found = emulate::find(&ExitReason::Control(access), &guest.cpu, &mut guest.env);
    assert_eq!(found.unwrap().next_rip(), guest.cpu.rip() + 4);
    assert_eq!(guest.undecoded(Control::Cr8, Direction::Write), DONE);
    assert_eq!(guest.cpu.cr8, 7);
    // LOCK MOV ECX, CR0.
    let mut guest = Guest::new(&table).with_code(&[0xf0, 0x0f, 0x20, 0xc1]);
    guest.cpu.cr8 = 9;
    assert_eq!(guest.undecoded(Control::Cr8, Direction::Read), DONE);
    assert_eq!(guest.cpu.gpr(Gpr::Rcx), 9);
    // LOCK MOV CR3, EAX; LOCK MOV DR0, EAX; LOCK NOP: as invalid as ever.
    for code in [[0xf0, 0x0f, 0x22, 0xd8], [0xf0, 0x0f, 0x23, 0xc0], [0xf0, 0x90, 0x90, 0x90]] {
        let mut guest = Guest::new(&table).with_code(&code);
        assert_eq!(guest.undecoded(Control::Cr8, Direction::Write), UNDEFINED, "{code:x?}");
    }
}

#[test]
fn lmsw_and_smsw_reach_memory() {
    let table = everything(Vendor::Amd);
    // LMSW [ECX]; SMSW [ECX].
    let mut guest = Guest::new(&table).with_code(&[0x0f, 0x01, 0x31]);
    guest.env.memory.put(0x8000, &[0x0f, 0]);
    guest.cpu.set_gpr(Gpr::Rcx, 0x8000);
    assert_eq!(guest.undecoded(Control::Cr0, Direction::Write), Outcome::Complete(0x1003));
    assert_eq!(guest.cpu.state.cr0, 0x1f);
    let mut guest = Guest::new(&table).with_code(&[0x0f, 0x01, 0x21]);
    guest.cpu.set_gpr(Gpr::Rcx, 0x8000);
    assert_eq!(guest.undecoded(Control::Cr0, Direction::Read), Outcome::Complete(0x1003));
    assert_eq!(guest.env.memory.get(0x8000, 2), [0x11, 0]);
}

#[test]
fn code_that_does_not_fit_the_exit_is_executed_again() {
    let table = everything(Vendor::Amd);
    // NOP; MOV CR4, EDI; MOV DR1, EDI.
    for code in [&[0x90][..], &[0x0f, 0x22, 0xe7], &[0x0f, 0x23, 0xcf]] {
        let mut guest = Guest::new(&table).with_code(code);
        let before = guest.cpu.state;
        assert_eq!(guest.undecoded(Control::Cr3, Direction::Write), Outcome::Resume);
        let debug = DebugAccess { register: 0, direction: Direction::Write, operand: None };
        assert_eq!(guest.exit(ExitReason::Debug(debug)), Outcome::Resume);
        assert_eq!(guest.cpu.state, before);
        assert_eq!(guest.env.oddities, [Oddity::Mismatch; 2]);
    }
}

#[test]
fn debug_registers_keep_their_fixed_bits() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    for (register, written, read) in [
        (0, 0xffff_8000_0000_1000, 0xffff_8000_0000_1000),
        (3, 5, 5),
        (6, 0xffff_ffff, 0xffff_efff),
        (7, 0xffff_dfff, 0xffff_07ff),
        (4, 0, 0xffff_0ff0),
        (5, 0, 0x400),
    ] {
        guest.cpu.set_gpr(Gpr::Rdx, written);
        assert_eq!(guest.debug(register, Direction::Write), DONE);
        assert_eq!(guest.debug(register, Direction::Read), DONE);
        assert_eq!(guest.cpu.gpr(Gpr::Rdx), read, "DR{register}");
    }
    guest.cpu.set_gpr(Gpr::Rdx, 1 << 32);
    assert_eq!(guest.debug(6, Direction::Write), FAULT);
    assert_eq!(guest.debug(7, Direction::Write), FAULT);
    guest.cpu.state.cr4 |= cr4::DE;
    assert_eq!(guest.debug(4, Direction::Read), UNDEFINED);
    assert_eq!(guest.debug(5, Direction::Write), UNDEFINED);
}

#[test]
fn the_guard_bit_traps_debug_register_accesses_once() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.cpu.state.dr7 = 0x2400;
    assert_eq!(guest.debug(0, Direction::Read), Outcome::Inject(Exception::DEBUG));
    assert_eq!(guest.cpu.state.dr6 & 1 << 13, 1 << 13);
    assert_eq!(guest.debug(6, Direction::Read), DONE);
    // MOV EDX, DR7, decoded here.
    let mut guest = Guest::new(&table).with_code(&[0x0f, 0x21, 0xfa]);
    let read = DebugAccess { register: 7, direction: Direction::Read, operand: None };
    assert_eq!(guest.exit(ExitReason::Debug(read)), DONE);
    assert_eq!(guest.cpu.gpr(Gpr::Rdx), 0x400);
}
