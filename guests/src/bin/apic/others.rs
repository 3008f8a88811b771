// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts between processors: destinations, shorthands, arbitration, NMIs, INIT and start-up IPIs.

use crate::PATIENCE;
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use guests::apic::{self, command, register as reg};
use guests::instructions::{close, open, write_cr8};
use guests::interrupts::{NMI, cpu, me};
use guests::report::Report;
use guests::smp;
use guests::time::{delay, wait};

const VECTOR: u8 = 0x62;
/// How long is waited for what must not come.
const SILENCE: u64 = 3_000;

pub(crate) fn start_up(report: &mut Report, processors: usize) {
    if processors < 2 {
        report.skip("start-up", "one processor");
        return;
    }
    let (cr0, signature) = smp::state_at_arrival();
    report.check("cr0 after a start-up ipi", cr0 & !0x10 == 0x6000_0000, format_args!("{cr0:#x}"));
    // EDX is the signature on hardware; bare QEMU has it, too.
    report.check("edx after a start-up ipi", signature == __cpuid(1).eax, format_args!("{signature:#x}"));
    let spurious = smp::spurious_at_arrival(1);
    report.check("svr after a start-up ipi", spurious & 0xff == 0xff, format_args!("{spurious:#x}"));
    let twice = (1..processors).find(|index| smp::arrivals(*index) != 1);
    report.check("a second start-up ipi is ignored", twice.is_none(), format_args!("{twice:?}"));
    restart(report);
}

/// Whether an MSR outlived INIT.
static KEPT: AtomicBool = AtomicBool::new(false);

/// INIT stops a processor; a start-up IPI starts it again.
fn restart(report: &mut Report) {
    // What a system call enters, which INIT leaves alone.
    const LSTAR: u32 = 0xc000_0082;
    const ENTRY: u64 = 0x1234_5678;
    smp::call(1, |_| guests::instructions::write_msr(LSTAR, ENTRY), PATIENCE);
    smp::send_init(1);
    delay(10_000);
    cpu(1).clear();
    apic::send(1, VECTOR.into());
    delay(SILENCE);
    report.check("no vectors after init", cpu(1).total() == 0 && smp::arrivals(1) == 1, cpu(1).total());
    smp::send_startup(1);
    let came = wait(PATIENCE, || smp::arrivals(1) == 2);
    report.check("init and start-up again", came, smp::arrivals(1));
    let spurious = smp::spurious_at_arrival(1);
    report.check("init resets the apic", spurious == 0xff, format_args!("{spurious:#x}"));
    let worked = smp::call(1, |_| (), PATIENCE);
    report.check("works after init", worked && cpu(1).count(VECTOR) == 0, cpu(1).count(VECTOR));
    let check: smp::Job = |_| KEPT.store(guests::instructions::read_msr(LSTAR) == ENTRY, SeqCst);
    smp::call(1, check, PATIENCE);
    report.check("init keeps msrs", KEPT.load(SeqCst), KEPT.load(SeqCst));
}

/// INIT in x2APIC mode keeps the mode.
pub(crate) fn keeps_mode_over_init(report: &mut Report, processors: usize) {
    if processors < 2 {
        return;
    }
    let before = smp::arrivals(1);
    smp::start_one(1);
    let came = wait(PATIENCE, || smp::arrivals(1) > before);
    let kept = cpu(1).x2apic.load(SeqCst);
    report.check("init keeps the mode", came && kept, kept);
}

pub(crate) fn run(report: &mut Report, processors: usize) {
    if processors < 2 {
        report.skip("other processors", "one processor");
        lowest_priority(report, processors);
        return;
    }
    physical(report, processors);
    shorthands(report, processors);
    nmis(report, processors);
    if me().x2apic.load(SeqCst) {
        x2apic_logical(report, processors);
    } else {
        flat(report, processors);
        cluster(report, processors);
    }
    lowest_priority(report, processors);
    held_back(report);
    nmi_wakes(report);
    nmis_in_shadows(report);
}

fn clear(processors: usize) {
    (0..processors).for_each(|index| cpu(index).clear());
}

/// Sends, and looks whether exactly the processors in `expected` get it, each once.
fn reaches(report: &mut Report, name: &str, processors: usize, vector: u8, expected: u64, send: impl FnOnce()) {
    clear(processors);
    open();
    send();
    let got = || (0..processors).fold(0, |set, index| set | u64::from(cpu(index).count(vector) > 0) << index);
    let came = wait(PATIENCE, || got() & expected == expected);
    delay(SILENCE);
    close();
    let once = (0..processors).all(|index| cpu(index).count(vector) <= 1);
    report.check(name, came && once && got() == expected, format_args!("{:#x} of {expected:#x}", got()));
}

