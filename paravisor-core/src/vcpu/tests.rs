// SPDX-License-Identifier: MIT OR Apache-2.0
//! The run loop on a processor and a host made of plain data. Each test plays exits and looks at what the guest would get.

#[cfg(loom)]
mod model;

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use image_abi::{Digest, Range, payload};
use platform::{
    Access, Console, ControlAccess, DebugAccess, Direction, Exception, Gpa, GuestMemory, GuestPages, HostAccess,
    InjectionState, MemoryError, MemoryFault, MsrAccess, Outbound, PageRange, PageSize, Reason, Visibility, Waker,
};
use sha2::{Digest as _, Sha384};
use vc_handlers::cpuid::Registers;
use vc_handlers::testing::{FakeCpu, FakeMemory};
use vmm_interface::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

use super::*;
use crate::launch::tests::{block, map};
use crate::mem::Image;
use crate::{Launch, Machine};

const MEMORY: u64 = 160 << 20;
const PAYLOAD: u64 = 0x20_0000;
const APIC_PAGE: u64 = 0xfee0_0000;
/// Local APIC registers: spurious vector, task priority.
const SPURIOUS: u64 = APIC_PAGE + 0xf0;
const TASK_PRIORITY: u64 = APIC_PAGE + 0x80;

struct TestMemory(Mutex<FakeMemory>);

thread_local! {
    /// Another processor's rewriting: after the next read of code at its address, these bytes stand there.
    static REWRITTEN: Cell<Option<(u64, &'static [u8])>> = const { Cell::new(None) };
}

impl GuestMemory for TestMemory {
    fn copy_in(&self, gpa: Gpa, view: Visibility, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let memory = self.0.lock().unwrap();
        memory.copy_in(gpa, view, buffer)?;
        if let Some((at, code)) = REWRITTEN.get()
            && at == gpa.0
        {
            REWRITTEN.set(None);
            memory.copy_out(gpa, view, code)?;
        }
        Ok(())
    }

    fn copy_out(&self, gpa: Gpa, view: Visibility, data: &[u8]) -> Result<(), MemoryError> {
        self.0.lock().unwrap().copy_out(gpa, view, data)
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        view: Visibility,
        width: usize,
        current: u128,
        new: u128,
    ) -> Result<u128, MemoryError> {
        self.0.lock().unwrap().compare_exchange(gpa, view, width, current, new)
    }
}

/// Page states that obey.
struct TestPages;

impl GuestPages for TestPages {
    fn accept(&mut self, _: PageRange, _: PageSize) -> Result<(), MemoryError> {
        Ok(())
    }

    fn share(&mut self, range: PageRange, _: PageSize) -> Result<u64, MemoryError> {
        Ok(range.bytes())
    }

    fn unshare(&mut self, range: PageRange, _: PageSize) -> Result<u64, MemoryError> {
        Ok(range.bytes())
    }

    fn trap(&mut self, _: PageRange, _: PageSize) -> Result<(), MemoryError> {
        Ok(())
    }

    fn flush(&mut self) {}
}

/// A clock that a test moves by hand; the TSC counts nanoseconds.
#[derive(Default)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant(self.0.load(SeqCst))
    }

    fn guest_tsc(&self) -> u64 {
        self.0.load(SeqCst)
    }

    fn tsc_hz(&self) -> u64 {
        1_000_000_000
    }

    fn instant_of_tsc(&self, tsc: u64) -> Instant {
        Instant(tsc)
    }
}

#[derive(Default)]
struct TestHost {
    output: Mutex<Vec<u8>>,
    kicks: Mutex<Vec<u32>>,
    lines: Mutex<Vec<String>>,
}

impl HostAccess for TestHost {
    fn transmit(&self, _: Console, byte: u8) {
        self.output.lock().unwrap().push(byte);
    }

    fn receive(&self, _: Console) -> Option<u8> {
        None
    }

    fn clock_register(&self, register: u8) -> u8 {
        // 29 February 2024, 12:34:56, in BCD.
        const CLOCK: [u8; 14] = [0x56, 0, 0x34, 0, 0x12, 0, 5, 0x29, 0x02, 0x24, 0x26, 0x02, 0, 0x80];
        if register == 0x32 { 0x20 } else { CLOCK.get(usize::from(register)).copied().unwrap_or(0) }
    }
}

