// SPDX-License-Identifier: MIT OR Apache-2.0
//! The run loop on two processors at once, through every interleaving: no sleep over news, no deadline that comes late.
//!
//! Loom checks it (`--cfg loom`; see `model-tests`). A processor that entered its guest or went to sleep stays there until
//! a kick: the guests do nothing, and the clock stands still.

use std::sync::OnceLock;

use loom::sync::Condvar;
use loom::sync::Mutex as CheckedMutex;
use loom::thread::JoinHandle;

use vc_handlers::{DeviceRequest, Env, Operation, Target};
use vmm_interface::sync::passes_without;

use super::*;

/// The host: its input, and its kicks to two processors, one latched flag each, as an interrupt that is pending or not.
/// What the sender wrote before its kick, the processor sees after it.
#[derive(Default)]
struct Kicks {
    of: [(CheckedMutex<bool>, Condvar); 2],
    /// How many bytes of terminal input the host has.
    input: AtomicU64,
}

impl Waker for Kicks {
    fn kick(&self, index: u32) {
        let (pending, arrived) = &self.of[index as usize];
        *pending.lock().unwrap() = true;
        arrived.notify_one();
    }
}

impl Kicks {
    fn wait(&self, index: u32) {
        let (pending, arrived) = &self.of[index as usize];
        let mut pending = pending.lock().unwrap();
        while !*pending {
            pending = arrived.wait(pending).unwrap();
        }
        *pending = false;
    }
}

impl HostAccess for Kicks {
    fn transmit(&self, _: Console, _: u8) {}

    fn receive(&self, _: Console) -> Option<u8> {
        self.input.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok().then_some(b'x')
    }

    fn clock_register(&self, _: u8) -> u8 {
        u8::MAX
    }
}

struct ModelPlatform {
    clock: TestClock,
    host: Kicks,
}

impl Platform for ModelPlatform {
    type Cpu = FakeCpu;
    type Memory = TestMemory;
    type Pages = TestPages;
    type Clock = TestClock;
    type Host = Kicks;

    fn memory(&self) -> &TestMemory {
        // One for all executions: the guests never touch it.
        static MEMORY_OF_ALL: OnceLock<TestMemory> = OnceLock::new();
        MEMORY_OF_ALL.get_or_init(|| TestMemory(Mutex::new(FakeMemory::new(0, MEMORY as usize))))
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    fn host(&self) -> &Kicks {
        &self.host
    }

    fn processors(&self) -> u32 {
        2
    }

    fn record(&self, _: Outbound<'_>) {}

    fn say(&self, _: Outbound<'_>) -> bool {
        true
    }

    fn end(&self, how: Termination) -> ! {
        panic!("the VM ended: {how:?}")
    }
}

type Processor = Vcpu<ModelPlatform>;

fn processors() -> [Processor; 2] {
    let platform: &'static ModelPlatform =
        Box::leak(Box::new(ModelPlatform { clock: TestClock::default(), host: Kicks::default() }));
    let machine: &'static Machine<ModelPlatform> = Box::leak(Box::new(machine_on(platform, 0x20_0000, &[]).unwrap()));
    [0, 1].map(|index| {
        let mut vcpu = Vcpu::new(machine, index, FakeCpu::protected_mode()).unwrap();
        vcpu.cpu.injection = InjectionState { queued: false, interrupts: true, nmi: true };
        vcpu
    })
}

/// Runs the loop until `done`, which is asked each time the processor is in its guest or asleep.
fn run_until(vcpu: &mut Processor, done: impl Fn(&Processor) -> bool) {
    loop {
        vcpu.cpu.exits.clear();
        vcpu.cpu.exits.push_back(Exit { reason: ExitReason::HostInterrupt, next_rip: 0 });
        let waits = vcpu.cpu.waits;
        vcpu.turn();
        // Nothing shared is touched between the wait or the guest's exit and here, so the processor may as well spend its
        // time here.
        if vcpu.cpu.exits.is_empty() || vcpu.cpu.waits != waits {
            if done(vcpu) {
                return;
            }
            if vcpu.cpu.interrupt_window.is_some() || vcpu.cpu.nmi_window {
                // The guest opens a window at once.
                vcpu.recheck = true;
                continue;
            }
            vcpu.machine.platform.host.wait(vcpu.index);
        }
    }
}

fn out(vcpu: &Processor, port: u16, value: u32) {
    vcpu.machine.with_pc(vcpu.index, |pc, around| pc.port_write(port, 1, value, around)).value();
}

fn message(mode: DeliveryMode, vector: u8) -> InterruptMessage {
    InterruptMessage { destination: Destination::Physical(0), mode, vector, trigger: TriggerMode::Edge, assert: true }
}

fn taken(vcpu: &Processor, event: Event) -> bool {
    vcpu.cpu.injected.contains(&event)
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 100_000;
    let model = std::sync::Arc::new(model);
    builder.check(move || {
        let model = model.clone();
        spawn(move || model()).join().unwrap();
    });
}

/// A thread of the model with room for more than Loom's 32 KiB of locals: devices are moved about by value.
fn spawn(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    // Loom counts in words.
    loom::thread::Builder::new().stack_size(0x4_0000).spawn(work).unwrap()
}

/// Another processor starts a device's timer; the boot processor, which has to call the device, must not sleep past it.
#[test]
fn a_deadline_that_another_processor_moves_forward_is_armed() {
    check(|| {
        let [mut boot, other] = processors();
        spawn(move || {
            // Counter 0 of the 8254, mode 2, 1000 ticks.
            for (port, value) in [(0x43, 0x34), (0x40, 0xe8), (0x40, 0x03)] {
                out(&other, port, value);
            }
        });
        run_until(&mut boot, |boot| boot.cpu.armed < Instant(2_000_000));
    });
}

/// The boot processor halts its guest at the same time.
#[test]
fn a_deadline_reaches_a_boot_processor_that_falls_asleep() {
    check(|| {
        let [mut boot, other] = processors();
        boot.activity = Activity::Halted;
        spawn(move || {
            for (port, value) in [(0x43, 0x34), (0x40, 0xe8), (0x40, 0x03)] {
                out(&other, port, value);
            }
        });
        run_until(&mut boot, |boot| boot.cpu.armed < Instant(2_000_000));
    });
}

#[test]
fn a_halted_processor_wakes_for_an_interrupt_and_an_nmi() {
    check(|| {
        let [mut boot, other] = processors();
        boot.activity = Activity::Halted;
        boot.service();
        let machine = boot.machine;
        spawn(move || {
            machine.fabric.deliver(None, &message(DeliveryMode::Nmi, 0), &machine.platform.host);
        });
        spawn(move || {
            machine.fabric.deliver(Some(1), &message(DeliveryMode::Fixed, 0x41), &machine.others(other.index));
        });
        run_until(&mut boot, |boot| taken(boot, Event::Nmi) && taken(boot, Event::Interrupt(0x41)));
        assert_eq!(boot.activity, Activity::Running);
    });
}

/// The 8259s' output is a level, stored apart from the poke that tells of it.
#[test]
fn an_8259_interrupt_from_another_processors_access_arrives() {
    check(|| {
        let [mut boot, other] = processors();
        boot.activity = Activity::Halted;
        // Both 8259s for a PC, vectors 20h and 28h, nothing masked.
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0x00)] {
            out(&boot, port, value);
        }
        spawn(move || {
            // COM1: interrupt when the transmitter is empty, which it is: IRQ 4, gated by OUT2.
            for (port, value) in [(0x3fc, 0x08), (0x3f9, 0x02)] {
                out(&other, port, value);
            }
        });
        run_until(&mut boot, |boot| taken(boot, Event::Interrupt(0x24)));
    });
}

