// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports, the debug console behind one of them, and the end of QEMU behind another.

use super::processors;
use core::arch::asm;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use reference_host::report::Stop;

/// QEMU's `isa-debugcon`.
const DEBUG_CONSOLE: u16 = 0xe9;
/// QEMU's `isa-debug-exit`.
const DEBUG_EXIT: u16 = 0xf4;

/// Writes a byte to a port.
pub(super) fn out_byte(port: u16, value: u8) {
    // SAFETY: the ports that this program writes (debug console, interrupt controllers) can reach no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes two bytes to a port.
pub(super) fn out_word(port: u16, value: u16) {
    // SAFETY: as in `out_byte`; the only port is fw_cfg's selector, which only chooses what is read next.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a byte from a port.
pub(super) fn in_byte(port: u16) -> u8 {
    let value: u8;
    // SAFETY: reading fw_cfg's data port reaches no memory of ours.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes four bytes to a port.
pub(super) fn out_dword(port: u16, value: u32) {
    // SAFETY: the callers write PCI configuration and, for a guest, the ports that `bare::snp::devices` lets through; what
    // of these can reach memory is said there.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads two bytes from a port.
pub(super) fn in_word(port: u16) -> u16 {
    let value: u16;
    // SAFETY: reading a port reaches no memory of ours.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads four bytes from a port.
pub(super) fn in_dword(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as in `in_word`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The debug console, as a text writer.
pub(super) struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            out_byte(DEBUG_CONSOLE, byte);
        }
        Ok(())
    }
}

/// Whether a processor has begun to say why the run ends.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Says why, and ends QEMU. The first processor that comes here has the word.
pub(super) fn stop(reason: &Stop) -> ! {
    if STOPPING.swap(true, Ordering::AcqRel) {
        processors::rest();
    }
    // The console cannot fail, and there would be nobody to tell.
    let _ = reason.write(&mut Console);
    // SAFETY: the port ends QEMU; without it, the processor halts for good.
    unsafe { asm!("out dx, eax", in("dx") DEBUG_EXIT, in("eax") reason.exit_value(), options(nomem, nostack)) };
    loop {
        // SAFETY: interrupts are off; nothing follows.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}