impl Waker for TestHost {
    fn kick(&self, index: u32) {
        self.kicks.lock().unwrap().push(index);
    }
}

struct TestPlatform {
    memory: TestMemory,
    clock: TestClock,
    host: TestHost,
}

thread_local! {
    static ENDED: Cell<Option<Termination>> = const { Cell::new(None) };
}

impl Platform for TestPlatform {
    type Cpu = FakeCpu;
    type Memory = TestMemory;
    type Pages = TestPages;
    type Clock = TestClock;
    type Host = TestHost;

    fn memory(&self) -> &TestMemory {
        &self.memory
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    fn host(&self) -> &TestHost {
        &self.host
    }

    fn processors(&self) -> u32 {
        2
    }

    fn record(&self, _: Outbound<'_>) {}

    fn say(&self, line: Outbound<'_>) -> bool {
        self.host.lines.lock().unwrap().push(line.to_string());
        true
    }

    fn end(&self, how: Termination) -> ! {
        ENDED.set(Some(how));
        panic!("the VM ended: {how:?}")
    }
}

/// A processor with the least that the CPUID policy asks for.
fn raw_cpuid(leaf: u32, _: u32) -> Registers {
    let name = |part: &[u8; 4]| u32::from_le_bytes(*part);
    match leaf {
        0 => Registers { eax: 1, ebx: name(b"Auth"), ecx: name(b"cAMD"), edx: name(b"enti") },
        0x8000_0000 => Registers { eax: 0x8000_0008, ebx: 0, ecx: 0, edx: 0 },
        0x8000_0008 => Registers { eax: 0x3028, ebx: 0, ecx: 0, edx: 0 },
        _ => Registers { eax: 0, ebx: 0, ecx: 0, edx: 0 },
    }
}

/// A machine of two processors for a page of payload; nothing is in its memory but `content`.
fn machine(digests: &[Digest], content: &[u8]) -> Result<Machine<TestPlatform>, Reason> {
    let platform: &'static TestPlatform = Box::leak(Box::new(TestPlatform {
        memory: TestMemory(Mutex::new(FakeMemory::new(0, MEMORY as usize))),
        clock: TestClock::default(),
        host: TestHost::default(),
    }));
    platform.memory.copy_out(Gpa(PAYLOAD), Visibility::Private, content).unwrap();
    machine_on(platform, PAYLOAD, digests)
}

/// A machine of two processors on a platform, for a page of payload at an address.
fn machine_on<P: Platform<Pages = TestPages>>(
    platform: &'static P,
    at: u64,
    digests: &[Digest],
) -> Result<Machine<P>, Reason> {
    let mut block = block();
    block.payload_kind = payload::PVH;
    block.payload[0] = Range { start: at, bytes: 0x1000 };
    block.entry = at;
    block.digests.iter_mut().zip(digests).for_each(|(slot, digest)| *slot = *digest);
    let launch = Launch::new(&block, &map(&[(0, MEMORY, 0)]), 2).unwrap();
    let journal = Box::leak(Box::new(journal::Journal::new()));
    Machine::new(platform, TestPages, &Image::of(block), &launch, &raw_cpuid, journal)
}

fn vcpus() -> [Vcpu<TestPlatform>; 2] {
    let machine: &'static Machine<TestPlatform> = Box::leak(Box::new(machine(&[], &[]).unwrap()));
    [0, 1].map(|index| Vcpu::new(machine, index, FakeCpu::protected_mode()).unwrap())
}

#[test]
fn there_is_no_machine_for_another_payload_than_the_measured_one() {
    let digest = Digest { range: Range { start: PAYLOAD, bytes: 3 }, sha384: Sha384::digest("abc").into() };
    let hashed = machine(&[digest], b"abc").map(|machine| machine.hashed().bytes);
    assert_eq!(hashed, Ok(3));
    let error = machine(&[digest], b"abd").map(|_| ()).unwrap_err();
    assert_eq!(error, Reason::PayloadMismatch);
    assert_eq!(machine(&[], b"abd").map(|machine| machine.hashed().bytes), Ok(0));
}

fn boot_processor() -> Vcpu<TestPlatform> {
    let [vcpu, _] = vcpus();
    vcpu
}

fn machine_code(vcpu: &Vcpu<TestPlatform>, code: &[u8]) {
    let rip = vcpu.cpu.rip();
    vcpu.machine.platform.memory.copy_out(Gpa(rip), Visibility::Private, code).unwrap();
}

