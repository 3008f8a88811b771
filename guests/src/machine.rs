// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of the PC that the guests use: ports, the local APIC, the end of the run, and the memory map.

use crate::instructions::{in_byte, out_byte, out_dword, out_word};
use core::arch::asm;
use specs::apic::LAPIC_BASE;
use specs::pvh::{MemoryMapEntry, StartInfo};

/// The port that ends the run with a value: QEMU's `isa-debug-exit`, and Parados's test devices.
const DEBUG_EXIT: u16 = 0xf4;
/// PM1a_CNT, where SLP_EN with SLP_TYP 0 powers the machine off.
const PM1A_CONTROL: u16 = 0x604;
const SLEEP_ENABLE: u16 = 1 << 13;
/// The reset control register: a write with bit 2 resets.
const RESET_CONTROL: u16 = 0xcf9;

/// Ends the run with a value; where nothing takes it, powers off.
pub fn exit(value: u32) -> ! {
    out_dword(DEBUG_EXIT, value);
    power_off()
}

/// Powers off through ACPI.
pub fn power_off() -> ! {
    out_word(PM1A_CONTROL, SLEEP_ENABLE);
    halt_forever()
}

/// Resets the machine.
pub fn reset() -> ! {
    out_byte(RESET_CONTROL, 2);
    out_byte(RESET_CONTROL, 6);
    halt_forever()
}

/// Halts with interrupts off.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: nothing follows.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Registers of the local APIC (specs: `apic`).
pub mod lapic {
    use super::{LAPIC_BASE, asm};

    /// Version.
    pub const VERSION: u64 = 0x30;
    const END_OF_INTERRUPT: u64 = 0xb0;
    const SPURIOUS: u64 = 0xf0;
    const COMMAND_LOW: u64 = 0x300;
    /// Interrupt command: to this processor, fixed, level asserted.
    const TO_SELF: u32 = 1 << 18 | 1 << 14;

    /// Reads a register.
    pub fn read(register: u64) -> u32 {
        let value;
        // SAFETY: a device register, not memory of ours.
        unsafe {
            asm!("mov {:e}, [{}]", out(reg) value, in(reg) LAPIC_BASE + register, options(nostack, preserves_flags))
        };
        value
    }

    /// Writes a register.
    pub fn write(register: u64, value: u32) {
        // SAFETY: as in `read`; interrupts that a write causes find their handler.
        unsafe {
            asm!("mov [{}], {:e}", in(reg) LAPIC_BASE + register, in(reg) value, options(nostack, preserves_flags))
        };
    }

    /// Turns the APIC on.
    pub fn enable() {
        write(SPURIOUS, 0x1ff);
    }

    /// Makes `vector` pending on this processor.
    pub fn interrupt_self(vector: u8) {
        write(COMMAND_LOW, TO_SELF | u32::from(vector));
    }

    /// Ends the interrupt in service.
    pub fn end_of_interrupt() {
        write(END_OF_INTERRUPT, 0);
    }
}

/// Whether the memory map that the guest was started with has RAM at an address.
pub fn map_has_ram(start_info: u64, address: u64) -> bool {
    memory_map(start_info).any(|entry| entry.kind == 1 && entry.start <= address && address - entry.start < entry.bytes)
}

/// Copies a structure that the boot loader made.
pub fn read<T: zerocopy::FromBytes>(address: u64) -> T {
    let pointer: *const T = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: all of the first 4 GiB is mapped, and any bytes are a `T`.
    unsafe { pointer.read_unaligned() }
}

/// How many processors fw_cfg says that there are.
pub fn processors() -> usize {
    const FW_CFG_CPUS: u16 = 5;
    out_word(0x510, FW_CFG_CPUS);
    usize::from(in_byte(0x511)) | usize::from(in_byte(0x511)) << 8
}

/// The first number in the command line.
pub fn command_line_number(start_info: u64) -> Option<u64> {
    command_line_numbers(start_info).next()
}

/// The decimal numbers in the command line.
pub fn command_line_numbers(start_info: u64) -> impl Iterator<Item = u64> {
    let info: StartInfo = read(start_info);
    let length = if info.command_line == 0 { 0 } else { 4096 };
    let byte = move |at: u64| read::<u8>(info.command_line + at);
    let mut bytes = (0..length).map(byte).take_while(|byte| *byte != 0).peekable();
    core::iter::from_fn(move || {
        while bytes.next_if(|byte| !byte.is_ascii_digit()).is_some() {}
        bytes.peek()?;
        let digits = core::iter::from_fn(|| bytes.next_if(u8::is_ascii_digit));
        Some(digits.fold(0_u64, |number, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))))
    })
}

/// The entries of the memory map that the guest was started with.
pub fn memory_map(start_info: u64) -> impl Iterator<Item = MemoryMapEntry> {
    let info: StartInfo = read(start_info);
    (0..u64::from(info.memory_map_entries))
        .map(move |index| read(info.memory_map + index * size_of::<MemoryMapEntry>() as u64))
}