/// The boot processor starts the other one, which sleeps, or is about to.
#[test]
fn a_processor_that_waits_for_its_start_is_started() {
    check(|| {
        let [boot, mut other] = processors();
        let machine = boot.machine;
        spawn(move || {
            for (mode, vector) in [(DeliveryMode::Init, 0), (DeliveryMode::Startup, 0x9a)] {
                let mut message = message(mode, vector);
                message.destination = Destination::Physical(1);
                machine.fabric.deliver(Some(0), &message, &machine.others(0));
            }
        });
        run_until(&mut other, |other| other.activity == Activity::Running);
        assert_eq!(other.cpu.segment(SegmentRegister::Cs).base, 0x9_a000);
    });
}

/// Input that waits for room in the UART is fetched by whoever makes room, even if that is at the same time.
#[test]
fn input_waits_only_while_the_uart_is_full() {
    check(|| {
        let [boot, mut other] = processors();
        let machine = boot.machine;
        // Its FIFO is off, so it has room for one byte.
        machine.platform.host.input.store(2, SeqCst);
        let reader = spawn(move || {
            let mut env =
                VcpuEnv { machine: other.machine, lapic: other.lapic, index: other.index, recheck: &mut other.recheck };
            let target = Target::Port(0x3f8);
            env.access(DeviceRequest { target, width: 1, operation: Operation::Read });
        });
        machine.pump_input(boot.index);
        reader.join().unwrap();
        let room = machine.with_pc(boot.index, |pc, _| pc.console_has_room(Console::Terminal));
        assert!(!room || machine.platform.host.input.load(SeqCst) == 0, "input waits for nothing");
    });
}

/// Proof that the checks see something: with one ordering relaxed, on either side of the letter box, they fail.
#[test]
fn a_letter_box_with_an_ordering_relaxed_is_caught() {
    let check = "vcpu::tests::model::a_processor_that_waits_for_its_start_is_started";
    for operation in
        ["self.attention.fetch_or(flag, Ordering::Release) == 0", "self.attention.swap(0, Ordering::Acquire)"]
    {
        assert!(!passes_without("devices/src/apic/port.rs", operation, check), "{operation}");
    }
}