/// The guest stores `value` to an APIC register with MOV [disp32], imm32.
fn store(vcpu: &mut Vcpu<TestPlatform>, gpa: u64, value: u32) {
    let mut code = vec![0xc7, 0x05];
    code.extend((gpa as u32).to_le_bytes());
    code.extend(value.to_le_bytes());
    machine_code(vcpu, &code);
    let fault = MemoryFault { gpa: Some(Gpa(gpa)), gva: None, access: Access::Write, table_walk: false };
    play(vcpu, ExitReason::Memory(fault), 0);
}

/// Enters the guest once; it exits for `reason`.
fn play(vcpu: &mut Vcpu<TestPlatform>, reason: ExitReason, next_rip: u64) {
    vcpu.cpu.exits.push_back(Exit { reason, next_rip });
    for _ in 0..8 {
        if vcpu.cpu.exits.is_empty() {
            return;
        }
        vcpu.turn();
    }
    panic!("the guest was never entered");
}

/// Lets the loop look at what arrived, without the guest doing anything.
fn look(vcpu: &mut Vcpu<TestPlatform>) {
    play(vcpu, ExitReason::HostInterrupt, 0);
    vcpu.service();
}

fn send(vcpu: &Vcpu<TestPlatform>, mode: DeliveryMode, vector: u8) {
    let message = InterruptMessage {
        destination: Destination::Physical(vcpu.index),
        mode,
        vector,
        trigger: TriggerMode::Edge,
        assert: true,
    };
    vcpu.machine.fabric.deliver(None, &message, &vcpu.machine.platform.host);
}

fn interrupts(vcpu: &Vcpu<TestPlatform>) -> Vec<u8> {
    let vector = |event: &Event| if let Event::Interrupt(vector) = event { Some(*vector) } else { None };
    vcpu.cpu.injected.iter().filter_map(vector).collect()
}

fn can_take(vcpu: &mut Vcpu<TestPlatform>, interrupts: bool, nmi: bool) {
    vcpu.cpu.injection = InjectionState { queued: false, interrupts, nmi };
}

#[test]
fn the_guest_starts_at_its_payload() {
    let vcpu = boot_processor();
    assert_eq!(vcpu.cpu.rip(), 0x20_0000);
    assert_eq!(vcpu.cpu.gpr(Gpr::Rbx), image_abi::BOOT_STRUCTURES.start);
}

#[test]
fn cpuid_is_answered_and_completed() {
    let mut vcpu = boot_processor();
    vcpu.cpu.set_gpr(Gpr::Rax, 0x4000_0000);
    // RF is what the handler of a fault left.
    vcpu.cpu.set_rflags(1 << 16 | 2);
    play(&mut vcpu, ExitReason::Cpuid, 0x20_0002);
    assert_eq!((vcpu.cpu.rip(), vcpu.cpu.rflags()), (0x20_0002, 2));
    assert_eq!(vcpu.cpu.gpr(Gpr::Rbx) as u32, u32::from_le_bytes(*b"Para"));
    assert_eq!(vcpu.statistics.of(Kind::Cpuid).count(), 1);
}

#[test]
fn an_instruction_whose_end_nobody_told_is_found_in_memory() {
    let mut vcpu = boot_processor();
    // REP CPUID: three bytes.
    machine_code(&vcpu, &[0xf3, 0x0f, 0xa2]);
    play(&mut vcpu, ExitReason::Cpuid, 0);
    assert_eq!(vcpu.cpu.rip(), 0x20_0003);
}

#[test]
fn an_msr_access_whose_end_nobody_told_is_found_in_memory() {
    let mut vcpu = boot_processor();
    machine_code(&vcpu, &[0xf3, 0x0f, 0x32]);
    vcpu.cpu.set_gpr(Gpr::Rcx, 0x1b);
    play(&mut vcpu, ExitReason::Msr(MsrAccess { direction: Direction::Read }), 0);
    assert_eq!((vcpu.cpu.rip(), vcpu.cpu.gpr(Gpr::Rax) & 0xffff_f000), (0x20_0003, APIC_PAGE));
}

