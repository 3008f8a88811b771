// SPDX-License-Identifier: MIT OR Apache-2.0
//! COM1, a 16550A (PC16550D data sheet): registers, loopback, FIFO, and its interrupts on IRQ 4.

#![cfg_attr(target_os = "none", no_std, no_main)]

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use guests::instructions::{in_byte, out_byte};
use guests::interrupts::{me, set_handler};
use guests::report::Report;
use guests::time::{delay, wait};
use guests::wires::ioapic::{MASKED, set_entry};
use guests::{apic, guest, smp};

guest!(run);

const DATA: u16 = 0x3f8;
const ENABLE: u16 = 0x3f9;
const IDENTIFY: u16 = 0x3fa;
const LINE: u16 = 0x3fb;
const MODEM: u16 = 0x3fc;
const LINE_STATUS: u16 = 0x3fd;
const MODEM_STATUS: u16 = 0x3fe;
const SCRATCH: u16 = 0x3ff;
const LOOP: u8 = 0x10;
const OUT2: u8 = 0x08;
const VECTOR: u8 = 0x54;
const PIN: u8 = 4;
/// The longest that a character may take, in microseconds: at 1200 baud.
const CHARACTER: u64 = 10_000;

static SEEN: [AtomicU8; 8] = [const { AtomicU8::new(0) }; 8];
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn run(_: u64) -> u32 {
    let mut report = Report::default();
    if let Err(count) = smp::start() {
        report.check("processors started", false, format_args!("only {count}"));
        return report.finish();
    }
    registers(&mut report);
    looped(&mut report);
    overrun(&mut report);
    interrupts(&mut report);
    report.finish()
}

/// What was read, for a line that is printed when the port prints again.
fn registers(report: &mut Report) {
    for value in [0x5a, 0xa5] {
        out_byte(SCRATCH, value);
        let read = in_byte(SCRATCH);
        report.check("scratch", read == value, format_args!("{read:#x}"));
    }
    let line = in_byte(LINE);
    out_byte(LINE, line | 0x80);
    let old = [in_byte(DATA), in_byte(ENABLE)];
    out_byte(DATA, 0x0c);
    out_byte(ENABLE, 0x00);
    let divisor = [in_byte(DATA), in_byte(ENABLE)];
    let [low, high] = old;
    out_byte(DATA, low);
    out_byte(ENABLE, high);
    out_byte(LINE, line);
    report.check("divisor", divisor == [0x0c, 0], format_args!("{divisor:x?}"));
    out_byte(ENABLE, 0x0f);
    let enabled = in_byte(ENABLE);
    out_byte(ENABLE, 0);
    report.check("interrupt enables", enabled == 0x0f, format_args!("{enabled:#x}"));
    out_byte(IDENTIFY, 7);
    let fifo = in_byte(IDENTIFY);
    report.check("fifos", fifo & 0xc0 == 0xc0, format_args!("{fifo:#x}"));
    let status = in_byte(LINE_STATUS);
    report.check("transmitter is empty", status & 0x60 == 0x60, format_args!("{status:#x}"));
}

fn looped(report: &mut Report) {
    let modem = in_byte(MODEM);
    // Eight bits.
    out_byte(LINE, 3);
    out_byte(MODEM, modem | LOOP);
    let mut wrong = None;
    for byte in (0..=255_u8).step_by(17) {
        out_byte(DATA, byte);
        let ready = wait(CHARACTER, || in_byte(LINE_STATUS) & 1 != 0);
        let read = in_byte(DATA);
        if !ready || read != byte {
            wrong.get_or_insert((byte, read));
        }
    }
    // DTR, RTS, OUT1 and OUT2 come back as DSR, CTS, RI and DCD.
    let mut lines = [0; 4];
    for (seen, output) in lines.iter_mut().zip([1, 2, 4, 8]) {
        out_byte(MODEM, LOOP | output);
        *seen = in_byte(MODEM_STATUS) & 0xf0;
    }
    let sixteen = (0..16_u8).all(|byte| {
        out_byte(DATA, byte);
        true
    });
    delay(2 * CHARACTER);
    let kept = (0..16_u8).filter(|byte| in_byte(DATA) == *byte).count();
    let empty = in_byte(LINE_STATUS) & 1 == 0;
    out_byte(MODEM, modem);
    report.check("loopback", wrong.is_none(), format_args!("{wrong:x?}"));
    report.check("loopback of the modem lines", lines == [0x20, 0x10, 0x40, 0x80], format_args!("{lines:x?}"));
    report.check("fifo of 16", sixteen && kept == 16 && empty, format_args!("{kept}, empty {empty}"));
}

