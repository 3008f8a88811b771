// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupt shadows: the instruction after STI or MOV SS is executed before an interrupt is taken, also if it exits.

use core::arch::asm;
use core::sync::atomic::Ordering::SeqCst;
use guests::apic::{self, command, register as reg};
use guests::interrupts::me;
use guests::report::Report;
use guests::time::{delay, wait};

const VECTOR: u8 = 0x61;
const TIMER: u8 = 0x71;
const PERIODIC: u32 = 1 << 17;

pub(crate) fn run(report: &mut Report) {
    let this = me();
    this.clear();
    apic::send(0, command::MYSELF | u32::from(VECTOR));
    // SAFETY: changes only the interrupt flag, and leaves it clear.
    unsafe { asm!("sti", "cli", options(nostack)) };
    let held = this.came(&[]);
    report.check("sti, cli lets nothing through", held, format_args!("{:x}", this.log()));
    // SAFETY: as above. POPF has no shadow.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x200", "popfq", "cli") };
    report.check("popf lets through at once", this.came(&[VECTOR]), format_args!("{:x}", this.log()));

    this.clear();
    apic::send(0, command::MYSELF | u32::from(VECTOR));
    let expected: u64;
    // SAFETY: as above. Port 80h exits.
    unsafe { asm!("lea {0}, [rip + 2f]", "sti", "in al, 0x80", "2:", "cli", out(reg) expected, out("al") _) };
    let rip = this.last_rip.load(SeqCst);
    report.check(
        "sti, exit",
        this.came(&[VECTOR]) && rip == expected,
        format_args!("{} bytes off", rip.wrapping_sub(expected)),
    );

    hammered(report, "mov ss, exit: never in between", |forbidden| {
        // SAFETY: loads SS with what it has. Interrupts find their handler.
        unsafe {
            asm!(
                "lea {at}, [rip + 3f]",
                "mov [{slot}], {at}",
                "mov {at:e}, ss",
                "mov ecx, 300",
                "sti",
                "nop",              // two shadows in a row are one
                "2: mov ss, {at:e}",
                "3: in al, 0x80",
                "dec ecx",
                "jnz 2b",
                "cli",
                at = out(reg) _, slot = in(reg) forbidden, out("al") _, out("ecx") _,
            );
        };
    });
    hammered(report, "sti, exit: never in between", |forbidden| {
        // SAFETY: as above.
        unsafe {
            asm!(
                "lea {at}, [rip + 3f]",
                "mov [{slot}], {at}",
                "mov ecx, 300",
                "2: cli",
                "sti",
                "3: in al, 0x80",
                "nop",
                "dec ecx",
                "jnz 2b",
                "cli",
                at = out(reg) _, slot = in(reg) forbidden, out("al") _, out("ecx") _,
            );
        };
    });
}

/// Runs `loops` under a fast periodic timer, again and again, until enough interrupts came.
fn hammered(report: &mut Report, name: &str, loops: fn(*const u64)) {
    const ENOUGH: u32 = 200;
    let this = me();
    this.clear();
    apic::write(reg::LVT_TIMER, PERIODIC | u32::from(TIMER));
    apic::write(reg::DIVIDE, 0b1011);
    apic::write(reg::INITIAL_COUNT, 150_000);
    wait(3_000_000, || {
        loops(this.forbidden_rip.as_ptr());
        this.count(TIMER) >= ENOUGH
    });
    apic::write(reg::INITIAL_COUNT, 0);
    guests::instructions::open();
    delay(1_000);
    guests::instructions::close();
    let (count, wrong) = (this.count(TIMER), this.forbidden.load(SeqCst));
    report.check(name, count >= ENOUGH && wrong == 0, format_args!("{count} came, {wrong} of them in the shadow"));
    this.clear();
}