/// The length came from one look at the code and the operand from another: MOV CR3 was completed with the value of one
/// register and the length of an instruction with another.
#[test]
fn an_instruction_that_is_rewritten_is_read_once() {
    let control = ControlAccess { register: Control::Cr3, direction: Direction::Write, operand: None };
    // MOV CR3, EAX; MOV CR3, ECX with a prefix. MOV DR1, EAX; the like.
    let debug = DebugAccess { register: 1, direction: Direction::Write, operand: None };
    for (reason, before, after) in [
        (ExitReason::Control(control), [0x0f, 0x22, 0xd8], &[0x2e, 0x0f, 0x22, 0xd9]),
        (ExitReason::Debug(debug), [0x0f, 0x23, 0xc8], &[0x2e, 0x0f, 0x23, 0xc9]),
    ] {
        let mut vcpu = boot_processor();
        let rip = vcpu.cpu.rip();
        machine_code(&vcpu, &before);
        vcpu.cpu.set_gpr(Gpr::Rax, 0x5000);
        vcpu.cpu.set_gpr(Gpr::Rcx, 0x7000);
        REWRITTEN.set(Some((rip, after)));
        play(&mut vcpu, reason, 0);
        assert_eq!(REWRITTEN.take(), None, "it was read");
        let value = if let ExitReason::Debug(_) = reason { vcpu.cpu.debug(1) } else { vcpu.cpu.control(Control::Cr3) };
        assert_eq!((vcpu.cpu.rip(), value), (rip + 3, 0x5000), "{reason:?}");
    }
}

#[test]
fn an_interrupt_waits_for_a_window_and_comes_then() {
    let mut vcpu = boot_processor();
    can_take(&mut vcpu, false, true);
    send(&vcpu, DeliveryMode::Fixed, 0x51);
    look(&mut vcpu);
    assert_eq!((interrupts(&vcpu), vcpu.cpu.interrupt_window), (vec![], Some(5)));
    can_take(&mut vcpu, true, true);
    play(&mut vcpu, ExitReason::InterruptWindow, 0);
    vcpu.service();
    assert_eq!((interrupts(&vcpu), vcpu.cpu.interrupt_window), (vec![0x51], None));
}

/// A platform whose processor delivers by itself needs no window, and acknowledges nothing that the guest has not taken.
#[test]
fn an_interrupt_that_the_processor_delivers_is_acknowledged_when_the_guest_has_taken_it() {
    let fixed = |vector| Some(Offer { vector, over_priority: false });
    let mut vcpu = boot_processor();
    vcpu.cpu.delivers = true;
    can_take(&mut vcpu, false, true);
    send(&vcpu, DeliveryMode::Fixed, 0x51);
    look(&mut vcpu);
    assert_eq!((vcpu.cpu.offered, vcpu.cpu.interrupt_window, interrupts(&vcpu)), (fixed(0x51), None, vec![]));
    // A higher one takes its place as long as the guest has taken none.
    send(&vcpu, DeliveryMode::Fixed, 0x62);
    look(&mut vcpu);
    assert_eq!(vcpu.cpu.offered, fixed(0x62));
    vcpu.cpu.delivered = Some(0x62);
    play(&mut vcpu, ExitReason::HostInterrupt, 0);
    vcpu.service();
    // In service, so that the lower one waits for its end.
    assert_eq!((vcpu.lapic.pending(), vcpu.cpu.offered), (None, None));
    assert_eq!(vcpu.lapic.acknowledge(0x62), 0xff, "no longer requested");
    store(&mut vcpu, APIC_PAGE + 0xb0, 0);
    look(&mut vcpu);
    assert_eq!(vcpu.cpu.offered, fixed(0x51));
}

/// A guest that raised its TPR by MMIO got interrupts of lower classes all the same.
#[test]
fn a_task_priority_written_by_mmio_holds_interrupts_back() {
    let mut vcpu = boot_processor();
    store(&mut vcpu, TASK_PRIORITY, 0x60);
    assert_eq!(vcpu.cpu.control(Control::Cr8), 6);
    send(&vcpu, DeliveryMode::Fixed, 0x51);
    look(&mut vcpu);
    assert_eq!((interrupts(&vcpu), vcpu.cpu.interrupt_window), (vec![], Some(5)));
    vcpu.cpu.set_control(Control::Cr8, 0);
    look(&mut vcpu);
    assert_eq!(interrupts(&vcpu), [0x51]);
}