fn everybody(processors: usize) -> u64 {
    u64::MAX >> (64 - processors)
}

fn physical(report: &mut Report, processors: usize) {
    for index in 0..processors {
        reaches(report, "physical", processors, VECTOR, 1 << index, || apic::send(index as u32, VECTOR.into()));
    }
    let all = everybody(processors);
    let broadcast = if me().x2apic.load(SeqCst) { u32::MAX } else { 0xff };
    reaches(report, "physical broadcast", processors, VECTOR, all, || apic::send(broadcast, VECTOR.into()));
    reaches(report, "physical, to nobody", processors, VECTOR, 0, || apic::send(0x7e, VECTOR.into()));
}

fn shorthands(report: &mut Report, processors: usize) {
    let all = everybody(processors);
    let send = |shorthand| move || apic::send(0, shorthand | u32::from(VECTOR));
    reaches(report, "all including self", processors, VECTOR, all, send(command::ALL));
    reaches(report, "all excluding self", processors, VECTOR, all & !1, send(command::OTHERS));
    reaches(report, "self", processors, VECTOR, 1, send(command::MYSELF));
}

fn nmis(report: &mut Report, processors: usize) {
    let all = everybody(processors);
    let last = processors - 1;
    reaches(report, "nmi to one", processors, NMI, 1 << last, || apic::send(last as u32, command::NMI));
    reaches(report, "nmi to all others", processors, NMI, all & !1, || apic::send(0, command::NMI | command::OTHERS));
}

fn flat(report: &mut Report, processors: usize) {
    let count = processors.min(8);
    on_all(processors, |index| {
        apic::write(reg::DESTINATION_FORMAT, u32::MAX);
        apic::write(reg::LOGICAL_DESTINATION, if index < 8 { 1 << (24 + index) } else { 0 });
    });
    let read = apic::read(reg::LOGICAL_DESTINATION);
    report.check("ldr", read == 1 << 24, format_args!("{read:#x}"));
    for mask in [1, 2, 3, everybody(count)] {
        reaches(report, "logical flat", processors, VECTOR, mask, || {
            apic::send(mask as u32, command::LOGICAL | u32::from(VECTOR));
        });
    }
    if count < 8 {
        reaches(report, "logical flat, to nobody", processors, VECTOR, 0, || {
            apic::send(0x80, command::LOGICAL | u32::from(VECTOR));
        });
    }
}

/// Two in each cluster.
fn cluster(report: &mut Report, processors: usize) {
    on_all(processors, |index| {
        apic::write(reg::DESTINATION_FORMAT, 0x0fff_ffff);
        let place = (index as u32 / 2) << 4 | 1 << (index & 1);
        apic::write(reg::LOGICAL_DESTINATION, place << 24);
    });
    for (destination, expected) in [(0x01, 1), (0x02, 2), (0x03, 3), (0x1f, 0xc), (0x12, 8), (0xff, u64::MAX)] {
        let expected = expected & everybody(processors);
        reaches(report, "logical cluster", processors, VECTOR, expected, || {
            apic::send(destination, command::LOGICAL | u32::from(VECTOR));
        });
    }
    on_all(processors, |index| {
        apic::write(reg::DESTINATION_FORMAT, u32::MAX);
        apic::write(reg::LOGICAL_DESTINATION, if index < 8 { 1 << (24 + index) } else { 0 });
    });
}

fn x2apic_logical(report: &mut Report, processors: usize) {
    let some = everybody(processors.min(16));
    for mask in [1, 2, 3, some] {
        reaches(report, "logical x2apic", processors, VECTOR, mask, || {
            apic::send(mask as u32, command::LOGICAL | u32::from(VECTOR));
        });
    }
    reaches(report, "logical x2apic, another cluster", processors, VECTOR, 0, || {
        apic::send(0x0009_0001, command::LOGICAL | u32::from(VECTOR));
    });
}

/// Exactly one processor takes it: the one with the lowest task priority.
fn lowest_priority(report: &mut Report, processors: usize) {
    let count = processors.min(8);
    if processors == 1 && !me().x2apic.load(SeqCst) {
        apic::write(reg::LOGICAL_DESTINATION, 1 << 24);
    }
    let all = everybody(count) as u32;
    for round in 0..4_u8 {
        let vector = VECTOR + round;
        clear(processors);
        open();
        apic::send(all, command::LOGICAL | command::LOWEST_PRIORITY | u32::from(vector));
        let sum = || (0..processors).map(|index| cpu(index).count(vector)).sum::<u32>();
        wait(PATIENCE, || sum() > 0);
        delay(SILENCE);
        close();
        report.check("lowest priority, one takes it", sum() == 1, sum());
    }
    // All but the last raise theirs, to a class below the vectors'.
    let last = count - 1;
    on_all(processors, |_| write_cr8(3));
    on_one(last, |_| write_cr8(1));
    // A processor that runs on its own tells others of CR8 only now and then; APIC writes tell at once.
    on_all(processors, |_| apic::write(reg::TASK_PRIORITY, apic::read(reg::TASK_PRIORITY)));
    reaches(report, "lowest priority, the lowest takes it", processors, VECTOR, 1 << last, || {
        apic::send(all, command::LOGICAL | command::LOWEST_PRIORITY | u32::from(VECTOR));
    });
    on_all(processors, |_| write_cr8(0));
}