fn overrun(report: &mut Report) {
    let modem = in_byte(MODEM);
    out_byte(MODEM, modem | LOOP);
    for byte in 0..18 {
        out_byte(DATA, byte);
        delay(100);
    }
    delay(2 * CHARACTER);
    let (first, second) = (in_byte(LINE_STATUS), in_byte(LINE_STATUS));
    out_byte(IDENTIFY, 7);
    let after = in_byte(LINE_STATUS);
    out_byte(MODEM, modem);
    let good = first & 3 == 3 && second & 2 == 0 && after & 1 == 0;
    report.check("overrun", good, format_args!("{first:#x}, {second:#x}, cleared {after:#x}"));
}

fn interrupts(report: &mut Report) {
    set_handler(
        VECTOR,
        Some(|_| {
            let identity = in_byte(IDENTIFY);
            if let Some(slot) = SEEN.get(COUNT.fetch_add(1, SeqCst)) {
                slot.store(identity, SeqCst);
            }
            match identity & 0x0f {
                0x04 | 0x0c => {
                    in_byte(DATA);
                }
                0x06 => {
                    in_byte(LINE_STATUS);
                }
                0x00 => {
                    in_byte(MODEM_STATUS);
                }
                _ => (),
            }
            apic::end_of_interrupt();
        }),
    );
    set_entry(PIN, VECTOR.into());
    let modem = in_byte(MODEM);
    in_byte(MODEM_STATUS);
    in_byte(LINE_STATUS);
    let take = |act: &dyn Fn()| {
        me().clear();
        COUNT.store(0, SeqCst);
        SEEN.iter().for_each(|slot| slot.store(0xff, SeqCst));
        guests::instructions::open();
        act();
        delay(2 * CHARACTER);
        guests::instructions::close();
        let [first, second, ..] = SEEN.each_ref().map(|slot| slot.load(SeqCst));
        (COUNT.load(SeqCst), first & 0x0f, second & 0x0f)
    };
    out_byte(MODEM, modem & !OUT2);
    let gated = take(&|| out_byte(ENABLE, 2));
    out_byte(ENABLE, 0);
    out_byte(MODEM, modem | OUT2);
    let empty = take(&|| out_byte(ENABLE, 2));
    let again = take(&|| out_byte(DATA, b'\n'));
    let enabled = take(&|| {
        out_byte(ENABLE, 0);
        out_byte(ENABLE, 2);
    });
    out_byte(ENABLE, 0);
    let identity = in_byte(IDENTIFY);
    report.check("out2 gates the interrupt", gated.0 == 0, format_args!("{gated:x?}"));
    report.check("transmitter's interrupt", empty.0 == 1 && empty.1 == 2, format_args!("{empty:x?}"));
    report.check("again after a character", again.0 == 1 && again.1 == 2, format_args!("{again:x?}"));
    report.check("again when enabled", enabled.0 == 1 && enabled.1 == 2, format_args!("{enabled:x?}"));
    report.check("nothing pending", identity & 1 == 1, format_args!("{identity:#x}"));
    set_entry(PIN, MASKED);
    set_handler(VECTOR, None);
    out_byte(MODEM, modem);
}