/// A guest at CR8 = 15 never saw the 8259s' interrupts, which know no task priority.
#[test]
fn an_extint_message_asks_for_a_window_above_every_priority() {
    let mut vcpu = boot_processor();
    can_take(&mut vcpu, false, true);
    send(&vcpu, DeliveryMode::ExtInt, 0);
    look(&mut vcpu);
    assert_eq!(vcpu.cpu.interrupt_window, Some(16));
}

#[test]
fn one_nmi_is_latched_while_another_is_handled() {
    let mut vcpu = boot_processor();
    can_take(&mut vcpu, true, false);
    for _ in 0..3 {
        send(&vcpu, DeliveryMode::Nmi, 0);
        look(&mut vcpu);
    }
    assert!(vcpu.cpu.nmi_window);
    can_take(&mut vcpu, true, true);
    for _ in 0..3 {
        look(&mut vcpu);
    }
    assert_eq!(vcpu.cpu.injected, [Event::Nmi]);
}

#[test]
fn a_halted_processor_sleeps_until_an_interrupt_comes() {
    let mut vcpu = boot_processor();
    play(&mut vcpu, ExitReason::Hlt, 0x20_0001);
    vcpu.turn();
    assert_eq!((vcpu.activity, vcpu.cpu.waits, vcpu.cpu.rip()), (Activity::Halted, 1, 0x20_0001));
    send(&vcpu, DeliveryMode::Fixed, 0x40);
    play(&mut vcpu, ExitReason::HostInterrupt, 0);
    assert_eq!((vcpu.activity, interrupts(&vcpu)), (Activity::Running, vec![0x40]));
    assert_eq!(vcpu.cpu.waits, 1, "a letter that came before the sleep prevents it");
}

#[test]
fn a_halted_processor_with_interrupts_off_wakes_for_an_nmi_alone() {
    let mut vcpu = boot_processor();
    can_take(&mut vcpu, false, true);
    play(&mut vcpu, ExitReason::Hlt, 0x20_0001);
    send(&vcpu, DeliveryMode::Fixed, 0x40);
    vcpu.turn();
    vcpu.turn();
    assert_eq!(vcpu.activity, Activity::Halted);
    send(&vcpu, DeliveryMode::Nmi, 0);
    play(&mut vcpu, ExitReason::HostInterrupt, 0);
    assert_eq!((vcpu.activity, vcpu.cpu.injected.as_slice()), (Activity::Running, [Event::Nmi].as_slice()));
}

/// A guest that spins without exits never got the first tick of the 8254.
#[test]
fn a_device_interrupt_that_comes_due_is_not_left_for_the_next_exit() {
    let mut vcpu = boot_processor();
    // IOAPIC pin 2, edge, vector 30h; then counter 0 in mode 2, 1000 ticks.
    for (port, value) in [(0x43, 0x34), (0x40, 0xe8), (0x40, 0x03)] {
        vcpu.machine.with_pc(0, |pc, around| pc.port_write(port, 1, value, around)).value();
    }
    for (register, value) in [(0x15, 0), (0x14, 0x30)] {
        vcpu.machine.with_pc(0, |pc, around| pc.mmio_write(0xfec0_0000, 4, register, around)).value();
        vcpu.machine.with_pc(0, |pc, around| pc.mmio_write(0xfec0_0010, 4, value, around)).value();
    }
    look(&mut vcpu);
    let due = vcpu.cpu.armed;
    assert!(due < Instant(2_000_000), "{due:?}");
    vcpu.machine.platform.clock.0.store(due.0, SeqCst);
    play(&mut vcpu, ExitReason::HostInterrupt, 0);
    play(&mut vcpu, ExitReason::HostInterrupt, 0);
    assert_eq!(interrupts(&vcpu), [0x30]);
    assert!(vcpu.cpu.armed > due, "the next tick is armed");
}