fn on_one(index: usize, job: smp::Job) {
    if index == 0 {
        job(0)
    } else {
        smp::call(index, job, PATIENCE);
    }
}

fn on_all(processors: usize, job: smp::Job) {
    (0..processors).for_each(|index| on_one(index, job));
}

static STAGE: AtomicU32 = AtomicU32::new(0);

/// Interrupts for a processor with interrupts off wait there.
fn held_back(report: &mut Report) {
    cpu(1).clear();
    STAGE.store(0, SeqCst);
    smp::run_on(1, |_| {
        // Jobs run with interrupts off.
        cpu(1).clear();
        STAGE.store(1, SeqCst);
        wait(PATIENCE, || STAGE.load(SeqCst) == 2);
        let waiting = apic::is_set(reg::REQUEST, VECTOR) && cpu(1).total() == 0;
        open();
        close();
        STAGE.store(if waiting && cpu(1).came(&[VECTOR]) { 3 } else { 4 }, SeqCst);
    });
    wait(PATIENCE, || STAGE.load(SeqCst) == 1);
    for _ in 0..3 {
        apic::send(1, VECTOR.into());
    }
    delay(SILENCE);
    STAGE.store(2, SeqCst);
    wait(PATIENCE, || smp::is_idle(1));
    let stage = STAGE.load(SeqCst);
    report.check(
        "waits for sti on another processor",
        stage == 3,
        format_args!("stage {stage}, came {:x}", cpu(1).log()),
    );
}

/// An NMI ends HLT with interrupts off; a maskable interrupt does not.
fn nmi_wakes(report: &mut Report) {
    STAGE.store(0, SeqCst);
    smp::run_on(1, |_| {
        cpu(1).clear();
        STAGE.store(1, SeqCst);
        // SAFETY: sleeps until the NMI.
        unsafe { asm!("hlt", options(nostack)) };
        STAGE.store(2, SeqCst);
        open();
        close();
    });
    wait(PATIENCE, || STAGE.load(SeqCst) == 1);
    apic::send(1, VECTOR.into());
    delay(SILENCE);
    let slept = STAGE.load(SeqCst) == 1;
    apic::send(1, command::NMI);
    let woke = wait(PATIENCE, || smp::is_idle(1));
    let order = cpu(1).came(&[NMI, VECTOR]);
    report.check(
        "nmi ends hlt with interrupts off",
        slept && woke && order,
        format_args!("{slept} {woke} {:x}", cpu(1).log()),
    );
}

/// NMIs that come in an interrupt shadow whose instruction makes an exit: each is taken, and none waits for the next.
fn nmis_in_shadows(report: &mut Report) {
    const ENOUGH: u32 = 1500;
    STAGE.store(0, SeqCst);
    smp::run_on(1, |_| {
        cpu(1).clear();
        STAGE.store(1, SeqCst);
        let forbidden = me().forbidden_rip.as_ptr();
        while STAGE.load(SeqCst) == 1 {
            // SAFETY: changes only the interrupt flag, and leaves it clear, and the slot, which is this processor's. Port 80h exits.
            unsafe {
                asm!(
                    "lea {at}, [rip + 2f]",
                    "mov [{slot}], {at}",
                    "sti",
                    "2: in al, 0x80",
                    "nop",
                    "cli",
                    at = out(reg) _, slot = in(reg) forbidden, out("al") _,
                )
            };
        }
    });
    wait(PATIENCE, || STAGE.load(SeqCst) == 1);
    let lost = (1..=ENOUGH).find(|sent| {
        apic::send(1, command::NMI);
        !wait(PATIENCE, || cpu(1).count(NMI) >= *sent)
    });
    STAGE.store(2, SeqCst);
    wait(PATIENCE, || smp::is_idle(1));
    report.check("nmi in a shadow, exit", lost.is_none(), format_args!("lost {lost:?} of {ENOUGH}"));
    let early = cpu(1).forbidden.load(SeqCst);
    report.check("no nmi within a shadow", early == 0, format_args!("{early} of {ENOUGH}"));
    cpu(1).clear();
}