/// A host can interrupt Parados as it likes: what the guest gets is what its own timer says, by Parados's clock.
#[test]
fn an_event_of_the_hosts_before_its_time_gives_the_guest_nothing() {
    const VECTOR: u8 = 0x40;
    let mut vcpu = boot_processor();
    store(&mut vcpu, APIC_PAGE + 0x320, VECTOR.into());
    store(&mut vcpu, APIC_PAGE + 0x3e0, 0b1011);
    store(&mut vcpu, APIC_PAGE + 0x380, 1_000_000);
    look(&mut vcpu);
    let due = vcpu.cpu.armed;
    for now in [0, due.0 / 2, due.0 - 1] {
        vcpu.machine.platform.clock.0.store(now, SeqCst);
        let unexpected = [2, 14, VECTOR].map(HostEvent::Unexpected);
        vcpu.cpu.host_events.extend([HostEvent::Kick, HostEvent::ConsoleInput].into_iter().chain(unexpected));
        play(&mut vcpu, ExitReason::HostInterrupt, 0);
        look(&mut vcpu);
        assert_eq!((vcpu.cpu.injected.as_slice(), vcpu.cpu.armed), ([].as_slice(), due));
    }
    let events = &vcpu.statistics.events;
    assert_eq!((events.kicks.get(), events.unexpected_interrupts.get()), (3, 9));
    vcpu.machine.platform.clock.0.store(due.0, SeqCst);
    for _ in 0..3 {
        vcpu.cpu.host_events.push_back(HostEvent::Kick);
        play(&mut vcpu, ExitReason::HostInterrupt, 0);
        look(&mut vcpu);
    }
    assert_eq!((interrupts(&vcpu), vcpu.cpu.injected.len()), (vec![VECTOR], 1));
}

#[test]
fn another_processors_device_access_moves_the_boot_processors_deadline() {
    let [mut boot, other] = vcpus();
    look(&mut boot);
    assert_eq!(boot.cpu.armed, Instant::NEVER);
    boot.machine.platform.host.kicks.lock().unwrap().clear();
    for (port, value) in [(0x43, 0x34), (0x40, 0xe8), (0x40, 0x03)] {
        other.machine.with_pc(other.index, |pc, around| pc.port_write(port, 1, value, around)).value();
    }
    assert_eq!(*boot.machine.platform.host.kicks.lock().unwrap(), [0]);
    boot.service();
    assert!(boot.cpu.armed < Instant::NEVER);
}

#[test]
fn the_guests_clock_begins_where_the_hosts_is() {
    let vcpu = boot_processor();
    let mut read = |register: u32| {
        vcpu.machine.with_pc(0, |pc, around| {
            pc.port_write(0x70, 1, register, around).value();
            pc.port_read(0x71, 1, around).value()
        })
    };
    assert_eq!([0x32, 9, 8, 7, 4, 2].map(&mut read), [0x20, 0x24, 0x02, 0x29, 0x12, 0x34]);
}

#[test]
fn the_nmi_button_reaches_the_boot_processor_through_lint1() {
    const LVT_LINT1: u64 = 0xfee0_0360;
    let mut vcpu = boot_processor();
    let press = |vcpu: &mut Vcpu<TestPlatform>| {
        vcpu.cpu.host_events.push_back(HostEvent::Nmi);
        let before = vcpu.cpu.injected.len();
        look(vcpu);
        vcpu.cpu.injected[before..].to_vec()
    };
    assert_eq!(press(&mut vcpu), [Event::Nmi], "as firmware leaves the pin");
    store(&mut vcpu, LVT_LINT1, 0x1_0400);
    assert_eq!(press(&mut vcpu), [], "the pin is masked");
    store(&mut vcpu, LVT_LINT1, 0x400);
    vcpu.machine.with_pc(0, |pc, around| pc.port_write(0x70, 1, 0x80, around).value());
    assert_eq!(press(&mut vcpu), [], "port 70h masks it");
    vcpu.machine.with_pc(0, |pc, around| pc.port_write(0x70, 1, 0, around).value());
    assert_eq!(press(&mut vcpu), [Event::Nmi]);
}

#[test]
fn a_processor_starts_in_real_mode_after_init_and_a_startup_ipi() {
    let [boot, mut other] = vcpus();
    other.turn();
    assert_eq!((other.activity, other.cpu.waits), (Activity::WaitForStartup, 1));
    // MSRs outlive INIT, breakpoints do not.
    other.cpu.set_switched_msr(SwitchedMsr::Pat, 0x0101);
    other.cpu.set_debug(2, 0x1234);
    send(&other, DeliveryMode::Init, 0);
    send(&other, DeliveryMode::Startup, 0x9a);
    play(&mut other, ExitReason::HostInterrupt, 0);
    assert_eq!((other.cpu.switched_msr(SwitchedMsr::Pat), other.cpu.debug(2)), (0x0101, 0));
    assert_eq!(other.cpu.segment(SegmentRegister::Cs).base, 0x9_a000);
    assert_eq!(other.activity, Activity::Running);
    // A second start-up IPI finds it running and does nothing.
    send(&other, DeliveryMode::Startup, 0x10);
    look(&mut other);
    assert_eq!(other.cpu.segment(SegmentRegister::Cs).base, 0x9_a000);
    drop(boot);
}

/// INIT disables the APIC: an interrupt that was sent to a processor behind it came when the processor had started again.
#[test]
fn an_interrupt_behind_an_init_is_not_accepted() {
    let [boot, mut other] = vcpus();
    let sent = |other: &Vcpu<TestPlatform>| {
        let message = InterruptMessage {
            destination: Destination::Physical(other.index),
            mode: DeliveryMode::Fixed,
            vector: 0x51,
            trigger: TriggerMode::Edge,
            assert: true,
        };
        other.machine.fabric.deliver(None, &message, &other.machine.platform.host)
    };
    other.activity = Activity::Running;
    store(&mut other, SPURIOUS, 0x1ff);
    look(&mut other);
    assert_eq!(sent(&other), 1);
    send(&other, DeliveryMode::Init, 0);
    other.service();
    assert_eq!((other.activity, sent(&other)), (Activity::WaitForStartup, 0));
    drop(boot);
}

#[test]
fn the_apic_moves_to_any_page_that_is_not_memory() {
    const ELSEWHERE: u64 = 0xfed4_0000;
    const ENABLED: u64 = 0x900;
    let mut vcpu = boot_processor();
    let mut base = |value: u64| {
        vcpu.cpu.set_pair(0x1b, value);
        let access = platform::MsrAccess { direction: platform::Direction::Write };
        let faults = vcpu.cpu.injected.len();
        play(&mut vcpu, ExitReason::Msr(access), 0x20_0002);
        vcpu.cpu.injected.len() == faults
    };
    // Memory; bits that no processor has.
    for refused in [0x10_0000, APIC_PAGE | 1 << 40, APIC_PAGE | 1 << 51] {
        assert!(!base(refused | ENABLED), "{refused:#x}");
    }
    assert!(base(ELSEWHERE | ENABLED));
    let spurious = |vcpu: &mut Vcpu<TestPlatform>| vcpu.lapic.mmio_read(0xf0, 4, vcpu.machine.platform.clock());
    store(&mut vcpu, SPURIOUS, 0x0ff);
    assert_eq!(spurious(&mut vcpu), 0x1ff, "nothing is there any more");
    store(&mut vcpu, ELSEWHERE + 0xf0, 0x0ff);
    assert_eq!(spurious(&mut vcpu), 0x0ff);
}

#[test]
fn a_processor_does_not_kick_itself() {
    let mut vcpu = boot_processor();
    store(&mut vcpu, SPURIOUS, 0x1ff);
    // ICR: fixed, vector 45h, to myself.
    store(&mut vcpu, APIC_PAGE + 0x300, 0x0004_4045);
    assert!(vcpu.machine.platform.host.kicks.lock().unwrap().is_empty());
    look(&mut vcpu);
    assert_eq!(interrupts(&vcpu), [0x45]);
}

#[test]
fn a_faulting_instruction_gets_its_exception() {
    let mut vcpu = boot_processor();
    play(&mut vcpu, ExitReason::Vmmcall, 0x20_0003);
    assert_eq!(vcpu.cpu.injected, [Event::Exception(Exception::UNDEFINED)]);
    assert_eq!((vcpu.cpu.rip(), vcpu.statistics.events.exceptions.get()), (0x20_0000, 1));
}

fn ending(reason: ExitReason) -> Option<Termination> {
    let mut vcpu = boot_processor();
    ENDED.set(None);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(&mut vcpu, reason, 0)));
    assert!(outcome.is_err(), "the VM goes on");
    ENDED.get()
}

/// Two processors that crashed together wrote their statistics into each other's lines.
#[test]
fn only_one_processor_ends_the_vm() {
    let vcpu = boot_processor();
    assert!(vcpu.machine.claim_end());
    assert!(!vcpu.machine.claim_end());
}

#[test]
fn a_triple_fault_ends_the_vm_as_one() {
    assert_eq!(ending(ExitReason::Shutdown), Some(Termination::TripleFault));
}

#[test]
fn an_impossible_exit_ends_the_vm_with_its_reason() {
    let reason = platform::Reason::UnknownExit;
    assert_eq!(ending(ExitReason::Broken(reason, 7)), Some(Termination::Fatal(reason, 7)));
}
